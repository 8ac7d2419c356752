//! Columns of any type → numbers of an input's datatype, by the rules that hold for text: a value that would become
//! another one is a gap. (The crate `arrow-cast` cuts 1.5 to 1 and compiles for longer than all of the host.)

use crate::number;
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, Float64Array, Int64Array, PrimitiveArray, cast::AsArray, new_null_array, types,
};
use arrow_schema::DataType;
use half::{bf16, f16};
use rust_host_engine::Datatype;
use std::sync::Arc;

/// Every type becomes the widest integer or the widest float, and every datatype is made from these two.
enum Wide {
    Integers(Int64Array),
    Floats(Float64Array),
}

/// The type in which a datatype's values lie; bytes for booleans, because Arrow's are bits.
pub(crate) fn arrow_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Uint8 | Datatype::Bool => DataType::UInt8,
        Datatype::Uint16 => DataType::UInt16,
        Datatype::Uint32 => DataType::UInt32,
        Datatype::Uint64 => DataType::UInt64,
        Datatype::Int8 => DataType::Int8,
        Datatype::Int16 => DataType::Int16,
        Datatype::Int32 => DataType::Int32,
        Datatype::Int64 => DataType::Int64,
        Datatype::Fp64 => DataType::Float64,
        Datatype::Fp32 | Datatype::Fp16 | Datatype::Bf16 => DataType::Float32,
    }
}

/// An array of [`arrow_type`] with a gap for each value that does not fit; `None` for a type that is no number.
pub(crate) fn cast(array: &ArrayRef, to: Datatype) -> Option<ArrayRef> {
    let kind = arrow_type(to);
    if *array.data_type() == kind && !matches!(to, Datatype::Bool | Datatype::Fp16 | Datatype::Bf16) {
        return Some(array.clone());
    }
    if *array.data_type() == DataType::Null {
        return Some(new_null_array(&kind, array.len()));
    }
    let wide = wide(array, to)?;
    let finite = |x: f64, is_infinite: bool| !(is_infinite && x.is_finite());
    Some(match to {
        Datatype::Bool => integers::<types::UInt8Type>(&wide, |i| u8::try_from(i).ok().filter(|&i| i < 2)),
        Datatype::Uint8 => integers::<types::UInt8Type>(&wide, |i| i.try_into().ok()),
        Datatype::Uint16 => integers::<types::UInt16Type>(&wide, |i| i.try_into().ok()),
        Datatype::Uint32 => integers::<types::UInt32Type>(&wide, |i| i.try_into().ok()),
        Datatype::Uint64 => integers::<types::UInt64Type>(&wide, |i| i.try_into().ok()),
        Datatype::Int8 => integers::<types::Int8Type>(&wide, |i| i.try_into().ok()),
        Datatype::Int16 => integers::<types::Int16Type>(&wide, |i| i.try_into().ok()),
        Datatype::Int32 => integers::<types::Int32Type>(&wide, |i| i.try_into().ok()),
        Datatype::Int64 => integers::<types::Int64Type>(&wide, Some),
        Datatype::Fp64 => floats::<types::Float64Type>(&wide, |i| i as f64, Some),
        Datatype::Fp32 => floats::<types::Float32Type>(
            &wide,
            |i| i as f32,
            |x| finite(x, (x as f32).is_infinite()).then_some(x as f32),
        ),
        Datatype::Fp16 => {
            let narrow = |x| Some(f16::from_f64(x)).filter(|y| finite(x, y.is_infinite())).map(f16::to_f32);
            floats::<types::Float32Type>(&wide, |i| f16::from_f64(i as f64).to_f32(), narrow)
        }
        Datatype::Bf16 => {
            let narrow = |x| Some(bf16::from_f64(x)).filter(|y| finite(x, y.is_infinite())).map(bf16::to_f32);
            floats::<types::Float32Type>(&wide, |i| bf16::from_f64(i as f64).to_f32(), narrow)
        }
    })
}

fn integers<T: ArrowPrimitiveType>(wide: &Wide, convert: impl Fn(i64) -> Option<T::Native>) -> ArrayRef {
    // 2^53: above it a float may be another integer than the one that was meant.
    let whole = |x: f64| (x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_992.0).then_some(x as i64);
    Arc::new(match wide {
        Wide::Integers(array) => array.unary_opt::<_, T>(convert),
        Wide::Floats(array) => array.unary_opt::<_, T>(|x| convert(whole(x)?)),
    })
}

