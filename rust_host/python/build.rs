//! The extension finds libtorch in the `torch` package beside it; this crate's own tests find the one it was built against.
use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=PYO3_BUILD_EXTENSION_MODULE");
    if env::var_os("PYO3_BUILD_EXTENSION_MODULE").is_some() {
        println!("cargo::rustc-link-arg-cdylib=-Wl,-rpath,$ORIGIN/../torch/lib");
    } else if let Ok(lib) = env::var("DEP_RUST_HOST_TORCH_LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
