//! How far it is, on stderr: a bar on a terminal, else a line now and then.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Counts rows; `total` is in bytes for files and in pictures for folders.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    unit: &'static str,
    total: u64,
    done: u64,
    rows: u64,
    start: Instant,
    last: Instant,
}

impl Progress {
    pub(crate) fn new(wanted: bool, unit: &'static str, total: u64) -> Self {
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let now = Instant::now();
        let bar = (wanted && terminal).then(|| bar(total));
        Self { bar, lines: wanted && !terminal, unit, total, done: 0, rows: 0, start: now, last: now }
    }

    pub(crate) fn add(&mut self, rows: u64, done: u64) {
        self.rows += rows;
        self.done += done;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            let rate = self.rows as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
            bar.set_message(format!("{} {}, {rate:.0} a second", self.rows, self.unit));
        } else if self.lines && self.last.elapsed() >= BETWEEN_LINES {
            self.last = Instant::now();
            let rate = self.rows as f64 / self.start.elapsed().as_secs_f64();
            let share = (self.total > 0).then(|| format!("  {:.0} %", 100.0 * self.done as f64 / self.total as f64));
            let share = share.unwrap_or_default();
            let _printed = writeln!(io::stderr(), "{} {}{share}  {rate:.0} a second", self.rows, self.unit);
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    if total == 0 {
        return ProgressBar::new_spinner();
    }
    let bar = ProgressBar::new(total);
    match ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
