//! What a command line reads and prints, for every program that runs a model: `rust-host` and those that `rust-host build` writes.
//!
//! In: words and files become inputs ([`gather`]). Out: outputs and a verdict become text or one JSON document ([`Outcome`],
//! [`Verified`]), an error becomes a sentence and an exit code; [`Answer`] is what is printed. Nothing here parses flags.

mod answer;
mod drawing;
mod inputs;
mod outcome;
mod predictions;
mod signature;
pub mod table;
mod verified;

pub use answer::{Answer, fail, finish};
pub use drawing::draw;
pub use inputs::{Given, Inputs, gather};
pub use outcome::Outcome;
pub use predictions::{Prediction, predict, predict_provisional};
pub use signature::{dims, listed, signature};
pub use verified::Verified;
