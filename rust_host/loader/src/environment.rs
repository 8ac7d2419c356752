//! What libtorch reads from the environment once, while it is loaded or at its first operator. What the user has set stays.

use std::env;

/// Operators that oneDNN keeps compiled for the shapes it has seen, and what libtorch's own layer above it keeps. Both caches
/// hold 1,024 by default, of some 200 kB each: with changing shapes the process grows by hundreds of megabytes. With 256 it
/// grows by 80 and computes at the same speed; 64 is too few for one call of a DenseNet-121 (1.36 × its time), 16 for a
/// ResNet-18 (1.16 ×), because a cache that is one too small holds nothing that is needed.
const CAPACITY: &str = "256";

/// Each cache, by the names that set it.
const CACHES: [&[&str]; 2] =
    [&["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"], &["LRU_CACHE_CAPACITY"]];

/// Bounds libtorch's caches; at the start of the program.
pub(crate) fn bound_caches() {
    for name in to_bound(|name| env::var_os(name).is_some()) {
        set(name, CAPACITY);
    }
}

/// The variables that are to be set, where `is_set` says what the user has set.
fn to_bound(is_set: impl Fn(&str) -> bool) -> impl Iterator<Item = &'static str> {
    CACHES.into_iter().filter(move |names| !names.iter().any(|n| is_set(n))).filter_map(|names| names.first().copied())
}

/// Threads of libgomp that wait for one another sleep instead of spinning; before libtorch is loaded, and libgomp with it.
pub(crate) fn let_waiting_threads_sleep() {
    const POLICY: &str = "OMP_WAIT_POLICY";
    if env::var_os(POLICY).is_none() && env::var_os("GOMP_SPINCOUNT").is_none() {
        set(POLICY, "passive");
    }
}

fn set(name: &str, value: &str) {
    // SAFETY: the loader is a program's own, which calls this before it has started a second thread: at its start, and before
    // it opens the backend of a table run.
    unsafe { env::set_var(name, value) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_has_set_stays_under_either_name() {
        let set = |given: &'static [&str]| to_bound(move |n| given.contains(&n)).collect::<Vec<_>>();
        assert_eq!(set(&[]), ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"]);
        assert_eq!(set(&["DNNL_PRIMITIVE_CACHE_CAPACITY"]), ["LRU_CACHE_CAPACITY"]);
        assert_eq!(set(&["LRU_CACHE_CAPACITY"]), ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]);
        assert!(set(&["LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"]).is_empty());
    }
}
