//! Tensors as torch's C interface has them (`torch/csrc/inductor/aoti_torch/c/shim.h`): handles over memory that views share.
//! Every function gives 0, or 1 where it cannot do what it is asked for.

use super::{layout, memory::Block};
use rust_host_engine::Datatype;
use std::{
    ffi::c_void,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

/// Sizes and strides of that many axes lie in the tensor itself.
const FEW: usize = 6;
const DONE: i32 = 0;
/// What an unknown datatype or a missing place is answered with.
const FAILED: i32 = 1;

/// What a handle points to.
pub(crate) struct Tensor {
    storage: Arc<Storage>,
    /// From the storage's start to the first element.
    offset: i64,
    datatype: i32,
    item: usize,
    axes: usize,
    few: [i64; 2 * FEW],
    many: Box<[i64]>,
}

pub(crate) type Handle = *mut Tensor;

/// Memory, and where it goes when the last tensor is gone.
struct Storage {
    start: *mut u8,
    bytes: i64,
    block: Option<Block>,
}

// SAFETY: memory belongs to no thread; the code that writes into it makes its own order.
unsafe impl Send for Storage {}
// SAFETY: as above.
unsafe impl Sync for Storage {}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            block.free();
        }
    }
}

impl Storage {
    fn new(bytes: usize) -> Option<Arc<Self>> {
        let block = Block::new(bytes)?;
        Some(Arc::new(Self { start: block.start().as_ptr(), bytes: i64::try_from(bytes).ok()?, block: Some(block) }))
    }
}

/// Bytes that are in use as long as the tensor is: more than it has, where a larger block was at hand. None of memory that is
/// somebody else's.
///
/// # Safety
/// The handle must be one that these functions made, and live.
pub(crate) unsafe fn room(handle: Handle) -> usize {
    // SAFETY: said by the caller.
    unsafe { &*handle }.storage.block.as_ref().map_or(0, Block::size)
}

impl Tensor {
    fn new(storage: Arc<Storage>, offset: i64, datatype: i32, sizes: &[i64], strides: &[i64]) -> Option<Self> {
        let item = size_of_item(datatype)?;
        let axes = sizes.len();
        let (mut few, mut many) = ([0; 2 * FEW], Box::default());
        match axes <= FEW {
            true => {
                few.iter_mut().zip(sizes.iter().chain(strides)).for_each(|(to, from)| *to = *from);
            }
            false => many = sizes.iter().chain(strides).copied().collect(),
        }
        Some(Self { storage, offset, datatype, item, axes, few, many })
    }

    fn numbers(&self) -> &[i64] {
        if self.axes <= FEW { &self.few } else { &self.many }
    }

    fn sizes(&self) -> &[i64] {
        self.numbers().get(..self.axes).unwrap_or_default()
    }

    fn strides(&self) -> &[i64] {
        self.numbers().get(self.axes..2 * self.axes).unwrap_or_default()
    }

    fn data(&self) -> *mut u8 {
        self.storage.start.wrapping_offset(self.offset as isize * self.item as isize)
    }

    fn elements(&self) -> i64 {
        self.sizes().iter().product()
    }

    /// A copy of the same memory, gaps included.
    fn copy_of_memory(&self) -> Option<Self> {
        let bytes = span(self.sizes(), self.strides(), self.item)?;
        let storage = Storage::new(bytes)?;
        // SAFETY: from its first element to its last the tensor's memory is its own, and the new one's is as long.
        unsafe { ptr::copy_nonoverlapping(self.data(), storage.start, bytes) };
        Self::new(storage, 0, self.datatype, self.sizes(), self.strides())
    }

    /// A copy of the elements that lies as torch's does: [`layout::of_copy`].
    fn copy_of_elements(&self) -> Option<Self> {
        if layout::is_dense(self.sizes(), self.strides()) {
            return self.copy_of_memory();
        }
        let strides = layout::of_copy(self.sizes(), self.strides());
        let storage = Storage::new(span(self.sizes(), &strides, self.item)?)?;
        let copy = Self::new(storage, 0, self.datatype, self.sizes(), &strides)?;
        layout::each(self.sizes(), self.strides(), &strides, &mut |from, to| {
            // SAFETY: an element of both tensors, each within its memory.
            unsafe { ptr::copy_nonoverlapping(self.element(from), copy.element(to), self.item) };
        });
        Some(copy)
    }