fn floats<T: ArrowPrimitiveType>(
    wide: &Wide,
    integer: impl Fn(i64) -> T::Native,
    float: impl Fn(f64) -> Option<T::Native>,
) -> ArrayRef {
    Arc::new(match wide {
        Wide::Integers(array) => array.unary::<_, T>(integer),
        Wide::Floats(array) => array.unary_opt::<_, T>(float),
    })
}

fn wide(array: &ArrayRef, to: Datatype) -> Option<Wide> {
    fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef) -> &PrimitiveArray<T> {
        array.as_primitive::<T>()
    }
    fn integer<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &ArrayRef) -> Wide {
        Wide::Integers(primitive::<T>(array).unary(Into::into))
    }
    fn float<T: ArrowPrimitiveType<Native: Into<f64>>>(array: &ArrayRef) -> Wide {
        Wide::Floats(primitive::<T>(array).unary(Into::into))
    }
    /// Sums of integers are decimals or unsigned in some databases, and still integers.
    fn large<T: ArrowPrimitiveType<Native: TryInto<i64>>>(
        array: &ArrayRef,
        scale: i8,
        real: impl Fn(T::Native) -> f64,
    ) -> Wide {
        let array = primitive::<T>(array);
        let integers: Int64Array = array.unary_opt(|v| v.try_into().ok().filter(|_| scale == 0));
        match integers.null_count() == array.null_count() {
            true => Wide::Integers(integers),
            false => Wide::Floats(array.unary(|v| real(v) / 10f64.powi(i32::from(scale)))),
        }
    }
    Some(match array.data_type() {
        DataType::Int8 => integer::<types::Int8Type>(array),
        DataType::Int16 => integer::<types::Int16Type>(array),
        DataType::Int32 => integer::<types::Int32Type>(array),
        DataType::Int64 => Wide::Integers(primitive::<types::Int64Type>(array).clone()),
        DataType::UInt8 => integer::<types::UInt8Type>(array),
        DataType::UInt16 => integer::<types::UInt16Type>(array),
        DataType::UInt32 => integer::<types::UInt32Type>(array),
        DataType::UInt64 => large::<types::UInt64Type>(array, 0, |v| v as f64),
        DataType::Float16 => float::<types::Float16Type>(array),
        DataType::Float32 => float::<types::Float32Type>(array),
        DataType::Float64 => Wide::Floats(primitive::<types::Float64Type>(array).clone()),
        DataType::Decimal32(_, scale) => large::<types::Decimal32Type>(array, *scale, f64::from),
        DataType::Decimal64(_, scale) => large::<types::Decimal64Type>(array, *scale, |v| v as f64),
        DataType::Decimal128(_, scale) => large::<types::Decimal128Type>(array, *scale, |v| v as f64),
        DataType::Boolean => Wide::Integers(array.as_boolean().iter().map(|v| v.map(i64::from)).collect()),
        DataType::Utf8 => text(array.as_string::<i32>().iter(), to),
        DataType::LargeUtf8 => text(array.as_string::<i64>().iter(), to),
        DataType::Utf8View => text(array.as_string_view().iter(), to),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary_opt()?;
            let keys = match dictionary.values().is_empty() {
                true => vec![0; array.len()],
                false => dictionary.normalized_keys(),
            };
            let places = keys.into_iter().enumerate().map(|(row, key)| dictionary.keys().is_valid(row).then_some(key));
            match wide(dictionary.values(), to)? {
                Wide::Integers(v) => {
                    Wide::Integers(places.map(|p| p.filter(|&p| v.is_valid(p)).map(|p| v.value(p))).collect())
                }
                Wide::Floats(v) => {
                    Wide::Floats(places.map(|p| p.filter(|&p| v.is_valid(p)).map(|p| v.value(p))).collect())
                }
            }
        }
        _ => return None,
    })
}

fn text<'t>(texts: impl Iterator<Item = Option<&'t str>>, to: Datatype) -> Wide {
    let bytes = texts.map(|t| t.map(str::as_bytes));
    match to {
        Datatype::Bool => Wide::Integers(bytes.map(|t| number::boolean(t?).ok().map(i64::from)).collect()),
        Datatype::Fp32 => {
            let float = |t| number::float::<f32>(t, |x| x.is_infinite()).ok().map(f64::from);
            Wide::Floats(bytes.map(|t| float(t?)).collect())
        }
        to if to.is_float() => {
            let float = |t| number::float::<f64>(t, |x| x.is_infinite()).ok();
            Wide::Floats(bytes.map(|t| float(t?)).collect())
        }
        _ => Wide::Integers(bytes.map(|t| number::integer(t?).ok()).collect()),
    }
}

