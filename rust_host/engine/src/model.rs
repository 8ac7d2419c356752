//! File → backend → checked model. Binds named inputs to arguments, checks them against the contract, and names what
//! comes out.

use crate::{
    Archive, Backend, Contract, Device, DeviceRequest, Error, Method, Platform, Program, Result, Speed, Tensor,
    Tolerance, Type, Value,
    contract::{Dim, Input, Returns},
    error::ErrorKind,
    onnx::Onnx,
    operators::Policy,
    places::Places,
    scan, trust,
    turns::Turns,
    value,
};
use std::{collections::BTreeMap, sync::Arc};

/// A loaded model: what a door runs.
pub struct Model {
    archive: Archive,
    contract: Option<Contract>,
    program: Arc<dyn Program>,
    method: usize,
    /// Where it keeps state between calls.
    turns: Option<Turns>,
    /// Where the number of calls at once has a bound.
    places: Option<Arc<Places>>,
}

impl Model {
    /// Opens a file on a device, after the gate ([`scan`], [`trust`]) has let it through.
    ///
    /// # Errors
    /// What [`Archive::open`], [`scan::scan`], [`trust::check`], [`Backend::device`] and [`Backend::open`] say; `InvalidContract` if the
    /// contract names other arguments than `forward` has.
    pub fn open(path: &std::path::Path, backend: &dyn Backend, device: DeviceRequest) -> Result<Self> {
        Self::from_archive(Archive::open(path)?, backend, device, &Policy::default())
    }

