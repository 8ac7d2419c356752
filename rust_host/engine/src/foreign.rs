//! What others write beside a model → a provisional contract: `config.txt` of Ultralytics, `metadata.json` of MONAI.
//! Nothing here was checked against the model, so it is shown and used under the name of the file that says it, and never
//! refuses a call. A file that cannot be read is a note: it is not ours.

mod monai;
mod ultralytics;

use crate::{
    Archive, Datatype, Method, Type,
    contract::{Activation, Dim, Image},
    error::printable,
};
use serde::Serialize;
use serde_json::{Map, Value as Json};

/// What was found beside a model.
#[derive(Debug, Default)]
pub struct Foreign {
    /// What it takes and gives, as far as one of the files says it.
    pub provisional: Option<Provisional>,
    /// Files that look like one of those and could not be read, a sentence each.
    pub notes: Vec<String>,
}

/// What a model takes and gives by a file that nobody checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Provisional {
    /// The extra file that says so.
    pub from: &'static str,
    /// Who writes such files.
    pub writer: &'static str,
    /// What the model is.
    pub description: Option<String>,
    /// What it does: `detect`, `classify`.
    pub task: Option<String>,
    /// Inputs in the file's order.
    pub inputs: Vec<Entry>,
    /// Outputs in the file's order.
    pub outputs: Vec<Entry>,
    /// What class numbers mean.
    pub labels: Vec<String>,
    /// How a picture becomes the input, where the file leaves no doubt.
    pub image: Option<Image>,
}

/// A tensor, as far as the file describes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Entry {
    /// The name in that file.
    pub name: String,
    /// The model's argument or output that it surely is.
    pub is: Option<String>,
    /// Its datatype.
    pub datatype: Option<Datatype>,
    /// Its sizes.
    pub dims: Vec<Dim>,
    /// Smallest and largest value.
    pub range: Option<[f64; 2]>,
    /// What its channels or classes are.
    pub channels: Vec<String>,
    /// What makes its values probabilities of `channels`, one for each of the last dimension.
    pub activation: Option<Activation>,
}

/// More labels than any data set has; a longer list is somebody's mistake.
const MOST_LABELS: usize = 100_000;

type Said<T> = std::result::Result<T, String>;

/// Reads what lies beside a model; `forward` says which argument is meant.
///
/// ```no_run
/// use rust_host_engine::{Archive, foreign};
/// let archive = Archive::open("yolo11n-cls.torchscript".as_ref())?;
/// let found = foreign::read(&archive, None);
/// println!("{:?}", found.provisional.map(|p| p.labels));
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn read(archive: &Archive, forward: Option<&Method>) -> Foreign {
    let mut found = Foreign::default();
    for (name, reader) in READERS {
        let Ok(Some(bytes)) = archive.extra(name) else { continue };
        match read_one(&bytes, reader, forward) {
            Ok(provisional) => found.provisional = found.provisional.or(provisional),
            Err(why) => found.notes.push(printable(&format!("`{name}` beside the model is not used: {why}"))),
        }
    }
    found
}

type Reader = fn(&Map<String, Json>, Option<&Method>) -> Said<Option<Provisional>>;
const READERS: [(&str, Reader); 2] = [("config.txt", ultralytics::read), ("metadata.json", monai::read)];

fn read_one(bytes: &[u8], reader: Reader, forward: Option<&Method>) -> Said<Option<Provisional>> {
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(said)) => reader(&said, forward),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(e) => Err(format!("it is not JSON: {e}")),
    }
}

/// `["a", "b"]` or `{"0": "a", "1": "b"}`, whose numbers must be 0 to n.
fn labels(names: &Json, key: &str) -> Said<Vec<String>> {
    let label = |name: &Json| {
        let name = name.as_str().map(str::to_owned).or_else(|| name.as_i64().map(|n| n.to_string()));
        name.map(|n| printable(&n).replace('\n', " ")).ok_or_else(|| format!("`{key}` has a name that is no text"))
    };
    let count = names.as_array().map(Vec::len).or_else(|| names.as_object().map(Map::len));
    match (names, count) {
        (_, Some(count)) if count > MOST_LABELS => Err(format!("`{key}` has {count} names, more than {MOST_LABELS}")),
        (Json::Array(list), _) => list.iter().map(label).collect(),
        (Json::Object(map), Some(count)) => (0..count)
            .map(|i| map.get(&i.to_string()).ok_or_else(|| format!("`{key}` is not numbered from 0 to {}", count - 1)))
            .map(|name| label(name?))
            .collect(),
        _ => Err(format!("`{key}` is neither a list nor an object")),
    }
}

/// A side, or a list of them.
fn sizes(value: &Json, key: &str) -> Said<Vec<u32>> {
    let one = |n: &Json| {
        let n = n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        n.ok_or_else(|| format!("`{key}` has {value}, expected sizes"))
    };
    match value {
        Json::Array(list) if list.len() <= 8 => list.iter().map(one).collect(),
        number => one(number).map(|n| vec![n]),
    }
}

fn text(said: &Map<String, Json>, key: &str) -> Option<String> {
    said.get(key).and_then(Json::as_str).filter(|t| !t.is_empty()).map(|t| printable(t).replace('\n', " "))
}

/// The one tensor that must be given.
fn only_tensor(forward: Option<&Method>) -> Option<String> {
    let needed: Vec<_> = forward?.arguments.iter().filter(|a| a.default.is_none()).collect();
    match needed.as_slice() {
        [only] if only.kind == Type::Tensor => Some(only.name.clone()),
        _ => None,
    }
}

/// What the only tensor that is returned is called.
fn only_output(forward: Option<&Method>) -> Option<String> {
    (forward?.returns == Type::Tensor).then(|| "output_0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward() -> Method {
        Method::parse("forward(self, x: Tensor) -> Tensor").unwrap()
    }

    pub(super) fn of(json: &str, reader: Reader) -> Said<Option<Provisional>> {
        read_one(json.as_bytes(), reader, Some(&forward()))
    }

    #[test]
    fn names_cannot_carry_control_characters() {
        let p = of("{\"names\": [\"a\\u001b[2J\\nb\"]}", ultralytics::read).unwrap().unwrap();
        assert_eq!(p.labels, ["a\\u{1b}[2J b"]);
    }
}