/// A value for a message.
pub(crate) fn shown(array: &ArrayRef, row: usize) -> String {
    let text = match array.data_type() {
        DataType::Utf8 => array.as_string_opt::<i32>().map(|a| a.value(row)),
        DataType::LargeUtf8 => array.as_string_opt::<i64>().map(|a| a.value(row)),
        DataType::Utf8View => array.as_string_view_opt().map(|a| a.value(row)),
        _ => None,
    };
    match (text, wide(&array.slice(row, 1), Datatype::Fp64)) {
        (Some(text), _) => text.to_owned(),
        (None, Some(Wide::Integers(v))) => v.iter().flatten().map(|v| v.to_string()).collect(),
        (None, Some(Wide::Floats(v))) => v.iter().flatten().map(|v| v.to_string()).collect(),
        (None, None) => "a value".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        BooleanArray, Decimal128Array, DictionaryArray, Float32Array, StringArray, StringViewArray, UInt64Array,
    };

    fn to_f32(array: impl Array + 'static) -> Vec<Option<f32>> {
        let array = Arc::new(array) as ArrayRef;
        cast(&array, Datatype::Fp32).unwrap().as_primitive::<types::Float32Type>().iter().collect()
    }

    fn to_i64(array: impl Array + 'static) -> Vec<Option<i64>> {
        let array = Arc::new(array) as ArrayRef;
        cast(&array, Datatype::Int64).unwrap().as_primitive::<types::Int64Type>().iter().collect()
    }

    #[test]
    fn a_value_that_would_become_another_one_is_a_gap() {
        assert_eq!(
            to_i64(Float64Array::from(vec![1.0, 1.5, f64::NAN, 1e16, -3.0])),
            [Some(1), None, None, None, Some(-3)]
        );
        assert_eq!(to_i64(UInt64Array::from(vec![7, u64::MAX])), [Some(7), None]);
        assert_eq!(to_f32(Float64Array::from(vec![1e39, f64::NEG_INFINITY])), [None, Some(f32::NEG_INFINITY)]);
        assert_eq!(to_f32(UInt64Array::from(vec![u64::MAX])), [Some(u64::MAX as f32)]);
        let half = cast(&(Arc::new(Float32Array::from(vec![1.5, 7e4])) as ArrayRef), Datatype::Fp16).unwrap();
        assert_eq!(half.as_primitive::<types::Float32Type>().iter().collect::<Vec<_>>(), [Some(1.5), None]);
        let flags = cast(&(Arc::new(Int64Array::from(vec![0, 1, 2])) as ArrayRef), Datatype::Bool).unwrap();
        assert_eq!(flags.as_primitive::<types::UInt8Type>().iter().collect::<Vec<_>>(), [Some(0), Some(1), None]);
    }

    #[test]
    fn databases_have_numbers_of_many_types() {
        let decimal = |scale| Decimal128Array::from(vec![Some(150), None]).with_precision_and_scale(10, scale).unwrap();
        assert_eq!(to_f32(decimal(2)), [Some(1.5), None]);
        assert_eq!(to_i64(decimal(0)), [Some(150), None]);
        assert_eq!(to_i64(BooleanArray::from(vec![true, false])), [Some(1), Some(0)]);
        assert_eq!(to_f32(StringArray::from(vec![" 0.1 ", "x", ""])), [Some(0.1), None, None]);
        assert_eq!(to_i64(StringViewArray::from(vec!["3.0", "3.5"])), [Some(3), None]);
        let categories: DictionaryArray<types::Int8Type> =
            vec![Some("2"), None, Some("x"), Some("2")].into_iter().collect();
        assert_eq!(to_i64(categories), [Some(2), None, None, Some(2)]);
        let none = DictionaryArray::<types::Int8Type>::from_iter(vec![None::<&str>; 2]);
        assert_eq!(to_i64(none), [None, None]);
        assert_eq!(to_f32(arrow_array::NullArray::new(2)), [None, None]);
        let dates = Arc::new(arrow_array::Date32Array::from(vec![1])) as ArrayRef;
        assert!(cast(&dates, Datatype::Fp32).is_none());
    }
}
