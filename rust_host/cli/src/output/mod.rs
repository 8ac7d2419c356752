//! What the commands found → what is printed.

mod built;
mod report;
mod result;
mod tables;

use crate::worker;
use rust_host_console::fail;
use rust_host_engine::Error;
use std::ffi::OsString;

pub(crate) use built::build;
pub(crate) use report::{bench, doctor, info, tune};
pub(crate) use result::run;
pub(crate) use rust_host_console::{Answer, finish};
pub(crate) use tables::tables;

/// Whether errors are to be told as JSON. Looked up before the words are parsed, because the words may be the error.
pub(crate) fn asks_for_json(args: &[OsString]) -> bool {
    let words = args.iter().map(|a| a.to_string_lossy()).take_while(|a| a != "--").collect::<Vec<_>>();
    let pair = |w: &[std::borrow::Cow<'_, str>]| (w[0] == "--format" || w[0] == "-f") && w[1] == "json";
    words.iter().any(|w| w == "--json" || w == "--format=json" || w == "-fjson") || words.windows(2).any(pair)
}

/// The end of a call that cannot be ended: says so and ends the process, which has written nothing yet.
pub(crate) fn give_up(error: &Error) -> ! {
    let json = asks_for_json(&std::env::args_os().skip(1).collect::<Vec<_>>());
    let code = fail(error, json);
    worker::said();
    signal_hook::low_level::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_asked_for_in_any_way_that_is_accepted() {
        let asks = |words: &[&str]| asks_for_json(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(
            asks(&["info", "x", "--json"]) && asks(&["run", "--format", "json"]) && asks(&["run", "--format=json"])
        );
        assert!(!asks(&["run", "--format", "npy"]) && !asks(&["run", "--", "--json"]) && !asks(&[]));
    }
}