    /// The same for an archive that was opened already, with what the owner of this machine allows.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_archive(
        archive: Archive,
        backend: &dyn Backend,
        device: DeviceRequest,
        policy: &Policy,
    ) -> Result<Self> {
        let shown = archive.path().display().to_string();
        if policy.signed_by.is_some() && !archive.is_signed() {
            return Err(Error::internal(format!("`{shown}` was opened without a look at its signature")));
        }
        let contract = contract_of_that_kind(&archive, backend)?;
        trust::check(&archive, policy)?;
        if archive.platform() == Platform::TorchScript {
            scan::scan(&archive, policy)?;
        }
        let device = backend.device(device)?;
        let at = |e: Error| Error { message: format!("`{shown}`: {}", e.message), ..e };
        let program: Arc<dyn Program> = backend.open(&archive, device).map_err(at)?.into();
        if archive.platform() == Platform::TorchScript {
            scan::check_operators(program.operators().iter().map(String::as_str), policy).map_err(at)?;
        }
        Self::of_parts(archive, contract, program)
    }

    /// Opens a package that is a part of the running program ([`Archive::of_this_program`]). Nobody is asked whether its code is
    /// trusted: whoever started the program runs all of it.
    ///
    /// # Errors
    /// What [`Backend::device`] and [`Backend::open`] say; `InvalidContract` if the contract names other arguments than
    /// `forward` has.
    pub fn of_this_program(archive: Archive, backend: &dyn Backend) -> Result<Self> {
        if archive.platform() != Platform::Compiled {
            return Err(Error::internal("only a compiled package is a part of a program"));
        }
        let contract = contract_of_that_kind(&archive, backend)?;
        let device = backend.device(DeviceRequest::Auto)?;
        let at = |e: Error| Error { message: format!("`{}`: {}", archive.path().display(), e.message), ..e };
        let program = backend.open(&archive, device).map_err(at)?.into();
        Self::of_parts(archive, contract, program)
    }

    fn of_parts(archive: Archive, contract: Option<Contract>, program: Arc<dyn Program>) -> Result<Self> {
        let shown = archive.path().display().to_string();
        let method = program.methods().iter().position(|m| m.name == "forward");
        let method = match (method, program.methods().first()) {
            (Some(i), _) => i,
            (None, Some(_)) => 0,
            (None, None) => {
                return Err(Error::invalid_model(format!("`{shown}`: the model has no method that could be called"))
                    .hint("give it a `forward`, or mark a method with `@torch.jit.export`"));
            }
        };
        let turns = program.is_stateful().then(Turns::of_a_model);
        let model = Self { archive, contract, program, method, turns, places: None };
        model.check_contract_against_arguments(&shown)?;
        Ok(model)
    }

    /// The model with another method to call. The contract describes `forward`; a call of another method is checked against
    /// that method's own types alone, and its outputs are named as without a contract.
    ///
    /// # Errors
    /// As [`find_method`].
    pub fn calling(mut self, method: &str) -> Result<Self> {
        self.method = find_method(self.program.methods(), method, self.archive.path())?;
        if method != "forward" {
            self.contract = None;
        }
        Ok(self)
    }

    /// The model for many calls: the first one takes longer, because it compares a faster form of the model with the one in
    /// the file, within the contract's tolerance; see [`Program::optimise`]. One call alone is faster without.
    ///
    /// # Errors
    /// `Unavailable` if memory has no room for it.
    pub fn optimised(mut self) -> Result<Self> {
        if self.method().name != "forward" {
            return Ok(self);
        }
        let without = Tolerance { rtol: 1e-4, atol: 0.0, atol_of_largest: 1e-5 };
        let of_contract = self.contract.iter().flat_map(|c| &c.outputs);
        let tolerance = of_contract
            .map(|o| Tolerance { rtol: o.rtol, atol: o.atol, atol_of_largest: 0.0 })
            .reduce(|a, b| Tolerance { rtol: a.rtol.min(b.rtol), atol: a.atol.min(b.atol), ..a })
            .unwrap_or(without);
        // A clone is somebody who calls it already.
        if let Some(program) = Arc::get_mut(&mut self.program) {
            program.optimise(tolerance)?;
        }
        Ok(self)
    }

    /// The model with at most that many calls at once, sessions included: further callers wait for their turn. Without it every
    /// caller's call runs at once.
    pub fn at_once(mut self, calls: usize) -> Self {
        self.places = Some(Arc::new(Places::new(calls)));
        self
    }

    /// Most calls at once, where there is a bound.
    pub fn most_at_once(&self) -> Option<usize> {
        self.places.as_ref().map(|p| p.count)
    }

    /// In which form it runs; settled after the first call.
    pub fn speed(&self) -> Speed {
        self.program.speed()
    }

    /// Whether a call changes what a later one computes, because the model's code writes to its own attributes.
    ///
    /// Such a model belongs to the thread that calls it first; other callers take a [`Model::session`].
    pub fn is_stateful(&self) -> bool {
        self.turns.is_some()
    }

    /// The model as it was loaded, for one more caller: where it keeps state between calls, with a state of its own. A
    /// session may move between threads, but two calls of it at once are refused. Its weights are shared with the model's
    /// unless the model's code writes into them.
    ///
    /// # Errors
    /// What [`Program::session`] says.
    pub fn session(&self) -> Result<Self> {
        let (program, turns) = match self.turns {
            Some(_) => (self.program.session()?.into(), Some(Turns::of_a_session())),
            None => (self.program.clone(), None),
        };
        let (archive, contract) = (self.archive.clone(), self.contract.clone());
        Ok(Self { archive, contract, program, method: self.method, turns, places: self.places.clone() })
    }

    fn check_contract_against_arguments(&self, shown: &str) -> Result<()> {
        let Some(contract) = &self.contract else { return Ok(()) };
        let arguments = &self.method().arguments;
        let named: Vec<&str> = contract.inputs.iter().map(|i| i.name.as_str()).collect();
        let needed = |a: &&crate::Argument| a.default.is_none() || named.contains(&a.name.as_str());
        let have: Vec<&str> = arguments.iter().filter(needed).map(|a| a.name.as_str()).collect();
        if self.method().name != "forward" || named != have {
            return Err(Error::invalid_contract(format!(
                "`{shown}`: contract.json names the inputs {named:?}, the model's method is `{}`",
                self.method()
            )));
        }
        Ok(())
    }

    /// The file that it was loaded from.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The contract, where the file has one.
    pub fn contract(&self) -> Option<&Contract> {
        self.contract.as_ref()
    }

    /// What the file's graph says of inputs and outputs, where it has one that does: an ONNX file.
    pub fn graph(&self) -> Option<&Onnx> {
        self.program.graph()
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.program.device()
    }

    /// The method that [`Model::call`] calls: `forward`, or the only one there is.
    pub fn method(&self) -> &Method {
        &self.program.methods()[self.method]
    }

    /// Puts named inputs in the order of the arguments; those with a default may be missing.
    ///
    /// # Errors
    /// `InvalidInput` that names an unknown, doubled or missing input, beside those there are.
    pub fn bind(&self, inputs: Vec<(String, Value)>) -> Result<Vec<Option<Value>>> {
        let method = self.method();
        let all = || method.arguments.iter().map(|a| format!("`{}`", a.name)).collect::<Vec<_>>().join(", ");
        let mut bound = vec![None; method.arguments.len()];
        for (name, value) in inputs {
            let Some(at) = method.arguments.iter().position(|a| a.name == name) else {
                return Err(Error::invalid_input(format!("unknown input `{name}`, the model takes {}", all())));
            };
            if bound[at].replace(value).is_some() {
                return Err(Error::invalid_input(format!("input `{name}` was given twice")));
            }
        }
        let missing: Vec<_> =
            method.arguments.iter().zip(&bound).filter(|(a, v)| v.is_none() && a.default.is_none()).collect();
        if !missing.is_empty() {
            let names = missing.iter().map(|(a, _)| format!("`{}`", a.name)).collect::<Vec<_>>().join(", ");
            let s = if missing.len() > 1 { "s" } else { "" };
            return Err(Error::invalid_input(format!("missing input{s} {names}, the model takes {}", all())));
        }
        Ok(bound)
    }

    /// Runs the model with one value for each argument (see [`Model::bind`]) and returns what it returned.
    ///
    /// # Errors
    /// `InvalidInput` if a tensor does not fit the contract, or a model that keeps state is called by another thread than
    /// before or by two at once; `Timeout` if the call should end while it waits for its turn ([`Model::at_once`]); and what
    /// [`Program::run`] says.
    pub fn call(&self, arguments: &[Option<Value>]) -> Result<Value> {
        if arguments.len() != self.method().arguments.len() {
            return Err(Error::invalid_input(format!(
                "{} inputs were given, the model takes {}: `{}`",
                arguments.len(),
                self.method().arguments.len(),
                self.method()
            )));
        }
        if let Some(contract) = &self.contract {
            check_inputs(contract, self.method(), arguments)?;
        }
        let _turn = self.turns.as_ref().map(Turns::take).transpose()?;
        let _place = self.places.as_ref().map(|p| p.take()).transpose()?;
        self.program.run(self.method, arguments)
    }

    /// Runs the model with named inputs; names and order of the outputs are those of [`Model::outputs`].
    ///
    /// # Errors
    /// As [`Model::bind`] and [`Model::call`].
    pub fn run(&self, inputs: Vec<(String, Value)>) -> Result<Vec<(String, Value)>> {
        self.outputs(self.call(&self.bind(inputs)?)?)
    }

    /// Takes a result apart into named leaves: by the contract's names, else as [`value::flatten`] numbers them.
    ///
    /// # Errors
    /// `Mismatch` if the result is nested in another way than the contract says.
    pub fn outputs(&self, result: Value) -> Result<Vec<(String, Value)>> {
        let Some(contract) = &self.contract else {
            return match (self.graph().map(|g| g.outputs.as_slice()), result) {
                // Several are a NamedTuple already.
                (Some([one]), result) => value::flatten(Value::NamedTuple(vec![(one.name.clone(), result)])),
                (_, result) => value::flatten(result),
            };
        };
        let mut leaves = Vec::with_capacity(contract.outputs.len());
        take_apart(&contract.returns, result, &mut leaves)?;
        for (name, leaf) in &leaves {
            let expected = contract.output(name).map(|o| o.datatype);
            let got = if let Value::Tensor(t) = leaf { Some(t.datatype()) } else { None };
            if got != expected {
                return Err(Error::new(
                    ErrorKind::Mismatch,
                    format!(
                        "output `{name}` is {leaf:?}, the contract says {}",
                        expected.map_or("nothing", |d| d.as_str())
                    ),
                ));
            }
        }
        Ok(leaves)
    }
}

