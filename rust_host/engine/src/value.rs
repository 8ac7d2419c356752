//! Values and types of TorchScript: what `forward` takes and returns, tensors and everything else, nested at will.

use crate::{Error, Result, Tensor, error::ErrorKind};
use std::fmt;

/// One argument or result of a method.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are TorchScript's")]
pub enum Value {
    Tensor(Tensor),
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(String),
    None,
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// Pairs in insertion order; keys are strings, numbers or booleans.
    Dict(Vec<(Value, Value)>),
    /// Fields of a NamedTuple, in order.
    NamedTuple(Vec<(String, Value)>),
}

impl Value {
    /// What it is, in TorchScript's words, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tensor(_) => "Tensor",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Bool(_) => "bool",
            Self::Str(_) => "str",
            Self::None => "None",
            Self::List(_) => "List",
            Self::Tuple(_) => "Tuple",
            Self::Dict(_) => "Dict",
            Self::NamedTuple(_) => "NamedTuple",
        }
    }

    /// A dictionary key as text.
    pub fn key(&self) -> String {
        match self {
            Self::Str(s) => s.clone(),
            Self::Int(i) => i.to_string(),
            Self::Float(x) => x.to_string(),
            Self::Bool(b) => b.to_string(),
            other => other.kind().to_owned(),
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

/// The leaves of a result (everything but containers), each with a unique name.
///
/// A lone leaf is `output_0`; those of lists and tuples are numbered in order, `output_0`, `output_1`, …; those below a
/// dict or a NamedTuple carry its keys: `output_0.boxes`, or just `boxes` where the dict is the result itself.
///
/// # Errors
/// `Failed` if the nesting is deeper than 64: a list can contain itself.
pub fn flatten(result: Value) -> Result<Vec<(String, Value)>> {
    let mut leaves = Vec::new();
    match result {
        Value::Tuple(items) | Value::List(items) => {
            for (i, item) in items.into_iter().enumerate() {
                collect(item, format!("output_{i}"), 1, &mut leaves)?;
            }
        }
        Value::Dict(_) | Value::NamedTuple(_) => collect(result, String::new(), 0, &mut leaves)?,
        leaf => leaves.push(("output_0".to_owned(), leaf)),
    }
    make_unique(&mut leaves);
    Ok(leaves)
}

fn collect(value: Value, name: String, depth: usize, leaves: &mut Vec<(String, Value)>) -> Result<()> {
    const DEEPEST: usize = 64;
    if depth > DEEPEST {
        return Err(Error::new(ErrorKind::Failed, format!("the result is nested more than {DEEPEST} deep")));
    }
    let below = |key: String| if name.is_empty() { key } else { format!("{name}.{key}") };
    match value {
        Value::List(items) | Value::Tuple(items) => {
            for (i, item) in items.into_iter().enumerate() {
                collect(item, below(i.to_string()), depth + 1, leaves)?;
            }
        }
        Value::Dict(pairs) => {
            for (key, item) in pairs {
                collect(item, below(key.key()), depth + 1, leaves)?;
            }
        }
        Value::NamedTuple(fields) => {
            for (key, item) in fields {
                collect(item, below(key), depth + 1, leaves)?;
            }
        }
        leaf => leaves.push((name, leaf)),
    }
    Ok(())
}

/// A dict may have the keys 1 and "1": the second leaf of a name gets `_2`, and so on.
fn make_unique(leaves: &mut [(String, Value)]) {
    let mut seen = std::collections::HashSet::new();
    for (name, _) in leaves {
        let mut candidate = name.clone();
        let mut count = 2;
        while !seen.insert(candidate.clone()) {
            candidate = format!("{name}_{count}");
            count += 1;
        }
        *name = candidate;
    }
}

/// A type of TorchScript, as its serialised code writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are TorchScript's")]
pub enum Type {
    Tensor,
    Int,
    Float,
    Bool,
    Str,
    None,
    /// `number` or `Scalar`: an int, float or bool.
    Number,
    Optional(Box<Type>),
    List(Box<Type>),
    Tuple(Vec<Type>),
    Dict(Box<Type>, Box<Type>),
    /// Anything else (classes, interfaces, devices, futures), by its name.
    Other(String),
}

impl Type {
    /// Reads `List[Tuple[Tensor, int]]`, `Optional[str]`, `Dict[str, Tensor]`, `__torch__.Point`, …
    /// Whatever is not understood becomes [`Type::Other`] with its text.
    ///
    /// ```
    /// use rust_host_engine::Type;
    /// assert_eq!(Type::parse("Optional[List[int]]"), Type::Optional(Box::new(Type::List(Box::new(Type::Int)))));
    /// assert_eq!(Type::parse("Dict[str, Tensor]").to_string(), "Dict[str, Tensor]");
    /// ```
    pub fn parse(text: &str) -> Self {
        Self::parse_at(text.trim(), 0)
    }

    fn parse_at(text: &str, depth: usize) -> Self {
        let other = || Self::Other(text.to_owned());
        if depth > 32 {
            return other();
        }
        let Some((head, rest)) = text.split_once('[') else {
            return match text {
                "Tensor" => Self::Tensor,
                "int" => Self::Int,
                "float" => Self::Float,
                "bool" => Self::Bool,
                "str" => Self::Str,
                "NoneType" | "None" => Self::None,
                "number" | "Scalar" => Self::Number,
                _ => other(),
            };
        };
        let Some(inner) = rest.strip_suffix(']') else { return other() };
        let mut parts = split_top_level(inner).into_iter().map(|p| Self::parse_at(p, depth + 1));
        match (head, parts.next(), parts.next()) {
            ("Optional", Some(a), None) => Self::Optional(Box::new(a)),
            ("List", Some(a), None) => Self::List(Box::new(a)),
            ("Dict", Some(a), Some(b)) => Self::Dict(Box::new(a), Box::new(b)),
            ("Tuple", a, b) => Self::Tuple(a.into_iter().chain(b).chain(parts).collect()),
            _ => other(),
        }
    }
}

/// Characters of code that are outside string literals.
pub(crate) fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quote, mut escaped) = (None, false);
    text.char_indices().filter(move |&(_, c)| {
        if escaped {
            escaped = false;
            return false;
        }
        match (quote, c) {
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, _) => return true,
        }
        false
    })
}

