//! What others write beside a model → a provisional contract: `config.txt` of Ultralytics, `metadata.json` of MONAI.
//! Nothing here was checked against the model, so it is shown and used under the name of the file that says it, and never
//! refuses a call. A file that cannot be read is a note: it is not ours.

use crate::{
    Archive, Datatype, Method, Type,
    contract::{Activation, Color, Dim, Image, Layout, Size},
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
        let Ok(Some(bytes)) = archive.member(&format!("extra/{name}")) else { continue };
        match read_one(&bytes, reader, forward) {
            Ok(provisional) => found.provisional = found.provisional.or(provisional),
            Err(why) => found.notes.push(printable(&format!("`{name}` beside the model is not used: {why}"))),
        }
    }
    found
}

type Reader = fn(&Map<String, Json>, Option<&Method>) -> Said<Option<Provisional>>;
const READERS: [(&str, Reader); 2] = [("config.txt", ultralytics), ("metadata.json", monai)];

fn read_one(bytes: &[u8], reader: Reader, forward: Option<&Method>) -> Said<Option<Provisional>> {
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(said)) => reader(&said, forward),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(e) => Err(format!("it is not JSON: {e}")),
    }
}

/// `{"task": "detect", "imgsz": [640, 640], "batch": 1, "channels": 3, "names": {"0": "person"}, "args": {"half": false}}`, or of YOLOv5
/// `{"shape": [1, 3, 640, 640], "stride": 32, "names": […]}`.
fn ultralytics(said: &Map<String, Json>, forward: Option<&Method>) -> Said<Option<Provisional>> {
    if !["names", "imgsz", "shape"].iter().any(|key| said.contains_key(*key)) {
        return Err("it has none of `names`, `imgsz` and `shape`, which Ultralytics writes there".to_owned());
    }
    let labels = said.get("names").map_or(Ok(Vec::new()), |names| labels(names, "names"))?;
    let shape = said.get("shape").map(|s| sizes(s, "shape")).transpose()?;
    let imgsz = said.get("imgsz").map(|s| sizes(s, "imgsz")).transpose()?;
    let (batch, channels, size) = match (imgsz.as_deref(), shape.as_deref()) {
        (Some(&[height, width]), _) => (None, None, Some((height, width))),
        (Some(&[side]), _) => (None, None, Some((side, side))),
        (None, Some(&[batch, channels, height, width])) => (Some(batch), Some(channels), Some((height, width))),
        (None, None) => (None, None, None),
        (Some(other), _) => return Err(format!("`imgsz` is {other:?}, expected [height, width]")),
        (None, Some(other)) => return Err(format!("`shape` is {other:?}, expected [batch, channels, height, width]")),
    };
    let number = |key: &str| said.get(key).and_then(Json::as_u64).and_then(|n| u32::try_from(n).ok());
    let batch = batch.or(number("batch"));
    let channels = channels.or(number("channels")).unwrap_or(3);
    let arguments = said.get("args").and_then(Json::as_object);
    let flag =
        |key: &str| arguments.and_then(|a| a.get(key)).or(said.get(key)).and_then(Json::as_bool).unwrap_or(false);
    let (half, free) = (flag("half"), flag("dynamic"));
    let named = |name: &str| Dim::Named(name.to_owned());
    let batch = batch.filter(|_| !free).map_or(named("batch"), |n| Dim::Fixed(n.into()));
    let sides = match size.filter(|_| !free) {
        Some((height, width)) => [Dim::Fixed(height.into()), Dim::Fixed(width.into())],
        None => [named("height"), named("width")],
    };
    let argument = only_tensor(forward);
    let task = text(said, "task");
    let input = Entry {
        name: "images".to_owned(),
        is: argument.clone(),
        datatype: Some(if half { Datatype::Fp16 } else { Datatype::Fp32 }),
        dims: [vec![batch.clone(), Dim::Fixed(channels.into())], sides.to_vec()].concat(),
        range: Some([0.0, 1.0]),
        ..Entry::default()
    };
    let color = match channels {
        1 => Some(Color::L),
        3 => Some(Color::RGB),
        _ => None,
    };
    let image = argument.zip(color).zip(size).map(|((input, color), (height, width))| Image {
        input,
        color,
        layout: Layout::NCHW,
        size: Some(Size { height, width }),
        rescale_factor: Some(1.0 / 255.0),
    });
    // Its head ends in a softmax when it is exported. What the numbers of other tasks are takes a decoder to say.
    let classifies = task.as_deref() == Some("classify") && !labels.is_empty();
    let outputs = Vec::from_iter(classifies.then(|| Entry {
        name: "probabilities".to_owned(),
        is: only_output(forward),
        datatype: input.datatype,
        dims: vec![batch, Dim::Fixed(labels.len() as i64)],
        range: Some([0.0, 1.0]),
        channels: labels.clone(),
        activation: Some(Activation::Softmax),
    }));
    let (from, writer, description) = ("config.txt", "Ultralytics", text(said, "description"));
    Ok(Some(Provisional { from, writer, description, task, inputs: vec![input], outputs, labels, image }))
}

