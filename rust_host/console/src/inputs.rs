//! `NAME=VALUE` words → named values. A value is a file (told by its content), JSON, or stdin; what it must be is asked of
//! the model's method and its contract, so nothing here needs libtorch.

use rust_host_engine::{
    Contract, Datatype, Error, ErrorKind, Method, Result, Tensor, Type, Value, file, foreign::Provisional, json,
    model::expected_type, npy, onnx, picture,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// One `--input` as it was typed.
#[derive(Debug, Clone)]
pub struct Given(OsString);

/// What was read from all of them.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Values by argument name.
    pub values: Vec<(String, Value)>,
    /// What a user should know about them, one sentence each.
    pub notes: Vec<String>,
}

/// What a file holds, by its first bytes.
enum Content {
    Array(Tensor),
    Arrays(Vec<(String, Tensor)>),
    Picture(Vec<u8>),
    Text(String),
}

impl Given {
    /// A word of the command line.
    pub fn new(word: OsString) -> Self {
        Self(word)
    }

    /// The files that this word may mean.
    pub fn paths(&self) -> Vec<PathBuf> {
        let bytes = self.0.as_bytes();
        let value = bytes.iter().position(|&b| b == b'=').and_then(|at| bytes.get(at + 1..));
        let words = [Some(bytes), value].into_iter().flatten();
        words.map(|w| PathBuf::from(OsStr::from_bytes(w))).filter(|p| p.is_file()).collect()
    }

    /// `(name, value)`. A word without a name may contain `=` too: JSON, or a path that is there.
    fn split(&self, method: &Method) -> (Option<String>, OsString) {
        let bytes = self.0.as_bytes();
        let whole = || (None, self.0.clone());
        let Some(at) = bytes.iter().position(|&b| b == b'=') else { return whole() };
        let Ok(name) = std::str::from_utf8(&bytes[..at]) else { return whole() };
        let known = method.arguments.iter().any(|a| a.name == name);
        let identifier = !name.is_empty()
            && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if known || identifier && !Path::new(&self.0).exists() {
            return (Some(name.to_owned()), OsString::from_vec(bytes[at + 1..].to_vec()));
        }
        whole()
    }
}

/// Reads every given value.
///
/// # Errors
/// `NotFound` for a file that is not there, `InvalidInput` for what cannot be read, fits no input or is ambiguous.
pub fn gather(
    given: &[Given],
    method: &Method,
    contract: Option<&Contract>,
    provisional: Option<&Provisional>,
) -> Result<Inputs> {
    let mut gathering = Gathering { method, contract, provisional, found: Inputs::default(), stdin_is_read: false };
    for word in given {
        let (name, value) = word.split(method);
        match name {
            Some(name) => gathering.named(&name, &value)?,
            None => gathering.unnamed(&value)?,
        }
    }
    Ok(gathering.found)
}

struct Gathering<'a> {
    method: &'a Method,
    contract: Option<&'a Contract>,
    /// Where there is no contract: what others say, which nobody checked.
    provisional: Option<&'a Provisional>,
    found: Inputs,
    stdin_is_read: bool,
}

