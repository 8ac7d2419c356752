//! What compiled code takes from its host, for packages that bring their operators with them: tensors as handles, memory and
//! threads. No libtorch, and none of its names: a package's references are bound to these functions before it is opened
//! ([`symbols`]), so that both can be in one process and neither sees the other's.

mod layout;
mod memory;
pub(crate) mod symbols;
pub(crate) mod tensor;
pub(crate) mod threads;

/// A function, by its address.
struct Function(*const ());

// SAFETY: it is the address of code.
unsafe impl Sync for Function {}

macro_rules! answers {
    ($($prefix:literal $module:ident: $($name:ident)*;)*) => {
        /// Functions that are answered here, by the names that a package has for them.
        static FUNCTIONS: &[(&str, Function)] =
            &[$($((concat!($prefix, stringify!($name)), Function($module::$name as *const ())),)*)*];
    };
}

answers! {
    "aoti_torch_" tensor:
        _reinterpret_tensor as_strided clone clone_preserve_strides create_tensor_from_blob create_tensor_from_blob_v2
        delete_tensor_object empty_strided new_tensor_handle zero_
        get_data_ptr get_device_index get_device_type get_dim get_dtype get_layout get_numel get_size get_sizes
        get_storage_numel get_storage_offset get_storage_size get_stride get_strides is_contiguous is_defined
        device_type_cpu device_type_cuda layout_strided dtype_element_size grad_mode_is_enabled grad_mode_set_enabled
        memory_format_channels_last memory_format_contiguous_format memory_format_preserve_format
        dtype_bfloat16 dtype_bool dtype_float16 dtype_float32 dtype_float64 dtype_int8 dtype_int16 dtype_int32 dtype_int64
        dtype_uint8 dtype_uint16 dtype_uint32 dtype_uint64
        item_bool item_float32 item_float64 item_int8 item_int16 item_int32 item_int64 item_uint8;
    "GOMP_" threads: barrier critical_end critical_start parallel single_start;
    "omp_" threads: get_max_threads get_num_threads get_thread_num;
}

/// Each function's name, as a package has it (`aoti_torch_get_sizes`, `GOMP_parallel`), and where it is.
pub(crate) fn functions() -> impl Iterator<Item = (&'static str, usize)> {
    FUNCTIONS.iter().map(|(name, at)| (*name, at.0.expose_provenance()))
}

fn address(function: &str) -> Option<usize> {
    functions().find(|(name, _)| *name == function).map(|(_, at)| at)
}

/// Whether a function is answered here.
pub(crate) fn answers(function: &str) -> bool {
    address(function).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_a_name_and_a_place_of_its_own() {
        let mut names: Vec<_> = FUNCTIONS.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), FUNCTIONS.len());
        assert!(answers("aoti_torch_get_sizes") && answers("GOMP_parallel") && answers("omp_get_thread_num"));
        assert!(!answers("aoti_torch_cpu_sort") && !answers("GOMP_loop_dynamic_start") && !answers("get_sizes"));
    }
}
