//! The raw declarations of `csrc/shim.h`, in its order.

use std::ffi::{c_char, c_void};

pub(crate) const NONE: i32 = 0;
pub(crate) const TENSOR: i32 = 1;
pub(crate) const INT: i32 = 2;
pub(crate) const FLOAT: i32 = 3;
pub(crate) const BOOL: i32 = 4;
pub(crate) const STR: i32 = 5;
pub(crate) const LIST: i32 = 6;
pub(crate) const TUPLE: i32 = 7;
pub(crate) const DICT: i32 = 8;
pub(crate) const NAMED_TUPLE: i32 = 9;
pub(crate) const DEFAULT: i32 = 10;

pub(crate) const OK: i32 = 0;
pub(crate) const INVALID_INPUT: i32 = 1;
pub(crate) const FAILED: i32 = 2;
pub(crate) const NO_MEMORY: i32 = 3;
pub(crate) const INVALID_MODEL: i32 = 4;
pub(crate) const UNAVAILABLE: i32 = 5;
pub(crate) const INTERRUPTED: i32 = 6;

pub(crate) const STATELESS: i32 = 0;
pub(crate) const STATE_IN_ATTRIBUTES: i32 = 1;

pub(crate) const UNCHECKED: i32 = 1;
pub(crate) const FAST: i32 = 2;
pub(crate) const DROPPED: i32 = 3;

#[repr(C)]
pub(crate) struct RawTensor {
    pub data: *mut c_void,
    pub sizes: *const i64,
    pub strides: *const i64,
    pub dim: i64,
    pub dtype: i32,
    pub writable: i32,
    pub span: i64,
    pub handle: *mut c_void,
    pub owner: *mut c_void,
    pub release: Option<unsafe extern "C" fn(*mut c_void)>,
}

#[repr(C)]
pub(crate) struct RawValue {
    pub tag: i32,
    pub integer: i64,
    pub number: f64,
    pub text: *const c_char,
    pub count: usize,
    pub items: *const RawValue,
    pub tensor: *mut RawTensor,
}

#[repr(C)]
pub(crate) struct RawModule(c_void);
#[repr(C)]
pub(crate) struct RawResult(c_void);

unsafe extern "C" {
    pub(crate) fn rh_load(
        data: *const c_char,
        size: usize,
        cuda: i32,
        out: *mut *mut RawModule,
        error: *mut *mut c_char,
    ) -> i32;
    pub(crate) fn rh_drop_module(module: *mut RawModule);
    pub(crate) fn rh_state_of(module: *const RawModule) -> i32;
    pub(crate) fn rh_optimise(
        module: *mut RawModule,
        rtol: f64,
        atol: f64,
        atol_of_largest: f64,
        error: *mut *mut c_char,
    ) -> i32;
    pub(crate) fn rh_speed_of(module: *const RawModule) -> i32;
    pub(crate) fn rh_session(module: *const RawModule, out: *mut *mut RawModule, error: *mut *mut c_char) -> i32;
    pub(crate) fn rh_methods(module: *const RawModule, text: *mut *mut c_char, error: *mut *mut c_char) -> i32;
    pub(crate) fn rh_operators(module: *const RawModule, text: *mut *mut c_char, error: *mut *mut c_char) -> i32;
    pub(crate) fn rh_run(
        module: *mut RawModule,
        method: usize,
        arguments: *const RawValue,
        count: usize,
        out: *mut *mut RawResult,
        error: *mut *mut c_char,
    ) -> i32;
    pub(crate) fn rh_result_value(result: *const RawResult) -> *const RawValue;
    pub(crate) fn rh_drop_result(result: *mut RawResult);
    pub(crate) fn rh_free_text(text: *mut c_char);
    pub(crate) fn rh_initialise(error: *mut *mut c_char) -> i32;
    pub(crate) fn rh_version() -> *const c_char;
    pub(crate) fn rh_set_poll(ask: Option<extern "C" fn() -> i32>);
    pub(crate) fn rh_load_cuda(error: *mut *mut c_char) -> i32;
}