impl Gathering<'_> {
    fn named(&mut self, name: &str, value: &OsStr) -> Result<()> {
        let (kind, _) = self.expected(name)?;
        let (content, shown) = self.content(value, Some(&kind), &format!("input `{name}`"))?;
        self.put(name, content, &shown)
    }

    fn unnamed(&mut self, value: &OsStr) -> Result<()> {
        let sole = self.sole().map(str::to_owned);
        let kind = sole.as_deref().map(|n| self.expected(n)).transpose()?.map(|(k, _)| k);
        let (content, shown) = self.content(value, kind.as_ref(), "input")?;
        let is_argument = |name: &str| self.method.arguments.iter().any(|a| a.name == name);
        match content {
            Content::Arrays(arrays) if arrays.iter().all(|(n, _)| is_argument(n)) => {
                arrays.into_iter().try_for_each(|(name, t)| self.put(&name, Content::Array(t), &shown))
            }
            // `numpy.savez(file, a, b)` names them in order.
            Content::Arrays(arrays)
                if arrays.len() <= self.method.arguments.len()
                    && arrays.iter().enumerate().all(|(i, (n, _))| *n == format!("arr_{i}")) =>
            {
                let names: Vec<String> = self.method.arguments.iter().map(|a| a.name.clone()).collect();
                names.into_iter().zip(arrays).try_for_each(|(name, (_, t))| self.put(&name, Content::Array(t), &shown))
            }
            Content::Text(text) if !matches!(kind, Some(Type::Dict(..))) => {
                match serde_json::from_str::<serde_json::Value>(&text) {
                    Ok(serde_json::Value::Object(map)) if !map.is_empty() && map.keys().all(|k| is_argument(k)) => {
                        map.into_iter().try_for_each(|(name, value)| {
                            let (kind, datatype) = self.expected(&name)?;
                            let value = json::to_value(&value, &kind, datatype, &format!("input `{name}`"))?;
                            self.found.values.push((name, value));
                            Ok(())
                        })
                    }
                    _ => self.put(&self.sole_or_refuse(sole, &shown)?, Content::Text(text), &shown),
                }
            }
            content => self.put(&self.sole_or_refuse(sole, &shown)?, content, &shown),
        }
    }

    /// The one input that must be given; or the only one there is.
    fn sole(&self) -> Option<&str> {
        let optional = |n: &str| self.contract.is_some_and(|c| c.inputs.iter().any(|i| i.name == n && i.optional));
        let needed: Vec<&str> = self
            .method
            .arguments
            .iter()
            .filter(|a| a.default.is_none() && !optional(&a.name))
            .map(|a| a.name.as_str())
            .collect();
        match (needed.as_slice(), self.method.arguments.as_slice()) {
            ([one], _) => Some(one),
            ([], [only]) => Some(&only.name),
            _ => None,
        }
    }

    fn sole_or_refuse(&self, sole: Option<String>, shown: &str) -> Result<String> {
        sole.ok_or_else(|| {
            let first = self.method.arguments.first().map_or("NAME", |a| &a.name);
            Error::invalid_input(format!("{shown} has no name, the model takes {}", self.all()))
                .hint(format!("`--input {first}=…`"))
        })
    }

    fn all(&self) -> String {
        let names: Vec<_> = self.method.arguments.iter().map(|a| format!("`{}`", a.name)).collect();
        if names.is_empty() { "no inputs".to_owned() } else { names.join(", ") }
    }

    fn expected(&self, name: &str) -> Result<(Type, Option<Datatype>)> {
        // Files of others are not checked against the model; a graph is what is run.
        let graph = self.provisional.filter(|by| self.contract.is_none() && by.from == onnx::GRAPH);
        let datatype = graph.and_then(|by| by.inputs.iter().find(|e| e.name == name)?.datatype);
        expected_type(self.method, self.contract, name)
            .map(|(kind, by_contract)| (kind, by_contract.or(datatype)))
            .ok_or_else(|| Error::invalid_input(format!("unknown input `{name}`, the model takes {}", self.all())))
    }

    /// What a value holds, and what messages call it.
    fn content(&mut self, value: &OsStr, kind: Option<&Type>, input: &str) -> Result<(Content, String)> {
        let text_wanted = kind.is_some_and(is_text);
        if value == "-" {
            if std::mem::replace(&mut self.stdin_is_read, true) {
                return Err(Error::invalid_input("only one input can be read from stdin"));
            }
            return Ok((told_by_content(file::read_stdin()?, "stdin", text_wanted)?, "stdin".to_owned()));
        }
        let path = Path::new(value);
        if !text_wanted && path.exists() {
            let shown = path.display().to_string();
            return Ok((
                told_by_content(file::read(path, ErrorKind::InvalidInput)?, &shown, false)?,
                format!("`{shown}`"),
            ));
        }
        let text = value
            .to_str()
            .ok_or_else(|| Error::not_found(format!("{input}: `{}`: no such file or folder", path.display())))?;
        let is_json = || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        if !text_wanted && looks_like_a_path(text) && !is_json() {
            return Err(Error::not_found(format!("{input}: `{text}`: no such file or folder")));
        }
        Ok((Content::Text(text.to_owned()), input.to_owned()))
    }

    /// Turns content into the value of that argument.
    fn put(&mut self, name: &str, content: Content, shown: &str) -> Result<()> {
        let (kind, datatype) = self.expected(name)?;
        let value = match content {
            Content::Array(tensor) => {
                let takes = matches!(&kind, Type::Tensor | Type::Other(_))
                    || matches!(&kind, Type::Optional(inner) if **inner == Type::Tensor);
                if !takes {
                    return Err(Error::invalid_input(format!(
                        "input `{name}` is of the type {kind}, {shown} holds one array"
                    )));
                }
                Value::Tensor(self.as_the_contract_asks(name, datatype, tensor))
            }
            Content::Arrays(arrays) => self.one_of_arrays(name, &kind, datatype, arrays, shown)?,
            Content::Picture(bytes) => Value::Tensor(self.picture(name, &bytes, shown.trim_matches('`'))?),
            Content::Text(text) => from_text(&text, &kind, datatype, &place(name, shown))?,
        };
        self.found.values.push((name.to_owned(), value));
        Ok(())
    }

    /// By the contract, else by a file of others, and says so.
    fn picture(&mut self, name: &str, bytes: &[u8], shown: &str) -> Result<Tensor> {
        let by = self.provisional.and_then(|by| Some((by, by.image.as_ref().filter(|i| i.input == name)?)));
        let (None, Some((by, about))) = (self.contract, by) else {
            return picture::read(bytes, self.contract, name, shown);
        };
        let tensor = picture::read_provisional(bytes, by, about, shown)?;
        let size = about.size.map_or(String::new(), |s| format!("{} x {}, ", s.width, s.height));
        self.found.notes.push(format!(
            "input `{name}` is the picture as {size}{:?}, 0 to 1, by `{}`, not verified",
            about.color, by.from
        ));
        Ok(tensor)
    }

    /// A `.npz` for one argument: its member of that name, its only one, or all of them for a list or a dict.
    fn one_of_arrays(
        &mut self,
        name: &str,
        kind: &Type,
        datatype: Option<Datatype>,
        mut arrays: Vec<(String, Tensor)>,
        shown: &str,
    ) -> Result<Value> {
        match kind {
            Type::List(item) if **item == Type::Tensor => {
                return Ok(Value::List(arrays.into_iter().map(|(_, t)| Value::Tensor(t)).collect()));
            }
            Type::Dict(key, item) if **key == Type::Str && **item == Type::Tensor => {
                return Ok(Value::Dict(arrays.into_iter().map(|(n, t)| (Value::Str(n), Value::Tensor(t))).collect()));
            }
            _ => {}
        }
        let at = match arrays.iter().position(|(n, _)| n == name) {
            Some(at) => at,
            None if arrays.len() == 1 => 0,
            None => {
                let names: Vec<_> = arrays.iter().map(|(n, _)| format!("`{n}`")).collect();
                let names = if names.is_empty() { "no arrays".to_owned() } else { names.join(", ") };
                return Err(Error::invalid_input(format!("{shown} holds {names}, expected an array `{name}`")));
            }
        };
        let (_, tensor) = arrays.swap_remove(at);
        Ok(Value::Tensor(self.as_the_contract_asks(name, datatype, tensor)))
    }

    /// Converts between floating datatypes, and says so; anything else is left for the contract's check to refuse.
    fn as_the_contract_asks(&mut self, name: &str, datatype: Option<Datatype>, tensor: Tensor) -> Tensor {
        let Some(wanted) = datatype.filter(|d| *d != tensor.datatype() && d.is_float()) else { return tensor };
        if !tensor.datatype().is_float() {
            return tensor;
        }
        let (values, shape) = (tensor.to_f64_vec(), tensor.shape().to_vec());
        let converted = match wanted {
            Datatype::Fp16 => Tensor::from_elements(shape, values.into_iter().map(half::f16::from_f64).collect()),
            Datatype::Bf16 => Tensor::from_elements(shape, values.into_iter().map(half::bf16::from_f64).collect()),
            Datatype::Fp32 => Tensor::from_elements(shape, values.into_iter().map(|x| x as f32).collect()),
            _ => Tensor::from_elements(shape, values),
        };
        let Ok(converted) = converted else { return tensor };
        let by = if self.contract.is_some() { "the contract" } else { "the model" };
        self.found.notes.push(format!(
            "input `{name}` was {}, converted to {} as {by} asks",
            tensor.datatype().numpy_name(),
            wanted.numpy_name()
        ));
        converted
    }
}

