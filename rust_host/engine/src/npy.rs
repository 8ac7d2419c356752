//! NumPy's `.npy` and `.npz` → [`Tensor`] and back. Byte order and Fortran order are read right; Python objects, text and
//! records are refused by name.

use crate::{Bytes, Datatype, Error, Result, Tensor, tensor::byte_length, value::split_top_level, zip::Zip};
use std::sync::Arc;

/// Reads one array. `shown` is what messages call it: a path, or `data.npz: x`.
///
/// # Errors
/// `InvalidInput` if the header cannot be read, the type has no datatype here, or bytes are missing or left over.
///
/// ```
/// use rust_host_engine::{npy, Tensor};
/// let t = Tensor::from_elements(vec![2], vec![1i32, 2])?;
/// assert_eq!(npy::read(&npy::write(&t), "x.npy")?.to_vec::<i32>()?, [1, 2]);
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn read(bytes: &[u8], shown: &str) -> Result<Tensor> {
    let wrong = |text: String| Error::invalid_input(format!("`{shown}`: {text}"));
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err(wrong("it is not a .npy file (its first bytes are not `\\x93NUMPY`)".into()));
    }
    let (header, data) = split_header(bytes).ok_or_else(|| wrong("its .npy header is cut off".into()))?;
    let header = Header::parse(header).ok_or_else(|| wrong("its .npy header cannot be read".into()))?;
    let (datatype, swapped) = datatype_of(header.descr).map_err(wrong)?;
    let need = byte_length(datatype, &header.shape).map_err(|e| wrong(e.message))?;
    if data.len() != need {
        let shape = &header.shape;
        return Err(wrong(format!("shape {shape:?} of {datatype} needs {need} bytes, the file has {}", data.len())));
    }
    let mut data = data.to_vec();
    if swapped {
        data.chunks_exact_mut(datatype.size()).for_each(<[u8]>::reverse);
    }
    if datatype == Datatype::Bool {
        data.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    if !header.fortran {
        return Tensor::new(datatype, header.shape, Arc::new(data));
    }
    let steps = header.shape.iter().scan(1i64, |step, &n| {
        let this = *step;
        *step *= n.max(1);
        Some(this)
    });
    let strides = steps.collect();
    Tensor::strided(datatype, header.shape, strides, 0, Arc::new(data))
}

/// The header's text and what follows it. Versions 2 and 3 have a longer length field.
fn split_header(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = match bytes.get(6)? {
        1 => (usize::from(u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?)), 10),
        2 | 3 => (u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?) as usize, 12),
        _ => return None,
    };
    let (header, data) = bytes.get(rest..)?.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// The three entries of the header, a Python dict as text. (The crate npyz multiplies the sizes without a check and panics
/// on a hostile shape, hence a reader of our own.)
struct Header<'a> {
    descr: &'a str,
    fortran: bool,
    shape: Vec<i64>,
}

impl<'a> Header<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        for entry in split_top_level(inner) {
            let (key, value) = entry.split_once(':')?;
            match key.trim().trim_matches(['\'', '"']) {
                "descr" => descr = Some(value.trim()),
                "fortran_order" => fortran = Some(value.trim() == "True"),
                "shape" => {
                    let sizes = value.trim().strip_prefix('(')?.strip_suffix(')')?;
                    // Python 2 wrote `3L`.
                    let sizes = split_top_level(sizes).into_iter().map(|n| n.trim_end_matches('L').parse().ok());
                    shape = Some(sizes.collect::<Option<Vec<i64>>>()?);
                }
                _ => {}
            }
        }
        Some(Self { descr: descr?, fortran: fortran?, shape: shape? })
    }
}

