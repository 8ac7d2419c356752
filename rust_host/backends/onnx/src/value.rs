//! `OrtValue` with an owner: what goes into and comes out of ONNX Runtime.

use crate::message;
use ort::sys::{self, ONNXTensorElementDataType as Element};
use rust_host_engine::{Error, Result};
use std::ptr::{self, NonNull};

/// A value of ONNX Runtime.
#[derive(Debug)]
pub(crate) struct Value(NonNull<sys::OrtValue>);

// SAFETY: a value may be used and released on any thread; nothing here changes one that two threads see.
unsafe impl Send for Value {}
// SAFETY: as above.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: the pointer is this value's alone and is not used again.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}

/// What a value is, by `ONNXType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Tensor,
    Sequence,
    Map,
    Optional,
    Other,
}

/// Turns a status into a result.
pub(crate) fn done(status: sys::OrtStatusPtr) -> std::result::Result<(), ort::Error> {
    // SAFETY: the status was returned by the function that was just called, and is given here once.
    unsafe { ort::Error::result_from_status(status) }
}

/// The same where nothing but a mistake of this program or a lack of memory can fail.
pub(crate) fn sure(status: sys::OrtStatusPtr) -> Result<()> {
    done(status).map_err(|e| message::running(&e))
}

impl Value {
    /// Takes over what a function wrote.
    pub(crate) fn take(pointer: *mut sys::OrtValue) -> Result<Self> {
        NonNull::new(pointer).map(Self).ok_or_else(|| Error::internal("ONNX Runtime gave no value"))
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::OrtValue {
        self.0.as_ptr()
    }

    /// A tensor over memory of somebody else.
    ///
    /// # Safety
    /// `data` must hold `length` bytes, aligned for `element`, that nobody writes to while the value lives.
    pub(crate) unsafe fn over(
        memory: &ort::memory::MemoryInfo<'_>,
        element: Element,
        shape: &[i64],
        data: *const u8,
        length: usize,
    ) -> Result<Self> {
        use ort::AsPointer;
        let mut made = ptr::null_mut();
        // SAFETY: the pointers hold what is said beside them; ONNX Runtime never writes to an input.
        sure(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                data.cast_mut().cast(),
                length,
                shape.as_ptr(),
                shape.len(),
                element,
                &mut made,
            )
        })?;
        Self::take(made)
    }

    /// A tensor in memory of ONNX Runtime; numbers in it are not set yet, texts are empty.
    pub(crate) fn new(element: Element, shape: &[i64]) -> Result<Self> {
        let mut made = ptr::null_mut();
        // SAFETY: the pointers hold what is said beside them.
        sure(unsafe {
            (ort::api().CreateTensorAsOrtValue)(allocator()?, shape.as_ptr(), shape.len(), element, &mut made)
        })?;
        Self::take(made)
    }

    /// A list of values.
    pub(crate) fn sequence(items: &[Self]) -> Result<Self> {
        let pointers: Vec<*const sys::OrtValue> = items.iter().map(|i| i.as_ptr().cast_const()).collect();
        let mut made = ptr::null_mut();
        // SAFETY: there are as many pointers as is said, each to a value that lives; they are copied.
        sure(unsafe {
            (ort::api().CreateValue)(pointers.as_ptr(), pointers.len(), sys::ONNXType::ONNX_TYPE_SEQUENCE, &mut made)
        })?;
        Self::take(made)
    }

    pub(crate) fn form(&self) -> Result<Form> {
        // A number, because a later version may know more than the enumeration.
        let mut form = 0i32;
        // SAFETY: the enumeration is written as the four bytes of a number.
        sure(unsafe { (ort::api().GetValueType)(self.as_ptr(), (&raw mut form).cast()) })?;
        Ok(match form {
            1 => Form::Tensor,
            2 => Form::Sequence,
            3 => Form::Map,
            6 => Form::Optional,
            _ => Form::Other,
        })
    }

    /// Whether there is anything in it.
    pub(crate) fn is_there(&self) -> Result<bool> {
        let mut there = 0;
        // SAFETY: the number is written.
        sure(unsafe { (ort::api().HasValue)(self.as_ptr(), &mut there) })?;
        Ok(there != 0)
    }

    /// The type of a tensor's elements by its number, and its sizes.
    pub(crate) fn shape(&self) -> Result<(u64, Vec<i64>)> {
        struct Shape(*mut sys::OrtTensorTypeAndShapeInfo);
        impl Drop for Shape {
            fn drop(&mut self) {
                // SAFETY: the pointer is this one's alone and is not used again.
                unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(self.0) };
            }
        }
        let mut about = Shape(ptr::null_mut());
        // SAFETY: the value is a tensor, and the pointer is where the answer goes.
        sure(unsafe { (ort::api().GetTensorTypeAndShape)(self.as_ptr(), &mut about.0) })?;
        let (mut element, mut count) = (0i32, 0usize);
        // SAFETY: `about` was filled; the enumeration is written as the four bytes of a number.
        sure(unsafe { (ort::api().GetTensorElementType)(about.0, (&raw mut element).cast()) })?;
        // SAFETY: as above.
        sure(unsafe { (ort::api().GetDimensionsCount)(about.0, &mut count) })?;
        let mut sizes = vec![0i64; count];
        // SAFETY: as above, and the vector has as many places as is said.
        sure(unsafe { (ort::api().GetDimensions)(about.0, sizes.as_mut_ptr(), count) })?;
        Ok((u64::from(element.unsigned_abs()), sizes))
    }

    /// Where a tensor's elements begin; null where there are none.
    pub(crate) fn data(&self) -> Result<*mut u8> {
        let mut data = ptr::null_mut();
        // SAFETY: the value is a tensor, and the pointer is where the answer goes.
        sure(unsafe { (ort::api().GetTensorMutableData)(self.as_ptr(), &mut data) })?;
        Ok(data.cast())
    }

    /// How many values are in a sequence, or 2 in a map: keys and values.
    pub(crate) fn count(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the number is written.
        sure(unsafe { (ort::api().GetValueCount)(self.as_ptr(), &mut count) })?;
        Ok(count)
    }

    /// A copy of one of them.
    pub(crate) fn item(&self, index: usize) -> Result<Self> {
        let index = i32::try_from(index).map_err(|_| Error::failed("a sequence has more than 2147483647 values"))?;
        let mut item = ptr::null_mut();
        // SAFETY: the pointer is where the answer goes.
        sure(unsafe { (ort::api().GetValue)(self.as_ptr(), index, allocator()?, &mut item) })?;
        Self::take(item)
    }

    /// The texts of a tensor of them, in row-major order.
    pub(crate) fn texts(&self, count: usize) -> Result<Vec<String>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut length = 0;
        // SAFETY: the value is a tensor of texts.
        sure(unsafe { (ort::api().GetStringTensorDataLength)(self.as_ptr(), &mut length) })?;
        let (mut bytes, mut starts) = (vec![0u8; length], vec![0usize; count]);
        // SAFETY: both vectors have as many places as is said.
        sure(unsafe {
            let content = ort::api().GetStringTensorContent;
            content(self.as_ptr(), bytes.as_mut_ptr().cast(), length, starts.as_mut_ptr(), count)
        })?;
        let ends = starts.iter().skip(1).copied().chain([length]);
        let text = |(&start, end): (&usize, usize)| bytes.get(start..end).unwrap_or_default();
        Ok(starts.iter().zip(ends).map(text).map(|t| String::from_utf8_lossy(t).into_owned()).collect())
    }

    /// Fills a tensor of as many texts.
    pub(crate) fn fill(&self, texts: &[std::ffi::CString]) -> Result<()> {
        let pointers: Vec<_> = texts.iter().map(|t| t.as_ptr()).collect();
        // SAFETY: there are as many pointers as is said, each to a text that ends in a zero; they are copied.
        sure(unsafe { (ort::api().FillStringTensor)(self.as_ptr(), pointers.as_ptr(), pointers.len()) })
    }
}

/// The allocator of the process; never freed.
fn allocator() -> Result<*mut sys::OrtAllocator> {
    let mut allocator = ptr::null_mut();
    // SAFETY: the pointer is where the answer goes.
    sure(unsafe { (ort::api().GetAllocatorWithDefaultOptions)(&mut allocator) })?;
    Ok(allocator)
}
