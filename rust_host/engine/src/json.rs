//! JSON → arguments of any TorchScript type, and results → JSON. Whole numbers stay exact up to 64 bits.

use crate::{Datatype, Error, Result, Tensor, Type, Value, tensor::byte_length};
use serde_json::{Number, Value as Json, json};

/// Arrays that are nested deeper are refused.
const DEEPEST: usize = 64;

/// Parses text, with a sentence for what is no JSON.
///
/// # Errors
/// `InvalidInput`.
pub fn parse(text: &str, shown: &str) -> Result<Json> {
    serde_json::from_str(text).map_err(|e| {
        let deep = e.to_string().contains("recursion limit");
        let what = if deep { format!("it is nested more than {DEEPEST} deep") } else { format!("it is not JSON: {e}") };
        Error::invalid_input(format!("{shown}: {what}"))
    })
}

/// Turns JSON into an argument of that type. `datatype` is the contract's, for tensors; without one, whole numbers become
/// INT64, booleans BOOL, and FP32 as soon as there is a fraction. Floats may also be `"NaN"`, `"Infinity"`, `"-Infinity"`.
///
/// # Errors
/// `InvalidInput` that says where the JSON does not fit: ragged rows, a value out of range, another type.
///
/// ```
/// use rust_host_engine::{json, Type, Value};
/// let Value::Tensor(t) = json::to_value(&serde_json::json!([[1, 2], [3, 4]]), &Type::Tensor, None, "x")? else { panic!() };
/// assert_eq!(t.shape(), [2, 2]);
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn to_value(json: &Json, kind: &Type, datatype: Option<Datatype>, shown: &str) -> Result<Value> {
    at_depth(json, kind, datatype, shown, 0)
}

fn at_depth(json: &Json, kind: &Type, datatype: Option<Datatype>, at: &str, depth: usize) -> Result<Value> {
    if depth > DEEPEST {
        return Err(Error::invalid_input(format!("{at}: it is nested more than {DEEPEST} deep")));
    }
    let wrong = || Error::invalid_input(format!("{at}: {} does not fit the type {kind}", brief(json)));
    let below =
        |json: &Json, kind: &Type, key: &str| at_depth(json, kind, datatype, &format!("{at}[{key}]"), depth + 1);
    Ok(match (kind, json) {
        (Type::Optional(_) | Type::None, Json::Null) => Value::None,
        (Type::Optional(inner), _) => at_depth(json, inner, datatype, at, depth + 1)?,
        (Type::Tensor, _) => Value::Tensor(to_tensor(json, datatype, at)?),
        (Type::Int, Json::Number(n)) => Value::Int(whole(n).ok_or_else(wrong)?),
        (Type::Number, Json::Number(n)) if whole(n).is_some() => Value::Int(whole(n).ok_or_else(wrong)?),
        (Type::Float | Type::Number, Json::Number(_)) => Value::Float(float(json).ok_or_else(wrong)?),
        (Type::Float, Json::String(_)) => Value::Float(float(json).ok_or_else(wrong)?),
        (Type::Bool | Type::Number, Json::Bool(b)) => Value::Bool(*b),
        (Type::Str, Json::String(s)) => Value::Str(s.clone()),
        (Type::List(item), Json::Array(items)) => {
            Value::List(items.iter().enumerate().map(|(i, j)| below(j, item, &i.to_string())).collect::<Result<_>>()?)
        }
        (Type::Tuple(kinds), Json::Array(items)) if kinds.len() == items.len() => Value::Tuple(
            items
                .iter()
                .zip(kinds)
                .enumerate()
                .map(|(i, (j, k))| below(j, k, &i.to_string()))
                .collect::<Result<_>>()?,
        ),
        (Type::Dict(key, item), Json::Object(map)) => Value::Dict(
            map.iter()
                .map(|(k, j)| Ok((to_key(k, key).ok_or_else(wrong)?, below(j, item, k)?)))
                .collect::<Result<_>>()?,
        ),
        (Type::Other(name), _) => {
            return Err(Error::invalid_input(format!(
                "{at}: a value of the type `{name}` cannot be given from outside"
            )));
        }
        _ => return Err(wrong()),
    })
}

