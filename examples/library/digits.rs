//! A model in a Rust program, whatever its compiler.
//!
//! ```sh
//! rust-host build models/mnist -o digits --header
//! rustc --edition 2024 digits.rs -L digits -o read-digit
//! ./read-digit < pixels        # 784 bytes, one for each pixel of a digit, row by row
//! ```

use std::{
    ffi::{CStr, c_char, c_int},
    io::Read,
    process::exit,
};

// As in digits/digits.h.
#[link(name = "digits", kind = "static")]
unsafe extern "C" {
    fn digits_run(batch: i64, image: *const f32, log_probabilities: *mut f32) -> c_int;
    fn digits_error() -> *const c_char;
}

/// Logarithms of the ten digits' probabilities.
fn read(image: &[f32; 784]) -> Result<[f32; 10], String> {
    let mut log_probabilities = [0.0; 10];
    // SAFETY: one picture of 784 numbers, and room for ten.
    match unsafe { digits_run(1, image.as_ptr(), log_probabilities.as_mut_ptr()) } {
        0 => Ok(log_probabilities),
        // SAFETY: it is a text until this thread's next error.
        _ => Err(unsafe { CStr::from_ptr(digits_error()) }.to_string_lossy().into_owned()),
    }
}

fn main() {
    let mut pixels = [0; 784];
    if let Err(e) = std::io::stdin().read_exact(&mut pixels) {
        eprintln!("error: expected 784 bytes on stdin: {e}");
        exit(2);
    }
    match read(&pixels.map(|pixel| f32::from(pixel) / 255.0)) {
        Ok(scores) => {
            let best = (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            println!("{}", best.unwrap_or_default());
        }
        Err(text) => {
            eprintln!("error: {text}");
            exit(1);
        }
    }
}
