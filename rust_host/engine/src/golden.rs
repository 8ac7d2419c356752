//! Replays the golden examples of a file on this machine and says how far the results are from the author's.

use crate::{Archive, Contract, Datatype, Error, Model, Result, Tensor, Value, error::ErrorKind, picture};
use serde::Serialize;
use std::sync::Arc;

/// One example: inputs and the outputs that the author's machine gave, in the contract's order.
#[derive(Debug)]
pub struct Example {
    /// Inputs by name.
    pub inputs: Vec<(String, Tensor)>,
    /// Outputs by name.
    pub outputs: Vec<(String, Tensor)>,
    /// A picture file of which the first row of the contract's `image.input` was made; older files have none.
    pub picture: Option<Vec<u8>>,
}

/// How far one output was from the golden one, over all examples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The output.
    pub output: String,
    /// Largest `|got - golden|`.
    pub max_abs: f64,
    /// Largest `|got - golden| / |golden|`, where the golden value is not zero.
    pub max_rel: f64,
    /// The contract's tolerance.
    pub rtol: f64,
    /// The contract's tolerance.
    pub atol: f64,
    /// Whether every element was within `atol + rtol * |golden|`.
    pub ok: bool,
}

/// The verdict over all outputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Number of examples that were run.
    pub examples: usize,
    /// One entry an output.
    pub outputs: Vec<Difference>,
    /// Whether all were within their tolerance.
    pub ok: bool,
}

/// Reads the golden examples of an archive.
///
/// # Errors
/// `InvalidContract` if there are none, the file cannot be read, or a tensor is missing or does not fit the contract.
pub fn read(archive: &Archive, contract: &Contract) -> Result<Vec<Example>> {
    let file = &contract.golden.file;
    let wrong = |text: String| Error::invalid_contract(format!("`{}`: {file}: {text}", archive.path().display()));
    let bytes = archive.extra(file)?.ok_or_else(|| wrong("it is not in the archive".into()))?;
    let tensors =
        safetensors::SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("it cannot be read: {e}")))?;
    let take = |key: String, datatype: Datatype| -> Result<Tensor> {
        let view = tensors.tensor(&key).map_err(|_| wrong(format!("`{key}` is missing")))?;
        let got = datatype_of(view.dtype()).ok_or_else(|| wrong(format!("`{key}` has the type {:?}", view.dtype())))?;
        if got != datatype {
            return Err(wrong(format!("`{key}` is {got}, the contract says {datatype}")));
        }
        let shape = view.shape().iter().map(|&n| n as i64).collect();
        Tensor::new(got, shape, Arc::new(view.data().to_vec()))
    };
    let picture = |i: usize| -> Result<Option<Vec<u8>>> {
        let Some(image) = &contract.image else { return Ok(None) };
        let key = format!("{i}.raw.{}", image.input);
        match tensors.tensor(&key) {
            Err(_) => Ok(None),
            Ok(v) if v.dtype() == safetensors::Dtype::U8 && v.shape().len() == 1 => Ok(Some(v.data().to_vec())),
            Ok(_) => Err(wrong(format!("`{key}` is no vector of bytes"))),
        }
    };
    let example = |i: usize| -> Result<Example> {
        let inputs =
            contract.inputs.iter().filter(|x| !x.optional || tensors.tensor(&format!("{i}.input.{}", x.name)).is_ok());
        Ok(Example {
            inputs: inputs
                .map(|x| Ok((x.name.clone(), take(format!("{i}.input.{}", x.name), x.datatype)?)))
                .collect::<Result<_>>()?,
            outputs: contract
                .outputs
                .iter()
                .map(|y| Ok((y.name.clone(), take(format!("{i}.output.{}", y.name), y.datatype)?)))
                .collect::<Result<_>>()?,
            picture: picture(i)?,
        })
    };
    // A count that is larger than the file fails at the first key that is missing.
    (0..contract.golden.count).map(example).collect()
}

fn datatype_of(dtype: safetensors::Dtype) -> Option<Datatype> {
    use safetensors::Dtype as D;
    Some(match dtype {
        D::BOOL => Datatype::Bool,
        D::U8 => Datatype::Uint8,
        D::U16 => Datatype::Uint16,
        D::U32 => Datatype::Uint32,
        D::U64 => Datatype::Uint64,
        D::I8 => Datatype::Int8,
        D::I16 => Datatype::Int16,
        D::I32 => Datatype::Int32,
        D::I64 => Datatype::Int64,
        D::F16 => Datatype::Fp16,
        D::BF16 => Datatype::Bf16,
        D::F32 => Datatype::Fp32,
        D::F64 => Datatype::Fp64,
        _ => return None,
    })
}

