//! How many threads a call's operators get where nobody says: as many as can work at once. More are much worse than fewer:
//! operators wait for their slowest thread, so one that has no core makes each operator as slow as the scheduler's turn.

use crate::machine;
use serde::Serialize;
use std::{collections::BTreeSet, fs, path::Path};

/// The number, and what bounds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Threads inside an operator.
    pub count: usize,
    /// What this number is: `2 processors`, `its container may use 1.5 processors`.
    pub why: String,
}

/// The smallest of: processors that this process may run on, cores behind them (two threads of one core share what
/// computes), and the processors' worth of time that its container allows, rounded up.
///
/// ```
/// assert!(rust_host_engine::threads::plan().count >= 1);
/// ```
pub fn plan() -> Plan {
    plan_below(Path::new("/"))
}

fn plan_below(root: &Path) -> Plan {
    let system = root.join("sys/devices/system/cpu");
    let online = fs::read_to_string(system.join("online")).map(|t| list(&t)).unwrap_or_default();
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let own = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).map(list).unwrap_or_default();
    // The kernel lists processors there that the machine could have.
    let allowed: BTreeSet<usize> = own.intersection(&online).copied().collect();
    let (count, mut why) = match allowed.len() {
        // A sandbox without /proc or /sys.
        0 => {
            let known = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            (known, processors(known as f64))
        }
        n if n < online.len() => (n, format!("it may run on {n} of {}", processors(online.len() as f64))),
        n => (n, processors(n as f64)),
    };
    let mut plan = count;
    let siblings = |n: &usize| {
        let text = fs::read_to_string(system.join(format!("cpu{n}/topology/thread_siblings_list"))).ok()?;
        list(&text).first().copied()
    };
    let cores = allowed.iter().map(siblings).collect::<Option<BTreeSet<usize>>>().map_or(0, |c| c.len());
    if (1..plan).contains(&cores) {
        plan = cores;
        why = format!("{cores} core{} behind {}", if cores == 1 { "" } else { "s" }, processors(count as f64));
    }
    if let Some(quota) = machine::limits_below(root).cpus {
        let whole = quota.ceil().max(1.0) as usize;
        if whole < plan {
            plan = whole;
            why = format!("its container may use {}", processors(quota));
        }
    }
    Plan { count: plan.max(1), why }
}

fn processors(n: f64) -> String {
    let shown = (n * 100.0).round() / 100.0;
    format!("{shown} processor{}", if shown == 1.0 { "" } else { "s" })
}

/// `0-3,8` as the kernel writes it.
fn list(text: &str) -> BTreeSet<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.trim().parse::<usize>().ok()?, to.trim().parse::<usize>().ok()?);
        // No machine has more; a broken file must not take memory.
        (to < 1 << 16).then_some(from..=to)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A machine's files: `name`, what it says.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = folder.path().to_owned();
        (folder, root)
    }

    const EIGHT: [(&str, &str); 2] = [
        ("sys/devices/system/cpu/online", "0-7\n"),
        ("proc/self/status", "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-127\n"),
    ];

    fn planned(more: &[(&str, &str)]) -> (usize, String) {
        // Later files replace earlier ones.
        let (_kept, root) = machine(&[&EIGHT[..], more].concat());
        let plan = plan_below(&root);
        (plan.count, plan.why)
    }

    #[test]
    fn processors_that_are_online_and_allowed_count() {
        assert_eq!(planned(&[]), (8, "8 processors".into()));
        let pinned = [("proc/self/status", "Cpus_allowed_list:\t2,5-6\n")];
        assert_eq!(planned(&pinned), (3, "it may run on 3 of 8 processors".into()));
    }

    #[test]
    fn two_threads_of_one_core_are_one() {
        let names: Vec<String> =
            (0..8).map(|n| format!("sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list")).collect();
        let pairs = ["0,4\n", "1,5\n", "2,6\n", "3,7\n"];
        let files: Vec<(&str, &str)> =
            names.iter().enumerate().map(|(n, name)| (name.as_str(), pairs[n % 4])).collect();
        assert_eq!(planned(&files), (4, "4 cores behind 8 processors".into()));
        let pinned = [&files[..], &[("proc/self/status", "Cpus_allowed_list:\t0,1,4\n")]].concat();
        assert_eq!(planned(&pinned), (2, "2 cores behind 3 processors".into()));
    }

    #[test]
    fn a_quota_is_rounded_up_in_both_versions_and_from_above() {
        let v2 = |files: &[(&'static str, &'static str)]| {
            let base = [("proc/self/cgroup", "0::/a/b\n"), ("sys/fs/cgroup/cgroup.controllers", "cpu")];
            planned(&[&base[..], files].concat())
        };
        assert_eq!(v2(&[("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")]), (8, "8 processors".into()));
        let above = [("sys/fs/cgroup/a/cpu.max", "150000 100000\n"), ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")];
        assert_eq!(v2(&above), (2, "its container may use 1.5 processors".into()));
        assert_eq!(v2(&[("sys/fs/cgroup/a/b/cpu.max", "20000 100000\n")]).0, 1);
        assert_eq!(v2(&[("sys/fs/cgroup/a/b/cpu.max", "900000 100000\n")]).0, 8);
        let v1 = [
            ("proc/self/cgroup", "3:cpu,cpuacct:/docker/abc\n"),
            // A container's own group is the root of what is mounted in it.
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(planned(&v1), (3, "its container may use 2.5 processors".into()));
    }

    #[test]
    fn a_machine_that_says_nothing_has_at_least_one() {
        assert!(plan_below(Path::new("/nowhere")).count >= 1);
        assert_eq!(list("0-3,8, 10-11\n").len(), 7);
        assert!(list("x,5-,-1,0-99999999999\n").is_empty());
    }
}