/// The datatype of a NumPy type, and whether its bytes must be swapped; or what it is instead.
fn datatype_of(descr: &str) -> std::result::Result<(Datatype, bool), String> {
    let kind = descr.trim_matches(['\'', '"']);
    if descr.starts_with('[') {
        return Err(format!("it holds records (`{descr}`), expected plain numbers"));
    }
    let (order, name) = kind.split_at_checked(1).unwrap_or(("", kind));
    let datatype = match name {
        "b1" => Datatype::Bool,
        "u1" => Datatype::Uint8,
        "u2" => Datatype::Uint16,
        "u4" => Datatype::Uint32,
        "u8" => Datatype::Uint64,
        "i1" => Datatype::Int8,
        "i2" => Datatype::Int16,
        "i4" => Datatype::Int32,
        "i8" => Datatype::Int64,
        "f2" => Datatype::Fp16,
        "f4" => Datatype::Fp32,
        "f8" => Datatype::Fp64,
        _ => {
            let what = if name.starts_with('O') { "Python objects" } else { "values" };
            return Err(format!(
                "it holds {what} of the type `{kind}`, expected plain numbers (save it with another `dtype`)"
            ));
        }
    };
    let foreign = if cfg!(target_endian = "little") { ">" } else { "<" };
    Ok((datatype, order == foreign))
}

/// Reads all arrays of a `.npz`, in the file's order, with their names.
///
/// # Errors
/// `InvalidInput` if it is no zip, is damaged, or an array cannot be read.
pub fn read_npz(bytes: Bytes, shown: &str) -> Result<Vec<(String, Tensor)>> {
    let wrong = |e: Error| Error::invalid_input(format!("`{shown}`: {}", e.message));
    let zip = Zip::open(bytes).map_err(wrong)?;
    let mut arrays = Vec::new();
    for member in zip.members() {
        let Some(name) = member.name.strip_suffix(".npy") else { continue };
        let data = zip.read(member).map_err(wrong)?;
        arrays.push((name.to_owned(), read(&data, &format!("{shown}: {name}"))?));
    }
    Ok(arrays)
}

/// Writes one array as `.npy`, row-major and little-endian. NumPy has no BF16: it is widened to `float32`, which changes
/// no value.
pub fn write(tensor: &Tensor) -> Vec<u8> {
    let tensor = widened(tensor);
    let descr = match tensor.datatype() {
        Datatype::Bool => "|b1",
        Datatype::Uint8 => "|u1",
        Datatype::Uint16 => "<u2",
        Datatype::Uint32 => "<u4",
        Datatype::Uint64 => "<u8",
        Datatype::Int8 => "|i1",
        Datatype::Int16 => "<i2",
        Datatype::Int32 => "<i4",
        Datatype::Int64 => "<i8",
        Datatype::Fp16 => "<f2",
        Datatype::Fp32 | Datatype::Bf16 => "<f4",
        Datatype::Fp64 => "<f8",
    };
    let shape: String = tensor.shape().iter().map(|n| format!("{n}, ")).collect();
    let shape =
        if tensor.shape().len() == 1 { shape.trim_end().to_owned() } else { shape.trim_end_matches(", ").to_owned() };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version and length take 10 bytes; the data begins at a multiple of 64, so that it can be mapped.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - header.len() - 1));
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes()); // 64 dimensions fit in 64 KiB
    out.extend(header.as_bytes());
    let whole = tensor.to_contiguous();
    let data = whole.contiguous_bytes().unwrap_or_default();
    let start = out.len();
    out.extend(data);
    if cfg!(target_endian = "big") {
        out[start..].chunks_exact_mut(tensor.datatype().size()).for_each(<[u8]>::reverse);
    }
    out
}

