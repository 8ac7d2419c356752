//! An ONNX file → what it says of itself: its signature, operators, tensors and notes, without ONNX Runtime.
//!
//! In: the bytes of a `ModelProto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>). Out: [`Onnx`], or one
//! sentence. Weights are passed over, never copied. Every tensor of the file is looked at, also in subgraphs and functions,
//! because one whose data lies in another file would have ONNX Runtime open that file.

use crate::{
    Datatype, Error, Method, Result, Type,
    contract::Dim,
    description::TensorEntry,
    error::printable,
    foreign::{Entry, Provisional},
    protobuf::{Field, fields},
    value::Argument,
};
use std::collections::{BTreeMap, BTreeSet};

/// What an ONNX file says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Onnx {
    /// Version of the file format.
    pub ir_version: u64,
    /// Name and version of what wrote it: `pytorch 2.13.0`; empty where it does not say.
    pub producer: String,
    /// Version of the operators of each domain; ONNX's own is `ai.onnx`.
    pub opsets: BTreeMap<String, u64>,
    /// The graph's inputs that have to be given: those without a value in the file.
    pub inputs: Vec<Slot>,
    /// The graph's outputs.
    pub outputs: Vec<Slot>,
    /// Operators that the graph, its subgraphs and functions call: `ai.onnx::Conv`, `com.microsoft::Gelu`.
    pub operators: BTreeSet<String>,
    /// Tensors that are saved in the file, but for constants in the middle of the graph.
    pub tensors: Vec<TensorEntry>,
    /// Names and sizes of the notes (`metadata_props`).
    pub notes: Vec<(String, u64)>,
}

/// An input or output of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What it takes or gives.
    pub kind: Kind,
}

/// A type of ONNX.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A tensor: the number of its elements' type, and its sizes where the number of dimensions is known. A size that is free
    /// and has no name is called `?`.
    Tensor(u64, Option<Vec<Dim>>),
    /// A list.
    Sequence(Box<Kind>),
    /// From the type of that number to values.
    Map(u64, Box<Kind>),
    /// A value that may be absent.
    Optional(Box<Kind>),
    /// What ONNX Runtime on a processor has no values for: `sparse tensor`, `opaque`, or nothing said.
    Other(&'static str),
}

/// `TensorProto.DataType`, of which ONNX Runtime's own numbers are a copy.
const ELEMENTS: [(&str, Option<Datatype>); 27] = [
    ("UNDEFINED", None),
    ("FLOAT", Some(Datatype::Fp32)),
    ("UINT8", Some(Datatype::Uint8)),
    ("INT8", Some(Datatype::Int8)),
    ("UINT16", Some(Datatype::Uint16)),
    ("INT16", Some(Datatype::Int16)),
    ("INT32", Some(Datatype::Int32)),
    ("INT64", Some(Datatype::Int64)),
    ("STRING", None),
    ("BOOL", Some(Datatype::Bool)),
    ("FLOAT16", Some(Datatype::Fp16)),
    ("DOUBLE", Some(Datatype::Fp64)),
    ("UINT32", Some(Datatype::Uint32)),
    ("UINT64", Some(Datatype::Uint64)),
    ("COMPLEX64", None),
    ("COMPLEX128", None),
    ("BFLOAT16", Some(Datatype::Bf16)),
    ("FLOAT8E4M3FN", None),
    ("FLOAT8E4M3FNUZ", None),
    ("FLOAT8E5M2", None),
    ("FLOAT8E5M2FNUZ", None),
    ("UINT4", None),
    ("INT4", None),
    ("FLOAT4E2M1", None),
    ("FLOAT8E8M0", None),
    ("UINT2", None),
    ("INT2", None),
];

/// The number of the type of texts.
pub const STRING: u64 = 8;

/// The datatype of that number in `TensorProto.DataType`, where one stands for it.
pub fn datatype(element: u64) -> Option<Datatype> {
    usize::try_from(element).ok().and_then(|n| ELEMENTS.get(n)?.1)
}

