//! Output values → labels with probabilities, by the contract's labels and activation.

use rust_host_engine::{Contract, Value, contract::Activation, foreign::Provisional};

/// The most likely labels of one output.
#[derive(Debug)]
pub struct Prediction {
    /// The output.
    pub output: String,
    /// For each row of the batch the labels with their probabilities, most likely first.
    pub rows: Vec<Vec<(String, f64)>>,
}

/// The `k` most likely labels of every row of every output that has labels.
pub fn predict(contract: &Contract, outputs: &[(String, Value)], k: usize) -> Vec<Prediction> {
    let about = |name: &str| {
        let about = contract.output(name)?;
        Some((about.labels.as_deref()?, about.activation))
    };
    labelled(outputs, k, about)
}

/// The same by a file that nobody checked: only of outputs whose numbers it says to be probabilities.
pub fn predict_provisional(by: &Provisional, outputs: &[(String, Value)], k: usize) -> Vec<Prediction> {
    let about = |name: &str| {
        let entry = by.outputs.iter().find(|o| o.is.as_deref() == Some(name))?;
        Some((entry.channels.as_slice(), Some(entry.activation?)))
    };
    labelled(outputs, k, about)
}

fn labelled<'l>(
    outputs: &[(String, Value)],
    k: usize,
    about: impl Fn(&str) -> Option<(&'l [String], Option<Activation>)>,
) -> Vec<Prediction> {
    let labelled = outputs.iter().filter_map(|(name, value)| {
        let Value::Tensor(tensor) = value else { return None };
        let (labels, activation) = about(name)?;
        let width = usize::try_from(*tensor.shape().last()?).ok().filter(|w| *w == labels.len() && *w > 0)?;
        let values = tensor.to_f64_vec();
        let rows = values.chunks_exact(width).map(|row| most_likely(row, labels, activation, k)).collect();
        Some(Prediction { output: name.clone(), rows })
    });
    labelled.collect()
}

fn most_likely(row: &[f64], labels: &[String], activation: Option<Activation>, k: usize) -> Vec<(String, f64)> {
    let probabilities = probabilities(row, activation);
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    order.into_iter().take(k).map(|i| (labels[i].clone(), probabilities[i])).collect()
}

/// `softmax` and `sigmoid` are probabilities already; raw numbers go through softmax.
fn probabilities(row: &[f64], activation: Option<Activation>) -> Vec<f64> {
    match activation {
        Some(Activation::Softmax | Activation::Sigmoid) => row.to_vec(),
        Some(Activation::LogSoftmax) => row.iter().map(|x| x.exp()).collect(),
        None => {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = row.iter().map(|x| (x - largest).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(|p| p / sum).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_activation_gives_probabilities() {
        let close = |got: Vec<f64>, want: &[f64]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(probabilities(&[1000.0, 1000.0], None), &[0.5, 0.5]));
        assert!(close(probabilities(&[0.25f64.ln(), 0.75f64.ln()], Some(Activation::LogSoftmax)), &[0.25, 0.75]));
        assert!(close(probabilities(&[0.9, 0.8], Some(Activation::Sigmoid)), &[0.9, 0.8]));
        let labels = ["a", "b", "c"].map(str::to_owned);
        let top = most_likely(&[0.1, 0.7, 0.2], &labels, Some(Activation::Softmax), 2);
        assert_eq!(top, [("b".to_owned(), 0.7), ("c".to_owned(), 0.2)]);
        assert!(most_likely(&[f64::NAN, 1.0, 0.0], &labels, None, 9).iter().all(|(_, p)| p.is_nan()));
    }
}
