//! A time limit for a call. Loops of the model end at it by themselves; an operator that does not come back cannot be ended,
//! so a second later the process is.

use crate::output;
use rust_host_engine::{Error, ErrorKind, interrupt};
use std::{sync::mpsc, thread, time::Duration};

/// How long a call that is over its limit may take to notice.
const GRACE: Duration = Duration::from_secs(1);

/// Runs `work`, at most for `limit`. Where the process has to be ended, `give_up` cleans up and says it.
pub(crate) fn within<T>(
    limit: Option<Duration>,
    give_up: impl FnOnce(Duration) -> Error + Send + 'static,
    work: impl FnOnce() -> T,
) -> T {
    let Some(limit) = limit else { return work() };
    let (done, is_done) = mpsc::channel::<()>();
    let watch = thread::Builder::new().name("rust-host-deadline".into()).spawn(move || {
        if is_done.recv_timeout(limit + GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
            output::give_up(&give_up(limit));
        }
    });
    let result = interrupt::within(limit, work);
    drop(done); // the watch ends
    drop(watch);
    result
}

/// One call took longer.
pub(crate) fn no_answer(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the model did not answer within {} s", limit.as_secs_f64()))
}
