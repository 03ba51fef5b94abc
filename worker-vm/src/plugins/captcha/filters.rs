//! What makes a captcha hard to read.

use rand::RngExt;

use super::canvas::{BLACK, Canvas, Color, Late, WHITE};

/// One change of the picture. All sizes are in pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filter {
    ColorInvert,
    RandomLine,
    Line {
        from: (f32, f32),
        to: (f32, f32),
        thickness: f32,
        color: Color,
    },
    /// Circles in which black and white change places.
    Cow {
        radius: (i64, i64),
        n: u64,
        duplicates: Duplicates,
        area: Option<Area>,
    },
    Dot {
        radius: (i64, i64),
        n: u64,
    },
    Grid {
        x_gap: usize,
        y_gap: usize,
    },
    Noise {
        prob: f64,
    },
    Wave {
        f: f64,
        amp: f64,
        direction: Direction,
    },
}

/// Whether circles may change back what others have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duplicates {
    Allowed,
    Refused,
}

/// Which way a wave runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Horizontal,
    Vertical,
}

/// Where circles have their middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) left: i64,
    pub(super) right: i64,
    pub(super) top: i64,
    pub(super) bottom: i64,
}

fn invert(pixels: &mut [Color]) {
    for byte in pixels.as_flattened_mut() {
        *byte = !*byte;
    }
}

impl Filter {
    pub(super) fn apply(&self, canvas: &mut Canvas) -> Result<(), Late> {
        let (width, height) = (canvas.width(), canvas.height());
        let mut rng = rand::rng();
        match *self {
            Self::ColorInvert => {
                for y in 0..height {
                    invert(canvas.row(y)?);
                }
            }
            Self::RandomLine => {
                let mut end = || (rng.random_range(0.0..=width as f32), rng.random_range(0.0..=height as f32));
                let (from, to) = (end(), end());
                canvas.line(from, to, rng.random_range(1.0..=4.0), BLACK)?;
            }
            Self::Line { from, to, thickness, color } => canvas.line(from, to, thickness, color)?,
            Self::Cow { radius, n, duplicates, area } => {
                let whole = Area { left: 0, right: width as i64 - 1, top: 0, bottom: height as i64 - 1 };
                let Area { left, right, top, bottom } = area.unwrap_or(whole);
                let mut changed = vec![false; if duplicates == Duplicates::Refused { width * height } else { 0 }];
                for _ in 0..n {
                    let middle = (rng.random_range(left..=right), rng.random_range(top..=bottom));
                    canvas.circle(middle, rng.random_range(radius.0..=radius.1), |x, y, pixels| {
                        if changed.is_empty() {
                            return invert(pixels);
                        }
                        let changed = &mut changed[y * width + x..][..pixels.len()];
                        for (pixel, changed) in pixels.iter_mut().zip(changed) {
                            if !std::mem::replace(changed, true) {
                                *pixel = pixel.map(|byte| !byte);
                            }
                        }
                    })?;
                }
            }
            Self::Dot { radius, n } => {
                for _ in 0..n {
                    let middle = (rng.random_range(0..width as i64), rng.random_range(0..height as i64));
                    canvas.circle(middle, rng.random_range(radius.0..=radius.1), |_, _, pixels| pixels.fill(BLACK))?;
                }
            }
            Self::Grid { x_gap, y_gap } => {
                for y in 0..height {
                    let row = canvas.row(y)?;
                    if y % y_gap == 0 {
                        row.fill(BLACK);
                    } else {
                        row.iter_mut().step_by(x_gap).for_each(|pixel| *pixel = BLACK);
                    }
                }
            }
            Self::Noise { prob } => {
                for y in 0..height {
                    canvas.row(y)?.iter_mut().filter(|_| rng.random_bool(prob)).for_each(|pixel| *pixel = BLACK);
                }
            }
            Self::Wave { f, amp, direction } => wave(canvas, f, amp, direction)?,
        }
        Ok(())
    }
}

/// Moves columns up and down, or rows to and fro.
fn wave(canvas: &mut Canvas, f: f64, amp: f64, direction: Direction) -> Result<(), Late> {
    let (width, height) = (canvas.width(), canvas.height());
    let old = canvas.pixels().to_vec();
    let along = if direction == Direction::Horizontal { width } else { height };
    let moved = |at: usize| {
        let by = (at as f64 * std::f64::consts::TAU * f / along as f64).sin() * amp;
        // Beyond the picture is beyond the picture.
        by.clamp(-(1 << 20) as f64, (1 << 20) as f64) as i64
    };
    let pixel = |x: i64, y: i64| {
        let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
        if inside { old[y as usize * width + x as usize] } else { WHITE }
    };
    for y in 0..height {
        let row = canvas.row(y)?;
        for (x, new) in row.iter_mut().enumerate() {
            *new = match direction {
                Direction::Horizontal => pixel(x as i64, y as i64 + moved(x)),
                Direction::Vertical => pixel(x as i64 + moved(y), y as i64),
            };
        }
    }
    Ok(())
}
