//! Compiles the C++ shim against the libtorch that torch-sys found, and tells dependents where that is.
use std::{env, path::PathBuf};

fn main() {
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo::error=torch-sys did not say where libtorch lies: is `torch-sys` still a direct dependency?");
        return;
    };
    let include = lib.join("../include");
    let sources = [
        "checks",
        "convolution",
        "device",
        "fast",
        "first_calls",
        "guard",
        "lstm",
        "module",
        "small",
        "state",
        "stream",
        "value",
    ]
    .map(|name| format!("csrc/{name}.cpp"));
    println!("cargo::rerun-if-changed=csrc");
    // The kernel that py-authoring puts into compiled packages, and its Python package therefore holds.
    let kernels = "../../../py_authoring/export/native";
    println!("cargo::rerun-if-changed={kernels}");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .include(kernels)
        .flag("-Wall")
        .flag("-Wextra")
        .flag("-fno-unswitch-loops") // copies of the kernel's tiles, four times as long to compile and no faster
        .flag("-fno-ipa-cp-clone")
        .flag("-fopenmp") // at::parallel_for is inline, and without it runs everything on one thread, without a word
        .flag("-Wno-stringop-overflow") // a false alarm of GCC 12 in libtorch's own headers
        .files(sources)
        .compile("rust_host_shim");
    println!("cargo::rustc-link-lib=dylib=dl");
    // The one that lies beside libtorch is loaded, by its soname: its threads are those of libtorch's own operators.
    println!("cargo::rustc-link-lib=dylib=gomp");
    // Dependents read this as DEP_RUST_HOST_TORCH_LIBTORCH and turn it into their rpath.
    println!("cargo::metadata=libtorch={}", lib.display());
    // For this crate's own tests.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
