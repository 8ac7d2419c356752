//! Which operators a model may use. What a model has no business with (files, processes, other people's memory), and what
//! ends the process on bad arguments, is refused; `docs/security.md` explains the groups.

use crate::signed::PublicKeys;
use std::{
    collections::{BTreeSet, HashSet},
    sync::LazyLock,
};

/// What the owner of a machine allows beyond the rules here.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Full names of operators: `aten::from_file`.
    pub allowed: BTreeSet<String>,
    /// SHA-256 of packages whose native code may be opened; see [`crate::trust`].
    pub trusted: Vec<String>,
    /// Keys, one of which must have signed the file; see [`crate::signed`].
    pub signed_by: Option<PublicKeys>,
}

const FILES: &str = "reads or writes files";
const MEMORY: &str = "ends the process or reaches foreign memory when its arguments are wrong";
const STATE: &str = "changes state that belongs to the whole process";
const INTERNAL: &str = "is internal to libtorch and checks nothing";
const UNKNOWN: &str = "is not one that a model needs";

/// Public `aten::` operators that are refused all the same.
const REFUSED: [(&str, &str); 48] = [
    ("save", FILES),
    ("from_file", FILES),
    ("ctc_loss", MEMORY),
    ("segment_reduce", MEMORY),
    ("sparse_coo_tensor", MEMORY),
    ("sparse_csr_tensor", MEMORY),
    ("sparse_csc_tensor", MEMORY),
    ("sparse_bsr_tensor", MEMORY),
    ("sparse_bsc_tensor", MEMORY),
    ("sparse_compressed_tensor", MEMORY),
    ("native_batch_norm", MEMORY),
    ("mkldnn_rnn_layer", MEMORY),
    ("mkldnn_convolution", MEMORY),
    ("mkldnn_linear", MEMORY),
    ("sparse_resize", MEMORY),
    ("sparse_resize_", MEMORY),
    ("sparse_resize_and_clear", MEMORY),
    ("sparse_resize_and_clear_", MEMORY),
    ("set_", MEMORY),
    ("set_data", MEMORY),
    ("set", MEMORY),
    ("resize_", MEMORY),
    ("resize", MEMORY),
    ("resize_as", MEMORY),
    ("resize_as_", MEMORY),
    ("resize_as_sparse", MEMORY),
    ("resize_as_sparse_", MEMORY),
    ("record_stream", STATE),
    ("manual_seed", STATE),
    ("seed", STATE),
    ("backward", STATE),
    ("retain_grad", STATE),
    ("cudnn_convolution", MEMORY),
    ("cudnn_batch_norm", MEMORY),
    ("miopen_convolution", MEMORY),
    ("fbgemm_pack_gemm_matrix_fp16", MEMORY),
    ("_weight_norm_interface", MEMORY),
    ("as_strided_", MEMORY),
    ("batch_norm_stats", MEMORY),
    ("batch_norm_update_stats", MEMORY),
    ("batch_norm_elemt", MEMORY),
    ("batch_norm_gather_stats", MEMORY),
    ("batch_norm_gather_stats_with_counts", MEMORY),
    ("choose_qparams_optimized", MEMORY),
    ("quantized_lstm_cell", MEMORY),
    ("quantized_gru_cell", MEMORY),
    ("quantized_rnn_relu_cell", MEMORY),
    ("quantized_rnn_tanh_cell", MEMORY),
];

/// Operators with an underscore in front that `torch.nn` and `torch.unique` emit; their arguments are checked.
const INNER: [&str; 12] = [
    "_convolution",
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
    "_nested_tensor_from_mask",
    "_upsample_",
    "_weight_norm",
    "_pack_padded_sequence",
    "_pad_packed_sequence",
    "_scaled_dot_product_attention_math",
    "_set_item",
    "_unwrap_optional",
    "_unique2",
];

/// Prefixes of a library that libtorch calls itself after choosing it.
const VENDORS: [&str; 6] = ["cudnn_", "miopen_", "mkldnn_", "fbgemm_", "mps_", "xnnpack_"];