/// The contract of a file that this backend runs.
fn contract_of_that_kind(archive: &Archive, backend: &dyn Backend) -> Result<Option<Contract>> {
    let shown = archive.path().display();
    let contract = archive.contract()?;
    if let Some(c) = &contract
        && c.platform != archive.platform().as_str()
    {
        return Err(Error::invalid_contract(format!(
            "`{shown}`: contract.json: `platform` is `{}`, this file can only be `{}`",
            c.platform,
            archive.platform()
        )));
    }
    if backend.platform() != archive.platform() {
        let noun = archive.platform().noun();
        return Err(Error::internal(format!("`{shown}` is a {noun}, opened with the backend of another kind")));
    }
    Ok(contract)
}

fn take_apart(returns: &Returns, result: Value, leaves: &mut Vec<(String, Value)>) -> Result<()> {
    let differs = |got: &Value| {
        Error::new(
            ErrorKind::Mismatch,
            format!("the model returned {}, which is nested in another way than the contract says", got.kind()),
        )
    };
    match (returns, result) {
        (
            Returns::Name(name),
            leaf @ (Value::Tensor(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Str(_)),
        ) => {
            leaves.push((name.clone(), leaf));
        }
        (Returns::List(trees), Value::Tuple(items) | Value::List(items)) if trees.len() == items.len() => {
            for (tree, item) in trees.iter().zip(items) {
                take_apart(tree, item, leaves)?;
            }
        }
        (Returns::List(trees), Value::NamedTuple(fields)) if trees.len() == fields.len() => {
            for (tree, (_, item)) in trees.iter().zip(fields) {
                take_apart(tree, item, leaves)?;
            }
        }
        (Returns::Dict(trees), result @ (Value::Dict(_) | Value::NamedTuple(_))) => {
            let mut have: BTreeMap<String, Value> = match result {
                Value::Dict(pairs) => pairs.into_iter().map(|(k, v)| (k.key(), v)).collect(),
                Value::NamedTuple(fields) => fields.into_iter().collect(),
                _ => BTreeMap::new(),
            };
            for (key, tree) in trees {
                let item = have.remove(key).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Mismatch,
                        format!("the model returned a dict without the key `{key}` of the contract"),
                    )
                })?;
                take_apart(&Returns::from_json(tree)?, item, leaves)?;
            }
        }
        (_, other) => return Err(differs(&other)),
    }
    Ok(())
}

