//! Which column is which input, decided once from the names; what is left passes through.

use rust_host_engine::{Contract, Datatype, Error, Model, Result, contract};

/// A column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub name: String,
    /// Nothing but numbers, as far as is known.
    pub numeric: bool,
    /// A list of numbers in each row.
    pub list: bool,
    /// How many, where that is known.
    pub items: Option<usize>,
}

/// An input that columns fill.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub name: String,
    pub datatype: Datatype,
    /// Sizes behind the batch.
    row_shape: Vec<i64>,
    /// Values a row.
    pub width: usize,
    /// Its columns in order: `width` plain ones, or a single list.
    pub columns: Vec<usize>,
}

impl Input {
    pub(crate) fn shape(&self, rows: usize) -> Vec<i64> {
        std::iter::once(rows as i64).chain(self.row_shape.iter().copied()).collect()
    }
}

/// What to do with a column.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// It is a value of that input, at that place of a row.
    Input { slot: usize, offset: usize },
    /// It goes to the output as it is.
    Pass,
}

/// Where every column goes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Plan {
    pub inputs: Vec<Input>,
    /// One for each column.
    pub actions: Vec<Action>,
    /// Columns that pass through, in order.
    pub passed: Vec<usize>,
    pub notes: Vec<String>,
}

/// How many rows one call may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Batching {
    pub least: usize,
    pub most: usize,
}

/// The contract, without which no column has a meaning.
pub(crate) fn contract(model: &Model) -> Result<&Contract> {
    model.contract().ok_or_else(|| {
        Error::invalid_input(format!(
            "`{}` has no contract, so nothing says which column is which input",
            model.archive().path().display()
        ))
        .hint("`py-authoring export` writes one")
    })
}

/// Bounds of the batch, over all inputs that are given. An input of the fixed size 1 is run row by row.
pub(crate) fn batching<'a>(contract: &Contract, inputs: impl Iterator<Item = &'a contract::Input>) -> Result<Batching> {
    let mut found = Batching { least: 0, most: usize::MAX };
    for input in inputs {
        match input.dims.first() {
            Some(contract::Dim::Named(dim)) => {
                let bounds = contract.dims.get(dim).copied().unwrap_or_default();
                let size = |n: i64| usize::try_from(n).unwrap_or(0);
                found.least = found.least.max(bounds.min.map_or(0, size));
                found.most = found.most.min(bounds.max.map_or(usize::MAX, size));
            }
            Some(contract::Dim::Fixed(1)) if input.dims.len() > 1 => {
                found = Batching { least: found.least, most: 1 };
            }
            _ => {
                return Err(Error::invalid_input(format!(
                    "input `{}` has the fixed shape {:?}, which leaves no dimension for the rows of a table",
                    input.name, input.shape
                ))
                .hint("export the model with a free first dimension: `dims = [\"batch\", …]`"));
            }
        }
    }
    if found.most < found.least.max(1) {
        return Err(Error::invalid_input("no number of rows fits the bounds of all inputs"));
    }
    Ok(found)
}

/// Matches the columns of a table with the inputs of the contract.
///
/// # Errors
/// `InvalidInput` that names the input for which no column was found, and the columns there are.
pub(crate) fn plan(contract: &Contract, columns: &[Column]) -> Result<Plan> {
    let mut plan = Plan { actions: vec![Action::Pass; columns.len()], ..Plan::default() };
    let needed = contract.inputs.iter().filter(|i| !i.optional).count();
    for input in &contract.inputs {
        let alone = !input.optional && needed == 1;
        let Some(found) = find(input, columns, alone, &mut plan.notes)? else { continue };
        let slot = plan.inputs.len();
        for (offset, &column) in found.columns.iter().enumerate() {
            match plan.actions.get_mut(column) {
                Some(action @ Action::Pass) => *action = Action::Input { slot, offset },
                _ => {
                    let name = columns.get(column).map_or("", |c| &c.name);
                    return Err(Error::invalid_input(format!("column `{name}` fits two inputs")));
                }
            }
        }
        plan.inputs.push(found);
    }
    if plan.inputs.is_empty() {
        return Err(Error::invalid_input("no column fits an input of the model").hint(format!(
            "the table has {}, the model takes {}",
            list(columns.iter()),
            takes(contract)
        )));
    }
    plan.passed = (0..columns.len()).filter(|&c| matches!(plan.actions.get(c), Some(Action::Pass))).collect();
    Ok(plan)
}

