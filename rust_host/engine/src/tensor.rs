//! The engine's own tensor: what crosses the wall between doors and backends, shaped like DLPack so that each converts
//! without a copy. Its memory always lies in host memory; a backend copies to and from its device.

use crate::{Datatype, Error, Result};
use std::{fmt, ptr::NonNull, sync::Arc};

/// Whoever owns the bytes of a tensor: a `Vec`, a mapped file, a NumPy array, a libtorch tensor.
pub trait Memory: Send + Sync {
    /// All bytes that are owned. The address must not change while the owner lives.
    fn bytes(&self) -> &[u8];

    /// The start of [`Memory::bytes`] for a door that hands the memory to another language to write to; `None` where
    /// somebody else may be reading it (a weight, an input of the caller).
    fn writable(&self) -> Option<NonNull<u8>> {
        None
    }
}

impl Memory for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A typed vector as the memory of a tensor, without a copy.
struct Elements<T>(Vec<T>);

impl<T: bytemuck::NoUninit + Send + Sync> Memory for Elements<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Rust types that are elements of tensors.
pub trait Element: bytemuck::NoUninit + bytemuck::AnyBitPattern + Send + Sync {
    /// The datatype that this Rust type is.
    const DATATYPE: Datatype;
}

macro_rules! elements {
    ($($rust:ty => $datatype:ident),* $(,)?) => { $(impl Element for $rust { const DATATYPE: Datatype = Datatype::$datatype; })* };
}
elements! {
    u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64, i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    half::f16 => Fp16, half::bf16 => Bf16, f32 => Fp32, f64 => Fp64,
}

/// An n-dimensional array: datatype, shape, strides, and memory with an owner. Cloning shares the memory.
#[derive(Clone)]
pub struct Tensor {
    datatype: Datatype,
    shape: Vec<i64>,
    /// In elements; `None` means row-major without gaps.
    strides: Option<Vec<i64>>,
    /// Byte offset of the first element in the memory.
    offset: usize,
    memory: Arc<dyn Memory>,
}

impl Tensor {
    /// A row-major tensor over `memory`, which must have exactly the bytes that the shape needs.
    ///
    /// # Errors
    /// `InvalidInput` if a size is negative, the product overflows, or the memory has another length.
    ///
    /// ```
    /// use rust_host_engine::{Datatype, Tensor};
    /// let t = Tensor::new(Datatype::Fp32, vec![2, 3], std::sync::Arc::new(vec![0u8; 24]))?;
    /// assert_eq!(t.elements(), 6);
    /// # Ok::<(), rust_host_engine::Error>(())
    /// ```
    pub fn new(datatype: Datatype, shape: Vec<i64>, memory: Arc<dyn Memory>) -> Result<Self> {
        let need = byte_length(datatype, &shape)?;
        let have = memory.bytes().len();
        if have != need {
            return Err(Error::invalid_input(format!(
                "shape {shape:?} of {datatype} needs {need} bytes, the data has {have}"
            )));
        }
        Ok(Self { datatype, shape, strides: None, offset: 0, memory })
    }

    /// A tensor from typed elements in row-major order, without a copy.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    ///
    /// ```
    /// let t = rust_host_engine::Tensor::from_elements(vec![2, 2], vec![1i64, 2, 3, 4])?;
    /// assert_eq!(t.datatype().as_str(), "INT64");
    /// # Ok::<(), rust_host_engine::Error>(())
    /// ```
    pub fn from_elements<T: Element>(shape: Vec<i64>, elements: Vec<T>) -> Result<Self> {
        Self::new(T::DATATYPE, shape, Arc::new(Elements(elements)))
    }