fn to_key(text: &str, kind: &Type) -> Option<Value> {
    Some(match kind {
        Type::Str => Value::Str(text.to_owned()),
        Type::Int => Value::Int(text.parse().ok()?),
        Type::Float => Value::Float(text.parse().ok()?),
        Type::Bool => Value::Bool(text.parse().ok()?),
        _ => return None,
    })
}

/// The start of a value, for a message.
fn brief(json: &Json) -> String {
    let text = json.to_string();
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { format!("`{short}…`") } else { format!("`{text}`") }
}

/// A number without a fraction, as long as it fits: `3` and `3.0`.
fn whole(n: &Number) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    n.as_i64().or_else(|| {
        n.as_f64().filter(|x| x.fract() == 0.0 && x.abs() <= EXACT && n.as_u64().is_none()).map(|x| x as i64)
    })
}

fn float(json: &Json) -> Option<f64> {
    match json {
        Json::Number(n) => n.as_f64(),
        Json::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn to_tensor(json: &Json, datatype: Option<Datatype>, at: &str) -> Result<Tensor> {
    let mut shape = Vec::new();
    let mut inner = json;
    while let Json::Array(items) = inner {
        if shape.len() == DEEPEST {
            return Err(Error::invalid_input(format!("{at}: it is nested more than {DEEPEST} deep")));
        }
        shape.push(items.len() as i64);
        let Some(first) = items.first() else { break };
        inner = first;
    }
    byte_length(Datatype::Fp64, &shape)?;
    let mut leaves = Vec::new();
    collect(json, &shape, at, &mut leaves)?;
    let datatype = datatype.unwrap_or_else(|| guess(&leaves));
    macro_rules! integers {
        ($rust:ty) => {
            Tensor::from_elements(
                shape,
                convert(&leaves, at, datatype, |j| match j {
                    Json::Number(n) => whole(n)
                        .and_then(|v| <$rust>::try_from(v).ok())
                        .or_else(|| n.as_u64().and_then(|v| <$rust>::try_from(v).ok())),
                    _ => None,
                })?,
            )
        };
    }
    match datatype {
        Datatype::Bool => Tensor::from_bools(shape, convert(&leaves, at, datatype, Json::as_bool)?),
        Datatype::Uint8 => integers!(u8),
        Datatype::Uint16 => integers!(u16),
        Datatype::Uint32 => integers!(u32),
        Datatype::Uint64 => integers!(u64),
        Datatype::Int8 => integers!(i8),
        Datatype::Int16 => integers!(i16),
        Datatype::Int32 => integers!(i32),
        Datatype::Int64 => integers!(i64),
        Datatype::Fp16 => {
            Tensor::from_elements(shape, convert(&leaves, at, datatype, |j| float(j).map(half::f16::from_f64))?)
        }
        Datatype::Bf16 => {
            Tensor::from_elements(shape, convert(&leaves, at, datatype, |j| float(j).map(half::bf16::from_f64))?)
        }
        Datatype::Fp32 => Tensor::from_elements(shape, convert(&leaves, at, datatype, |j| float(j).map(|x| x as f32))?),
        Datatype::Fp64 => Tensor::from_elements(shape, convert(&leaves, at, datatype, float)?),
    }
}

fn collect<'j>(json: &'j Json, shape: &[i64], at: &str, leaves: &mut Vec<&'j Json>) -> Result<()> {
    match (json, shape.split_first()) {
        (Json::Array(items), Some((&n, rest))) => {
            if items.len() as i64 != n {
                return Err(Error::invalid_input(format!(
                    "{at}: the array is ragged, a row has {} values where the first has {n}",
                    items.len()
                )));
            }
            items.iter().try_for_each(|i| collect(i, rest, at, leaves))
        }
        (Json::Array(_), None) | (_, Some(_)) => {
            Err(Error::invalid_input(format!("{at}: the array is ragged, numbers and rows are mixed")))
        }
        (leaf, None) => {
            leaves.push(leaf);
            Ok(())
        }
    }
}

fn guess(leaves: &[&Json]) -> Datatype {
    if leaves.is_empty() {
        return Datatype::Fp32;
    }
    if leaves.iter().all(|j| j.is_boolean()) {
        return Datatype::Bool;
    }
    let all_whole = leaves.iter().all(|j| j.is_i64() || j.is_u64());
    if all_whole { Datatype::Int64 } else { Datatype::Fp32 }
}

fn convert<T>(leaves: &[&Json], at: &str, datatype: Datatype, f: impl Fn(&Json) -> Option<T>) -> Result<Vec<T>> {
    leaves
        .iter()
        .map(|j| f(j).ok_or_else(|| Error::invalid_input(format!("{at}: {} is no {datatype}", brief(j)))))
        .collect()
}

/// A result as JSON: tensors as nested arrays, NaN and infinities as strings, FP32 with the fewest digits that give the
/// same FP32 back.
pub fn from_value(value: &Value) -> Json {
    match value {
        Value::Tensor(t) => from_tensor(t),
        Value::Int(i) => json!(i),
        Value::Float(x) => from_f64(*x),
        Value::Bool(b) => json!(b),
        Value::Str(s) => json!(s),
        Value::None => Json::Null,
        Value::List(items) | Value::Tuple(items) => Json::Array(items.iter().map(from_value).collect()),
        Value::Dict(pairs) => Json::Object(pairs.iter().map(|(k, v)| (k.key(), from_value(v))).collect()),
        Value::NamedTuple(fields) => Json::Object(fields.iter().map(|(k, v)| (k.clone(), from_value(v))).collect()),
    }
}

/// NaN and the infinities have no JSON number.
pub fn from_f64(x: f64) -> Json {
    match Number::from_f64(x) {
        Some(n) => Json::Number(n),
        None if x.is_nan() => json!("NaN"),
        None if x > 0.0 => json!("Infinity"),
        None => json!("-Infinity"),
    }
}

/// The fewest digits of the narrow float, as a 64-bit one.
fn narrow(text: String) -> Json {
    text.parse().map_or(Json::Null, from_f64)
}

fn from_tensor(tensor: &Tensor) -> Json {
    fn all<T: crate::Element>(t: &Tensor, f: impl Fn(T) -> Json) -> Vec<Json> {
        t.to_vec().unwrap_or_default().into_iter().map(f).collect()
    }
    let leaves = match tensor.datatype() {
        Datatype::Bool => tensor.to_f64_vec().into_iter().map(|x| json!(x != 0.0)).collect(),
        Datatype::Uint8 => all(tensor, |x: u8| json!(x)),
        Datatype::Uint16 => all(tensor, |x: u16| json!(x)),
        Datatype::Uint32 => all(tensor, |x: u32| json!(x)),
        Datatype::Uint64 => all(tensor, |x: u64| json!(x)),
        Datatype::Int8 => all(tensor, |x: i8| json!(x)),
        Datatype::Int16 => all(tensor, |x: i16| json!(x)),
        Datatype::Int32 => all(tensor, |x: i32| json!(x)),
        Datatype::Int64 => all(tensor, |x: i64| json!(x)),
        Datatype::Fp16 => all(tensor, |x: half::f16| from_f64(x.into())),
        Datatype::Bf16 => all(tensor, |x: half::bf16| from_f64(x.into())),
        Datatype::Fp32 => all(tensor, |x: f32| narrow(x.to_string())),
        Datatype::Fp64 => all(tensor, from_f64),
    };
    nest(&mut leaves.into_iter(), tensor.shape())
}

fn nest(leaves: &mut impl Iterator<Item = Json>, shape: &[i64]) -> Json {
    match shape.split_first() {
        None => leaves.next().unwrap_or(Json::Null),
        Some((&n, rest)) => Json::Array((0..n).map(|_| nest(leaves, rest)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(text: &str, datatype: Option<Datatype>) -> Result<Tensor> {
        match to_value(&parse(text, "x")?, &Type::Tensor, datatype, "x")? {
            Value::Tensor(t) => Ok(t),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn datatypes_are_guessed_from_how_numbers_are_written() {
        for (text, datatype) in [
            ("[1, 2]", Datatype::Int64),
            ("[1, 2.0]", Datatype::Fp32),
            ("true", Datatype::Bool),
            ("[]", Datatype::Fp32),
        ] {
            assert_eq!(tensor(text, None).unwrap().datatype(), datatype, "{text}");
        }
    }

    #[test]
    fn whole_numbers_of_64_bits_stay_exact() {
        let t = tensor("[9007199254740993, -9223372036854775808]", None).unwrap();
        assert_eq!(t.to_vec::<i64>().unwrap(), [9_007_199_254_740_993, i64::MIN]);
        let t = tensor("[18446744073709551615]", Some(Datatype::Uint64)).unwrap();
        assert_eq!(from_value(&t.into()).to_string(), "[18446744073709551615]");
    }

    #[test]
    fn fractions_are_the_nearest_double_of_what_is_written() {
        // Written out, so that the compiler's own reading of the number is the one compared with.
        for (text, expected) in
            [("1e-66", 1e-66), ("1.7976931348623157e308", f64::MAX), ("0.30000000000000004", 0.1 + 0.2)]
        {
            let read = tensor(&format!("[{text}]"), Some(Datatype::Fp64)).unwrap();
            assert_eq!(read.to_vec::<f64>().unwrap(), [expected], "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_place() {
        for (text, datatype, word) in [
            ("[[1, 2], [3]]", None, "ragged"),
            ("[1, [2]]", None, "ragged"),
            ("[[1], 2]", None, "ragged"),
            ("[300]", Some(Datatype::Uint8), "`300` is no UINT8"),
            ("[1.5]", Some(Datatype::Int32), "`1.5` is no INT32"),
            ("[\"a\"]", None, "is no FP32"),
            ("[1,", None, "not JSON"),
        ] {
            let e = tensor(text, datatype).unwrap_err();
            assert!(e.message.contains(word), "{text}: {e}");
        }
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(tensor(&deep, None).unwrap_err().message.contains("nested"));
        let deeper = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(tensor(&deeper, None).unwrap_err().message.contains("nested"));
    }

    #[test]
    fn results_are_json_that_every_reader_takes() {
        let t = Tensor::from_elements(vec![2, 2], vec![0.1f32, f32::NAN, f32::INFINITY, -0.5]).unwrap();
        assert_eq!(from_value(&t.into()).to_string(), r#"[[0.1,"NaN"],["Infinity",-0.5]]"#);
        let empty = Tensor::from_elements(vec![2, 0], Vec::<f32>::new()).unwrap();
        assert_eq!(from_value(&empty.into()).to_string(), "[[],[]]");
    }

    #[test]
    fn every_type_of_argument_can_be_written() {
        let get = |text: &str, kind: &str| to_value(&parse(text, "x").unwrap(), &Type::parse(kind), None, "x");
        assert!(matches!(get("3", "int").unwrap(), Value::Int(3)));
        assert!(matches!(get("2", "float").unwrap(), Value::Float(2.0)));
        assert!(matches!(get("null", "Optional[Tensor]").unwrap(), Value::None));
        assert!(matches!(get("[\"a\"]", "List[str]").unwrap(), Value::List(l) if l.len() == 1));
        assert!(
            matches!(get("{\"3\": 1}", "Dict[int, float]").unwrap(), Value::Dict(d) if matches!(d[0], (Value::Int(3), Value::Float(1.0))))
        );
        assert!(get("1.5", "int").is_err() && get("true", "int").is_err() && get("[1]", "Tuple[int, int]").is_err());
        assert!(get("1", "__torch__.C").unwrap_err().message.contains("__torch__.C"));
    }
}
