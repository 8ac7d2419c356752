//! `contract.json` → [`Contract`], with every contradiction found. The format is described in `docs/contract.md`.

use crate::{Argument, Datatype, Error, ErrorKind, Method, Result, Type, Value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// The version of the format that this reader knows.
pub const FORMAT_VERSION: u64 = 1;

/// What a model takes and gives, under the Open Inference Protocol's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/contract.md has a table of the fields")]
pub struct Contract {
    pub format_version: u64,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    pub platform: String,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    pub returns: Returns,
    #[serde(default)]
    pub dims: BTreeMap<String, Bounds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    #[serde(default)]
    pub metrics: Vec<Metric>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    pub golden: Golden,
    pub producer: Producer,
    #[serde(default)]
    pub provenance: serde_json::Map<String, serde_json::Value>,
}

/// A tensor that `forward` takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/contract.md has a table of the fields")]
pub struct Input {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<i64>,
    pub dims: Vec<Dim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A tensor that `forward` returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/contract.md has a table of the fields")]
pub struct Output {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<i64>,
    pub dims: Vec<Dim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    pub rtol: f64,
    pub atol: f64,
}

/// What was applied last, so that values can be read as probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are torch's")]
pub enum Activation {
    Softmax,
    LogSoftmax,
    Sigmoid,
}

/// A size that is fixed, or the name of one that is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dim {
    Fixed(i64),
    Named(String),
}

/// Smallest and largest size of a free dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Bounds {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
}

/// How outputs are nested in what `forward` returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Returns {
    /// One tensor: the output of that name.
    Name(String),
    /// A tuple or list.
    List(Vec<Returns>),
    /// A dict with string keys.
    Dict(serde_json::Map<String, serde_json::Value>),
}

/// How a decoded picture becomes an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/contract.md has a table of the fields")]
pub struct Image {
    pub input: String,
    pub color: Color,
    pub layout: Layout,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale_factor: Option<f64>,
}

/// Grey or red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are Pillow's")]
pub enum Color {
    L,
    RGB,
}

/// Order of the dimensions of a batch of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the field's")]
pub enum Layout {
    NCHW,
    NHWC,
}

/// Pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Size {
    pub height: u32,
    pub width: u32,
}

/// A figure that the author measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/contract.md has a table of the fields")]
pub struct Metric {
    pub name: String,
    /// `None` where it was not finite.
    pub value: Option<f64>,
    #[serde(default)]
    pub dataset: Option<String>,
    #[serde(default)]
    pub split: Option<String>,
    #[serde(default)]
    pub samples: Option<u64>,
}

/// Where the golden examples lie in the archive, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/contract.md has a table of the fields")]
pub struct Golden {
    pub file: String,
    pub count: usize,
}

/// What wrote the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/contract.md has a table of the fields")]
pub struct Producer {
    pub name: String,
    pub version: String,
}

/// Reads and checks `contract.json`.
///
/// # Errors
/// `InvalidContract` that names what is wrong: no JSON, a later format, a missing or wrong field, a contradiction.
pub fn read(json: &[u8]) -> Result<Contract> {
    let value: serde_json::Value =
        serde_json::from_slice(json).map_err(|e| Error::invalid_contract(format!("it is not JSON: {e}")))?;
    // Before anything else: a later format may have changed any other field.
    match value.get("format_version").and_then(serde_json::Value::as_u64) {
        Some(FORMAT_VERSION) => {}
        Some(0) => return Err(Error::invalid_contract("`format_version` is 0, expected 1")),
        Some(later) => {
            return Err(Error::invalid_contract(format!(
                "it has `format_version` {later}, this host reads up to {FORMAT_VERSION}"
            ))
            .hint("a newer rust-host reads this file"));
        }
        None => return Err(Error::invalid_contract("`format_version` is missing or no whole number, expected 1")),
    }
    let contract: Contract = serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let inner = e.into_inner();
        Error::invalid_contract(if path == "." { inner.to_string() } else { format!("`{path}`: {inner}") })
    })?;
    contract.check()?;
    Ok(contract)
}

