//! What a contract says of inputs and outputs, as tables.

use crate::table;
use rust_host_engine::{
    Contract,
    contract::{Bounds, Dim, Input, Output},
};
use serde_json::json;

/// `[batch, 1, 28, 28]`
pub fn dims(dims: &[Dim]) -> String {
    let one = |d: &Dim| match d {
        Dim::Fixed(n) => n.to_string(),
        Dim::Named(name) => name.clone(),
    };
    format!("[{}]", dims.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// What a model takes and gives, one line each.
pub fn signature(contract: &Contract) -> String {
    let input = |i: &Input| {
        let mut more = Vec::new();
        if i.optional {
            more.push("optional".to_owned());
        }
        if let Some(image) = contract.image.as_ref().filter(|image| image.input == i.name) {
            let size = image.size.map_or(String::new(), |s| format!(", {} x {}", s.height, s.width));
            more.push(format!("picture ({:?}, {:?}{size})", image.color, image.layout));
        }
        more.extend(i.description.clone());
        vec![i.name.clone(), i.datatype.to_string(), dims(&i.dims), more.join(", ")]
    };
    let output = |o: &Output| {
        let mut more = Vec::new();
        if let Some(activation) = o.activation {
            more.push(json!(activation).as_str().unwrap_or_default().to_owned());
        }
        if let Some(labels) = &o.labels {
            more.push(listed(labels));
        }
        more.push(format!("rtol {} atol {}", table::number(o.rtol), table::number(o.atol)));
        vec![o.name.clone(), o.datatype.to_string(), dims(&o.dims), more.join(", ")]
    };
    let mut text = format!("inputs\n{}", table::columns(&contract.inputs.iter().map(input).collect::<Vec<_>>()));
    text.push_str("outputs\n");
    text.push_str(&table::columns(&contract.outputs.iter().map(output).collect::<Vec<_>>()));
    let bound = |(name, b): (&String, &Bounds)| {
        let min = b.min.unwrap_or(0);
        vec![name.clone(), b.max.map_or(format!("at least {min}"), |max| format!("{min} to {max}"))]
    };
    if !contract.dims.is_empty() {
        text.push_str("free sizes\n");
        text.push_str(&table::columns(&contract.dims.iter().map(bound).collect::<Vec<_>>()));
    }
    text
}

/// `3 labels: a b c`
pub fn listed(labels: &[String]) -> String {
    let shown: Vec<&str> = labels.iter().take(10).map(String::as_str).collect();
    let dots = if labels.len() > shown.len() { " …" } else { "" };
    format!("{} labels: {}{dots}", labels.len(), shown.join(" "))
}
