//! What a captcha is to look like, read from a template's table.

use std::collections::BTreeMap;

use worker_core::{CaptchaLimits, Value};

use super::filters::{Area, Direction, Duplicates, Filter};
use crate::error::ApiError;

/// Pixels of a radius or a thickness.
const SIZE_MAX: f64 = 512.0;
/// Coordinates may lie outside of the picture, not beyond this.
const COORDINATE_MAX: f64 = 1e6;
/// Pixels between lines of a grid.
const GAP_MAX: f64 = 1e6;

/// A captcha to be drawn, within the limits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CaptchaConfig {
    pub(super) char_count: u64,
    pub(super) filters: Vec<Filter>,
    pub(super) width: usize,
    pub(super) height: usize,
    /// The filter before which the view box is cut; at the end if there is none such.
    pub(super) cut_at: Option<usize>,
}

fn wrong(name: &str, wanted: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_argument(format_args!("{name} (expected {wanted})"))
}

/// A table of the configuration, and what it is called in messages.
struct Fields<'a> {
    name: String,
    fields: &'a BTreeMap<String, Value>,
}

impl<'a> Fields<'a> {
    fn read(value: &'a Value, name: &str) -> Result<Self, ApiError> {
        match value {
            Value::Map(fields) => Ok(Self { name: name.to_owned(), fields }),
            _ => Err(wrong(name, "a table with names")),
        }
    }

    fn get(&self, field: &str) -> &'a Value {
        self.fields.get(field).unwrap_or(&Value::Null)
    }

    fn name(&self, field: &str) -> String {
        format!("{}.{field}", self.name)
    }

    fn number(&self, field: &str, min: f64, max: f64) -> Result<f64, ApiError> {
        number(self.get(field), &self.name(field), min, max)
    }

    fn whole(&self, field: &str, min: f64, max: f64) -> Result<f64, ApiError> {
        whole(self.get(field), &self.name(field), min, max)
    }

    fn numbers<const N: usize>(&self, field: &str, names: [&str; N], min: f64, max: f64) -> Result<[f64; N], ApiError> {
        numbers(self.get(field), &self.name(field), names, min, max)
    }

    fn radius(&self) -> Result<(i64, i64), ApiError> {
        let smallest = self.whole("min_radius", 0.0, SIZE_MAX)?;
        let largest = self.whole("max_radius", smallest, SIZE_MAX)?;
        Ok((smallest as i64, largest as i64))
    }
}

fn number(value: &Value, name: &str, min: f64, max: f64) -> Result<f64, ApiError> {
    let number = match value {
        Value::Integer(number) => *number as f64,
        Value::UnsignedInteger(number) => *number as f64,
        Value::Float(number) => *number,
        _ => f64::NAN,
    };
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(wrong(name, format_args!("a number from {min} to {max}")))
    }
}

fn whole(value: &Value, name: &str, min: f64, max: f64) -> Result<f64, ApiError> {
    let wanted = || wrong(name, format_args!("a whole number from {min} to {max}"));
    number(value, name, min, max).ok().filter(|number| number.fract() == 0.0).ok_or_else(wanted)
}

/// Numbers with names, or in this order.
fn numbers<const N: usize>(
    value: &Value,
    name: &str,
    names: [&str; N],
    min: f64,
    max: f64,
) -> Result<[f64; N], ApiError> {
    let mut read = [0.0; N];
    for (index, (field, number_read)) in names.iter().zip(&mut read).enumerate() {
        let value = match value {
            Value::Map(fields) => fields.get(*field),
            Value::List(items) if items.len() == N => items.get(index),
            _ => return Err(wrong(name, format_args!("a table with {}", names.join(", ")))),
        };
        *number_read = number(value.unwrap_or(&Value::Null), &format!("{name}.{field}"), min, max)?;
    }
    Ok(read)
}

