//! `@lune/regex`.