/// Runs every golden example and compares; each in a session of its own, where the model keeps state between calls.
///
/// # Errors
/// `InvalidContract` if the file has no contract or no examples, `InvalidInput` if the model calls another method than
/// `forward`, and what running says. A difference beyond the tolerance
/// is no error but a verdict that is not `ok`.
pub fn verify(model: &Model) -> Result<Verdict> {
    let shown = model.archive().path().display();
    if model.method().name != "forward" {
        let name = &model.method().name;
        return Err(Error::invalid_input(format!("golden examples are of `forward`, this model calls `{name}`")));
    }
    let contract = model.contract().ok_or_else(|| {
        Error::invalid_contract(format!("`{shown}` has no contract, so there is nothing to verify"))
            .hint("`py-authoring export` writes one")
    })?;
    let examples = read(model.archive(), contract)?;
    if examples.is_empty() {
        return Err(Error::invalid_contract(format!(
            "`{shown}` has no golden examples, so there is nothing to verify"
        )));
    }
    let mut outputs: Vec<Difference> = contract
        .outputs
        .iter()
        .map(|o| Difference {
            output: o.name.clone(),
            max_abs: 0.0,
            max_rel: 0.0,
            rtol: o.rtol,
            atol: o.atol,
            ok: true,
        })
        .collect();
    for (number, example) in examples.iter().enumerate() {
        compare_picture(model, contract, number, example)?;
        let inputs = example.inputs.iter().map(|(n, t)| (n.clone(), Value::Tensor(t.clone()))).collect();
        let results = match model.is_stateful() {
            true => model.session()?.run(inputs)?,
            false => model.run(inputs)?,
        };
        for ((difference, (name, golden)), (_, got)) in outputs.iter_mut().zip(&example.outputs).zip(results) {
            let Value::Tensor(got) = got else {
                return Err(Error::new(ErrorKind::Mismatch, format!("output `{name}` is no tensor")));
            };
            difference.compare(golden, &got)?;
        }
    }
    let ok = outputs.iter().all(|d| d.ok);
    Ok(Verdict { examples: examples.len(), outputs, ok })
}

/// Decodes the picture of an example as a host would, and compares it with the input that the author's machine made of it.
fn compare_picture(model: &Model, contract: &Contract, number: usize, example: &Example) -> Result<()> {
    let (Some(bytes), Some(image)) = (&example.picture, &contract.image) else { return Ok(()) };
    let name = &image.input;
    let Some((_, golden)) = example.inputs.iter().find(|(n, _)| n == name) else { return Ok(()) };
    let shown = format!("`{}`: golden `{number}.raw.{name}`", model.archive().path().display());
    let got = picture::read(bytes, Some(contract), name, &format!("{number}.raw.{name}"))
        .map_err(|e| Error::invalid_contract(format!("{shown}: {}", e.message)))?;
    let mismatch = |text: String| Err(Error::new(ErrorKind::Mismatch, format!("{shown} {text}")));
    if golden.shape().first() == Some(&0) || got.shape().get(1..) != golden.shape().get(1..) {
        return mismatch(format!("becomes the shape {:?}, its input has {:?}", got.shape(), golden.shape()));
    }
    let (all, row) = (golden.to_contiguous(), got.to_contiguous());
    let row_bytes = row.contiguous_bytes().unwrap_or_default();
    if all.contiguous_bytes().is_some_and(|b| b.starts_with(row_bytes)) {
        return Ok(());
    }
    let distance = |(a, b): (f64, f64)| (a - b).abs();
    let largest = row.to_f64_vec().into_iter().zip(all.to_f64_vec()).map(distance).fold(0.0, f64::max);
    mismatch(format!("becomes another input than `{number}.input.{name}`, by up to {largest:.3}"))
}

impl Difference {
    fn compare(&mut self, golden: &Tensor, got: &Tensor) -> Result<()> {
        if golden.shape() != got.shape() {
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!(
                    "output `{}` has shape {:?}, the golden example {:?}",
                    self.output,
                    got.shape(),
                    golden.shape()
                ),
            ));
        }
        // Equal bits need no arithmetic, and 64-bit integers must not be rounded into equality.
        let (a, b) = (golden.to_contiguous(), got.to_contiguous());
        if a.contiguous_bytes() == b.contiguous_bytes() {
            return Ok(());
        }
        if !golden.datatype().is_float() {
            self.ok &= self.atol >= 1.0 && golden.datatype() != Datatype::Bool;
        }
        for (want, got) in golden.to_f64_vec().into_iter().zip(got.to_f64_vec()) {
            if want == got || want.is_nan() && got.is_nan() {
                continue;
            }
            let distance = (want - got).abs();
            let distance = if distance.is_nan() { f64::INFINITY } else { distance };
            self.max_abs = self.max_abs.max(distance);
            if want != 0.0 {
                self.max_rel = self.max_rel.max(distance / want.abs());
            }
            // An infinite golden value makes an infinite tolerance: only equality will do then.
            self.ok &= want.is_finite() && distance <= self.atol + self.rtol * want.abs();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(want: &[f32], got: &[f32]) -> Difference {
        let mut d = Difference { output: "y".into(), max_abs: 0.0, max_rel: 0.0, rtol: 1e-3, atol: 1e-3, ok: true };
        let tensor = |v: &[f32]| Tensor::from_elements(vec![v.len() as i64], v.to_vec()).unwrap();
        d.compare(&tensor(want), &tensor(got)).unwrap();
        d
    }

    #[test]
    fn the_tolerance_is_that_of_assert_close() {
        assert!(compare(&[1.0, f32::NAN, f32::INFINITY], &[1.0015, f32::NAN, f32::INFINITY]).ok);
        assert!(!compare(&[1.0], &[1.0021]).ok);
        assert!(!compare(&[f32::INFINITY], &[1.0]).ok);
        assert!(!compare(&[1.0], &[f32::NAN]).ok);
        assert!(!compare(&[f32::NAN], &[1.0]).ok);
        assert_eq!(compare(&[2.0], &[2.5]).max_rel, 0.25);
    }

    #[test]
    fn large_integers_that_round_to_the_same_float_differ() {
        let mut d = Difference { output: "y".into(), max_abs: 0.0, max_rel: 0.0, rtol: 0.0, atol: 0.0, ok: true };
        let tensor = |v: i64| Tensor::from_elements(vec![1], vec![v]).unwrap();
        d.compare(&tensor(1 << 60), &tensor((1 << 60) + 1)).unwrap();
        assert!(!d.ok);
    }
}
