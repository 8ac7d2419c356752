//! Outputs → columns: one for an output with one value a row, `name.0`, `name.1`, … for vectors, label and score where
//! the contract has labels.

use rust_host_engine::{Contract, Datatype, Tensor, contract::Activation};

/// With more labels than these, an output's values are left out beside its label.
const MOST_VALUES: usize = 32;

/// What a column shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The value at that place of the row.
    Value(usize),
    /// The label that is that likely: 0 the most.
    Label(usize),
    /// Its probability.
    Score(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutputColumn {
    pub output: usize,
    pub datatype: Datatype,
    pub shown: Shown,
}

/// All columns of the output, fixed before the first row is written.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Names of the columns that pass through, then those of `columns`.
    pub names: Vec<String>,
    pub passed: usize,
    pub columns: Vec<OutputColumn>,
    /// Values a row of each output.
    pub widths: Vec<usize>,
    /// Labels of the outputs that have some, as `(output, labels, activation, how many are shown)`.
    pub labelled: Vec<Labelled>,
    pub notes: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Labelled {
    pub output: usize,
    pub labels: Vec<String>,
    activation: Option<Activation>,
    shown: usize,
}

/// `widths` are those of the first outputs; where there are none, the contract's.
pub(crate) fn layout(contract: &Contract, passed: Vec<String>, widths: &[usize], top_k: Option<usize>) -> Layout {
    let width = |i: usize, shape: &[i64]| {
        widths.get(i).copied().unwrap_or_else(|| shape.iter().skip(1).map(|&n| n.max(1)).product::<i64>() as usize)
    };
    let widths: Vec<usize> = contract.outputs.iter().enumerate().map(|(i, o)| width(i, &o.shape)).collect();
    let mut layout = Layout {
        passed: passed.len(),
        names: passed,
        columns: Vec::new(),
        widths: widths.clone(),
        labelled: Vec::new(),
        notes: Vec::new(),
    };
    let labels_of = |i: usize| {
        let output = contract.outputs.get(i)?;
        output.labels.clone().filter(|l| Some(&l.len()) == layout.widths.get(i) && !l.is_empty())
    };
    let labels: Vec<Option<Vec<String>>> = (0..contract.outputs.len()).map(labels_of).collect();
    let one = labels.iter().flatten().count() == 1;
    for (i, (output, labels)) in contract.outputs.iter().zip(labels).enumerate() {
        let mut add = |name: String, shown: Shown| {
            let name = free_name(&mut layout, name, &output.name);
            layout.names.push(name);
            layout.columns.push(OutputColumn { output: i, datatype: output.datatype, shown });
        };
        let width = labels.as_ref().map_or(0, Vec::len);
        let values = widths.get(i).copied().unwrap_or(0);
        let prefix = if one { String::new() } else { format!("{}.", output.name) };
        match (&labels, top_k) {
            (None, _) => {}
            (Some(_), None) => {
                add(format!("{prefix}label"), Shown::Label(0));
                add(format!("{prefix}score"), Shown::Score(0));
            }
            (Some(_), Some(k)) => {
                for rank in 0..k.min(width) {
                    add(format!("{prefix}label_{}", rank + 1), Shown::Label(rank));
                    add(format!("{prefix}score_{}", rank + 1), Shown::Score(rank));
                }
            }
        }
        match &labels {
            None if values == 1 => add(output.name.clone(), Shown::Value(0)),
            None => (0..values).for_each(|n| add(format!("{}.{n}", output.name), Shown::Value(n))),
            Some(labels) if top_k.is_none() && width <= MOST_VALUES => {
                for (n, label) in labels.iter().enumerate() {
                    add(format!("{}.{label}", output.name), Shown::Value(n));
                }
            }
            Some(_) => {}
        }
        if let Some(labels) = labels {
            let shown = top_k.unwrap_or(1).min(width);
            layout.labelled.push(Labelled { output: i, labels, activation: output.activation, shown });
        }
    }
    layout
}

/// A name that no column has yet: a table often has a `label` of its own.
fn free_name(layout: &mut Layout, name: String, output: &str) -> String {
    let taken = |n: &String| layout.names.contains(n);
    if !taken(&name) {
        return name;
    }
    let mut other = format!("{output}.{name}");
    let mut count = 2;
    while taken(&other) {
        other = format!("{output}.{name}_{count}");
        count += 1;
    }
    layout.notes.push(format!("the table has a column `{name}`, the model's is written as `{other}`"));
    other
}

impl Labelled {
    /// The most likely labels of each row, by number, with their probabilities.
    pub(crate) fn most_likely(&self, tensor: &Tensor) -> Vec<Vec<(usize, f64)>> {
        let values = tensor.to_f64_vec();
        values.chunks_exact(self.labels.len().max(1)).map(|row| self.of_row(row)).collect()
    }

    fn of_row(&self, row: &[f64]) -> Vec<(usize, f64)> {
        // The order of raw numbers is that of their probabilities.
        let mut order: Vec<usize> = (0..row.len()).collect();
        let by_value = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
        if self.shown < order.len() {
            order.select_nth_unstable_by(self.shown, by_value);
            order.truncate(self.shown);
        }
        order.sort_by(by_value);
        let score: Box<dyn Fn(f64) -> f64> = match self.activation {
            Some(Activation::Softmax | Activation::Sigmoid) => Box::new(|x| x),
            Some(Activation::LogSoftmax) => Box::new(f64::exp),
            None => {
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
                Box::new(move |x| (x - largest).exp() / sum)
            }
        };
        order.into_iter().map(|i| (i, score(row[i]))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(activation: Option<Activation>, shown: usize) -> Labelled {
        let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
        Labelled { output: 0, labels, activation, shown }
    }

    #[test]
    fn the_most_likely_labels_come_first_with_their_probabilities() {
        assert_eq!(labelled(Some(Activation::Softmax), 2).of_row(&[0.1, 0.7, 0.2]), [(1, 0.7), (2, 0.2)]);
        let raw = labelled(None, 1).of_row(&[1000.0, 1000.0, -1000.0]);
        assert_eq!(raw, [(0, 0.5)]);
        let log = labelled(Some(Activation::LogSoftmax), 3).of_row(&[0.25f64.ln(), 0.5f64.ln(), 0.25f64.ln()]);
        assert_eq!(log.iter().map(|l| l.0).collect::<Vec<_>>(), [1, 0, 2]);
        assert!((log[0].1 - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_row_of_nan_has_a_score_of_nan() {
        assert!(labelled(None, 1).of_row(&[f64::NAN, 1.0, 0.0])[0].1.is_nan());
    }
}