/// `{"network_data_format": {"inputs": {"image": {"num_channels": 1, "spatial_shape": [160, 160, 160], "dtype": "float32",
/// "value_range": [0, 1]}}, "outputs": {"pred": {…, "channel_def": {"0": "background", "1": "spleen"}}}}}`. MONAI's reader of
/// pictures puts width before height unless it is told otherwise, so how a picture becomes the input is in doubt.
fn monai(said: &Map<String, Json>, forward: Option<&Method>) -> Said<Option<Provisional>> {
    // Without a bundle MONAI writes a time and versions there.
    let Some(format) = said.get("network_data_format") else { return Ok(None) };
    let entries = |key: &str| -> Said<Vec<Entry>> {
        let Some(tensors) = format.get(key) else { return Ok(Vec::new()) };
        let tensors = tensors.as_object().ok_or_else(|| format!("`network_data_format.{key}` is no object"))?;
        let one = |(name, about): (&String, &Json)| {
            entry(name, about).map_err(|why| format!("`network_data_format.{key}.{name}`: {why}"))
        };
        tensors.iter().map(one).collect()
    };
    let (mut inputs, mut outputs) = (entries("inputs")?, entries("outputs")?);
    if let [only] = inputs.as_mut_slice() {
        only.is = only_tensor(forward);
    }
    let mut labels = Vec::new();
    if let [only] = outputs.as_mut_slice() {
        only.is = only_output(forward);
        labels.clone_from(&only.channels);
    }
    let (description, task) = (text(said, "description"), text(said, "task"));
    Ok(Some(Provisional {
        from: "metadata.json",
        writer: "MONAI",
        description,
        task,
        inputs,
        outputs,
        labels,
        image: None,
    }))
}

