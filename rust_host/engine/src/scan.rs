//! The gate: what an archive holds is checked before libtorch sees a byte of it, because code in an archive runs while it is
//! loaded, and libtorch trusts lengths and nesting. Steps: checksums and names (`zip`), pickles and tensor bounds, code,
//! operators. After loading, [`check_operators`] looks once more, at what libtorch itself says the code calls.

use crate::{
    Archive, Error, ErrorKind, Result, at_load,
    attributes::Classes,
    operators::{Policy, refusal},
    pickle::{Id, Node, Pickle},
    scan_code::{Code, Declared},
};
use std::borrow::Cow;

/// Checks the whole archive.
///
/// # Errors
/// `InvalidModel` if it is damaged, `Refused` if it asks for what no model needs, each with member and line.
pub fn scan(archive: &Archive, policy: &Policy) -> Result<()> {
    let shown = archive.path().display();
    let at = |e: Error| Error { message: format!("`{shown}`: {}", e.message), ..e };
    let mut pickles = Vec::new();
    let names: Vec<String> = archive.members().map(|(n, _)| n.to_owned()).collect();
    let mut texts: Vec<(&str, Cow<'_, [u8]>)> = Vec::new();
    for name in &names {
        // What libtorch unpickles; others (traced_inputs.pkl) it leaves alone, and their records may be empty.
        if matches!(name.as_str(), "data.pkl" | "constants.pkl") || name.ends_with(".debug_pkl") {
            pickles.extend(scan_pickle(archive, name).map_err(at)?.map(|p| (name, p)));
        } else if name.starts_with("code/") && name.ends_with(".py") {
            texts.extend(archive.member(name)?.map(|text| (name.as_str(), text)));
        }
    }
    let mut codes = Vec::with_capacity(texts.len());
    let mut declared = Declared::default();
    let mut classes = Classes::default();
    for (file, bytes) in &texts {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| at(Error::invalid_model(format!("the archive is damaged: `{file}` is not UTF-8"))))?;
        let code = Code::read(text, file).map_err(at)?;
        declared.add(&code.tokens);
        classes.add(file, &code.tokens).map_err(at)?;
        codes.push(code);
    }
    codes.iter().try_for_each(|code| code.check(&declared, policy)).map_err(at)?;
    at_load::check(&codes, policy).map_err(at)?;
    for (name, pickle) in &pickles {
        classes.check(pickle).map_err(|e| at(Error { message: format!("`{name}`: {}", e.message), ..e }))?;
    }
    Ok(())
}

/// Checks the operators that libtorch found in a loaded model.
///
/// # Errors
/// `Refused` with the first that may not be used.
pub fn check_operators<'a>(operators: impl IntoIterator<Item = &'a str>, policy: &Policy) -> Result<()> {
    for operator in operators {
        if let Some(why) = refusal(operator).filter(|_| !policy.allowed.contains(operator)) {
            return Err(refused(operator, why, "the model"));
        }
    }
    Ok(())
}

pub(crate) fn refused(operator: &str, why: &str, place: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("{place} calls `{operator}`, which {why}"))
        .hint(format!("if you trust the file: `--allow-operator {operator}`"))
}

fn scan_pickle(archive: &Archive, name: &str) -> Result<Option<Pickle>> {
    let Some(bytes) = archive.member(name)? else { return Ok(None) };
    let pickle = Pickle::read(&bytes).map_err(|e| Error { message: format!("`{name}`: {}", e.message), ..e })?;
    // Records of data.pkl lie in data/, those of constants.pkl in constants/.
    let folder = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".pkl");
    for (function, arguments) in pickle.calls() {
        let function = pickle.text(function).unwrap_or_default();
        if !function.starts_with("torch._utils._rebuild_") {
            continue;
        }
        if !matches!(function, "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_qtensor") {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("`{name}` holds a tensor of the kind `{function}`, whose indices libtorch does not check"),
            ));
        }
        check_tensor(archive, &pickle, arguments, folder)
            .map_err(|e| Error { message: format!("`{name}`: {}", e.message), ..e })?;
    }
    Ok(Some(pickle))
}

/// Bytes of one element of a storage of that name.
fn element_size(storage: &str) -> Option<u64> {
    Some(match storage.trim_start_matches("torch.").trim_end_matches("Storage") {
        "Byte" | "Char" | "Bool" | "QInt8" | "QUInt8" | "Untyped" | "Float8_e5m2" | "Float8_e4m3fn"
        | "Float8_e5m2fnuz" | "Float8_e4m3fnuz" | "Bits8" | "QUInt4x2" | "QUInt2x4" => 1,
        "Short" | "Half" | "BFloat16" | "UInt16" | "Bits16" => 2,
        "Int" | "Float" | "QInt32" | "UInt32" | "ComplexHalf" => 4,
        "Long" | "Double" | "UInt64" | "ComplexFloat" => 8,
        "ComplexDouble" => 16,
        _ => return None,
    })
}

/// libtorch does not check that a record is as long as its tensor: a short one is read past its end.
fn check_tensor(archive: &Archive, pickle: &Pickle, arguments: Id, folder: &str) -> Result<()> {
    let broken = |what: &str| Error::invalid_model(format!("the archive is damaged: a tensor {what}"));
    let parts = pickle.items(arguments).filter(|p| p.len() >= 4).ok_or_else(|| broken("is not described"))?;
    let Node::Persistent(storage) = pickle.node(parts[0]) else { return Err(broken("has no storage")) };
    let storage = pickle.items(*storage).filter(|s| s.len() >= 5).ok_or_else(|| broken("has no storage"))?;
    let (Some(kind), Some(record)) = (pickle.text(storage[1]), pickle.text(storage[2])) else {
        return Err(broken("has no storage"));
    };
    let size = element_size(kind).ok_or_else(|| broken(&format!("has the unknown type `{kind}`")))?;
    let whole = |id: Id| match pickle.node(id) {
        Node::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    };
    let list =
        |id: Id| pickle.items(id).and_then(|items| items.iter().map(|&i| whole(i)).collect::<Option<Vec<u64>>>());
    let (Some(count), Some(offset), Some(sizes), Some(strides)) =
        (whole(storage[4]), whole(parts[1]), list(parts[2]), list(parts[3]))
    else {
        return Err(broken("has a size that is negative or no number"));
    };
    let name = format!("{folder}/{record}");
    let bytes = archive.members().find(|(n, _)| *n == name).map(|(_, s)| s);
    let bytes = bytes.ok_or_else(|| broken(&format!("needs the record `{name}`, which is missing")))?;
    if count.checked_mul(size) != Some(bytes) {
        return Err(broken(&format!("needs {count} elements of {size} bytes, the record `{name}` has {bytes} bytes")));
    }
    if sizes.len() != strides.len() {
        return Err(broken("has another number of strides than of sizes"));
    }
    if sizes.contains(&0) {
        return Ok(());
    }
    let last = sizes.iter().zip(&strides).try_fold(offset, |at, (n, s)| at.checked_add((n - 1).checked_mul(*s)?));
    match last {
        Some(last) if last < count => Ok(()),
        _ => Err(broken(&format!("reaches beyond the record `{name}`"))),
    }
}
