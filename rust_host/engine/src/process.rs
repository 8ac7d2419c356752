//! Which process this is: a forked child has the memory of its parent, and not its threads. Asking the kernel took a tenth of a
//! small model's call, four times.

use std::{
    process,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

static ID: AtomicU32 = AtomicU32::new(0);
static WATCHED: AtomicBool = AtomicBool::new(false);

/// The number of this process, as `std::process::id` gives it.
pub fn id() -> u32 {
    let known = ID.load(Relaxed);
    if known != 0 {
        return known;
    }
    let id = process::id();
    if WATCHED.load(Relaxed) {
        ID.store(id, Relaxed);
    }
    id
}

/// Says that [`forked`] is called in each child from now on, so that the number may be kept. A child of a raw `clone` is none that
/// anybody hears of; it may not run models.
pub fn watch_forks() {
    WATCHED.store(true, Relaxed);
}

/// Says that this process was forked from the one that asked before. A child may call it before anything else: it only writes a
/// number.
pub fn forked() {
    ID.store(0, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_systems_number_before_and_after_a_fork_was_seen() {
        assert_eq!(id(), process::id());
        watch_forks();
        assert_eq!((id(), id()), (process::id(), process::id()));
        forked();
        assert_eq!(id(), process::id());
    }
}
