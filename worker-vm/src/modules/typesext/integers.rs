//! `U64` and `I64`.

use std::ffi::{CStr, c_int};
use std::fmt;

use worker_core::Value;

use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::Call;
use crate::luau::stack::{Kind, List};

/// An unsigned 64-bit integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct U64(pub(crate) u64);

/// A signed 64-bit integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct I64(pub(crate) i64);

/// What the two types have in common: arithmetic that wraps around, and division that rounds down as Luau's does.
pub(crate) trait Integer: Class + Copy + Default + Ord + fmt::Display {
    /// The integer, if it is in range.
    fn from_i128(integer: i128) -> Option<Self>;
    fn to_i128(self) -> i128;
    /// The same 64 bits.
    fn from_bits(bits: u64) -> Self;
    fn to_bits(self) -> u64;

    /// The lowest 64 bits of an integer.
    fn wrapped(integer: i128) -> Self {
        Self::from_bits(integer as u64)
    }
}

impl Integer for U64 {
    fn from_i128(integer: i128) -> Option<Self> {
        u64::try_from(integer).ok().map(Self)
    }
    fn to_i128(self) -> i128 {
        self.0.into()
    }
    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    fn to_bits(self) -> u64 {
        self.0
    }
}

impl Integer for I64 {
    fn from_i128(integer: i128) -> Option<Self> {
        i64::try_from(integer).ok().map(Self)
    }
    fn to_i128(self) -> i128 {
        self.0.into()
    }
    fn from_bits(bits: u64) -> Self {
        Self(bits.cast_signed())
    }
    fn to_bits(self) -> u64 {
        self.0.cast_unsigned()
    }
}

impl fmt::Display for U64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for I64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Class for U64 {
    const TAG: c_int = tags::U64;
    const NAME: &'static str = "U64";
    const C_NAME: &'static CStr = c"U64";

    fn register(class: &mut ClassBuilder) {
        register::<Self>(class);
        class.method(c"to_i64", |call: &Call| Ok(Object(I64::from_bits(call.object::<Self>(1, "self")?.0))));
    }
}

impl Class for I64 {
    const TAG: c_int = tags::I64;
    const NAME: &'static str = "I64";
    const C_NAME: &'static CStr = c"I64";

    fn register(class: &mut ClassBuilder) {
        register::<Self>(class);
        class.method(c"to_u64", |call: &Call| Ok(Object(U64(call.object::<Self>(1, "self")?.to_bits()))));
    }
}

fn register<T: Integer>(class: &mut ClassBuilder) {
    class
        .meta(c"__add", |call: &Call| wrapping::<T>(call, |a, b| Ok(a + b)))
        .meta(c"__sub", |call: &Call| wrapping::<T>(call, |a, b| Ok(a - b)))
        // The product of two 64-bit integers fits into 128 bits, but for one of u64s, whose lowest bits are kept alike.
        .meta(c"__mul", |call: &Call| wrapping::<T>(call, |a, b| Ok(a.wrapping_mul(b))))
        .meta(c"__div", |call: &Call| wrapping::<T>(call, floor_div))
        .meta(c"__idiv", |call: &Call| wrapping::<T>(call, floor_div))
        .meta(c"__mod", |call: &Call| wrapping::<T>(call, |a, b| Ok(a - b * floor_div(a, b)?)))
        .meta(c"__pow", |call: &Call| {
            let (base, exponent) = operands::<T>(call)?;
            let exponent = u64::try_from(exponent.to_i128())
                .map_err(|_| ApiError::invalid_argument("exponent (negative: the power is not whole)"))?;
            Ok(Object(T::from_bits(wrapping_pow(base.to_bits(), exponent))))
        })
        .meta(c"__unm", |call: &Call| Ok(Object(T::wrapped(-call.object::<T>(1, "operand")?.to_i128()))))
        .meta(c"__eq", |call: &Call| operands::<T>(call).map(|(a, b)| a == b))
        .meta(c"__lt", |call: &Call| operands::<T>(call).map(|(a, b)| a < b))
        .meta(c"__le", |call: &Call| operands::<T>(call).map(|(a, b)| a <= b))
        .meta(c"__tostring", |call: &Call| Ok(call.object::<T>(1, "self")?.to_string()));
    class
        .method(c"to_ne_bytes", |call: &Call| Ok(byte_list(this::<T>(call)?.to_bits().to_ne_bytes())))
        .method(c"to_le_bytes", |call: &Call| Ok(byte_list(this::<T>(call)?.to_bits().to_le_bytes())))
        .method(c"to_be_bytes", |call: &Call| Ok(byte_list(this::<T>(call)?.to_bits().to_be_bytes())))
        .method(c"from_ne_bytes", |call: &Call| Ok(Object(T::from_bits(u64::from_ne_bytes(bytes::<T>(call)?)))))
        .method(c"from_le_bytes", |call: &Call| Ok(Object(T::from_bits(u64::from_le_bytes(bytes::<T>(call)?)))))
        .method(c"from_be_bytes", |call: &Call| Ok(Object(T::from_bits(u64::from_be_bytes(bytes::<T>(call)?)))));
}

