//! What a file says about itself, read without libtorch: the answer of `info`.

use crate::{
    Archive, Contract, Method, Package, Platform, Result, Script,
    foreign::{self, Foreign},
    pickle::{Id, Node, Pickle},
};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// Everything that is known of a file before it is loaded.
#[derive(Debug)]
pub struct Description {
    /// The contract, where the file has one.
    pub contract: Option<Contract>,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// Version of the archive format.
    pub format: Option<u64>,
    /// What runs it.
    pub platform: Platform,
    /// Name of the top module's class: `__torch__.Net`; for compiled code the machine that it was compiled for, for
    /// ONNX its sets of operators and what wrote it.
    pub class: String,
    /// Methods of the top module, `forward` first.
    pub methods: Vec<Method>,
    /// Weights, buffers and other tensors of the module.
    pub tensors: Vec<TensorEntry>,
    /// Operators that the code calls.
    pub operators: Vec<String>,
    /// Names and sizes of the extra files.
    pub extra_files: Vec<(String, u64)>,
    /// Attributes that the code of its modules assigns: state between calls. Where there are none, the code may still write
    /// into a buffer or a list; that is seen when it is loaded.
    pub state: Vec<String>,
    /// What files of others beside the model say, where there is no contract.
    pub foreign: Foreign,
}

/// A tensor that is saved in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorEntry {
    /// Where it is: `conv1.weight`.
    pub name: String,
    /// torch's name of the storage's type: `Float`, `Long`, `BFloat16`.
    pub storage: String,
    /// Its sizes.
    pub shape: Vec<i64>,
    /// Whether training would change it (a buffer otherwise).
    pub parameter: bool,
    /// Device it was saved on.
    pub device: String,
}

impl TensorEntry {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1u64, |n, &s| n.saturating_mul(s.max(0) as u64))
    }
}

impl Description {
    /// Reads it from an archive.
    ///
    /// # Errors
    /// `InvalidModel` if the module cannot be read, `InvalidContract`.
    pub fn read(archive: &Archive) -> Result<Self> {
        match archive.platform() {
            Platform::TorchScript => Self::of_script(archive),
            Platform::Compiled => Self::of_package(archive),
            Platform::Onnx => Self::of_graph(archive),
        }
    }

    fn of_graph(archive: &Archive) -> Result<Self> {
        let onnx = archive.onnx().ok_or_else(|| crate::Error::internal("an ONNX file without a graph"))?;
        let contract = archive.contract()?;
        let opsets = onnx.opsets.iter().map(|(domain, version)| format!("{domain} {version}"));
        let class = format!("graph of the operators {}", opsets.collect::<Vec<_>>().join(", "));
        let by = if onnx.producer.is_empty() { String::new() } else { format!(", by {}", onnx.producer) };
        let provisional = contract.is_none().then(|| onnx.signature());
        Ok(Self {
            file_size: archive.bytes().len() as u64,
            format: archive.format()?,
            platform: archive.platform(),
            class: class + &by,
            methods: vec![contract.as_ref().map_or_else(|| onnx.method(), Contract::forward)],
            contract,
            tensors: onnx.tensors.clone(),
            operators: onnx.operators.iter().cloned().collect(),
            extra_files: archive.extra_files(),
            state: Vec::new(),
            foreign: Foreign { provisional, notes: Vec::new() },
        })
    }

    fn of_package(archive: &Archive) -> Result<Self> {
        let package = Package::read(archive)
            .map_err(|e| crate::Error { message: format!("`{}`: {}", archive.path().display(), e.message), ..e })?;
        let contract = archive.contract()?;
        let built_for = &package.built_for;
        Ok(Self {
            file_size: archive.bytes().len() as u64,
            format: archive.format()?,
            platform: archive.platform(),
            class: format!("compiled for {} {} {}", built_for.device, built_for.machine, built_for.isa)
                .trim()
                .to_owned(),
            methods: contract.iter().map(Contract::forward).collect(),
            contract,
            tensors: Vec::new(),
            operators: package.operators,
            extra_files: archive.extra_files(),
            state: Vec::new(),
            foreign: Foreign::default(),
        })
    }