    /// The element at that distance from the first one.
    fn element(&self, distance: i64) -> *mut u8 {
        self.data().wrapping_offset(distance as isize * self.item as isize)
    }

    /// The same memory, seen with other sizes.
    fn view(&self, offset: i64, sizes: &[i64], strides: &[i64]) -> Option<Self> {
        Self::new(self.storage.clone(), offset, self.datatype, sizes, strides)
    }
}

fn size_of_item(datatype: i32) -> Option<usize> {
    Datatype::from_torch_code(datatype).map(Datatype::size)
}

/// Bytes from the first element to behind the last.
fn span(sizes: &[i64], strides: &[i64], item: usize) -> Option<usize> {
    if sizes.contains(&0) {
        return Some(0);
    }
    let reach = sizes.iter().zip(strides).try_fold(0i64, |reach, (&size, &stride)| {
        reach.checked_add((size - 1).checked_mul(stride)?).filter(|_| size > 0 && stride >= 0)
    })?;
    usize::try_from(reach).ok()?.checked_add(1)?.checked_mul(item)
}

/// Numbers that the code passes by their address.
///
/// # Safety
/// `count` numbers lie there, or none is asked for.
unsafe fn numbers<'a>(first: *const i64, count: i64) -> &'a [i64] {
    match usize::try_from(count) {
        // SAFETY: the caller's promise.
        Ok(count) if count > 0 && !first.is_null() => unsafe { slice::from_raw_parts(first, count) },
        _ => &[],
    }
}

/// Gives a new tensor away.
///
/// # Safety
/// `place` takes a handle.
unsafe fn give(tensor: Option<Tensor>, place: *mut Handle) -> i32 {
    match tensor {
        Some(tensor) if !place.is_null() => {
            // SAFETY: the caller's promise.
            unsafe { place.write(Box::into_raw(Box::new(tensor))) };
            DONE
        }
        _ => FAILED,
    }
}

/// Gives what `value` reads from a tensor.
///
/// # Safety
/// `tensor` is a handle that lives, and `place` takes the value.
unsafe fn tell<T>(tensor: Handle, place: *mut T, value: impl FnOnce(&Tensor) -> Option<T>) -> i32 {
    // SAFETY: the caller's promise.
    match unsafe { tensor.as_ref() }.and_then(value) {
        Some(value) if !place.is_null() => {
            // SAFETY: as above.
            unsafe { place.write(value) };
            DONE
        }
        _ => FAILED,
    }
}