    /// A BOOL tensor.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_bools(shape: Vec<i64>, elements: Vec<bool>) -> Result<Self> {
        Self::new(Datatype::Bool, shape, Arc::new(Elements(elements)))
    }

    /// A view with strides (in elements, may be zero or negative) and an offset (in bytes) into `memory`.
    ///
    /// # Errors
    /// `InvalidInput` if an element would lie outside the memory.
    pub fn strided(
        datatype: Datatype,
        shape: Vec<i64>,
        strides: Vec<i64>,
        offset: usize,
        memory: Arc<dyn Memory>,
    ) -> Result<Self> {
        let outside = || Error::invalid_input(format!("shape {shape:?} with strides {strides:?} leaves its memory"));
        if shape.len() != strides.len() {
            return Err(Error::invalid_input(format!(
                "{} sizes but {} strides were given",
                shape.len(),
                strides.len()
            )));
        }
        if byte_length(datatype, &shape)? > 0 {
            let size = datatype.size() as i64;
            let (mut low, mut high) = (0i64, 0i64);
            for (&n, &s) in shape.iter().zip(&strides) {
                let reach = (n - 1).checked_mul(s).and_then(|r| r.checked_mul(size)).ok_or_else(outside)?;
                let end = if reach < 0 { &mut low } else { &mut high };
                *end = end.checked_add(reach).ok_or_else(outside)?;
            }
            let offset = i64::try_from(offset).map_err(|_| outside())?;
            let length = i64::try_from(memory.bytes().len()).map_err(|_| outside())?;
            let last = offset.checked_add(high).and_then(|o| o.checked_add(size)).ok_or_else(outside)?;
            if offset.checked_add(low).is_none_or(|first| first < 0) || last > length {
                return Err(outside());
            }
        }
        let tensor = Self { datatype, shape, strides: Some(strides), offset, memory };
        Ok(if tensor.strides_are_row_major() && tensor.fills_memory() {
            Self { strides: None, ..tensor }
        } else {
            tensor
        })
    }

    fn strides_are_row_major(&self) -> bool {
        let Some(strides) = &self.strides else { return true };
        let mut expected = 1;
        for (&n, &s) in self.shape.iter().zip(strides).rev() {
            if n != 1 && s != expected {
                return self.elements() == 0;
            }
            expected *= n.max(1);
        }
        true
    }

    fn fills_memory(&self) -> bool {
        self.offset == 0 && self.memory.bytes().len() == self.byte_len()
    }

    /// What the elements are.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Sizes of the dimensions; empty for a tensor with one element and no dimension.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Distances between neighbours, in elements; `None` if row-major without gaps.
    pub fn strides(&self) -> Option<&[i64]> {
        self.strides.as_deref()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product::<i64>() as usize // checked when the tensor was made
    }

    /// Bytes of the elements without gaps.
    pub fn byte_len(&self) -> usize {
        self.elements() * self.datatype.size()
    }

    /// The owner of the bytes.
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// Byte offset of the first element in [`Tensor::memory`].
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The elements' bytes if they lie row-major without gaps, in this machine's byte order.
    pub fn contiguous_bytes(&self) -> Option<&[u8]> {
        if !self.strides_are_row_major() {
            return None;
        }
        self.memory.bytes().get(self.offset..self.offset + self.byte_len())
    }

    /// The same values row-major without gaps: this tensor where it is so already, a copy otherwise.
    #[must_use]
    pub fn to_contiguous(&self) -> Self {
        if self.strides_are_row_major() {
            return self.clone();
        }
        let size = self.datatype.size();
        let bytes = self.memory.bytes();
        let mut copy = Vec::with_capacity(self.byte_len());
        self.for_each_offset(|at| copy.extend_from_slice(&bytes[at..at + size]));
        Self { datatype: self.datatype, shape: self.shape.clone(), strides: None, offset: 0, memory: Arc::new(copy) }
    }

    /// Calls `f` with the byte offset of every element, in row-major order.
    fn for_each_offset(&self, mut f: impl FnMut(usize)) {
        let Some(strides) = &self.strides else {
            return (0..self.elements()).for_each(|i| f(self.offset + i * self.datatype.size()));
        };
        if self.elements() == 0 {
            return;
        }
        let mut index = vec![0i64; self.shape.len()];
        let size = self.datatype.size() as i64;
        loop {
            let at: i64 = index.iter().zip(strides).map(|(i, s)| i * s).sum();
            f((self.offset as i64 + at * size) as usize);
            let Some(axis) = (0..index.len()).rev().find(|&a| index[a] + 1 < self.shape[a]) else { return };
            index[axis] += 1;
            index[axis + 1..].fill(0);
        }
    }

    /// The elements as `T`, row-major, copied.
    ///
    /// # Errors
    /// `InvalidInput` if the tensor has another datatype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.datatype != T::DATATYPE {
            return Err(Error::invalid_input(format!("tensor is {}, asked for {}", self.datatype, T::DATATYPE)));
        }
        let whole = self.to_contiguous();
        Ok(whole.contiguous_bytes().map(bytemuck::pod_collect_to_vec).unwrap_or_default())
    }

    /// Every element as a 64-bit float, for comparing and showing. Integers above 2^53 are rounded.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        fn cast<T: Element>(bytes: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
            bytes.chunks_exact(size_of::<T>()).map(|b| f(bytemuck::pod_read_unaligned(b))).collect()
        }
        let whole = self.to_contiguous();
        let bytes = whole.contiguous_bytes().unwrap_or_default();
        match self.datatype {
            Datatype::Bool => cast(bytes, |v: u8| f64::from(u8::from(v != 0))),
            Datatype::Uint8 => cast(bytes, |v: u8| v.into()),
            Datatype::Uint16 => cast(bytes, |v: u16| v.into()),
            Datatype::Uint32 => cast(bytes, |v: u32| v.into()),
            Datatype::Uint64 => cast(bytes, |v: u64| v as f64),
            Datatype::Int8 => cast(bytes, |v: i8| v.into()),
            Datatype::Int16 => cast(bytes, |v: i16| v.into()),
            Datatype::Int32 => cast(bytes, |v: i32| v.into()),
            Datatype::Int64 => cast(bytes, |v: i64| v as f64),
            Datatype::Fp16 => cast(bytes, |v: half::f16| v.into()),
            Datatype::Bf16 => cast(bytes, |v: half::bf16| v.into()),
            Datatype::Fp32 => cast(bytes, |v: f32| v.into()),
            Datatype::Fp64 => cast(bytes, |v: f64| v),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.datatype, self.shape)
    }
}