/// Writes arrays as one `.npz`, uncompressed, as `numpy.savez` does.
///
/// # Errors
/// `InvalidInput` if it would exceed 4 GiB or hold more than 65,535 arrays, or a name is longer than 64 KiB.
///
/// ```
/// use rust_host_engine::{npy, Tensor};
/// let t = Tensor::from_elements(vec![2], vec![1i32, 2])?;
/// let back = npy::read_npz(npy::write_npz(&[("x".into(), t)])?.into(), "x.npz")?;
/// assert_eq!((back[0].0.as_str(), back[0].1.to_vec::<i32>()?), ("x", vec![1, 2]));
/// # Ok::<(), rust_host_engine::Error>(())
/// ```
pub fn write_npz(arrays: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let too_large = || Error::invalid_input("one .npz holds up to 4 GiB in 65,535 arrays, write single .npy files");
    let size = |n: usize| u32::try_from(n).map(u32::to_le_bytes).map_err(|_| too_large());
    let short = |n: usize| u16::try_from(n).map(u16::to_le_bytes).map_err(|_| too_large());
    // Version 2.0, UTF-8 names, stored, 1 January 1980 (the earliest date a zip can say).
    const COMMON: [u8; 10] = [20, 0, 0, 8, 0, 0, 0, 0, 0x21, 0];
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, tensor) in arrays {
        let data = write(tensor);
        let name = format!("{name}.npy");
        let mut about = COMMON.to_vec();
        about.extend(crc32fast::hash(&data).to_le_bytes());
        about.extend(size(data.len())?);
        about.extend(size(data.len())?);
        about.extend(short(name.len())?);
        about.extend([0, 0]);
        let start = size(out.len())?;
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&about);
        directory.extend([0; 10]);
        directory.extend(start);
        directory.extend(name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(about);
        out.extend(name.as_bytes());
        out.extend(data);
    }
    let (count, start) = (short(arrays.len())?, size(out.len())?);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count);
    out.extend(count);
    out.extend(size(directory.len())?);
    out.extend(start);
    out.extend([0, 0]);
    Ok(out)
}

/// BF16 as FP32, anything else as it is.
pub fn widened(tensor: &Tensor) -> Tensor {
    if tensor.datatype() != Datatype::Bf16 {
        return tensor.clone();
    }
    let values: Vec<f32> = tensor.to_vec::<half::bf16>().unwrap_or_default().into_iter().map(f32::from).collect();
    Tensor::from_elements(tensor.shape().to_vec(), values).unwrap_or_else(|_| tensor.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend(((header.len() + 1) as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.push(b'\n');
        out.extend(data);
        out
    }

    #[test]
    fn fortran_order_and_foreign_byte_order_are_read_as_their_values_say() {
        let big =
            file("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }", &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6]);
        assert_eq!(read(&big, "x").unwrap().to_vec::<i16>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_datatype_comes_back_as_it_was() {
        for datatype in Datatype::ALL {
            for shape in [vec![], vec![0, 3], vec![3], vec![2, 2]] {
                let n = shape.iter().product::<i64>() as usize * datatype.size();
                let data: Vec<u8> = (0..n).map(|i| u8::from(datatype != Datatype::Bool) * i as u8).collect();
                let t = Tensor::new(datatype, shape.clone(), Arc::new(data)).unwrap();
                let back = read(&write(&t), "x").unwrap();
                assert_eq!(back.shape(), shape);
                assert_eq!(back.contiguous_bytes(), widened(&t).contiguous_bytes(), "{datatype}");
            }
        }
    }

    #[test]
    fn what_is_no_array_of_numbers_is_named() {
        for (descr, word) in
            [("'|O'", "O"), ("'<U5'", "U5"), ("'<c8'", "c8"), ("[('a', '<f4')]", "records"), ("'<M8[s]'", "M8")]
        {
            let e = read(
                &file(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}"), &[0; 64]),
                "x.npy",
            )
            .unwrap_err();
            assert!(e.message.contains(word) && e.message.starts_with("`x.npy`"), "{e}");
        }
        for bad in
            [&b""[..], b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04", &file("{'descr': '<f4'}", &[])]
        {
            assert!(read(bad, "x.npy").is_err());
        }
        let huge = file("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 8), }", &[]);
        assert!(read(&huge, "x.npy").unwrap_err().message.contains("overflows"));
        let short = file("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", &[0; 8]);
        assert!(read(&short, "x.npy").unwrap_err().message.contains("needs 12 bytes, the file has 8"));
    }
}