/// Functions of the interface. Each takes handles that live, places for its answers, and as many numbers as it says.
macro_rules! interface {
    ($($(#[$about:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> i32 $body:block)*) => {
        $($(#[$about])*
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) -> i32 {
            // SAFETY: who calls is a package's code, which keeps to the interface.
            unsafe { $body }
        })*
    };
}

interface! {
    /// Uninitialised memory.
    fn empty_strided(
        axes: i64, sizes: *const i64, strides: *const i64, datatype: i32, device: i32, _index: i32, made: *mut Handle
    ) -> i32 {
        let (sizes, strides) = (numbers(sizes, axes), numbers(strides, axes));
        let make = || {
            let bytes = span(sizes, strides, size_of_item(datatype)?).filter(|_| device == device_type_cpu())?;
            Tensor::new(Storage::new(bytes)?, 0, datatype, sizes, strides)
        };
        give(make(), made)
    }

    /// Over memory of the caller's, which must live as long.
    fn create_tensor_from_blob(
        data: *mut c_void, axes: i64, sizes: *const i64, strides: *const i64, offset: i64, datatype: i32, device: i32,
        _index: i32, made: *mut Handle
    ) -> i32 {
        let (sizes, strides) = (numbers(sizes, axes), numbers(strides, axes));
        let make = || {
            let item = size_of_item(datatype)?;
            let bytes = usize::try_from(offset).ok()?.checked_mul(item)?.checked_add(span(sizes, strides, item)?)?;
            let bytes = i64::try_from(bytes).ok().filter(|_| device == device_type_cpu())?;
            let storage = Storage { start: data.cast(), bytes, block: None };
            Tensor::new(Arc::new(storage), offset, datatype, sizes, strides)
        };
        give(make(), made)
    }

    fn create_tensor_from_blob_v2(
        data: *mut c_void, axes: i64, sizes: *const i64, strides: *const i64, offset: i64, datatype: i32, device: i32,
        index: i32, made: *mut Handle, layout: i32, _metadata: *const u8, _metadata_size: i64
    ) -> i32 {
        if layout == layout_strided() {
            create_tensor_from_blob(data, axes, sizes, strides, offset, datatype, device, index, made)
        } else {
            FAILED
        }
    }

    fn delete_tensor_object(tensor: Handle) -> i32 {
        if !tensor.is_null() {
            drop(Box::from_raw(tensor));
        }
        DONE
    }

    /// A second handle of the same tensor.
    fn new_tensor_handle(tensor: Handle, made: *mut Handle) -> i32 {
        give(tensor.as_ref().and_then(|t| t.view(t.offset, t.sizes(), t.strides())), made)
    }

    /// The same memory with other sizes, from `offset` elements behind the storage's start.
    fn _reinterpret_tensor(
        tensor: Handle, axes: i64, sizes: *const i64, strides: *const i64, offset: i64, made: *mut Handle
    ) -> i32 {
        let (sizes, strides) = (numbers(sizes, axes), numbers(strides, axes));
        give(tensor.as_ref().and_then(|t| t.view(t.offset + offset, sizes, strides)), made)
    }

    fn as_strided(
        tensor: Handle, sizes: *const i64, strides: *const i64, made: *mut Handle
    ) -> i32 {
        let view = |t: &Tensor| {
            let axes = i64::try_from(t.axes).ok()?;
            t.view(t.offset, numbers(sizes, axes), numbers(strides, axes))
        };
        give(tensor.as_ref().and_then(view), made)
    }

    /// A copy without gaps.
    fn clone(tensor: Handle, made: *mut Handle) -> i32 {
        give(tensor.as_ref().and_then(Tensor::copy_of_elements), made)
    }

    /// A copy that lies as the original does.
    fn clone_preserve_strides(tensor: Handle, made: *mut Handle) -> i32 {
        give(tensor.as_ref().and_then(Tensor::copy_of_memory), made)
    }

    fn zero_(tensor: Handle) -> i32 {
        let Some(t) = tensor.as_ref() else { return FAILED };
        match layout::is_dense(t.sizes(), t.strides()) {
            true => t.data().write_bytes(0, span(t.sizes(), t.strides(), t.item).unwrap_or_default()),
            false => layout::each(t.sizes(), t.strides(), t.strides(), &mut |at, _| t.element(at).write_bytes(0, t.item)),
        }
        DONE
    }

    fn get_data_ptr(tensor: Handle, place: *mut *mut c_void) -> i32 {
        tell(tensor, place, |t| Some(t.data().cast()))
    }
    fn get_storage_size(tensor: Handle, place: *mut i64) -> i32 {
        tell(tensor, place, |t| Some(t.storage.bytes))
    }
    fn get_storage_numel(tensor: Handle, place: *mut i64) -> i32 {
        tell(tensor, place, |t| Some(t.storage.bytes / t.item as i64))
    }
    fn get_storage_offset(tensor: Handle, place: *mut i64) -> i32 {
        tell(tensor, place, |t| Some(t.offset))
    }
    fn get_dim(tensor: Handle, place: *mut i64) -> i32 {
        tell(tensor, place, |t| i64::try_from(t.axes).ok())
    }
    fn get_numel(tensor: Handle, place: *mut i64) -> i32 {
        tell(tensor, place, |t| Some(t.elements()))
    }
    /// Numbers that live as long as the handle.
    fn get_sizes(tensor: Handle, place: *mut *const i64) -> i32 {
        tell(tensor, place, |t| Some(t.sizes().as_ptr()))
    }
    fn get_strides(tensor: Handle, place: *mut *const i64) -> i32 {
        tell(tensor, place, |t| Some(t.strides().as_ptr()))
    }
    fn get_size(tensor: Handle, axis: i64, place: *mut i64) -> i32 {
        tell(tensor, place, |t| t.sizes().get(usize::try_from(axis).ok()?).copied())
    }
    fn get_stride(tensor: Handle, axis: i64, place: *mut i64) -> i32 {
        tell(tensor, place, |t| t.strides().get(usize::try_from(axis).ok()?).copied())
    }
    fn get_dtype(tensor: Handle, place: *mut i32) -> i32 {
        tell(tensor, place, |t| Some(t.datatype))
    }
    fn get_device_type(tensor: Handle, place: *mut i32) -> i32 {
        tell(tensor, place, |_| Some(device_type_cpu()))
    }
    fn get_device_index(tensor: Handle, place: *mut i32) -> i32 {
        tell(tensor, place, |_| Some(-1)) // as libtorch's processor
    }
    fn get_layout(tensor: Handle, place: *mut i32) -> i32 {
        tell(tensor, place, |_| Some(layout_strided()))
    }
    fn is_contiguous(tensor: Handle, place: *mut bool) -> i32 {
        tell(tensor, place, |t| Some(layout::is_contiguous(t.sizes(), t.strides())))
    }
    fn is_defined(tensor: Handle, place: *mut bool) -> i32 {
        tell(tensor, place, |_| Some(true))
    }
}

/// What libtorch's functions of these names return.
macro_rules! constants {
    ($($name:ident = $value:expr;)*) => {
        $(pub(crate) extern "C" fn $name() -> i32 {
            $value
        })*
    };
}

constants! {
    device_type_cpu = 0;
    device_type_cuda = 1;
    layout_strided = 0;
    memory_format_contiguous_format = 0;
    memory_format_preserve_format = 1;
    memory_format_channels_last = 2;
    dtype_uint8 = Datatype::Uint8.torch_code();
    dtype_int8 = Datatype::Int8.torch_code();
    dtype_int16 = Datatype::Int16.torch_code();
    dtype_int32 = Datatype::Int32.torch_code();
    dtype_int64 = Datatype::Int64.torch_code();
    dtype_float16 = Datatype::Fp16.torch_code();
    dtype_float32 = Datatype::Fp32.torch_code();
    dtype_float64 = Datatype::Fp64.torch_code();
    dtype_bool = Datatype::Bool.torch_code();
    dtype_bfloat16 = Datatype::Bf16.torch_code();
    dtype_uint16 = Datatype::Uint16.torch_code();
    dtype_uint32 = Datatype::Uint32.torch_code();
    dtype_uint64 = Datatype::Uint64.torch_code();
}

pub(crate) extern "C" fn dtype_element_size(datatype: i32) -> usize {
    size_of_item(datatype).unwrap_or_default()
}

/// There are no gradients here.
pub(crate) extern "C" fn grad_mode_is_enabled() -> bool {
    false
}

pub(crate) extern "C" fn grad_mode_set_enabled(_enabled: bool) {}

/// The only element of a tensor.
macro_rules! items {
    ($($name:ident: $type:ty, $datatype:ident;)*) => {
        $(pub(crate) unsafe extern "C" fn $name(tensor: Handle, place: *mut $type) -> i32 {
            let first = |t: &Tensor| {
                let is_one = t.datatype == Datatype::$datatype.torch_code() && t.elements() == 1;
                let data = NonNull::new(t.data().cast::<$type>()).filter(|_| is_one)?;
                // SAFETY: one element of that size lies there.
                Some(unsafe { data.read_unaligned() })
            };
            // SAFETY: who calls is a package's code, which keeps to the interface.
            unsafe { tell(tensor, place, first) }
        })*
    };
}

items! {
    item_bool: u8, Bool;
    item_uint8: u8, Uint8;
    item_int8: i8, Int8;
    item_int16: i16, Int16;
    item_int32: i32, Int32;
    item_int64: i64, Int64;
    item_float32: f32, Fp32;
    item_float64: f64, Fp64;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(sizes: &[i64], strides: &[i64]) -> Handle {
        let mut made = ptr::null_mut();
        // SAFETY: both have as many numbers as are named.
        let failed = unsafe {
            empty_strided(sizes.len() as i64, sizes.as_ptr(), strides.as_ptr(), dtype_float32(), 0, 0, &raw mut made)
        };
        assert_eq!(failed, DONE);
        made
    }

    fn asked<T: Copy>(start: T, ask: impl FnOnce(*mut T) -> i32) -> T {
        let mut place = start;
        assert_eq!(ask(&raw mut place), DONE);
        place
    }

    #[test]
    fn views_share_memory_that_lives_until_the_last_of_them_is_gone() {
        let whole = empty(&[2, 3], &[3, 1]);
        // SAFETY: the handles live until they are deleted, and six numbers lie behind them.
        unsafe {
            let data = asked(ptr::null_mut(), |p| get_data_ptr(whole, p)).cast::<f32>();
            (0..6).for_each(|n| data.add(n).write(n as f32));
            let row = asked(ptr::null_mut(), |p| _reinterpret_tensor(whole, 1, [3].as_ptr(), [1].as_ptr(), 3, p));
            let last = asked(ptr::null_mut(), |p| _reinterpret_tensor(row, 0, ptr::null(), ptr::null(), 2, p));
            let second = asked(ptr::null_mut(), |p| new_tensor_handle(row, p));
            let copy = asked(ptr::null_mut(), |p| clone(row, p));
            delete_tensor_object(whole);
            delete_tensor_object(row);
            assert_eq!(asked(0.0, |p| item_float32(last, p)), 5.0);
            assert_eq!(asked(0, |p| get_storage_offset(second, p)), 3);
            assert_eq!(asked(0, |p| get_storage_size(second, p)), 24);
            zero_(second);
            assert_eq!(asked(0.0, |p| item_float32(last, p)), 0.0);
            let kept = asked(ptr::null_mut(), |p| get_data_ptr(copy, p)).cast::<f32>();
            assert_eq!((0..3).map(|n| kept.add(n).read()).collect::<Vec<_>>(), [3.0, 4.0, 5.0]);
            for tensor in [last, second, copy] {
                assert_eq!(delete_tensor_object(tensor), DONE);
            }
        }
    }

    #[test]
    fn sizes_and_strides_are_those_that_were_given_at_any_number_of_axes() {
        for axes in 0..10 {
            let sizes: Vec<i64> = (0..axes).map(|n| n % 3 + 1).collect();
            let strides = crate::host::row_major_strides(&sizes);
            let tensor = empty(&sizes, &strides);
            // SAFETY: the handle lives, and as many numbers lie behind it as it has axes.
            unsafe {
                assert_eq!(asked(0, |p| get_dim(tensor, p)), axes);
                let given = asked(ptr::null(), |p| get_sizes(tensor, p));
                assert_eq!(numbers(given, axes), sizes);
                assert_eq!(numbers(asked(ptr::null(), |p| get_strides(tensor, p)), axes), strides);
                assert_eq!(asked(0, |p| get_numel(tensor, p)), sizes.iter().product::<i64>());
                assert!(asked(false, |p| is_contiguous(tensor, p)));
                let mut place = 0;
                assert_eq!(get_size(tensor, axes, &raw mut place), FAILED);
                delete_tensor_object(tensor);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut made = ptr::null_mut();
        let mut make = |sizes: &[i64], strides: &[i64], datatype, device| {
            // SAFETY: both have as many numbers as are named.
            unsafe {
                empty_strided(sizes.len() as i64, sizes.as_ptr(), strides.as_ptr(), datatype, device, 0, &raw mut made)
            }
        };
        assert_eq!(make(&[1 << 40, 1 << 40], &[1 << 40, 1], 6, 0), FAILED);
        assert_eq!(make(&[-1], &[1], 6, 0), FAILED);
        assert_eq!(make(&[2], &[-1], 6, 0), FAILED);
        assert_eq!(make(&[2], &[1], 99, 0), FAILED);
        assert_eq!(make(&[2], &[1], 6, 1), FAILED);
        assert_eq!(make(&[1 << 46], &[1], 6, 0), FAILED);
        // SAFETY: no handle and no place are asked about.
        unsafe {
            assert_eq!(get_dim(ptr::null_mut(), ptr::null_mut()), FAILED);
            assert_eq!(clone(ptr::null_mut(), &raw mut made), FAILED);
            assert_eq!(delete_tensor_object(ptr::null_mut()), DONE);
        }
    }
}