/// The number of a datatype.
pub fn element(datatype: Datatype) -> u64 {
    ELEMENTS.iter().position(|(_, d)| *d == Some(datatype)).unwrap_or(0) as u64
}

/// ONNX's name of a type: `FLOAT8E4M3FN`.
pub fn element_name(element: u64) -> String {
    let known = usize::try_from(element).ok().and_then(|n| ELEMENTS.get(n));
    known.map_or_else(|| format!("type {element}"), |(name, _)| (*name).to_owned())
}

/// Whether a file begins as exporters write ONNX: the version of the format, then one of the fields that follow it.
///
/// ```
/// assert!(rust_host_engine::onnx::seems_to_be(b"\x08\x0a\x12\x07pytorch"));
/// assert!(!rust_host_engine::onnx::seems_to_be(b"PK\x03\x04"));
/// ```
pub fn seems_to_be(bytes: &[u8]) -> bool {
    let [8, version, next, ..] = bytes else { return false };
    (1..64).contains(version) && matches!(next, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72)
}

/// The text of a note (`metadata_props`), where the file has one of that name.
///
/// # Errors
/// `InvalidModel` if the file is damaged.
pub fn note<'a>(file: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    let mut found = None;
    for field in fields(file) {
        if let (NOTES, Field::Bytes(entry)) = field? {
            let (key, value) = pair(entry)?;
            if key == name.as_bytes() {
                found = Some(value);
            }
        }
    }
    Ok(found)
}

/// `ModelProto.metadata_props`
const NOTES: u32 = 14;

