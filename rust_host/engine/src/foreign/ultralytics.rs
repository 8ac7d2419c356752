//! `config.txt`, which Ultralytics puts beside its models: labels and the picture's size, of YOLOv5 to YOLO11.

use super::{Entry, Provisional, Said, labels, only_output, only_tensor, sizes, text};
use crate::{
    Datatype, Method,
    contract::{Activation, Color, Dim, Image, Layout, Size},
};
use serde_json::{Map, Value as Json};

/// `{"task": "detect", "imgsz": [640, 640], "batch": 1, "channels": 3, "names": {"0": "person"}, "args": {"half": false}}`, or of YOLOv5
/// `{"shape": [1, 3, 640, 640], "stride": 32, "names": […]}`.
pub(super) fn read(said: &Map<String, Json>, forward: Option<&Method>) -> Said<Option<Provisional>> {
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

#[cfg(test)]
mod tests {
    use super::{super::tests::of, *};

    /// As Ultralytics 8.3 writes it, with fewer names.
    const DETECTOR: &str = r#"{"description": "Ultralytics YOLO11n model trained on /ultralytics/cfg/datasets/coco.yaml",
        "author": "Ultralytics", "date": "2025-06-02T08:11:35.021547", "version": "8.3.40",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)", "docs": "https://docs.ultralytics.com",
        "stride": 32, "task": "detect", "batch": 1, "imgsz": [640, 480], "names": {"0": "person", "1": "bicycle", "2": "car"},
        "args": {"batch": 1, "half": false, "dynamic": false, "int8": false}, "channels": 3}"#;

    #[test]
    fn a_detector_of_ultralytics_says_its_picture_and_its_classes() {
        let p = of(DETECTOR, read).unwrap().unwrap();
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
        let p = of(json, read).unwrap().unwrap();
        let output = &p.outputs[0];
        assert_eq!((output.is.as_deref(), output.channels.join(" ")), (Some("output_0"), "cat dog".to_owned()));
        assert_eq!((output.activation, p.inputs[0].datatype), (Some(Activation::Softmax), Some(Datatype::Fp16)));
        assert!(matches!(&p.inputs[0].dims[2], Dim::Named(n) if n == "height"));
    }

    #[test]
    fn a_yolov5_file_says_its_shape_and_a_list_of_names() {
        let p = of(r#"{"shape": [1, 3, 320, 640], "stride": 32, "names": ["person", "car"]}"#, read).unwrap().unwrap();
        assert_eq!(p.inputs[0].dims, [1, 3, 320, 640].map(Dim::Fixed));
        assert_eq!((p.labels.len(), p.task), (2, None));
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
            let e = of(json, read).unwrap_err();
            assert!(e.contains(why), "{json}: {e}");
        }
    }
}