/// `input `x`` alone, or with the file that it came from.
fn place(name: &str, shown: &str) -> String {
    if shown.starts_with("input") { format!("input `{name}`") } else { format!("input `{name}` from {shown}") }
}

fn is_text(kind: &Type) -> bool {
    matches!(kind, Type::Str) || matches!(kind, Type::Optional(inner) if is_text(inner))
}

fn from_text(text: &str, kind: &Type, datatype: Option<Datatype>, shown: &str) -> Result<Value> {
    if is_text(kind) {
        // What is no JSON text is the text itself, so that words need no quotes in quotes.
        return Ok(match serde_json::from_str(text) {
            Ok(serde_json::Value::String(s)) => Value::Str(s),
            Ok(serde_json::Value::Null) if *kind != Type::Str => Value::None,
            _ => Value::Str(text.to_owned()),
        });
    }
    json::to_value(&json::parse(text, shown)?, kind, datatype, shown)
}

/// Whether text that is no file was meant as one: it has a folder or an ending, and nothing that only JSON has.
fn looks_like_a_path(text: &str) -> bool {
    if text.is_empty() || text.contains(['[', '{', '"', ',', '\n']) {
        return false;
    }
    let ending = Path::new(text).extension().and_then(OsStr::to_str);
    text.contains('/') || ending.is_some_and(|e| (1..=5).contains(&e.len()) && e.chars().all(char::is_alphanumeric))
}

