//! `bitu64`: Luau's `bit32` for 64 bits.

use std::ffi::c_int;

use super::integers::{U64, to_integer};
use super::{function, table};
use crate::error::ApiError;
use crate::luau::class::Object;
use crate::luau::lua_State;
use crate::luau::native::Call;
use crate::luau::stack::Kind;

const BITS: u32 = u64::BITS;

/// Pushes the library. May raise.
pub(super) fn push_library(l: *mut lua_State) {
    table(l, 14);
    function(l, c"band", |call: &Call| bits(fold(call, u64::MAX, |a, b| a & b)));
    function(l, c"bor", |call: &Call| bits(fold(call, 0, |a, b| a | b)));
    function(l, c"bxor", |call: &Call| bits(fold(call, 0, |a, b| a ^ b)));
    function(l, c"btest", |call: &Call| fold(call, u64::MAX, |a, b| a & b).map(|common| common != 0));
    function(l, c"bnot", |call: &Call| bits(word(call, 1, "n").map(|n| !n)));
    function(l, c"extract", |call: &Call| {
        let n = word(call, 1, "n")?;
        let field = Field::read(call, 2)?;
        bits(Ok(n >> field.first & field.mask))
    });
    function(l, c"replace", |call: &Call| {
        let (n, r) = (word(call, 1, "n")?, word(call, 2, "r")?);
        let field = Field::read(call, 3)?;
        bits(Ok(n & !(field.mask << field.first) | (r & field.mask) << field.first))
    });
    function(l, c"lshift", |call: &Call| bits(Ok(shifted(word(call, 1, "n")?, places(call)?))));
    function(l, c"rshift", |call: &Call| bits(Ok(shifted(word(call, 1, "n")?, -places(call)?))));
    function(l, c"lrotate", |call: &Call| bits(Ok(rotated(word(call, 1, "n")?, places(call)?))));
    function(l, c"rrotate", |call: &Call| bits(Ok(rotated(word(call, 1, "n")?, -places(call)?))));
    function(l, c"byteswap", |call: &Call| bits(word(call, 1, "n").map(u64::swap_bytes)));
    function(l, c"countlz", |call: &Call| word(call, 1, "n").map(u64::leading_zeros));
    function(l, c"countrz", |call: &Call| word(call, 1, "n").map(u64::trailing_zeros));
}

fn bits(bits: Result<u64, ApiError>) -> Result<Object<U64>, ApiError> {
    bits.map(|bits| Object(U64(bits)))
}

fn word(call: &Call, index: c_int, name: &str) -> Result<u64, ApiError> {
    to_integer::<U64>(call, index, name).map(|n| n.0)
}

fn fold(call: &Call, start: u64, operation: fn(u64, u64) -> u64) -> Result<u64, ApiError> {
    (1..=call.len()).try_fold(start, |bits, index| Ok(operation(bits, word(call, index, "n")?)))
}

/// How many places to move, the other way if negative. Beyond the width it makes no difference how many.
fn places(call: &Call) -> Result<i64, ApiError> {
    let number = match call.kind(2) {
        Kind::Userdata => to_integer::<super::I64>(call, 2, "i")?.0 as f64,
        _ => call.number(2, "i")?,
    };
    if number.fract() != 0.0 || !number.is_finite() {
        return Err(ApiError::invalid_argument("i (expected a whole number)"));
    }
    Ok(number.clamp(-1e15, 1e15) as i64)
}

fn shifted(n: u64, left: i64) -> u64 {
    let places = u32::try_from(left.unsigned_abs()).unwrap_or(u32::MAX);
    let result = if left < 0 { n.checked_shr(places) } else { n.checked_shl(places) };
    result.unwrap_or(0)
}

fn rotated(n: u64, left: i64) -> u64 {
    n.rotate_left(left.rem_euclid(BITS.into()) as u32)
}

/// A run of bits: from bit `first` on, as many as `mask` has.
struct Field {
    first: u32,
    mask: u64,
}

impl Field {
    /// Arguments `f` at `index` and `w`, which is 1 if left out.
    fn read(call: &Call, index: c_int) -> Result<Self, ApiError> {
        let first = call.count(index, "f", u64::from(BITS - 1))? as u32;
        let width = match call.number_opt(index + 1, "w")? {
            None => 1,
            Some(_) => call.count(index + 1, "w", u64::from(BITS - first))? as u32,
        };
        if width == 0 {
            return Err(ApiError::invalid_argument("w (expected at least 1)"));
        }
        Ok(Self { first, mask: u64::MAX >> (BITS - width) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_go_either_way_and_off_the_end() {
        assert_eq!(shifted(1, 63), 1 << 63);
        assert_eq!(shifted(1, 64), 0);
        assert_eq!(shifted(u64::MAX, -64), 0);
        assert_eq!(shifted(u64::MAX, -63), 1);
        assert_eq!(shifted(5, i64::MIN), 0);
        assert_eq!(shifted(5, i64::MAX), 0);
        assert_eq!(rotated(1, -1), 1 << 63);
        assert_eq!(rotated(1, 64 * 1_000_003 + 2), 4);
    }
}