/// The columns of one input: by its name, by its name with numbers, or all numeric ones where it is the only input.
fn find(input: &contract::Input, columns: &[Column], alone: bool, notes: &mut Vec<String>) -> Result<Option<Input>> {
    let name = &input.name;
    let by_name = |wanted: &str| -> Result<Option<usize>> {
        let mut all = columns.iter().enumerate().filter(|(_, c)| c.name == wanted).map(|(i, _)| i);
        match (all.next(), all.next()) {
            (_, Some(_)) => Err(Error::invalid_input(format!("the table has two columns of the name `{wanted}`"))),
            (first, None) => Ok(first),
        }
    };
    let free: Vec<_> = input.dims.iter().skip(1).filter(|d| matches!(d, contract::Dim::Named(_))).collect();
    let sizes: Vec<i64> = input.shape.iter().skip(1).copied().collect();
    let fixed = free.is_empty().then(|| sizes.iter().product::<i64>()).and_then(|n| usize::try_from(n).ok());
    let make = |width: usize, columns: Vec<usize>| {
        let row_shape = sizes.iter().map(|&n| if n < 0 { width as i64 } else { n }).collect();
        Ok(Some(Input { name: name.clone(), datatype: input.datatype, row_shape, width, columns }))
    };
    if let Some(column) = by_name(name)? {
        let items = columns.get(column).and_then(|c| c.items);
        let list = columns.get(column).is_some_and(|c| c.list);
        return match (items, fixed) {
            // No row says how long its lists are: there is none, or all are missing.
            (None, _) if list && (fixed.is_some() || sizes.len() == 1) => make(fixed.unwrap_or(1), vec![column]),
            (Some(items), Some(width)) if items == width => make(width, vec![column]),
            (Some(items), None) if sizes.len() == 1 => make(items, vec![column]),
            (Some(items), _) => Err(Error::invalid_input(format!(
                "column `{name}` has lists of {items} values, the input takes the shape {:?}",
                input.shape
            ))),
            (None, Some(1)) => make(1, vec![column]),
            (None, _) => Err(Error::invalid_input(format!(
                "column `{name}` has one value a row, the input of that name takes {:?}",
                input.shape
            ))
            .hint(format!("name the columns `{name}.0`, `{name}.1`, …"))),
        };
    }
    for (separator, from) in [('.', 0), ('_', 0), ('.', 1), ('_', 1)] {
        let mut numbered = Vec::new();
        while let Some(column) = by_name(&format!("{name}{separator}{}", from + numbered.len()))? {
            numbered.push(column);
        }
        match fixed {
            _ if numbered.is_empty() => {}
            None if sizes.len() == 1 => return make(numbered.len(), numbered),
            Some(width) if width == numbered.len() => return make(width, numbered),
            _ => {
                return Err(Error::invalid_input(format!(
                    "the table has {} columns `{name}{separator}{from}`, `{name}{separator}{}`, …, the input `{name}` takes the shape {:?}",
                    numbered.len(),
                    from + 1,
                    input.shape
                )));
            }
        }
    }
    if input.optional {
        return Ok(None);
    }
    let unfit = |hint: String| {
        Err(Error::invalid_input(format!(
            "no column fits the input `{name}` {:?}, the table has {}",
            input.shape,
            list(columns.iter())
        ))
        .hint(hint))
    };
    let Some(width) = fixed else {
        return unfit(format!("a list column `{name}`, or columns `{name}.0`, `{name}.1`, … fill it"));
    };
    let same = columns.iter().find(|c| c.name.eq_ignore_ascii_case(name));
    if let Some(column) = same {
        return unfit(format!("rename the column `{}` to `{name}`", column.name));
    }
    if !alone {
        return unfit(if width == 1 {
            format!("name its column `{name}`")
        } else {
            format!("name its columns `{name}.0` to `{name}.{}`", width - 1)
        });
    }
    let numeric: Vec<usize> =
        columns.iter().enumerate().filter(|(_, c)| c.numeric && !is_id(&c.name)).map(|(i, _)| i).collect();
    if numeric.len() != width {
        let named = list(numeric.iter().filter_map(|&c| columns.get(c)));
        let names = if width == 1 { format!("`{name}`") } else { format!("`{name}.0` to `{name}.{}`", width - 1) };
        return unfit(format!(
            "name its columns {names}; without such names it takes all columns of numbers, expected {width}, found {named}"
        ));
    }
    notes.push(format!(
        "input `{name}` takes the columns {} in this order",
        list(numeric.iter().filter_map(|&c| columns.get(c)))
    ));
    make(width, numeric)
}

/// Names that number rows and describe none.
fn is_id(name: &str) -> bool {
    let name = name.to_lowercase();
    matches!(name.as_str(), "" | "id" | "index" | "key" | "row" | "unnamed: 0" | "rownames")
        || name.ends_with("_id")
        || name.ends_with(".id")
        // the index of a pandas table
        || name.starts_with("__index_level_")
}

/// `` `a`, `b`, … ``, at most ten.
fn list<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    let mut names: Vec<String> = columns.take(11).map(|c| format!("`{}`", c.name)).collect();
    if names.len() == 11 {
        names.pop();
        names.push("…".to_owned());
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn takes(contract: &Contract) -> String {
    contract.inputs.iter().map(|i| format!("`{}` {:?}", i.name, i.shape)).collect::<Vec<_>>().join(", ")
}
