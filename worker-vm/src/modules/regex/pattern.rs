//! Compiled patterns, and what they can cost.

use regex_automata::meta::{self, BuildError};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

use crate::error::ApiError;

/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 4 << 10;

/// Bytes of a compiled pattern.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Bytes of what a search remembers, in each direction.
const CACHE_BYTES_MAX: usize = 512 << 10;

/// Levels of groups.
const NESTING_MAX: u32 = 100;

/// A compiled pattern.
pub(super) struct Pattern {
    regex: meta::Regex,
    positions: usize,
    bytes: usize,
}

impl Pattern {
    pub(super) fn check_length(pattern: &str) -> Result<(), ApiError> {
        if pattern.len() > PATTERN_BYTES_MAX {
            let found = pattern.len();
            return Err(ApiError::too_large(format_args!("pattern ({found} bytes, at most {PATTERN_BYTES_MAX})")));
        }
        Ok(())
    }

    pub(super) fn compile(pattern: &str) -> Result<Self, ApiError> {
        let parsed = ParserBuilder::new().utf8(false).nest_limit(NESTING_MAX).build().parse(pattern);
        let hir = parsed.map_err(|error| {
            let reason = match &error {
                regex_syntax::Error::Parse(error) => error.kind().to_string(),
                regex_syntax::Error::Translate(error) => error.kind().to_string(),
                other => other.to_string(),
            };
            ApiError::invalid_argument(format_args!("pattern ({reason})"))
        })?;
        let too_large =
            || ApiError::too_large(format_args!("pattern (compiled it has more than {COMPILED_BYTES_MAX} bytes)"));
        let config = meta::Config::new()
            .utf8_empty(false)
            .nfa_size_limit(Some(COMPILED_BYTES_MAX))
            .onepass_size_limit(Some(COMPILED_BYTES_MAX / 4))
            .hybrid_cache_capacity(CACHE_BYTES_MAX);
        let built = meta::Builder::new().configure(config).build_from_hir(&hir);
        let regex = built.map_err(|error: BuildError| match error.size_limit() {
            Some(_) => too_large(),
            None => ApiError::invalid_argument(format_args!("pattern ({error})")),
        })?;
        let bytes = regex.memory_usage() + size_of::<meta::Regex>();
        if bytes > COMPILED_BYTES_MAX {
            return Err(too_large());
        }
        Ok(Self { regex, positions: positions(&hir).max(1), bytes })
    }

    pub(super) fn regex(&self) -> &meta::Regex {
        &self.regex
    }

    /// In how many places of the pattern a search can be at once, about.
    pub(super) fn positions(&self) -> usize {
        self.positions
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn positions(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        // A character of several bytes is several places, hardly more than two of them at once.
        HirKind::Class(_) => 2,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min.saturating_add(1)).max(1) as usize;
            positions(&repetition.sub).saturating_mul(times)
        }
        HirKind::Capture(capture) => positions(&capture.sub).saturating_add(1),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(positions).fold(0, usize::saturating_add)
        }
    }
}
