//! How the program is linked: against nothing but the C library.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Rust's standard library asks for the shared libgcc_s, which a bare system does not have. This script is found before it
    // and names the static halves of the same library.
    let folder = env::var("OUT_DIR").unwrap_or_default();
    let script = Path::new(&folder).join("libgcc_s.so");
    if let Err(e) = fs::write(&script, "GROUP ( -lgcc -lgcc_eh )\n") {
        println!("cargo:warning={} cannot be written: {e}", script.display());
    }
    println!("cargo:rustc-link-arg-bins=-L{folder}");
    // Names of functions are a third of the file, and a panic tells its sentence without them.
    println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    // The static half asks glibc 2.35 where code lies; frames.rs answers with what older ones have.
    println!("cargo:rustc-link-arg-bins=-Wl,--wrap=_dl_find_object");
}
