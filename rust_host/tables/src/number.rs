//! Text → numbers, and why a text is none.

use std::str::FromStr;

/// Why a field is no value for its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// There is nothing.
    Missing,
    /// It is something else.
    NoNumber,
    /// It has a fraction.
    NoInteger,
    /// It is beyond what the datatype holds.
    Range,
    /// It is neither true nor false.
    NoBool,
}

type Parsed<T> = Result<T, Wrong>;

fn trimmed(text: &[u8]) -> Parsed<&[u8]> {
    let text = text.trim_ascii();
    if text.is_empty() { Err(Wrong::Missing) } else { Ok(text) }
}

/// `inf` and `nan` are numbers where they are written; a number too large for the datatype is none.
pub(crate) fn float<T: fast_float2::FastFloat>(text: &[u8], infinite: impl Fn(&T) -> bool) -> Parsed<T> {
    let text = trimmed(text)?;
    let value: T = fast_float2::parse(text).map_err(|_| Wrong::NoNumber)?;
    if infinite(&value) && text.iter().any(u8::is_ascii_digit) { Err(Wrong::Range) } else { Ok(value) }
}

/// A datatype that Rust has no parser for.
pub(crate) fn narrow<T: Copy>(text: &[u8], from: impl Fn(f64) -> T, infinite: impl Fn(T) -> bool) -> Parsed<T> {
    let wide = float::<f64>(text, |x| x.is_infinite())?;
    let value = from(wide);
    if wide.is_finite() && infinite(value) { Err(Wrong::Range) } else { Ok(value) }
}

/// Exact over the whole range; `3.0` is 3, as pandas writes integers of a column that once had a gap.
pub(crate) fn integer<T: FromStr + TryFrom<i64>>(text: &[u8]) -> Parsed<T> {
    let text = std::str::from_utf8(trimmed(text)?).map_err(|_| Wrong::NoNumber)?;
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    let value: f64 = fast_float2::parse(text).map_err(|_| Wrong::NoNumber)?;
    match value {
        v if !v.is_finite() => Err(Wrong::NoInteger),
        v if v.fract() != 0.0 => Err(Wrong::NoInteger),
        // 2^53: above it a float may be another integer than the one that was meant.
        v if v.abs() > 9_007_199_254_740_992.0 => Err(Wrong::Range),
        v => T::try_from(v as i64).map_err(|_| Wrong::Range),
    }
}

pub(crate) fn boolean(text: &[u8]) -> Parsed<bool> {
    match trimmed(text)?.to_ascii_lowercase().as_slice() {
        b"true" | b"1" | b"1.0" => Ok(true),
        b"false" | b"0" | b"0.0" => Ok(false),
        _ => Err(Wrong::NoBool),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_and_fractions_are_none() {
        assert_eq!(integer::<i64>(b" 9223372036854775807 "), Ok(i64::MAX));
        assert_eq!(integer::<u64>(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(integer::<i32>(b"-3.0"), Ok(-3));
        assert_eq!(integer::<u8>(b"256"), Err(Wrong::Range));
        assert_eq!(integer::<u8>(b"-1"), Err(Wrong::Range));
        assert_eq!(integer::<i64>(b"1.5"), Err(Wrong::NoInteger));
        assert_eq!(integer::<i64>(b"nan"), Err(Wrong::NoInteger));
        assert_eq!(integer::<i64>(b"9007199254740993.0e3"), Err(Wrong::Range));
        assert_eq!(integer::<i64>(b"x"), Err(Wrong::NoNumber));
        assert_eq!(integer::<i64>(b"  "), Err(Wrong::Missing));
    }

    #[test]
    fn a_float_that_does_not_fit_is_no_infinity() {
        let f32 = |t: &[u8]| float::<f32>(t, |x| x.is_infinite());
        assert_eq!(f32(b"1e39"), Err(Wrong::Range));
        assert_eq!(f32(b"-inf"), Ok(f32::NEG_INFINITY));
        assert!(f32(b"NaN").unwrap().is_nan());
        assert_eq!(f32(b"1,5"), Err(Wrong::NoNumber));
        assert_eq!(narrow(b"70000", half::f16::from_f64, |x| x.is_infinite()), Err(Wrong::Range));
    }

    #[test]
    fn true_and_false_are_written_in_many_ways() {
        for (text, value) in
            [("True", Ok(true)), ("0", Ok(false)), ("yes", Err(Wrong::NoBool)), ("", Err(Wrong::Missing))]
        {
            assert_eq!(boolean(text.as_bytes()), value, "{text}");
        }
    }
}