fn entry(name: &str, about: &Json) -> Said<Entry> {
    let about = about.as_object().ok_or("it is no object")?;
    let datatype = about.get("dtype").and_then(Json::as_str);
    let datatype = datatype.and_then(|name| Datatype::ALL.into_iter().find(|d| d.numpy_name() == name));
    let channels = about.get("num_channels").and_then(Json::as_i64).filter(|n| *n >= 0);
    let mut dims = vec![Dim::Named("batch".to_owned())];
    dims.push(channels.map_or(Dim::Named("channels".to_owned()), Dim::Fixed));
    let spatial = about.get("spatial_shape").map_or(Some(&[][..]), |s| s.as_array().map(Vec::as_slice));
    for size in spatial.ok_or("`spatial_shape` is no list")? {
        dims.push(match size {
            Json::Number(n) => Dim::Fixed(n.as_i64().filter(|n| *n >= 0).ok_or("`spatial_shape` has no whole number")?),
            Json::String(rule) => Dim::Named(printable(rule)),
            _ => return Err("`spatial_shape` has neither a number nor a rule".to_owned()),
        });
    }
    let range = match about.get("value_range").and_then(Json::as_array).map(Vec::as_slice) {
        Some([low, high]) => low.as_f64().zip(high.as_f64()).map(|(low, high)| [low, high]),
        _ => None,
    };
    let channel_def = about.get("channel_def").map_or(Ok(Vec::new()), |def| labels(def, "channel_def"))?;
    let probabilities = about.get("type").and_then(Json::as_str) == Some("probabilities") && dims.len() == 2;
    // Values as they are: whichever of the two it was, they are probabilities already.
    let activation = (probabilities && !channel_def.is_empty()).then_some(Activation::Sigmoid);
    Ok(Entry { name: printable(name), is: None, datatype, dims, range, channels: channel_def, activation })
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

    fn of(json: &str, reader: Reader) -> Said<Option<Provisional>> {
        read_one(json.as_bytes(), reader, Some(&forward()))
    }

    /// As Ultralytics 8.3 writes it, with fewer names.
    const DETECTOR: &str = r#"{"description": "Ultralytics YOLO11n model trained on /ultralytics/cfg/datasets/coco.yaml",
        "author": "Ultralytics", "date": "2025-06-02T08:11:35.021547", "version": "8.3.40",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)", "docs": "https://docs.ultralytics.com",
        "stride": 32, "task": "detect", "batch": 1, "imgsz": [640, 480], "names": {"0": "person", "1": "bicycle", "2": "car"},
        "args": {"batch": 1, "half": false, "dynamic": false, "int8": false}, "channels": 3}"#;

    #[test]
    fn a_detector_of_ultralytics_says_its_picture_and_its_classes() {
        let p = of(DETECTOR, ultralytics).unwrap().unwrap();
        assert_eq!((p.task.as_deref(), p.labels.join(" ")), (Some("detect"), "person bicycle car".to_owned()));
        assert_eq!(p.inputs[0].dims, [1, 3, 640, 480].map(Dim::Fixed));
        let image = p.image.unwrap();
        assert_eq!((image.input.as_str(), image.color, image.layout), ("x", Color::RGB, Layout::NCHW));
        assert_eq!((image.size, image.rescale_factor), (Some(Size { height: 640, width: 480 }), Some(1.0 / 255.0)));
        // What the numbers of a detection are, it does not say.
        assert!(p.outputs.is_empty());
    }

    #[test]
    fn a_classifier_of_ultralytics_gives_probabilities() {
        let json = r#"{"task": "classify", "imgsz": [224, 224], "batch": 1, "names": {"1": "dog", "0": "cat"}, "args": {"half": true, "dynamic": true}}"#;
        let p = of(json, ultralytics).unwrap().unwrap();
        let output = &p.outputs[0];
        assert_eq!((output.is.as_deref(), output.channels.join(" ")), (Some("output_0"), "cat dog".to_owned()));
        assert_eq!((output.activation, p.inputs[0].datatype), (Some(Activation::Softmax), Some(Datatype::Fp16)));
        assert!(matches!(&p.inputs[0].dims[2], Dim::Named(n) if n == "height"));
    }

    #[test]
    fn a_yolov5_file_says_its_shape_and_a_list_of_names() {
        let p = of(r#"{"shape": [1, 3, 320, 640], "stride": 32, "names": ["person", "car"]}"#, ultralytics)
            .unwrap()
            .unwrap();
        assert_eq!(p.inputs[0].dims, [1, 3, 320, 640].map(Dim::Fixed));
        assert_eq!((p.labels.len(), p.task), (2, None));
    }

    /// The example of MONAI's specification of bundles, shortened; JSON has its keys as texts.
    const SPLEEN: &str = r#"{"version": "0.1.0", "monai_version": "0.8.0", "pytorch_version": "1.10.0",
        "task": "Decathlon spleen segmentation", "description": "A pre-trained model for the spleen from CT image",
        "network_data_format": {
          "inputs": {"image": {"type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1,
            "spatial_shape": [160, "16*n", "*"], "dtype": "float32", "value_range": [0, 1], "is_patch_data": false,
            "channel_def": {"0": "image"}}},
          "outputs": {"pred": {"type": "image", "format": "labels", "num_channels": 2, "spatial_shape": [160, 160, 160],
            "dtype": "float32", "value_range": [], "is_patch_data": false, "channel_def": {"0": "background", "1": "spleen"}}}}}"#;

    #[test]
    fn a_bundle_of_monai_says_shapes_channels_and_ranges() {
        let p = of(SPLEEN, monai).unwrap().unwrap();
        let (input, output) = (&p.inputs[0], &p.outputs[0]);
        assert_eq!((input.name.as_str(), input.is.as_deref(), input.range), ("image", Some("x"), Some([0.0, 1.0])));
        let named = |n: &str| Dim::Named(n.to_owned());
        assert_eq!(input.dims, [named("batch"), Dim::Fixed(1), Dim::Fixed(160), named("16*n"), named("*")]);
        assert_eq!((output.range, output.channels.join(" ")), (None, "background spleen".to_owned()));
        assert_eq!((output.activation, &p.image), (None, &None));
        assert_eq!(p.labels, ["background", "spleen"]);
    }

    #[test]
    fn probabilities_of_monai_are_read_as_such() {
        let json = r#"{"network_data_format": {"inputs": {}, "outputs": {"pred": {"type": "probabilities", "num_channels": 2,
            "dtype": "float32", "channel_def": {"0": "A", "1": "B"}}}}}"#;
        assert_eq!(of(json, monai).unwrap().unwrap().outputs[0].activation, Some(Activation::Sigmoid));
    }

    #[test]
    fn what_is_malformed_is_said_and_no_error() {
        for (json, why) in [
            ("{", "not JSON"),
            ("[1]", "no JSON object"),
            (r#"{"a": 1}"#, "none of `names`"),
            (r#"{"names": {"0": "a", "2": "b"}}"#, "not numbered from 0 to 1"),
            (r#"{"names": 3}"#, "neither a list nor an object"),
            (r#"{"names": [[]]}"#, "no text"),
            (r#"{"imgsz": [1, 2, 3]}"#, "expected [height, width]"),
            (r#"{"imgsz": -5}"#, "expected sizes"),
            (r#"{"imgsz": "640"}"#, "expected sizes"),
            (r#"{"shape": [3, 640, 640]}"#, "expected [batch, channels, height, width]"),
        ] {
            let e = of(json, ultralytics).unwrap_err();
            assert!(e.contains(why), "{json}: {e}");
        }
        for (json, why) in [
            (r#"{"network_data_format": {"inputs": []}}"#, "`network_data_format.inputs` is no object"),
            (r#"{"network_data_format": {"inputs": {"a": 1}}}"#, "`network_data_format.inputs.a`: it is no object"),
            (
                r#"{"network_data_format": {"outputs": {"a": {"spatial_shape": [null]}}}}"#,
                "neither a number nor a rule",
            ),
            (r#"{"network_data_format": {"outputs": {"a": {"spatial_shape": 3}}}}"#, "is no list"),
        ] {
            let e = of(json, monai).unwrap_err();
            assert!(e.contains(why), "{json}: {e}");
        }
        assert_eq!(of(r#"{"timestamp": "now", "pytorch_version": "2"}"#, monai), Ok(None));
    }

    #[test]
    fn names_cannot_carry_control_characters() {
        let p = of("{\"names\": [\"a\\u001b[2J\\nb\"]}", ultralytics).unwrap().unwrap();
        assert_eq!(p.labels, ["a\\u{1b}[2J b"]);
    }
}
