//! Records the compiler's version: see `BUILD` in src/lib.rs.
use std::{env, process::Command};

fn main() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("-V").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    println!("cargo::rustc-env=RUST_HOST_RUSTC={}", version.unwrap_or_else(|_| "rustc".into()));
    println!("cargo::rerun-if-changed=build.rs");
}