impl Contract {
    /// Outputs in the order of `outputs`.
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|o| o.name == name)
    }

    /// The names of the inputs' free dimensions, each where it comes first.
    pub fn free_axes(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for dim in self.inputs.iter().flat_map(|input| &input.dims) {
            if let Dim::Named(name) = dim
                && !found.contains(&name.as_str())
            {
                found.push(name.as_str());
            }
        }
        found
    }

    /// `forward` as the contract describes it, for files whose own text does not.
    pub fn forward(&self) -> Method {
        let argument = |input: &Input| Argument {
            name: input.name.clone(),
            kind: if input.optional { Type::Optional(Box::new(Type::Tensor)) } else { Type::Tensor },
            default: input.optional.then(|| "None".to_owned()),
        };
        let arguments = self.inputs.iter().map(argument).collect();
        Method { name: "forward".to_owned(), arguments, returns: self.returns.kind() }
    }

    fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::invalid_contract(text));
        if self.name.is_empty() {
            return wrong("`name` is empty".into());
        }
        if self.platform.is_empty() {
            return wrong("`platform` is empty".into());
        }
        if self.outputs.is_empty() {
            return wrong("`outputs` is empty".into());
        }
        let mut names = HashSet::new();
        for input in &self.inputs {
            check_tensor("inputs", &input.name, &input.shape, &input.dims, &mut names)?;
        }
        names.clear();
        for output in &self.outputs {
            check_tensor("outputs", &output.name, &output.shape, &output.dims, &mut names)?;
            for (key, value) in [("rtol", output.rtol), ("atol", output.atol)] {
                if !value.is_finite() || value < 0.0 {
                    return wrong(format!(
                        "`outputs`: `{}` has {key} {value}, expected a number of at least 0",
                        output.name
                    ));
                }
            }
            if let (Some(labels), Some(&last)) = (&output.labels, output.shape.last())
                && last >= 0
                && labels.len() as i64 != last
            {
                return wrong(format!(
                    "`outputs`: `{}` has {} labels for a last dimension of {last}",
                    output.name,
                    labels.len()
                ));
            }
        }
        for (name, bounds) in &self.dims {
            if bounds.min.is_some_and(|m| m < 0) || matches!((bounds.min, bounds.max), (Some(a), Some(b)) if a > b) {
                return wrong(format!("`dims`: `{name}` has bounds that no size can have"));
            }
        }
        self.check_returns()?;
        if let Some(image) = &self.image {
            let Some(input) = self.inputs.iter().find(|i| i.name == image.input) else {
                return wrong(format!("`image.input` is `{}`, which is no input", image.input));
            };
            if input.shape.len() != 4 {
                return wrong(format!(
                    "`image.input` `{}` has {} dimensions, expected 4",
                    image.input,
                    input.shape.len()
                ));
            }
        }
        let file = &self.golden.file;
        if file.is_empty() || file.contains('/') {
            return wrong(format!("`golden.file` is `{file}`, expected a file name"));
        }
        Ok(())
    }

    fn check_returns(&self) -> Result<()> {
        let mut named = Vec::new();
        self.returns.names(&mut named, 0)?;
        for name in &named {
            if self.output(name).is_none() {
                return Err(Error::invalid_contract(format!("`returns` names `{name}`, which is no output")));
            }
        }
        let expected: Vec<&str> = self.outputs.iter().map(|o| o.name.as_str()).collect();
        if named != expected {
            return Err(Error::invalid_contract(format!(
                "`returns` names {named:?}, expected every output once, in order: {expected:?}"
            )));
        }
        Ok(())
    }
}

fn check_tensor(list: &str, name: &str, shape: &[i64], dims: &[Dim], names: &mut HashSet<String>) -> Result<()> {
    let wrong = |text: String| Err(Error::invalid_contract(text));
    if name.is_empty() {
        return wrong(format!("`{list}` has a tensor without a name"));
    }
    if !names.insert(name.to_owned()) {
        return wrong(format!("`{list}` has two tensors of the duplicate name `{name}`"));
    }
    let agree = shape.len() == dims.len()
        && shape.iter().zip(dims).all(|(&n, d)| match d {
            Dim::Fixed(size) => n == *size && n >= 0,
            Dim::Named(dim) => n == -1 && !dim.is_empty(),
        });
    if !agree {
        return wrong(format!("`{list}`: `{name}` has `shape` {shape:?}, which does not agree with its `dims`"));
    }
    Ok(())
}

impl Returns {
    /// All output names, in order.
    fn names(&self, found: &mut Vec<String>, depth: usize) -> Result<()> {
        if depth > 64 {
            return Err(Error::invalid_contract("`returns` is nested more than 64 deep"));
        }
        match self {
            Self::Name(name) => found.push(name.clone()),
            Self::List(items) => items.iter().try_for_each(|i| i.names(found, depth + 1))?,
            Self::Dict(map) => {
                for value in map.values() {
                    Self::from_json(value)?.names(found, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn kind(&self) -> Type {
        match self {
            Self::Name(_) => Type::Tensor,
            Self::List(items) => Type::Tuple(items.iter().map(Self::kind).collect()),
            Self::Dict(_) => Type::Dict(Box::new(Type::Str), Box::new(Type::Tensor)),
        }
    }

    /// Nests the outputs of a program that returns them flat, in the contract's order.
    ///
    /// # Errors
    /// `Mismatch` if there are fewer outputs than names.
    pub fn nest(&self, outputs: &mut impl Iterator<Item = Value>) -> Result<Value> {
        Ok(match self {
            Self::Name(name) => outputs.next().ok_or_else(|| {
                Error::new(ErrorKind::Mismatch, format!("the model returned no `{name}`, which its contract names"))
            })?,
            Self::List(items) => Value::Tuple(items.iter().map(|item| item.nest(outputs)).collect::<Result<_>>()?),
            Self::Dict(map) => {
                let pair = |(key, value): (&String, &serde_json::Value)| {
                    Ok((Value::Str(key.clone()), Self::from_json(value)?.nest(outputs)?))
                };
                Value::Dict(map.iter().map(pair).collect::<Result<_>>()?)
            }
        })
    }

    /// The tree below one key of a dict.
    pub(crate) fn from_json(value: &serde_json::Value) -> Result<Self> {
        Self::deserialize(value).map_err(|_| {
            Error::invalid_contract(format!("`returns` has {value}, expected a name, a list or an object"))
        })
    }
}
