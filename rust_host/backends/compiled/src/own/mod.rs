//! What compiled code takes from its host, for packages that bring their operators with them: tensors as handles, memory and
//! threads. No libtorch, and none of its names: a package's own references are given ours when it is opened ([`symbols`]), so
//! that both can be in one process.

mod layout;
mod memory;
pub(crate) mod symbols;
pub(crate) mod tensor;
pub(crate) mod threads;

use std::{ffi::c_void, mem::MaybeUninit};

/// A function of the program, by its address.
#[expect(dead_code, reason = "it is only to be there")]
struct Function(*const ());

// SAFETY: it is the address of code.
unsafe impl Sync for Function {}

macro_rules! answers {
    ($($module:ident: $($name:ident)*;)*) => {
        /// torch's functions that are answered here, without its prefix.
        const NAMES: &[&str] = &[$($(stringify!($name),)*)*];

        /// Keeps the functions in the program: nobody names them but the code that is opened later.
        #[used]
        static KEPT: &[Function] = &[$($(Function($module::$name as *const ()),)*)*];
    };
}

answers! {
    tensor:
        _reinterpret_tensor as_strided clone clone_preserve_strides create_tensor_from_blob create_tensor_from_blob_v2
        delete_tensor_object empty_strided new_tensor_handle zero_
        get_data_ptr get_device_index get_device_type get_dim get_dtype get_layout get_numel get_size get_sizes
        get_storage_numel get_storage_offset get_storage_size get_stride get_strides is_contiguous is_defined
        device_type_cpu device_type_cuda layout_strided dtype_element_size grad_mode_is_enabled grad_mode_set_enabled
        memory_format_channels_last memory_format_contiguous_format memory_format_preserve_format
        dtype_bfloat16 dtype_bool dtype_float16 dtype_float32 dtype_float64 dtype_int8 dtype_int16 dtype_int32 dtype_int64
        dtype_uint8 dtype_uint16 dtype_uint32 dtype_uint64
        item_bool item_float32 item_float64 item_int8 item_int16 item_int32 item_int64 item_uint8;
}

/// Functions of OpenMP that are answered here.
const OPENMP: &[&str] = &[
    "GOMP_barrier",
    "GOMP_critical_end",
    "GOMP_critical_start",
    "GOMP_parallel",
    "GOMP_single_start",
    "omp_get_max_threads",
    "omp_get_num_threads",
    "omp_get_thread_num",
];

/// Lets packages find the functions where the program is a library itself (Python's), whose names only its own code sees.
pub(crate) fn show_to_packages() {
    let mut about = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: the place takes what is known about an address of ours; the path is a text that ends with a zero. Opening what is
    // open already only makes its names visible, and for an executable, whose names are, it does nothing.
    unsafe {
        if libc::dladdr(tensor::get_sizes as *const c_void, about.as_mut_ptr()) != 0 {
            libc::dlopen(about.assume_init().dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_GLOBAL);
        }
    }
}

/// Whether a function is answered here: `aoti_torch_get_sizes`, `GOMP_parallel`.
pub(crate) fn answers(function: &str) -> bool {
    match function.strip_prefix("aoti_torch_") {
        Some(name) => NAMES.contains(&name),
        None => OPENMP.contains(&function),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    #[test]
    fn every_function_is_found_by_the_name_that_a_package_is_given_for_it() {
        let torchs = NAMES.iter().map(|name| format!("aoti_torch_{name}"));
        for name in torchs.chain(OPENMP.iter().map(ToString::to_string)) {
            assert!(answers(&name));
            let (old, new) = symbols::PREFIXES.iter().find(|(old, _)| name.starts_with(old)).unwrap();
            let ours = CString::new(name.replacen(old, new, 1)).unwrap();
            // SAFETY: only whether there is such a symbol is asked.
            assert!(!unsafe { libc::dlsym(libc::RTLD_DEFAULT, ours.as_ptr()) }.is_null(), "{ours:?}");
        }
        assert!(!answers("aoti_torch_cpu_sort") && !answers("GOMP_loop_dynamic_start"));
    }
}
