//! The unit tests open packages too, which ask the program for our functions.

fn main() {
    println!("cargo::rustc-link-arg=-Wl,--export-dynamic-symbol=rhos*");
}