/// Bytes that a row-major tensor of that shape takes.
///
/// # Errors
/// `InvalidInput` if a size is negative or the product does not fit in memory addresses.
pub fn byte_length(datatype: Datatype, shape: &[i64]) -> Result<usize> {
    if let Some(n) = shape.iter().find(|&&n| n < 0) {
        return Err(Error::invalid_input(format!("shape {shape:?} has the negative size {n}")));
    }
    // A zero must not hide an overflow of the others: strides are computed from them.
    let product = shape.iter().try_fold(datatype.size() as i64, |total, &n| total.checked_mul(n.max(1)));
    match product {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(bytes) => Ok(bytes as usize),
        None => Err(Error::invalid_input(format!("shape {shape:?} of {datatype} overflows the address space"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stride_reads_as_its_values_say() {
        let memory: Arc<dyn Memory> = Arc::new(Elements((0..12i32).collect::<Vec<_>>()));
        let read = |shape: &[i64], strides: &[i64], offset| {
            Tensor::strided(Datatype::Int32, shape.to_vec(), strides.to_vec(), offset, memory.clone())
                .unwrap()
                .to_vec::<i32>()
                .unwrap()
        };
        assert_eq!(read(&[3, 4], &[4, 1], 0), (0..12).collect::<Vec<_>>());
        assert_eq!(read(&[4, 3], &[1, 4], 0), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        assert_eq!(read(&[2, 2], &[-4, 1], 16), [4, 5, 0, 1]);
        assert_eq!(read(&[3], &[0], 8), [2, 2, 2]);
        assert_eq!(read(&[0, 5], &[7, 9], 0), Vec::<i32>::new());
        assert_eq!(read(&[], &[], 44), [11]);
    }

    #[test]
    fn a_view_outside_its_memory_is_refused() {
        let memory: Arc<dyn Memory> = Arc::new(vec![0u8; 48]);
        for (shape, strides, offset) in [
            (vec![13], vec![1], 0),
            (vec![2], vec![-1], 0),
            (vec![2, i64::MAX / 8], vec![1, 1], 0),
            (vec![2], vec![i64::MAX], 0),
            (vec![1], vec![1], 48),
        ] {
            assert!(
                Tensor::strided(Datatype::Int32, shape.clone(), strides, offset, memory.clone()).is_err(),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn a_shape_product_that_overflows_is_a_sentence() {
        for shape in [vec![1 << 40, 1 << 40], vec![0, 1 << 40, 1 << 40], vec![i64::MAX, 2]] {
            let e = byte_length(Datatype::Fp32, &shape).unwrap_err();
            assert!(e.message.contains("overflows"), "{e}");
        }
        assert!(byte_length(Datatype::Fp32, &[-1, 3]).unwrap_err().message.contains("negative"));
        assert_eq!(byte_length(Datatype::Fp32, &[0, 3]).unwrap(), 0);
    }
}
