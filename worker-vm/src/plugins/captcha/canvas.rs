//! What a captcha is drawn on.

use std::time::Instant;

use rand::RngExt;

use super::glyphs::{self, Glyph};

/// The time for drawing is over.
#[derive(Debug)]
pub(super) struct Late;

pub(super) type Color = [u8; 3];

pub(super) const WHITE: Color = [255; 3];
pub(super) const BLACK: Color = [0; 3];

/// Pixels of a side, before the view box is cut out of the middle.
const SIDE: usize = 512;

/// Pixels in colours.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Color>,
    deadline: Instant,
}

impl Canvas {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { width: SIDE, height: SIDE, pixels: vec![WHITE; SIDE * SIDE], deadline }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// One row, if there is time for it.
    pub(super) fn row(&mut self, y: usize) -> Result<&mut [Color], Late> {
        if Instant::now() >= self.deadline {
            return Err(Late);
        }
        Ok(&mut self.pixels[y * self.width..(y + 1) * self.width])
    }

    pub(super) fn pixels(&self) -> &[Color] {
        &self.pixels
    }

    /// Calls `paint` with the pixels of each row of a circle, as far as they are on the canvas.
    pub(super) fn circle(
        &mut self,
        (x, y): (i64, i64),
        radius: i64,
        mut paint: impl FnMut(usize, usize, &mut [Color]),
    ) -> Result<(), Late> {
        let (width, height) = (self.width as i64, self.height as i64);
        for row in (y - radius).max(0)..(y + radius + 1).min(height) {
            let half = (radius * radius - (row - y) * (row - y)).isqrt();
            let (from, to) = ((x - half).clamp(0, width) as usize, (x + half + 1).clamp(0, width) as usize);
            paint(from, row as usize, &mut self.row(row as usize)?[from..to]);
        }
        Ok(())
    }

    /// A line with round ends.
    pub(super) fn line(&mut self, from: (f32, f32), to: (f32, f32), thickness: f32, color: Color) -> Result<(), Late> {
        let half = thickness / 2.0;
        let span = |a: f32, b: f32, max: usize| {
            // Casts saturate.
            ((a.min(b) - half).floor().max(0.0) as usize, ((a.max(b) + half).ceil().max(0.0) as usize + 1).min(max))
        };
        let ((left, right), (top, bottom)) = (span(from.0, to.0, self.width), span(from.1, to.1, self.height));
        let along = (to.0 - from.0, to.1 - from.1);
        let length_squared = (along.0 * along.0 + along.1 * along.1).max(f32::MIN_POSITIVE);
        for y in top..bottom {
            let row = self.row(y)?;
            for (x, pixel) in row.iter_mut().enumerate().take(right).skip(left) {
                let to_pixel = (x as f32 - from.0, y as f32 - from.1);
                let at = ((to_pixel.0 * along.0 + to_pixel.1 * along.1) / length_squared).clamp(0.0, 1.0);
                let apart = (to_pixel.0 - at * along.0, to_pixel.1 - at * along.1);
                if apart.0 * apart.0 + apart.1 * apart.1 <= half * half {
                    *pixel = color;
                }
            }
        }
        Ok(())
    }

    /// Writes letters in the middle, each a little askew, within a box of this size.
    pub(super) fn write(&mut self, letters: &[&Glyph], width: usize, height: usize) -> Result<(), Late> {
        let mut rng = rand::rng();
        let pitch = width as f32 * 0.94 / letters.len().max(1) as f32;
        // As large as the box allows, with room between letters and for their tilt.
        let unit = (pitch / (glyphs::WIDTH + 2.0)).min(height as f32 / (glyphs::HEIGHT + 3.0));
        let thickness = (unit * 0.7).max(1.0);
        let start = self.width as f32 / 2.0 - pitch * (letters.len() as f32 - 1.0) / 2.0;
        for (index, letter) in letters.iter().enumerate() {
            let middle = (
                start + pitch * index as f32 + unit * rng.random_range(-0.5..=0.5),
                self.height as f32 / 2.0 + unit * rng.random_range(-1.0..=1.0),
            );
            let (sin, cos) = rng.random_range(-0.25_f32..=0.25).sin_cos();
            let place = |&(x, y): &(u8, u8)| {
                let (x, y) =
                    (unit * (f32::from(x) - glyphs::WIDTH / 2.0), unit * (f32::from(y) - glyphs::HEIGHT / 2.0));
                (middle.0 + x * cos - y * sin, middle.1 + x * sin + y * cos)
            };
            for stroke in letter.strokes {
                for ends in stroke.windows(2) {
                    self.line(place(&ends[0]), place(&ends[1]), thickness, BLACK)?;
                }
            }
        }
        Ok(())
    }

    /// Leaves the middle, at most as large as the whole.
    pub(super) fn cut(&mut self, width: usize, height: usize) {
        let (width, height) = (width.min(self.width), height.min(self.height));
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let rows = self.pixels.chunks(self.width).skip(top).take(height);
        self.pixels = rows.flat_map(|row| &row[left..left + width]).copied().collect();
        (self.width, self.height) = (width, height);
    }

    /// The picture as a file.
    pub(super) fn png(&self) -> Result<Vec<u8>, Late> {
        if Instant::now() >= self.deadline {
            return Err(Late);
        }
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(self.pixels.as_flattened()))
            .expect("because a buffer takes everything, and the pixels are as many as announced");
        Ok(file)
    }
}
