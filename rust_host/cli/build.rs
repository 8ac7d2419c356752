//! Compiled packages find the functions of their host by name in the program.

fn main() {
    println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol=rhos*");
}