impl CaptchaConfig {
    pub(super) fn read(value: &Value, limits: &CaptchaLimits) -> Result<Self, ApiError> {
        let config = Fields::read(value, "config")?;
        let char_count = config.whole("char_count", 1.0, limits.chars_max as f64)? as u64;
        let [width, height] = config.numbers("viewbox_size", ["width", "height"], 1.0, limits.side_max as f64)?;
        let filters = match config.get("filters") {
            Value::List(filters) => filters.as_slice(),
            Value::Map(none) if none.is_empty() => &[],
            Value::Null => &[],
            _ => return Err(wrong("config.filters", "a list")),
        };
        let max = limits.filters_max;
        if filters.len() > max {
            return Err(ApiError::too_large(format_args!("config.filters (at most {max})")));
        }
        let cut_at = match config.get("set_viewbox_at_idx") {
            Value::Null => None,
            index => Some(whole(index, "config.set_viewbox_at_idx", 0.0, max as f64)? as usize),
        };
        let filters = filters.iter().enumerate().map(|(index, filter)| {
            filter_of(&Fields::read(filter, &format!("config.filters[{}]", index + 1))?, limits)
        });
        Ok(Self {
            char_count,
            filters: filters.collect::<Result<_, _>>()?,
            width: width as usize,
            height: height as usize,
            cut_at,
        })
    }
}

fn filter_of(fields: &Fields<'_>, limits: &CaptchaLimits) -> Result<Filter, ApiError> {
    let Value::Text(kind) = fields.get("filter") else { return Err(wrong(&fields.name("filter"), "a name")) };
    let shapes_max = limits.shapes_max as f64;
    Ok(match kind.as_str() {
        "ColorInvert" => Filter::ColorInvert,
        "RandomLine" => Filter::RandomLine,
        "Line" => {
            let end = |name| -> Result<(f32, f32), ApiError> {
                let [x, y] = fields.numbers(name, ["x", "y"], -COORDINATE_MAX, COORDINATE_MAX)?;
                Ok((x as f32, y as f32))
            };
            Filter::Line {
                from: end("p1")?,
                to: end("p2")?,
                thickness: fields.number("thickness", 0.0, SIZE_MAX)? as f32,
                color: fields.numbers("color", ["r", "g", "b"], 0.0, 255.0)?.map(|part| part as u8),
            }
        }
        "Cow" => {
            let area = match fields.get("geometry") {
                Value::Null => None,
                area => {
                    let name = fields.name("geometry");
                    let sides = ["left", "right", "top", "bottom"];
                    let [left, right, top, bottom] =
                        numbers(area, &name, sides, 0.0, COORDINATE_MAX)?.map(|n| n as i64);
                    if left > right || top > bottom {
                        return Err(wrong(&name, "left to be at most right, and top at most bottom"));
                    }
                    Some(Area { left, right, top, bottom })
                }
            };
            let duplicates = match fields.get("allow_duplicates") {
                Value::Boolean(true) => Duplicates::Allowed,
                Value::Boolean(false) | Value::Null => Duplicates::Refused,
                _ => return Err(wrong(&fields.name("allow_duplicates"), "a boolean")),
            };
            Filter::Cow { radius: fields.radius()?, n: fields.whole("n", 0.0, shapes_max)? as u64, duplicates, area }
        }
        "Dot" => Filter::Dot { radius: fields.radius()?, n: fields.whole("n", 0.0, shapes_max)? as u64 },
        "Grid" => Filter::Grid {
            x_gap: fields.whole("x_gap", 1.0, GAP_MAX)? as usize,
            y_gap: fields.whole("y_gap", 1.0, GAP_MAX)? as usize,
        },
        "Noise" => Filter::Noise { prob: fields.number("prob", 0.0, 1.0)? },
        "Wave" => Filter::Wave {
            f: fields.number("f", f64::MIN, f64::MAX)?,
            amp: fields.number("amp", f64::MIN, f64::MAX)?,
            direction: match fields.get("d") {
                Value::Text(d) if d == "horizontal" => Direction::Horizontal,
                Value::Text(d) if d == "vertical" => Direction::Vertical,
                _ => return Err(wrong(&fields.name("d"), "`horizontal` or `vertical`")),
            },
        },
        _ => return Err(wrong(&fields.name("filter"), "the name of a filter")),
    })
}