/// A `StringStringEntryProto`.
fn pair(entry: &[u8]) -> Result<(&[u8], &[u8])> {
    let (mut key, mut value) = (&[][..], &[][..]);
    for field in fields(entry) {
        match field? {
            (1, Field::Bytes(bytes)) => key = bytes,
            (2, Field::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

impl Onnx {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// `InvalidModel` if they are damaged, are no ONNX, or hold a tensor whose data lies in another file.
    ///
    /// ```
    /// // A graph without nodes that returns its input `x`, of the type FLOAT and the sizes [batch].
    /// let x = b"\x0a\x01x\x12\x0f\x0a\x0d\x08\x01\x12\x09\x0a\x07\x12\x05batch";
    /// let graph = [&[0x5a, x.len() as u8], &x[..], &[0x62, x.len() as u8], &x[..]].concat();
    /// let file = [&[8, 10, 0x3a, graph.len() as u8], &graph[..]].concat();
    /// let onnx = rust_host_engine::onnx::Onnx::read(&file)?;
    /// assert_eq!(onnx.method().to_string(), "forward(x: Tensor) -> Tensor");
    /// # Ok::<(), rust_host_engine::Error>(())
    /// ```
    pub fn read(file: &[u8]) -> Result<Self> {
        let mut this = Self::default();
        let mut walk = Walk::default();
        let (mut name, mut version, mut has_graph) = (String::new(), String::new(), false);
        for field in fields(file) {
            match field? {
                (1, Field::Varint(n)) => this.ir_version = n,
                (2, text) => name = text.text().unwrap_or_default(),
                (3, text) => version = text.text().unwrap_or_default(),
                (7, Field::Bytes(graph)) => {
                    has_graph = true;
                    walk.top = true;
                    walk.graph(graph, 0)?;
                    walk.top = false;
                }
                (8, Field::Bytes(opset)) => {
                    let (domain, version) = opset_of(opset)?;
                    bounded(this.opsets.len(), "sets of operators")?;
                    this.opsets.insert(domain, version);
                }
                (NOTES, Field::Bytes(entry)) => {
                    let (key, value) = pair(entry)?;
                    bounded(this.notes.len(), "notes")?;
                    this.notes.push((printable(&String::from_utf8_lossy(key)), value.len() as u64));
                }
                (20, Field::Bytes(training)) => {
                    for field in fields(training) {
                        if let (1 | 2, Field::Bytes(graph)) = field? {
                            walk.graph(graph, 1)?;
                        }
                    }
                }
                (25, Field::Bytes(function)) => walk.function(function)?,
                _ => {}
            }
        }
        if !has_graph {
            return Err(Error::invalid_model("it holds no graph, expected an ONNX file"));
        }
        this.producer = printable(format!("{name} {version}").trim());
        let Walk { inputs, outputs, calls, functions, tensors, .. } = walk;
        let saved: BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        this.inputs = inputs.into_iter().filter(|i| !saved.contains(i.name.as_str())).collect();
        this.operators = calls.difference(&functions).cloned().collect();
        (this.outputs, this.tensors) = (outputs, tensors);
        Ok(this)
    }

    /// What can be called: the graph, as `forward`.
    pub fn method(&self) -> Method {
        let argument = |i: &Slot| Argument { name: i.name.clone(), kind: i.kind.as_type(), default: None };
        let returns = match self.outputs.as_slice() {
            [one] => one.kind.as_type(),
            several => Type::Tuple(several.iter().map(|o| o.kind.as_type()).collect()),
        };
        Method { name: "forward".to_owned(), arguments: self.inputs.iter().map(argument).collect(), returns }
    }
}

impl Onnx {
    /// Inputs and outputs in the form of what others write beside a model. This one binds: the backend checks it.
    pub fn signature(&self) -> Provisional {
        let entry = |slot: &Slot| Entry {
            name: slot.name.clone(),
            is: Some(slot.name.clone()),
            datatype: slot.kind.datatype(),
            dims: slot.kind.dims().unwrap_or_default().to_vec(),
            ..Entry::default()
        };
        Provisional {
            from: GRAPH,
            writer: "ONNX",
            description: None,
            task: None,
            inputs: self.inputs.iter().map(entry).collect(),
            outputs: self.outputs.iter().map(entry).collect(),
            labels: Vec::new(),
            image: None,
        }
    }
}

/// Where [`Onnx::signature`] is from.
pub const GRAPH: &str = "its graph";

impl Kind {
    /// The datatype, where it is a tensor that has one.
    pub fn datatype(&self) -> Option<Datatype> {
        if let Self::Tensor(element, _) = self { datatype(*element) } else { None }
    }

    /// The sizes, where it is a tensor of a known number of dimensions.
    pub fn dims(&self) -> Option<&[Dim]> {
        if let Self::Tensor(_, dims) = self { dims.as_deref() } else { None }
    }

    /// The type of the value that stands for it here. Texts are lists of `str`, one list in the other for each dimension.
    pub fn as_type(&self) -> Type {
        match self {
            Self::Tensor(STRING, dims) => {
                let depth = dims.as_ref().map_or(1, Vec::len);
                (0..depth).fold(Type::Str, |inner, _| Type::List(Box::new(inner)))
            }
            Self::Tensor(..) => Type::Tensor,
            Self::Sequence(item) => Type::List(Box::new(item.as_type())),
            Self::Map(key, value) => {
                let key = if *key == STRING { Type::Str } else { Type::Int };
                Type::Dict(Box::new(key), Box::new(value.as_type()))
            }
            Self::Optional(inner) => Type::Optional(Box::new(inner.as_type())),
            Self::Other(what) => Type::Other((*what).to_owned()),
        }
    }
}

/// What is found on the way through graphs, nodes and functions.
#[derive(Default)]
struct Walk {
    /// Whether the graph is that of the model: its inputs, outputs and tensors are listed.
    top: bool,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    calls: BTreeSet<String>,
    /// Functions that the file defines: calls of them are no operators.
    functions: BTreeSet<String>,
    tensors: Vec<TensorEntry>,
}

impl Walk {
    /// A `GraphProto`.
    fn graph(&mut self, graph: &[u8], depth: usize) -> Result<()> {
        // protobuf ends at 100 messages, and a graph in a graph is the third.
        const DEEPEST: usize = 33;
        if depth > DEEPEST {
            return Err(Error::invalid_model(format!("its graphs are nested more than {DEEPEST} deep")));
        }
        let top = std::mem::replace(&mut self.top, false);
        for field in fields(graph) {
            match field? {
                (1, Field::Bytes(node)) => self.node(node, depth)?,
                (5, Field::Bytes(saved)) => {
                    let saved = tensor(saved)?;
                    if top {
                        bounded(self.tensors.len(), "tensors")?;
                        self.tensors.push(saved);
                    }
                }
                (11, Field::Bytes(slot)) if top => put(&mut self.inputs, slot, "inputs")?,
                (12, Field::Bytes(slot)) if top => put(&mut self.outputs, slot, "outputs")?,
                (15, Field::Bytes(saved)) => {
                    let saved = sparse_tensor(saved)?;
                    if top {
                        bounded(self.tensors.len(), "tensors")?;
                        self.tensors.push(saved);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A `NodeProto`.
    fn node(&mut self, node: &[u8], depth: usize) -> Result<()> {
        let (mut operator, mut domain) = (&[][..], &[][..]);
        for field in fields(node) {
            match field? {
                (4, Field::Bytes(name)) => operator = name,
                (7, Field::Bytes(name)) => domain = name,
                (5, Field::Bytes(attribute)) => self.attribute(attribute, depth)?,
                _ => {}
            }
        }
        let call = operator_name(domain, operator);
        if !self.calls.contains(&call) {
            bounded(self.calls.len(), "operators")?;
            self.calls.insert(call);
        }
        Ok(())
    }

    /// An `AttributeProto`, which may hold tensors and graphs.
    fn attribute(&mut self, attribute: &[u8], depth: usize) -> Result<()> {
        for field in fields(attribute) {
            match field? {
                (5 | 10, Field::Bytes(value)) => drop(tensor(value)?),
                (6 | 11, Field::Bytes(graph)) => self.graph(graph, depth + 1)?,
                (22 | 23, Field::Bytes(value)) => drop(sparse_tensor(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// A `FunctionProto`.
    fn function(&mut self, function: &[u8]) -> Result<()> {
        let (mut name, mut domain) = (&[][..], &[][..]);
        for field in fields(function) {
            match field? {
                (1, Field::Bytes(text)) => name = text,
                (10, Field::Bytes(text)) => domain = text,
                (7, Field::Bytes(node)) => self.node(node, 1)?,
                (11, Field::Bytes(attribute)) => self.attribute(attribute, 1)?,
                _ => {}
            }
        }
        bounded(self.functions.len(), "functions")?;
        self.functions.insert(operator_name(domain, name));
        Ok(())
    }
}

/// More of anything than a model has; what memory one entry takes is bounded, and so the whole is.
fn bounded(have: usize, what: &str) -> Result<()> {
    const MOST: usize = 1_000_000;
    if have < MOST {
        return Ok(());
    }
    Err(Error::invalid_model(format!("it has more than {MOST} {what}")))
}

/// `ai.onnx::Conv`
fn operator_name(domain: &[u8], name: &[u8]) -> String {
    printable(&format!("{}::{}", domain_name(domain), String::from_utf8_lossy(name)))
}

/// ONNX's own domain is written as nothing too.
fn domain_name(domain: &[u8]) -> std::borrow::Cow<'_, str> {
    if domain.is_empty() { "ai.onnx".into() } else { String::from_utf8_lossy(domain) }
}

/// An `OperatorSetIdProto`.
fn opset_of(opset: &[u8]) -> Result<(String, u64)> {
    let (mut domain, mut version) = (&[][..], 0);
    for field in fields(opset) {
        match field? {
            (1, Field::Bytes(text)) => domain = text,
            (2, Field::Varint(n)) => version = n,
            _ => {}
        }
    }
    Ok((printable(&domain_name(domain)), version))
}

/// A `TensorProto`, but for its data.
fn tensor(bytes: &[u8]) -> Result<TensorEntry> {
    let (mut name, mut element, mut shape, mut elsewhere) = (String::new(), 0, Vec::new(), false);
    let mut place = String::new();
    for field in fields(bytes) {
        match field? {
            (1, field) => {
                for size in field.integers() {
                    push_size(&mut shape, size?.cast_signed())?;
                }
            }
            (2, Field::Varint(n)) => element = n,
            (8, field) => name = field.text().unwrap_or_default(),
            (13, Field::Bytes(entry)) => {
                let (key, value) = pair(entry)?;
                if key == b"location" {
                    place = String::from_utf8_lossy(value).into_owned();
                }
            }
            (14, Field::Varint(location)) => elsewhere |= location != 0,
            _ => {}
        }
    }
    if elsewhere {
        let place = if place.is_empty() { "another file".to_owned() } else { format!("another file, `{place}`") };
        return Err(Error::invalid_model(format!("the data of its tensor `{name}` lie in {place}")).hint(
            "save them inside: `onnx.save(onnx.load(\"model.onnx\"), \"whole.onnx\")`, or `external_data=False` in `torch.onnx.export`",
        ));
    }
    let storage = datatype(element).map_or_else(|| element_name(element), |d| storage(d).to_owned());
    Ok(TensorEntry { name, storage, shape, parameter: true, device: "cpu".to_owned() })
}

/// A `SparseTensorProto`: the whole tensor's sizes, under the name of its values.
fn sparse_tensor(bytes: &[u8]) -> Result<TensorEntry> {
    let (mut values, mut shape) = (None, Vec::new());
    for field in fields(bytes) {
        match field? {
            (1, Field::Bytes(tensor_of_values)) => values = Some(tensor(tensor_of_values)?),
            (2, Field::Bytes(indices)) => drop(tensor(indices)?),
            (3, field) => {
                for size in field.integers() {
                    push_size(&mut shape, size?.cast_signed())?;
                }
            }
            _ => {}
        }
    }
    let values = values.ok_or_else(|| Error::invalid_model("it is damaged: a sparse tensor has no values"))?;
    Ok(TensorEntry { shape, ..values })
}

fn push_size<T>(sizes: &mut Vec<T>, size: T) -> Result<()> {
    const MOST: usize = 256;
    if sizes.len() >= MOST {
        return Err(Error::invalid_model(format!("it has a tensor of more than {MOST} dimensions")));
    }
    sizes.push(size);
    Ok(())
}

/// torch's name of it, as [`TensorEntry`] has them.
fn storage(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "Bool",
        Datatype::Uint8 => "Byte",
        Datatype::Uint16 => "UInt16",
        Datatype::Uint32 => "UInt32",
        Datatype::Uint64 => "UInt64",
        Datatype::Int8 => "Char",
        Datatype::Int16 => "Short",
        Datatype::Int32 => "Int",
        Datatype::Int64 => "Long",
        Datatype::Fp16 => "Half",
        Datatype::Bf16 => "BFloat16",
        Datatype::Fp32 => "Float",
        Datatype::Fp64 => "Double",
    }
}

/// A `ValueInfoProto`.
fn put(slots: &mut Vec<Slot>, bytes: &[u8], what: &str) -> Result<()> {
    bounded(slots.len(), what)?;
    let mut slot = Slot { name: String::new(), kind: Kind::Other("nothing said") };
    for field in fields(bytes) {
        match field? {
            (1, field) => slot.name = field.text().unwrap_or_default(),
            (2, Field::Bytes(bytes)) => slot.kind = kind(bytes, 0)?,
            _ => {}
        }
    }
    slots.push(slot);
    Ok(())
}

/// A `TypeProto`.
fn kind(bytes: &[u8], depth: usize) -> Result<Kind> {
    const DEEPEST: usize = 16;
    if depth > DEEPEST {
        return Err(Error::invalid_model(format!("it has a type that is nested more than {DEEPEST} deep")));
    }
    let mut found = Kind::Other("nothing said");
    for field in fields(bytes) {
        let (number, Field::Bytes(bytes)) = field? else { continue };
        let (mut element, mut inner, mut dims) = (0, None, None);
        for field in fields(bytes) {
            match (number, field?) {
                (1 | 5, (1, Field::Varint(n))) => element = n,
                (1, (2, Field::Bytes(shape))) => dims = Some(sizes(shape)?),
                (4 | 9, (1, Field::Bytes(item))) | (5, (2, Field::Bytes(item))) => {
                    inner = Some(Box::new(kind(item, depth + 1)?));
                }
                _ => {}
            }
        }
        found = match (number, inner) {
            (1, _) => Kind::Tensor(element, dims),
            (4, Some(item)) => Kind::Sequence(item),
            (5, Some(value)) => Kind::Map(element, value),
            (9, Some(value)) => Kind::Optional(value),
            (7, _) => Kind::Other("opaque"),
            (8, _) => Kind::Other("sparse tensor"),
            _ => continue,
        };
    }
    Ok(found)
}

/// A `TensorShapeProto`.
fn sizes(bytes: &[u8]) -> Result<Vec<Dim>> {
    let mut sizes = Vec::new();
    for field in fields(bytes) {
        let (1, Field::Bytes(dim)) = field? else { continue };
        let mut size = Dim::Named("?".to_owned());
        for field in fields(dim) {
            size = match field? {
                // -1 is how some exporters write a free size.
                (1, Field::Varint(n)) if n.cast_signed() >= 0 => Dim::Fixed(n.cast_signed()),
                (2, Field::Bytes(name)) if !name.is_empty() => Dim::Named(printable(&String::from_utf8_lossy(name))),
                _ => continue,
            };
        }
        push_size(&mut sizes, size)?;
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut n: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }

    /// A field that holds a message or a text.
    fn put(number: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn tensor_type(element: u64, dims: &[&str]) -> Vec<u8> {
        let dim = |d: &&str| match d.parse::<i64>() {
            Ok(n) => put(1, number(1, n.cast_unsigned())),
            Err(_) => put(1, put(2, d)),
        };
        put(1, [number(1, element), put(2, dims.iter().flat_map(dim).collect::<Vec<u8>>())].concat())
    }

    fn slot(name: &str, kind: &[u8]) -> Vec<u8> {
        [put(1, name), put(2, kind)].concat()
    }

    fn saved(name: &str, sizes: &[u64], more: &[u8]) -> Vec<u8> {
        let sizes: Vec<u8> = sizes.iter().flat_map(|n| varint(*n)).collect();
        [put(1, sizes), number(2, 1), put(8, name), more.to_vec()].concat()
    }

    fn node(operator: &str, domain: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
        let attributes = attributes.iter().flat_map(|a| put(5, a));
        [put(4, operator), put(7, domain), attributes.collect()].concat()
    }

    fn file(graph: &[Vec<u8>]) -> Vec<u8> {
        let opset = |domain: &str, version| put(8, [put(1, domain), number(2, version)].concat());
        let head = [number(1, 10), put(2, "pytorch"), put(3, "2.13.0"), put(7, graph.concat())].concat();
        [head, opset("", 20), opset("com.acme", 1), put(14, [put(1, "key"), put(2, "value")].concat())].concat()
    }

    fn refused(bytes: &[u8]) -> String {
        let e = Onnx::read(bytes).unwrap_err();
        assert_eq!(e.kind, crate::ErrorKind::InvalidModel);
        e.message
    }

    #[test]
    fn a_graph_says_what_goes_in_and_out() {
        let weights = number(9, 3); // raw data: skipped, whatever it is
        let map = put(5, [number(1, 7), put(2, tensor_type(1, &[]))].concat());
        let onnx = Onnx::read(&file(&[
            put(1, node("Conv", "", &[])),
            put(1, node("Gelu", "com.acme", &[])),
            put(5, saved("w", &[64, 3], &weights)),
            put(11, slot("x", &tensor_type(1, &["batch", "3", "", "-1"]))),
            put(11, slot("w", &tensor_type(1, &["64", "3"]))),
            put(11, slot("words", &tensor_type(STRING, &["n", "2"]))),
            put(12, slot("y", &tensor_type(7, &["batch"]))),
            put(12, slot("scores", &put(4, put(1, map)))),
            put(12, slot("maybe", &put(9, put(1, tensor_type(16, &[]))))),
            put(12, slot("odd", &put(8, []))),
            put(12, put(1, "nothing")),
        ]))
        .unwrap();
        assert_eq!((onnx.ir_version, onnx.producer.as_str()), (10, "pytorch 2.13.0"));
        assert_eq!(onnx.opsets, [("ai.onnx".to_owned(), 20), ("com.acme".to_owned(), 1)].into());
        assert_eq!(onnx.operators.iter().collect::<Vec<_>>(), ["ai.onnx::Conv", "com.acme::Gelu"]);
        assert_eq!(onnx.notes, [("key".to_owned(), 5)]);
        // `w` has a value in the file: it is no input.
        let shown =
            |slots: &[Slot]| slots.iter().map(|s| format!("{} {}", s.name, s.kind.as_type())).collect::<Vec<_>>();
        assert_eq!(shown(&onnx.inputs), ["x Tensor", "words List[List[str]]"]);
        let outputs = [
            "y Tensor",
            "scores List[Dict[int, Tensor]]",
            "maybe Optional[Tensor]",
            "odd sparse tensor",
            "nothing nothing said",
        ];
        assert_eq!(shown(&onnx.outputs), outputs);
        let (named, fixed) = (|n: &str| Dim::Named(n.to_owned()), Dim::Fixed(3));
        assert_eq!(onnx.inputs[0].kind.dims(), Some(&[named("batch"), fixed, named("?"), named("?")][..]));
        assert_eq!(onnx.inputs[0].kind.datatype(), Some(Datatype::Fp32));
        assert_eq!(
            (onnx.tensors[0].name.as_str(), &onnx.tensors[0].shape[..], onnx.tensors[0].elements()),
            ("w", &[64, 3][..], 192)
        );
        assert_eq!(onnx.method().to_string().split(" -> ").next(), Some("forward(x: Tensor, words: List[List[str]])"));
    }

    #[test]
    fn operators_of_subgraphs_and_functions_are_listed_and_the_files_own_functions_are_none() {
        let inside = put(6, put(1, node("Mul", "", &[])));
        let graph = [put(1, node("If", "", &[inside])), put(1, node("Mine", "local", &[]))];
        let function = [put(1, "Mine"), put(10, "local"), put(7, node("Sub", "", &[]))].concat();
        let onnx = Onnx::read(&[file(&graph), put(25, function)].concat()).unwrap();
        assert_eq!(onnx.operators.iter().collect::<Vec<_>>(), ["ai.onnx::If", "ai.onnx::Mul", "ai.onnx::Sub"]);
    }

    #[test]
    fn a_tensor_whose_data_lie_in_another_file_is_refused_wherever_it_is() {
        let place = put(13, [put(1, "location"), put(2, "/etc/passwd")].concat());
        let outside = saved("w", &[1], &[place, number(14, 1)].concat());
        let in_attribute = |field| put(1, node("Constant", "", &[put(field, outside.as_slice())]));
        let sparse = put(1, outside.as_slice());
        for graph in [
            put(5, outside.as_slice()),
            put(15, sparse.as_slice()),
            in_attribute(5),
            in_attribute(10),
            put(1, node("Constant", "", &[put(22, sparse.as_slice())])),
            put(1, node("If", "", &[put(6, put(5, outside.as_slice()))])),
            put(1, node("If", "", &[put(11, in_attribute(5))])),
        ] {
            let message = refused(&file(&[graph]));
            assert_eq!(message, "the data of its tensor `w` lie in another file, `/etc/passwd`");
        }
        let function = put(25, put(7, node("Constant", "", &[put(5, outside.as_slice())])));
        refused(&[file(&[]), function].concat());
        refused(&[file(&[]), put(20, put(1, put(5, outside.as_slice())))].concat());
        // An entry without the mark is left over from a file that was saved whole.
        let place = put(13, [put(1, "location"), put(2, "w.bin")].concat());
        assert!(Onnx::read(&file(&[put(5, saved("w", &[1], &[place, number(14, 0)].concat()))])).is_ok());
    }

    #[test]
    fn every_beginning_of_a_file_is_a_graph_or_a_sentence() {
        let whole = file(&[
            put(1, node("If", "", &[put(6, put(1, node("Mul", "", &[])))])),
            put(5, saved("w", &[64, 3], &[])),
            put(11, slot("x", &tensor_type(1, &["batch", "3"]))),
        ]);
        let ends = (0..whole.len()).filter(|&end| match Onnx::read(&whole[..end]) {
            Ok(_) => true,
            Err(e) => {
                let known =
                    e.message == "it is damaged: it ends in the middle of a field" || e.message.contains("no graph");
                assert!(known, "{end}: {e}");
                false
            }
        });
        // Between two fields behind the graph.
        assert_eq!(ends.count(), 3);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut other = whole.clone();
                other[at] ^= 1 << bit;
                let _no_panic = Onnx::read(&other);
            }
        }
    }

    #[test]
    fn what_has_no_end_is_bounded() {
        let mut graph = put(1, node("Mul", "", &[]));
        for _ in 0..40 {
            graph = put(1, node("If", "", &[put(6, graph)]));
        }
        assert!(refused(&file(&[graph])).contains("nested more than"));
        let mut kind = tensor_type(1, &[]);
        for _ in 0..40 {
            kind = put(4, put(1, kind));
        }
        assert!(refused(&file(&[put(11, slot("x", &kind))])).contains("nested more than"));
        let sizes = [1u64; 300];
        assert!(refused(&file(&[put(5, saved("w", &sizes, &[]))])).contains("more than 256 dimensions"));
        assert!(refused(&file(&[put(5, []).repeat(1_000_001)])).contains("more than 1000000 tensors"));
        // Two million nodes of two bytes each are as good as one.
        assert_eq!(Onnx::read(&file(&[put(1, []).repeat(2_000_000)])).unwrap().operators.len(), 1);
    }

    #[test]
    fn notes_are_found_by_name() {
        let bytes = file(&[]);
        assert_eq!(note(&bytes, "key").unwrap(), Some(&b"value"[..]));
        assert_eq!(note(&bytes, "other").unwrap(), None);
        assert!(note(&bytes[..bytes.len() - 1], "key").is_err());
    }

    #[test]
    fn datatypes_are_those_of_their_numbers() {
        for d in Datatype::ALL {
            assert_eq!(datatype(element(d)), Some(d));
        }
        assert_eq!((datatype(17), element_name(17).as_str()), (None, "FLOAT8E4M3FN"));
        assert_eq!((datatype(999), element_name(999).as_str()), (None, "type 999"));
    }

    #[test]
    fn only_what_begins_as_a_graph_does_seems_to_be_one() {
        assert!(seems_to_be(&file(&[])) && seems_to_be(&[8, 7, 0x3a, 0]));
        for other in [&b"PK\x03\x04"[..], b"\x80\x02}q", b"\x08", b"", b"{\"a\": 1}", b"<html>", b"\x08\x00\x12"] {
            assert!(!seems_to_be(other), "{other:?}");
        }
    }
}