/// Checks every given tensor against the contract: datatype, rank, fixed sizes, named sizes that must agree, bounds.
fn check_inputs(contract: &Contract, method: &Method, arguments: &[Option<Value>]) -> Result<()> {
    // Few names: a vector is faster than a map, and this is on the way of every call.
    let mut sizes: Vec<(&str, i64, &str)> = Vec::new();
    for (argument, value) in method.arguments.iter().zip(arguments) {
        let Some(input) = contract.inputs.iter().find(|i| i.name == argument.name) else { continue };
        match value {
            Some(Value::Tensor(tensor)) => check_tensor(contract, input, tensor, &mut sizes)?,
            Some(Value::None) | None if input.optional || argument.default.is_some() => {}
            Some(other) => {
                return Err(Error::invalid_input(format!(
                    "input `{}` is {}, expected a tensor of {}",
                    input.name,
                    other.kind(),
                    input.datatype
                )));
            }
            None => {}
        }
    }
    Ok(())
}

fn check_tensor<'c>(
    contract: &'c Contract,
    input: &'c Input,
    tensor: &Tensor,
    sizes: &mut Vec<(&'c str, i64, &'c str)>,
) -> Result<()> {
    let name = &input.name;
    if tensor.datatype() != input.datatype {
        return Err(Error::invalid_input(format!(
            "input `{name}` is {} ({}), model `{}` expects {} ({})",
            tensor.datatype(),
            tensor.datatype().numpy_name(),
            contract.name,
            input.datatype,
            input.datatype.numpy_name()
        )));
    }
    let fits = tensor.shape().len() == input.shape.len()
        && tensor.shape().iter().zip(&input.shape).all(|(&got, &want)| want < 0 || got == want);
    if !fits {
        return Err(Error::invalid_input(format!(
            "input `{name}` has shape {:?}, model `{}` expects {}",
            tensor.shape(),
            contract.name,
            shown_shape(input)
        )));
    }
    for (&size, dim) in tensor.shape().iter().zip(&input.dims) {
        let Dim::Named(dim) = dim else { continue };
        if let Some((_, other, first)) = sizes.iter().find(|(d, ..)| d == dim) {
            if *other != size {
                return Err(Error::invalid_input(format!(
                    "`{dim}` is {size} in input `{name}` and {other} in input `{first}`, they must be equal"
                )));
            }
            continue;
        }
        sizes.push((dim, size, name));
        let Some(bounds) = contract.dims.get(dim) else { continue };
        if bounds.min.is_some_and(|min| size < min) || bounds.max.is_some_and(|max| size > max) {
            let min = bounds.min.unwrap_or(0);
            let range = bounds.max.map_or(format!("at least {min}"), |max| format!("{min} to {max}"));
            return Err(Error::invalid_input(format!(
                "`{dim}` is {size} in input `{name}`, model `{}` expects {range}",
                contract.name
            )));
        }
    }
    Ok(())
}

