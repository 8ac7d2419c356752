//! What a worker gives up before it loads a file: landlock takes files and the network, seccomp takes system calls that no
//! model needs and that landlock does not see.
//!
//! Both hold for the thread that asks and for those it starts later. libtorch starts its threads when it first uses them, and
//! that there is no other one is checked.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// What libraries look up about the processor when they are first used, and chance. Nothing here tells of users or programs.
const OF_THE_MACHINE: [&str; 3] = ["/proc/cpuinfo", "/sys/devices/system/cpu", "/dev/urandom"];

/// Leaves this process these files to read, no other, none to write, no network, no other program and no other process.
///
/// # Errors
/// Why it cannot be: half a sentence.
pub(super) fn build(reads: &[PathBuf]) -> std::result::Result<(), String> {
    let threads = fs::read_dir("/proc/self/task").map_err(|e| format!("/proc cannot be read: {e}"))?.count();
    if threads != 1 {
        return Err(format!("libtorch has {threads} threads already, and only new ones would be inside"));
    }
    landlock(reads)?;
    seccomp().map_err(|e| format!("the kernel takes no filter of system calls: {e}"))?;
    // A kernel that says yes and does nothing is not believed.
    match File::open("/proc/self/environ") {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err("files can still be opened".to_owned()),
    }
}

fn landlock(reads: &[PathBuf]) -> std::result::Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("landlock refuses: {e}");
    // The newest that is known; an older kernel does what it can. The first one holds for files, and seccomp for the rest.
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.handle_access(AccessNet::from_all(abi)))
        .and_then(|r| r.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(|e| failed(&e))?;
    for path in OF_THE_MACHINE.iter().map(Path::new).chain(reads.iter().map(PathBuf::as_path)) {
        // What is not there is told by whoever opens it.
        let Ok(open) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { read } else { AccessFs::ReadFile.into() };
        rules = rules.add_rule(PathBeneath::new(open, access)).map_err(|e| failed(&e))?;
    }
    let status = rules.restrict_self().map_err(|e| failed(&e))?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has no landlock (Linux 5.13 or later has it)".to_owned()),
        _ => Ok(()),
    }
}

/// What no model needs: other programs and processes, sockets (also where landlock knows no network), owners and attributes of
/// files (which landlock leaves alone), and ways into the kernel that had holes.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_truncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_memfd_secret,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// x86-64 has a second number for every call, for its 32-bit pointers.
#[cfg(target_arch = "x86_64")]
const SECOND_NUMBERS: i64 = 0x4000_0000;

fn seccomp() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    // Words put into the terminal's input would be read by the shell afterwards.
    let is = |request: u64| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request);
    let requests = [libc::TIOCSTI, libc::TIOCLINUX];
    let requests = requests.map(|request| SeccompRule::new(vec![is(request)?]));
    rules.insert(libc::SYS_ioctl, requests.into_iter().collect::<std::result::Result<_, _>>()?);
    #[cfg(target_arch = "x86_64")]
    for (call, refused) in rules.clone() {
        rules.insert(call | SECOND_NUMBERS, refused);
    }
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::{fs::PermissionsExt, net::UnixStream},
        process::Command,
        thread,
    };

    /// On a thread of its own, because it cannot be undone.
    fn inside(reads: Vec<PathBuf>, what: impl FnOnce() + Send + 'static) {
        let built = move || {
            if let Err(why) = landlock(&reads) {
                eprintln!("skipped: {why}");
                return;
            }
            seccomp().unwrap();
            what();
        };
        thread::spawn(built).join().unwrap();
    }

    fn is_refused<T>(result: io::Result<T>) -> bool {
        result.err().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn no_file_is_read_written_made_or_changed_but_what_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (own, other, list) = (at("own"), at("other"), at("list"));
        fs::create_dir(&own).unwrap();
        for file in [own.join("in"), other.clone(), list.clone()] {
            fs::write(file, "text").unwrap();
        }
        let new = at("new");
        inside(vec![own.clone(), list.clone()], move || {
            assert_eq!(fs::read_to_string(own.join("in")).unwrap(), "text");
            assert_eq!(fs::read_dir(&own).unwrap().count(), 1);
            assert_eq!(fs::read_to_string(&list).unwrap(), "text");
            assert!(fs::read_to_string("/proc/cpuinfo").is_ok());
            assert!(is_refused(fs::read(&other)) && is_refused(fs::read("/proc/self/environ")));
            assert!(is_refused(fs::read_dir("/")) && is_refused(fs::read("/etc/passwd")));
            for write in [&own.join("in"), &list, &other] {
                assert!(is_refused(fs::OpenOptions::new().write(true).open(write)), "{write:?}");
                assert!(is_refused(fs::set_permissions(write, fs::Permissions::from_mode(0o777))), "{write:?}");
                assert!(is_refused(fs::remove_file(write)), "{write:?}");
                assert!(is_refused(fs::rename(write, &new)), "{write:?}");
            }
            assert!(is_refused(fs::write(own.join("new"), "")) && is_refused(fs::create_dir(own.join("new"))));
            assert!(is_refused(std::os::unix::fs::symlink("/etc/passwd", own.join("new"))));
            assert!(thread::spawn(move || is_refused(fs::read("/etc/passwd"))).join().unwrap(), "a new thread too");
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn there_is_no_network_no_other_program_and_no_other_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        inside(Vec::new(), move || {
            assert!(is_refused(TcpStream::connect(address)) && is_refused(TcpListener::bind("127.0.0.1:0")));
            assert!(is_refused(UdpSocket::bind("127.0.0.1:0")) && is_refused(UnixStream::pair()));
            assert!(is_refused(Command::new("/bin/true").status()));
            let own = rustix::process::getpid();
            let killed = rustix::process::kill_process(own, rustix::process::Signal::URG);
            assert!(is_refused(killed.map_err(io::Error::from)));
        });
    }

    #[test]
    fn other_threads_would_be_outside_so_there_may_be_none() {
        // This test has its runner's thread beside it.
        assert!(build(&[]).unwrap_err().contains("threads already"));
    }
}