/// Splits at commas that are outside brackets and quotes; a comma at the end adds nothing.
pub(crate) fn split_top_level(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (i, c) in outside_quotes(text) {
        match c {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() && last != "()" {
        parts.push(last);
    }
    parts
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("Tensor"),
            Self::Int => f.write_str("int"),
            Self::Float => f.write_str("float"),
            Self::Bool => f.write_str("bool"),
            Self::Str => f.write_str("str"),
            Self::None => f.write_str("None"),
            Self::Number => f.write_str("number"),
            Self::Optional(t) => write!(f, "Optional[{t}]"),
            Self::List(t) => write!(f, "List[{t}]"),
            Self::Dict(k, v) => write!(f, "Dict[{k}, {v}]"),
            Self::Tuple(items) => {
                f.write_str("Tuple[")?;
                for (i, t) in items.iter().enumerate() {
                    write!(f, "{}{t}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// One argument of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name in the author's code.
    pub name: String,
    /// Its type.
    pub kind: Type,
    /// The default as it is written in the code, if there is one.
    pub default: Option<String>,
}

/// A method that can be called: `forward` and whatever else the author exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Arguments without `self`.
    pub arguments: Vec<Argument>,
    /// What it returns.
    pub returns: Type,
}

impl Method {
    /// Reads a signature as TorchScript's serialised code writes it, without `def` and colon.
    ///
    /// ```
    /// use rust_host_engine::{Method, Type};
    /// let m = Method::parse("forward(self: __torch__.Net, x: Tensor, power: int=2) -> Tensor").unwrap();
    /// assert_eq!(m.to_string(), "forward(x: Tensor, power: int = 2) -> Tensor");
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('(')?;
        let (arguments, returns) = rest.rsplit_once("->").map_or((rest, "None"), |(a, r)| (a, r.trim()));
        let arguments = arguments.trim().strip_suffix(')')?;
        let arguments = split_top_level(arguments)
            .into_iter()
            .filter(|a| !a.starts_with("self:") && *a != "self" && *a != "*")
            .map(|a| {
                let (name, kind) = a.split_once(':').unwrap_or((a, "Tensor"));
                let (kind, default) =
                    kind.split_once('=').map_or((kind, None), |(k, d)| (k, Some(d.trim().to_owned())));
                Argument { name: name.trim().to_owned(), kind: Type::parse(kind), default }
            })
            .collect();
        Some(Self { name: name.trim().to_owned(), arguments, returns: Type::parse(returns) })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (i, a) in self.arguments.iter().enumerate() {
            write!(f, "{}{}: {}", if i > 0 { ", " } else { "" }, a.name, a.kind)?;
            if let Some(default) = &a.default {
                write!(f, " = {default}")?;
            }
        }
        write!(f, ") -> {}", self.returns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(value: Value) -> Vec<String> {
        flatten(value).unwrap().into_iter().map(|(n, _)| n).collect()
    }

    #[test]
    fn leaves_are_named_by_keys_and_numbers() {
        let boxes = Value::Dict(vec![(Value::Str("a/b".into()), Value::Int(1)), (Value::Int(3), Value::None)]);
        assert_eq!(names(boxes.clone()), ["a/b", "3"]);
        assert_eq!(
            names(Value::Tuple(vec![Value::Int(1), Value::List(vec![boxes])])),
            ["output_0", "output_1.0.a/b", "output_1.0.3"]
        );
        assert_eq!(names(Value::Float(0.5)), ["output_0"]);
        assert_eq!(
            names(Value::Dict(vec![(Value::Int(1), Value::None), (Value::Str("1".into()), Value::None)])),
            ["1", "1_2"]
        );
    }

    #[test]
    fn a_result_that_is_nested_without_end_is_refused() {
        let mut deep = Value::None;
        for _ in 0..100 {
            deep = Value::List(vec![deep]);
        }
        assert!(flatten(deep).unwrap_err().message.contains("nested"));
    }

    #[test]
    fn a_default_that_contains_brackets_and_commas_stays_whole() {
        let m = Method::parse(
            "f(self, a: str=\"x, [y\", b: Tuple[int, List[str]], *, c: Optional[Tensor]=None) -> Tuple[()]",
        )
        .unwrap();
        assert_eq!(m.arguments.len(), 3);
        assert_eq!(m.arguments[0].default.as_deref(), Some("\"x, [y\""));
        assert_eq!(m.returns, Type::Tuple(vec![]));
    }
}