    fn of_script(archive: &Archive) -> Result<Self> {
        let script = Script::read(archive)?;
        let shown = archive.path().display();
        let data = archive
            .member("data.pkl")?
            .ok_or_else(|| crate::Error::invalid_model(format!("`{shown}`: the archive has no `data.pkl`")))?;
        let pickle =
            Pickle::read(&data).map_err(|e| crate::Error { message: format!("`{shown}`: {}", e.message), ..e })?;
        let class = match pickle.node(pickle.root()) {
            Node::Object(class, _) => pickle.text(*class).unwrap_or_default().to_owned(),
            _ => return Err(crate::Error::invalid_model(format!("`{shown}`: the archive holds no module"))),
        };
        let mut methods = script.classes.get(&class).map(|c| c.methods.clone()).unwrap_or_default();
        methods.sort_by_key(|m| m.name != "forward");
        methods.retain(|m| m.name != "__setstate__" && m.name != "__getstate__");
        let mut walk =
            Walk { pickle: &pickle, script: &script, seen: HashSet::new(), found: BTreeMap::new(), order: Vec::new() };
        walk.visit(pickle.root(), String::new(), false);
        let Walk { mut found, order, .. } = walk;
        let state: std::collections::BTreeSet<&String> = script.classes.values().flat_map(|c| &c.assigned).collect();
        let state = state.into_iter().cloned().collect();
        let contract = archive.contract()?;
        let foreign = match contract {
            Some(_) => Foreign::default(),
            None => foreign::read(archive, methods.iter().find(|m| m.name == "forward")),
        };
        Ok(Self {
            contract,
            file_size: archive.bytes().len() as u64,
            format: archive.format()?,
            platform: archive.platform(),
            class,
            methods,
            tensors: order.iter().filter_map(|name| found.remove(name)).collect(),
            operators: script.operators.into_iter().collect(),
            extra_files: archive.extra_files(),
            state,
            foreign,
        })
    }

    /// The method that is called where none is named.
    pub fn forward(&self) -> Option<&Method> {
        self.methods.iter().find(|m| m.name == "forward")
    }
}

struct Walk<'a> {
    pickle: &'a Pickle,
    script: &'a Script,
    /// Shared modules and tensors count once.
    seen: HashSet<Id>,
    found: BTreeMap<String, TensorEntry>,
    order: Vec<String>,
}

impl Walk<'_> {
    fn visit(&mut self, id: Id, name: String, parameter: bool) {
        if !self.seen.insert(id) {
            return;
        }
        let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        match self.pickle.node(id) {
            Node::Object(class, Some(state)) => {
                let class = self.pickle.text(*class).and_then(|c| self.script.classes.get(c));
                if let Node::Dict(pairs) = self.pickle.node(*state) {
                    for &(key, value) in pairs {
                        let key = self.pickle.text(key).unwrap_or_default();
                        let parameter = class.is_some_and(|c| c.parameters.contains(key));
                        self.visit(value, below(key), parameter);
                    }
                } else {
                    self.visit(*state, name, false);
                }
            }
            Node::Call(function, arguments) => {
                let function = self.pickle.text(*function).unwrap_or_default();
                if function.contains("_rebuild_") && function.ends_with("tensor_v2") {
                    if let Some(tensor) = self.tensor(*arguments, name.clone(), parameter) {
                        self.order.push(name.clone());
                        self.found.insert(name, tensor);
                    }
                } else {
                    self.visit(*arguments, name, parameter);
                }
            }
            Node::Tuple(items) | Node::List(items) => {
                for (i, &item) in items.iter().enumerate() {
                    self.visit(item, below(&i.to_string()), false);
                }
            }
            Node::Dict(pairs) => {
                for &(key, value) in pairs {
                    let key = self.pickle.text(key).unwrap_or("?").to_owned();
                    self.visit(value, below(&key), false);
                }
            }
            _ => {}
        }
    }

    /// `(storage, offset, sizes, strides, requires_grad, hooks)`, storage = `("storage", type, record, device, count)`.
    fn tensor(&self, arguments: Id, name: String, parameter: bool) -> Option<TensorEntry> {
        let parts = self.pickle.items(arguments)?;
        let Node::Persistent(storage) = self.pickle.node(*parts.first()?) else { return None };
        let storage = self.pickle.items(*storage)?;
        let kind = self.pickle.text(*storage.get(1)?)?;
        let shape = self.pickle.items(*parts.get(2)?)?;
        let shape = shape.iter().map(|&n| if let Node::Int(n) = self.pickle.node(n) { *n } else { 0 }).collect();
        Some(TensorEntry {
            name,
            storage: kind.trim_start_matches("torch.").trim_end_matches("Storage").to_owned(),
            shape,
            parameter,
            device: self.pickle.text(*storage.get(3)?)?.to_owned(),
        })
    }
}
