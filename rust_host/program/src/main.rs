//! The host inside a program that `rust-host build` wrote: words → inputs → the model at the end of its own file → an answer.
//!
//! It is one file with everything in it, so what `rust-host` has for foreign models is left out: no trust, no sandbox, no other
//! kind of file, no tables. What it reads and prints is `rust-host run`'s and `rust-host verify`'s, from the same code.

mod frames;
mod own_file;
mod run;
mod words;

use rust_host_console::{fail, finish};
use rust_host_engine::Error;
use std::{panic, process};

fn main() {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let json = words::ask_for_json(&words);
    panic::set_hook(Box::new(move |about| {
        let payload = about.payload_as_str().unwrap_or("no reason given");
        process::exit(fail(&Error::internal(format!("internal error: {payload}")), json))
    }));
    process::exit(finish(run::answer(words), json))
}
