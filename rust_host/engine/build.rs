//! Records what this build is made of: see `BUILD` in src/lib.rs.
use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    process::Command,
};

fn main() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("-V").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    println!("cargo::rustc-env=RUST_HOST_RUSTC={}", version.unwrap_or_else(|_| "rustc".into()));
    println!("cargo::rustc-env=RUST_HOST_SOURCE={:016x}", source_hash());
    println!("cargo::rerun-if-changed=src");
}

/// Two builds of changed sources have the same version, but their types may lie differently in memory.
fn source_hash() -> u64 {
    let mut hasher = DefaultHasher::new(); // its keys are fixed: equal for equal sources and compilers
    let mut files: Vec<_> = fs::read_dir("src").into_iter().flatten().flatten().map(|f| f.path()).collect();
    files.sort();
    for file in files {
        fs::read(&file).unwrap_or_default().hash(&mut hasher);
    }
    env::var("PROFILE").unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