/// `[batch, 1, 28, 28]`
fn shown_shape(input: &Input) -> String {
    let dims = input.dims.iter().map(|d| match d {
        Dim::Fixed(n) => n.to_string(),
        Dim::Named(name) => name.clone(),
    });
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}

/// Where the method of that name is in a list.
///
/// # Errors
/// `InvalidInput` with the name that was meant, if one is near, and those there are.
pub fn find_method(methods: &[Method], name: &str, path: &std::path::Path) -> Result<usize> {
    methods.iter().position(|m| m.name == name).ok_or_else(|| {
        let how_near = |m: &Method| match !name.is_empty() && m.name.contains(name) {
            true => 1.0,
            false => strsim::normalized_damerau_levenshtein(&m.name, name),
        };
        let near = methods.iter().map(|m| (how_near(m), &m.name)).filter(|(near, _)| *near > 0.6);
        let near = near.max_by(|a, b| a.0.total_cmp(&b.0));
        let meant = near.map_or(String::new(), |(_, name)| format!(", did you mean `{name}`?"));
        let all = methods.iter().map(|m| format!("`{}`", m.name)).collect::<Vec<_>>().join(", ");
        let has = if all.is_empty() { "no methods".to_owned() } else { all };
        let and = if meant.is_empty() { ", it has" } else { " It has" };
        Error::invalid_input(format!("`{}` has no method `{name}`{meant}{and} {has}", path.display()))
            .hint("`rust-host info` shows each with its types")
    })
}

/// The type that an argument is written as, with what the contract adds.
pub fn expected_type(
    method: &Method,
    contract: Option<&Contract>,
    name: &str,
) -> Option<(Type, Option<crate::Datatype>)> {
    let argument = method.arguments.iter().find(|a| a.name == name)?;
    let datatype = contract.and_then(|c| c.inputs.iter().find(|i| i.name == name)).map(|i| i.datatype);
    Some((argument.kind.clone(), datatype))
}