fn this<T: Integer>(call: &Call) -> Result<T, ApiError> {
    call.object::<T>(1, "self").copied()
}

/// The integer that a number, a decimal string, a U64 or an I64 stands for.
pub(super) fn to_integer<T: Integer>(call: &Call, index: c_int, name: &str) -> Result<T, ApiError> {
    let integer = match call.kind(index) {
        Kind::Number | Kind::Integer64 => {
            let number = call.number(index, name)?;
            // Doubles of this size are whole and fit into 128 bits; `from_i128` refuses them with its own range.
            (number.fract() == 0.0 && number.abs() < 1e30).then_some(number as i128)
        }
        Kind::String => call.str(index, name)?.parse().ok(),
        Kind::Userdata => call
            .object_opt::<U64>(index)
            .map(|integer| integer.to_i128())
            .or_else(|| call.object_opt::<I64>(index).map(|integer| integer.to_i128())),
        _ => None,
    };
    integer.and_then(T::from_i128).ok_or_else(|| {
        let kind = call.kind(index).name();
        ApiError::invalid_argument(format_args!("{name} (a {kind} that is not a whole number within a {})", T::NAME))
    })
}

fn operands<T: Integer>(call: &Call) -> Result<(T, T), ApiError> {
    Ok((to_integer(call, 1, "operand")?, to_integer(call, 2, "operand")?))
}

fn wrapping<T: Integer>(
    call: &Call,
    operation: fn(i128, i128) -> Result<i128, ApiError>,
) -> Result<Object<T>, ApiError> {
    let (a, b) = operands::<T>(call)?;
    operation(a.to_i128(), b.to_i128()).map(|result| Object(T::wrapped(result)))
}

/// The quotient, rounded down.
fn floor_div(a: i128, b: i128) -> Result<i128, ApiError> {
    if b == 0 {
        return Err(ApiError::invalid_argument("division by zero"));
    }
    let (quotient, rest) = (a / b, a % b);
    Ok(if rest != 0 && (rest < 0) != (b < 0) { quotient - 1 } else { quotient })
}

fn wrapping_pow(mut base: u64, mut exponent: u64) -> u64 {
    let mut power = 1u64;
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = power.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    power
}

fn byte_list(bytes: [u8; 8]) -> List<f64> {
    List(bytes.into_iter().map(f64::from).collect())
}

/// A list of 8 bytes: the first argument, or the second if the first is the object itself.
fn bytes<T: Integer>(call: &Call) -> Result<[u8; 8], ApiError> {
    let index = if call.object_opt::<T>(1).is_some() { 2 } else { 1 };
    let wrong = || ApiError::invalid_argument("bytes (expected a list of 8 whole numbers from 0 to 255)");
    let Value::List(items) = call.value(index)? else { return Err(wrong()) };
    let byte = |item: &Value| match item {
        Value::Integer(byte) => u8::try_from(*byte).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = items.iter().map(byte).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_rounds_down() {
        for (a, b, quotient) in [(7, 2, 3), (-7, 2, -4), (7, -2, -4), (-7, -2, 3), (6, 3, 2), (-6, 3, -2), (0, 5, 0)] {
            assert_eq!(floor_div(a, b).unwrap(), quotient, "{a} // {b}");
        }
        assert!(floor_div(1, 0).is_err());
    }

    #[test]
    fn arithmetic_wraps() {
        assert_eq!(U64::wrapped(-1), U64(u64::MAX));
        assert_eq!(U64::wrapped(i128::from(u64::MAX) + 1), U64(0));
        assert_eq!(I64::wrapped(i128::from(i64::MAX) + 1), I64(i64::MIN));
        assert_eq!(U64::wrapped(i128::from(u64::MAX).wrapping_mul(i128::from(u64::MAX))), U64(1));
        assert_eq!(wrapping_pow(3, 0), 1);
        assert_eq!(wrapping_pow(2, 63), 1 << 63);
        assert_eq!(wrapping_pow(2, 64), 0);
        assert_eq!(wrapping_pow(3, u64::MAX), 3u64.wrapping_pow(u32::MAX).wrapping_pow(1).wrapping_mul(pow_rest()));
    }

    /// 3^(u64::MAX − u32::MAX): the order of 3 among the odd residues of 2^64 is 2^62.
    fn pow_rest() -> u64 {
        wrapping_pow(3, (u64::MAX - u64::from(u32::MAX)) % (1 << 62))
    }
}