fn told_by_content(bytes: Vec<u8>, shown: &str, text_wanted: bool) -> Result<Content> {
    Ok(match () {
        () if text_wanted => Content::Text(utf8(bytes, shown)?),
        () if bytes.starts_with(b"\x93NUMPY") => Content::Array(npy::read(&bytes, shown)?),
        () if bytes.starts_with(b"PK") => Content::Arrays(npy::read_npz(bytes.into(), shown)?),
        () if picture::is_picture(&bytes) => Content::Picture(bytes),
        () => Content::Text(utf8(bytes, shown)?),
    })
}

fn utf8(bytes: Vec<u8>, shown: &str) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| Error::invalid_input(format!("`{shown}`: it is no .npy, .npz, PNG, JPEG or JSON file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather_for(signature: &str, words: &[&str]) -> Result<Inputs> {
        let method = Method::parse(signature).unwrap();
        gather(&words.iter().map(|w| Given::new(w.into())).collect::<Vec<_>>(), &method, None, None)
    }

    #[test]
    fn a_name_may_be_left_out_where_one_input_is_needed() {
        let found = gather_for("forward(x: Tensor, scale: float=1.0) -> Tensor", &["[1, 2]"]).unwrap();
        assert_eq!(found.values[0].0, "x");
        let e = gather_for("forward(x: Tensor, h: Tensor) -> Tensor", &["[1, 2]"]).unwrap_err();
        assert!(e.message.contains("has no name, the model takes `x`, `h`"), "{e}");
    }

    #[test]
    fn an_object_with_the_names_of_inputs_gives_all() {
        let found = gather_for("forward(x: Tensor, n: int) -> Tensor", &[r#"{"n": 3, "x": [1.5]}"#]).unwrap();
        assert!(matches!(&found.values[..], [(n, Value::Int(3)), (x, Value::Tensor(_))] if n == "n" && x == "x"));
    }

    #[test]
    fn words_for_a_text_argument_need_no_quotes() {
        let signature = "forward(text: str, also: Optional[str]=None) -> Tensor";
        for (word, expected) in [("hello.npy", "hello.npy"), ("\"3\"", "3"), ("3", "3"), ("text=a/b.txt", "a/b.txt")] {
            let found = gather_for(signature, &[word]).unwrap_or_else(|e| panic!("{word}: {e}"));
            assert!(matches!(&found.values[..], [(_, Value::Str(s))] if s == expected), "{word}: {found:?}");
        }
        let found = gather_for(signature, &["text=x", "also=null"]).unwrap();
        assert!(matches!(found.values[1].1, Value::None));
    }

    #[test]
    fn what_looks_like_a_path_is_missed_and_the_rest_is_no_json() {
        for word in ["x=nowhere.npy", "x=a/b", "nowhere.png"] {
            let e = gather_for("forward(x: Tensor) -> Tensor", &[word]).unwrap_err();
            assert!(e.message.contains("no such file"), "{word}: {e}");
        }
        for word in ["x=[1, 2", "x=abc", "x="] {
            let e = gather_for("forward(x: Tensor) -> Tensor", &[word]).unwrap_err();
            assert!(e.message.contains("not JSON"), "{word}: {e}");
        }
        assert!(gather_for("forward(x: Tensor) -> Tensor", &["x=1.5"]).is_ok());
    }

    #[test]
    fn an_unknown_name_is_told_beside_those_there_are() {
        let e = gather_for("forward(x: Tensor) -> Tensor", &["y=1"]).unwrap_err();
        assert_eq!(e.message, "unknown input `y`, the model takes `x`");
    }
}