/// The part of `prim::` that code is made of: control flow, containers, attributes, questions about a tensor.
const PRIM: [&str; 66] = [
    "AddStatValue",
    "CallFunction",
    "CallMethod",
    "Closure",
    "ConstantChunk",
    "Constant",
    "CreateObject",
    "DictConstruct",
    "Drop",
    "Enter",
    "EnumName",
    "EnumValue",
    "Exit",
    "GetAttr",
    "If",
    "ImplicitTensorToNum",
    "IntImplicit",
    "FloatImplicit",
    "ListConstruct",
    "ListUnpack",
    "Load",
    "Loop",
    "LoopContinuation",
    "NumToTensor",
    "Param",
    "Print",
    "RaiseException",
    "Return",
    "SetAttr",
    "Store",
    "StringIndex",
    "TensorToNum",
    "TupleConstruct",
    "TupleIndex",
    "TupleSlice",
    "TupleUnpack",
    "Uninitialized",
    "abs",
    "data",
    "device",
    "dtype",
    "grad",
    "index",
    "is_cpu",
    "is_cuda",
    "is_meta",
    "is_mkldnn",
    "is_mps",
    "is_nested",
    "is_quantized",
    "is_sparse",
    "is_sparse_csr",
    "is_xla",
    "is_xpu",
    "isinstance",
    "itemsize",
    "layout",
    "max",
    "min",
    "name",
    "ndim",
    "rangelist",
    "requires_grad",
    "shape",
    "tolist",
    "type",
];
const PRIM_MORE: [&str; 15] = [
    "unchecked_cast",
    "unchecked_unwrap_optional",
    "unpack",
    "T",
    "H",
    "mT",
    "mH",
    "HasAttr",
    "ModuleContainerIndex",
    "fork",
    "nbytes",
    "is_ipu",
    "is_maia",
    "is_mtia",
    "is_vulkan",
];

/// Why the operator of that full name (`aten::add`) is refused; `None` if it may be used.
///
/// ```
/// use rust_host_engine::operators::refusal;
/// assert_eq!(refusal("aten::conv2d"), None);
/// assert!(refusal("aten::save").unwrap().contains("files"));
/// ```
pub fn refusal(operator: &str) -> Option<&'static str> {
    let (space, name) = operator.split_once("::").unwrap_or(("", operator));
    match space {
        "aten" => refusal_of_aten(name),
        "prim" => {
            let known = PRIM.contains(&name) || PRIM_MORE.contains(&name);
            if known { None } else { Some(UNKNOWN) }
        }
        "quantized" => None,
        _ => Some(UNKNOWN),
    }
}

fn refusal_of_aten(name: &str) -> Option<&'static str> {
    if let Some((_, why)) = REFUSED.iter().find(|(n, _)| *n == name) {
        return Some(why);
    }
    if name.ends_with("_backward") || VENDORS.iter().any(|v| name.starts_with(v)) {
        return Some(MEMORY);
    }
    // Python's own (`__is__`, `__contains__`, …), ranges, and what torch.nn.functional is made of.
    let dunder = name.starts_with("__");
    if name.starts_with('_') && !dunder && !INNER.iter().any(|inner| name.starts_with(inner)) {
        return Some(INTERNAL);
    }
    None
}

/// Whether libtorch 2.13 has an `aten::` operator of that name, which begins with one underscore.
pub(crate) fn is_internal(name: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| include_str!("internal_operators.txt").lines().collect());
    NAMES.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_torch_nn_emits_is_allowed_and_what_kills_is_not() {
        for name in [
            "aten::linear",
            "aten::_convolution",
            "aten::__is__",
            "aten::__contains__",
            "aten::_pad_packed_sequence",
            "aten::_unique2",
            "prim::NumToTensor",
            "quantized::linear",
            "aten::add_",
        ] {
            assert_eq!(refusal(name), None, "{name}");
        }
        for name in [
            "aten::save",
            "aten::from_file",
            "aten::max_pool2d_with_indices_backward",
            "aten::_reshape_alias",
            "aten::_weight_norm_interface",
            "aten::cudnn_grid_sampler",
            "prim::PythonOp",
            "prim::id",
            "prim::rpc_sync",
            "inductor::_alloc_from_pool",
            "profiler::_record_function_enter",
            "mkldnn::data_ptr",
            "torchvision::nms",
            "save",
        ] {
            assert!(refusal(name).is_some(), "{name}");
        }
    }
}
