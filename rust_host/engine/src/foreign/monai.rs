//! `metadata.json`, which a bundle of MONAI has: datatypes, sizes, ranges and what the channels are.

use super::{Entry, Provisional, Said, labels, only_output, only_tensor, text};
use crate::{
    Datatype, Method,
    contract::{Activation, Dim},
    error::printable,
};
use serde_json::{Map, Value as Json};

/// `{"network_data_format": {"inputs": {"image": {"num_channels": 1, "spatial_shape": [160, 160, 160], "dtype": "float32",
/// "value_range": [0, 1]}}, "outputs": {"pred": {…, "channel_def": {"0": "background", "1": "spleen"}}}}}`. MONAI's reader of
/// pictures puts width before height unless it is told otherwise, so how a picture becomes the input is in doubt.
pub(super) fn read(said: &Map<String, Json>, forward: Option<&Method>) -> Said<Option<Provisional>> {
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

#[cfg(test)]
mod tests {
    use super::{super::tests::of, *};

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
        let p = of(SPLEEN, read).unwrap().unwrap();
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
        assert_eq!(of(json, read).unwrap().unwrap().outputs[0].activation, Some(Activation::Sigmoid));
    }

    #[test]
    fn what_is_malformed_is_said_and_no_error() {
        for (json, why) in [
            (r#"{"network_data_format": {"inputs": []}}"#, "`network_data_format.inputs` is no object"),
            (r#"{"network_data_format": {"inputs": {"a": 1}}}"#, "`network_data_format.inputs.a`: it is no object"),
            (
                r#"{"network_data_format": {"outputs": {"a": {"spatial_shape": [null]}}}}"#,
                "neither a number nor a rule",
            ),
            (r#"{"network_data_format": {"outputs": {"a": {"spatial_shape": 3}}}}"#, "is no list"),
        ] {
            let e = of(json, read).unwrap_err();
            assert!(e.contains(why), "{json}: {e}");
        }
        assert_eq!(of(r#"{"timestamp": "now", "pytorch_version": "2"}"#, read), Ok(None));
    }
}
