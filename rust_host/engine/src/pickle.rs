//! Reads the pickles inside a TorchScript archive (`data.pkl`, `constants.pkl`) without running anything: only the opcodes
//! and globals that `torch.jit.save` writes are known, everything else is refused.

use crate::{Error, Result};
use std::collections::HashMap;

/// A place in [`Pickle`]: values are shared as the file shares them, so a small file cannot unfold into a huge tree.
pub type Id = usize;

/// One unpickled value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are the pickle format's")]
pub enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name`
    Global(String),
    /// An instance of a class and its state.
    Object(Id, Option<Id>),
    /// The result of calling a global with a tuple.
    Call(Id, Id),
    /// A reference to a record outside the pickle: a tuple that begins with `"storage"`.
    Persistent(Id),
    Mark,
}

/// A whole unpickled file.
#[derive(Debug)]
pub struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::invalid_model(format!("the archive is damaged: {what}"))
}

/// Globals that `torch.jit.save` writes, apart from the archive's own classes (`__torch__.…`).
fn known(global: &str) -> bool {
    if let Some(library) = global.strip_prefix("__torch__.torch.classes.") {
        return crate::scan_code::is_packed_weight(library.split('.').next().unwrap_or_default());
    }
    global.starts_with("__torch__.")
        || matches!(
            global,
            "torch._utils._rebuild_tensor_v2"
                | "torch._utils._rebuild_qtensor"
                | "torch._utils._rebuild_sparse_tensor"
                | "torch._utils._rebuild_sparse_csr_tensor"
                | "torch._utils._rebuild_meta_tensor_no_storage"
                | "torch.jit._pickle.restore_type_tag"
                | "torch.jit._pickle.build_intlist"
                | "torch.jit._pickle.build_doublelist"
                | "torch.jit._pickle.build_boollist"
                | "torch.jit._pickle.build_tensorlist"
                | "torch.jit._pickle.build_tensor_from_id"
                | "collections.OrderedDict"
                | "torch.device"
                | "torch.per_tensor_affine"
                | "torch.per_channel_affine"
                | "torch.serialization._get_layout"
        )
        || global
            .strip_prefix("torch.")
            .is_some_and(|name| name.ends_with("Storage") && name.bytes().all(|b| b.is_ascii_alphanumeric()))
}

impl Pickle {
    /// Reads a whole pickle.
    ///
    /// # Errors
    /// `InvalidModel` if it is cut off, has an opcode or a global that no archive has, or is nested too deep for those
    /// who read it after us.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
        let root = reader.run()?;
        check_nesting(&reader.nodes)?;
        Ok(Self { nodes: reader.nodes, root })
    }

    /// The outermost value.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The value at a place.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The text at a place, if it is text.
    pub fn text(&self, id: Id) -> Option<&str> {
        match &self.nodes[id] {
            Node::Str(s) | Node::Global(s) => Some(s),
            _ => None,
        }
    }

    /// Every call in the file: the function's place and its arguments'.
    pub fn calls(&self) -> impl Iterator<Item = (Id, Id)> {
        self.nodes
            .iter()
            .filter_map(|n| if let Node::Call(function, arguments) = n { Some((*function, *arguments)) } else { None })
    }

    /// Every instance of a class: the class's place and its state's.
    pub fn objects(&self) -> impl Iterator<Item = (Id, Option<Id>)> {
        self.nodes.iter().filter_map(|n| if let Node::Object(class, state) = n { Some((*class, *state)) } else { None })
    }

    /// The items of a tuple or list at a place.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }
}

/// Nesting that other readers, libtorch's recursive one included, survive.
const DEEPEST: u32 = 200;

/// Looks at the finished values: lists can be put into lists that were put somewhere before.
fn check_nesting(nodes: &[Node]) -> Result<()> {
    // 0: not seen yet, OPEN: what is inside is being looked at, else the height.
    const OPEN: u32 = u32::MAX;
    let mut heights = vec![0u32; nodes.len()];
    let mut todo: Vec<(Id, bool)> = (0..nodes.len()).map(|id| (id, false)).collect();
    while let Some((id, done)) = todo.pop() {
        if done {
            let below = inside(&nodes[id]).map(|i| heights[i]).max().unwrap_or(0);
            if below >= DEEPEST {
                return Err(Error::invalid_model(format!(
                    "a pickle in the archive is nested more than {DEEPEST} deep"
                )));
            }
            heights[id] = below + 1;
        } else if heights[id] == 0 {
            heights[id] = OPEN;
            todo.push((id, true));
            for i in inside(&nodes[id]) {
                match heights[i] {
                    0 => todo.push((i, false)),
                    OPEN => return Err(Error::invalid_model("a list in the archive contains itself")),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// The values directly inside one.
fn inside(node: &Node) -> impl Iterator<Item = Id> {
    let items: &[Id] = if let Node::Tuple(items) | Node::List(items) = node { items } else { &[] };
    let pairs: &[(Id, Id)] = if let Node::Dict(pairs) = node { pairs } else { &[] };
    let others = match *node {
        Node::Object(class, state) => [Some(class), state],
        Node::Call(function, arguments) => [Some(function), Some(arguments)],
        Node::Persistent(id) => [Some(id), None],
        _ => [None; 2],
    };
    let pairs = pairs.iter().flat_map(|&(key, value)| [key, value]);
    items.iter().copied().chain(pairs).chain(others.into_iter().flatten())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    memo: HashMap<u32, Id>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let part = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end));
        self.at = self.at.saturating_add(n);
        part.ok_or_else(|| damaged("a pickle is cut off"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| damaged("a pickle is cut off"))?))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let end = rest.iter().position(|&b| b == b'\n').ok_or_else(|| damaged("a pickle is cut off"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| damaged("a name in a pickle is not UTF-8"))
    }

    fn text(&mut self, length: usize) -> Result<Node> {
        let bytes = self.take(length)?;
        Ok(Node::Str(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn make(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<Id> {
        self.stack.pop().ok_or_else(|| damaged("a pickle takes more than it has"))
    }

    fn global(&self, id: Id) -> Result<&str> {
        match &self.nodes[id] {
            Node::Global(name) => Ok(name),
            _ => Err(damaged("a pickle calls what is no global")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let at = self.stack.iter().rposition(|&i| self.nodes[i] == Node::Mark);
        let at = at.ok_or_else(|| damaged("a pickle has no mark where it needs one"))?;
        let items = self.stack.split_off(at + 1);
        self.stack.pop();
        Ok(items)
    }

    /// Adds `items` to the container on top of the stack.
    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let target = *self.stack.last().ok_or_else(|| damaged("a pickle takes more than it has"))?;
        match &mut self.nodes[target] {
            Node::List(list) => list.extend(items),
            Node::Dict(dict) if items.len().is_multiple_of(2) => dict.extend(items.chunks(2).map(|p| (p[0], p[1]))),
            _ => return Err(damaged("a pickle adds items to something that holds none")),
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Id> {
        loop {
            let code = self.take(1)?[0];
            match code {
                0x80 => {
                    let version = self.take(1)?[0];
                    if version > 4 {
                        return Err(damaged(format!("a pickle has protocol {version}")));
                    }
                }
                b'.' => return self.pop(),
                b'(' => self.make(Node::Mark),
                b'N' => self.make(Node::None),
                0x88 => self.make(Node::Bool(true)),
                0x89 => self.make(Node::Bool(false)),
                b'K' => {
                    let n = self.take(1)?[0];
                    self.make(Node::Int(n.into()));
                }
                b'M' => {
                    let b = self.take(2)?;
                    self.make(Node::Int(u16::from_le_bytes([b[0], b[1]]).into()));
                }
                b'J' => {
                    let n = self.u32()?;
                    self.make(Node::Int((n as i32).into()));
                }
                0x8a => {
                    let length = self.take(1)?[0].into();
                    let b = self.take(length)?;
                    if length > 8 {
                        return Err(damaged("a number in a pickle has more than 64 bits"));
                    }
                    let mut wide = if b.last().is_some_and(|&top| top > 127) { [0xff; 8] } else { [0; 8] };
                    wide[..length].copy_from_slice(b);
                    self.make(Node::Int(i64::from_le_bytes(wide)));
                }
                b'G' => {
                    let b = self.take(8)?.try_into().map_err(|_| damaged("a pickle is cut off"))?;
                    self.make(Node::Float(f64::from_be_bytes(b)));
                }
                b'X' => {
                    let length = self.u32()? as usize;
                    let text = self.text(length)?;
                    self.make(text);
                }
                b'U' => {
                    let length = self.take(1)?[0].into();
                    let text = self.text(length)?;
                    self.make(text);
                }
                b')' => self.make(Node::Tuple(vec![])),
                b']' => self.make(Node::List(vec![])),
                b'}' => self.make(Node::Dict(vec![])),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.make(Node::Tuple(items));
                }
                0x85..=0x87 => {
                    let n = usize::from(code - 0x84);
                    let at =
                        self.stack.len().checked_sub(n).ok_or_else(|| damaged("a pickle takes more than it has"))?;
                    let items = self.stack.split_off(at);
                    self.make(Node::Tuple(items));
                }
                b'e' | b'u' => {
                    let items = self.pop_to_mark()?;
                    self.extend(items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.extend(vec![key, value])?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    if !known(&name) {
                        return Err(Error::new(
                            crate::error::ErrorKind::Refused,
                            format!("a pickle in the archive asks for `{name}`, which no TorchScript archive needs"),
                        ));
                    }
                    self.make(Node::Global(name));
                }
                0x81 | b'R' => {
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    // To libtorch a global is a number on the stack: a number in its place would call another one.
                    let callable = self.global(class)?;
                    let node = if code == b'R' { Node::Call(class, arguments) } else { Node::Object(class, None) };
                    let own = callable.starts_with("__torch__.");
                    let a_value = callable.ends_with("Storage") || callable.ends_with("_affine");
                    if !own && (a_value || code == 0x81) {
                        return Err(damaged(format!("a pickle calls `{callable}`")));
                    }
                    self.make(node);
                }
                b'b' => {
                    let (state, object) = (self.pop()?, self.pop()?);
                    let Node::Object(class, None) = self.nodes[object] else {
                        return Err(damaged("a pickle gives a state to something that has none"));
                    };
                    self.nodes[object] = Node::Object(class, Some(state));
                    self.stack.push(object);
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.make(Node::Persistent(id));
                }
                b'q' | b'r' => {
                    let key = if code == b'q' { self.take(1)?[0].into() } else { self.u32()? };
                    let top = *self.stack.last().ok_or_else(|| damaged("a pickle takes more than it has"))?;
                    self.memo.insert(key, top);
                }
                b'h' | b'j' => {
                    let key = if code == b'h' { self.take(1)?[0].into() } else { self.u32()? };
                    let id = *self.memo.get(&key).ok_or_else(|| damaged("a pickle refers to what it does not have"))?;
                    self.stack.push(id);
                }
                other => return Err(damaged(format!("a pickle has the opcode {other:#04x}, which no archive has"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_torch_does_not_write_is_refused_by_name() {
        let e = Pickle::read(b"\x80\x02cposix\nsystem\n.").unwrap_err();
        assert!(e.message.contains("posix.system"), "{e}");
        for bytes in
            [&b"\x80\x02"[..], b"", b"\x80\x02t.", b"\x80\x02h\x05.", b"\x80\x02X\xff\xff\xff\xffab", b"\x80\x02\x93."]
        {
            assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bytes = b"\x80\x02N".to_vec();
        bytes.extend(std::iter::repeat_n(0x85, 1000));
        bytes.push(b'.');
        assert!(Pickle::read(&bytes).unwrap_err().message.contains("nested"));
        // From the outside in: every list gets its item after it was put somewhere itself.
        let mut bytes = b"\x80\x02]".to_vec();
        for _ in 0..1000 {
            bytes.extend(b"]q\x00ah\x00");
        }
        bytes.push(b'.');
        assert!(Pickle::read(&bytes).unwrap_err().message.contains("nested"));
        let e = Pickle::read(b"\x80\x02]q\x00]q\x01h\x00aah\x01.").unwrap_err();
        assert!(e.message.contains("itself"), "{e}");
        assert!(Pickle::read(b"\x80\x02]q\x00h\x00a.").unwrap_err().message.contains("itself"));
    }

    #[test]
    fn only_globals_that_can_be_called_are_called() {
        for bytes in [
            &b"\x80\x02K\x00)R."[..],
            b"\x80\x02K\x00)\x81.",
            b"\x80\x02X\x01\x00\x00\x00a)R.",
            b"\x80\x02ctorch\nFloatStorage\n)R.",
            b"\x80\x02ctorch\nper_tensor_affine\n)R.",
            b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        ] {
            assert!(Pickle::read(bytes).unwrap_err().message.contains("calls"), "{bytes:?}");
        }
        Pickle::read(b"\x80\x02ccollections\nOrderedDict\n)R.").unwrap();
    }

    #[test]
    fn numbers_are_read_with_their_sign() {
        for (bytes, value) in
            [(&b"\x8a\x01\xff."[..], -1), (b"\x8a\x02\xff\x00.", 255), (b"J\xfe\xff\xff\xff.", -2), (b"\x8a\x00.", 0)]
        {
            let p = Pickle::read(bytes).unwrap();
            assert_eq!(*p.node(p.root()), Node::Int(value));
        }
    }
}
