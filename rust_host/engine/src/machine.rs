//! What this machine has, read from /proc, /sys and /dev alone: processor, the limits of its container, CUDA's driver, and
//! which libtorch is there. `doctor` prints it; the backend's reason for a missing GPU comes from the same place.

use crate::{Error, Result};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The libtorch that this host is built for. tch is bound to one version, and C++ promises nothing between two.
pub const LIBTORCH_VERSION: &str = "2.13.0";

/// Where libtorch is, found without loading it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LibtorchLocation {
    /// `libtorch_cpu.so`, where there is one.
    pub path: Option<PathBuf>,
    /// Its version, where something beside it says one: `2.13.0+cu130`.
    pub version: Option<String>,
    /// Folders that were searched, in order.
    pub searched: Vec<PathBuf>,
    /// Whether it is that of the `torch` which Python finds, whatever LD_LIBRARY_PATH says.
    pub of_python: bool,
}

impl LibtorchLocation {
    /// The library's path, if it is there and of the version that this host is built for. A version that nothing names
    /// passes: the dynamic loader has the last word.
    ///
    /// # Errors
    /// `Unavailable` that names both versions, or lists where it was looked for, and says what to do.
    pub fn check(&self) -> Result<&Path> {
        let Some(path) = &self.path else {
            let folders: Vec<_> = self.searched.iter().map(|p| format!("`{}`", p.display())).collect();
            let why = match folders.is_empty() {
                true => "torch is not installed".to_owned(),
                false => format!("there is no `libtorch_cpu.so` in {}", folders.join(", ")),
            };
            let hint = match self.of_python {
                true => ", or take a compiled package that runs without it",
                false => ", then set LD_LIBRARY_PATH to the folder `torch/lib` of that installation",
            };
            return Err(Error::unavailable(format!("libtorch {LIBTORCH_VERSION} was not found: {why}"))
                .hint(format!("`pip install torch=={LIBTORCH_VERSION}`{hint}")));
        };
        match self.version.as_deref() {
            Some(version) if plain_version(version) != LIBTORCH_VERSION => Err(Error::unavailable(format!(
                "libtorch at `{}` has version {version}, this host is built for {LIBTORCH_VERSION}",
                path.display()
            ))
            .hint(match self.of_python {
                true => format!("`pip install torch=={LIBTORCH_VERSION}`"),
                false => format!(
                    "`pip install torch=={LIBTORCH_VERSION}` there, or set LD_LIBRARY_PATH to the folder of a libtorch {LIBTORCH_VERSION}"
                ),
            })),
            _ => Ok(path),
        }
    }
}

/// `2.13.0+cu130` → `2.13.0`
pub fn plain_version(version: &str) -> &str {
    version.split('+').next().unwrap_or(version)
}

/// The version of the libtorch in that folder: from torch's `version.py` above it, or from a file `libtorch-version` (ours)
/// or `build-version` (of PyTorch's own archives) in it or above it.
pub fn libtorch_version(folder: &Path) -> Option<String> {
    let above = folder.parent()?;
    let plain = [folder, above].into_iter().flat_map(|f| [f.join("libtorch-version"), f.join("build-version")]);
    for file in plain {
        if let Some(first) = fs::read_to_string(file).ok().as_deref().and_then(|t| t.split_whitespace().next()) {
            return Some(first.to_owned());
        }
    }
    let python = fs::read_to_string(above.join("version.py")).ok()?;
    let line = python.lines().find_map(|l| l.strip_prefix("__version__ = "))?;
    Some(line.trim().trim_matches(['\'', '"']).to_owned())
}

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its name, where the system says one.
    pub model: Option<String>,
    /// The features that matter for computing, in the kernel's spelling: `avx2`, `avx512f`, …
    pub features: Vec<String>,
}

impl Cpu {
    /// The widest instructions that libtorch's and oneDNN's kernels take here.
    pub fn computes_with(&self) -> &'static str {
        let has = |names: &[&str]| names.iter().all(|n| self.features.iter().any(|f| f == n));
        match () {
            () if has(&["avx512f", "avx512bw", "avx512vl", "amx_tile"]) => "AVX-512, AMX",
            () if has(&["avx512f", "avx512bw", "avx512vl"]) => "AVX-512",
            () if has(&["avx2", "fma"]) => "AVX2",
            () if has(&["sve"]) => "SVE",
            () if has(&["asimd"]) => "NEON",
            () => "no wide instructions",
        }
    }
}

const FEATURES: [&str; 18] = [
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
];

/// The processor of this machine.
pub fn cpu() -> Cpu {
    cpu_below(Path::new("/"))
}

fn cpu_below(root: &Path) -> Cpu {
    let text = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let field = |names: &[&str]| {
        let mut pairs = text.lines().filter_map(|l| l.split_once(':'));
        pairs.find(|(key, _)| names.contains(&key.trim())).map(|(_, value)| value.trim().to_owned())
    };
    let flags = field(&["flags", "Features"]).unwrap_or_default();
    let have: Vec<&str> = flags.split_whitespace().collect();
    let features = FEATURES.iter().filter(|f| have.contains(f)).map(|f| (*f).to_owned()).collect();
    Cpu { model: field(&["model name", "Model"]), features }
}

/// The allocator that was put in the place of the system's, by its file's name in /proc/self/maps; `None` for the system's.
pub fn allocator() -> Option<&'static str> {
    allocator_among(&fs::read_to_string("/proc/self/maps").unwrap_or_default())
}

fn allocator_among(maps: &str) -> Option<&'static str> {
    let files: Vec<&str> = maps.lines().filter_map(|l| l.rsplit_once('/').map(|(_, file)| file)).collect();
    ["jemalloc", "mimalloc", "tcmalloc"].into_iter().find(|n| files.iter().any(|f| f.starts_with(&format!("lib{n}"))))
}

/// What the container (cgroup) allows this process.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Limits {
    /// Version of the control groups: 1 or 2; `None` where there are none.
    pub cgroup: Option<u8>,
    /// Processors' worth of time, where it is limited.
    pub cpus: Option<f64>,
    /// Bytes of memory, where they are limited.
    pub memory_bytes: Option<u64>,
}

/// The limits of this process: the tightest of its group and those above.
pub fn limits() -> Limits {
    limits_below(Path::new("/"))
}

pub(crate) fn limits_below(root: &Path) -> Limits {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounted = root.join("sys/fs/cgroup");
    // A line is `number:controllers:path`; version 2 has the number 0 and no controllers.
    let path_of = |controller: &str| {
        let mut lines = groups.lines().filter_map(|l| l.split_once(':')?.1.split_once(':'));
        lines.find(|(c, _)| c.split(',').any(|c| c == controller)).map(|(_, p)| p.trim_start_matches('/').to_owned())
    };
    let tightest = |base: &Path, group: &str, read: &dyn Fn(&Path) -> Option<f64>| {
        let own = base.join(group);
        let up = own.ancestors().take_while(|p| p.starts_with(base)).map(Path::to_owned).collect::<Vec<_>>();
        up.iter().filter_map(|p| read(p)).reduce(f64::min)
    };
    let text = |p: &Path, file: &str| fs::read_to_string(p.join(file)).ok();
    let number = |p: &Path, file: &str| text(p, file)?.trim().parse::<f64>().ok();
    if mounted.join("cgroup.controllers").exists() {
        let group = path_of("").unwrap_or_default();
        let cpus = tightest(&mounted, &group, &|p| {
            let line = text(p, "cpu.max")?;
            let (quota, period) = line.trim().split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|n| *n > 0.0)?)
        });
        let memory = tightest(&mounted, &group, &|p| number(p, "memory.max"));
        return Limits { cgroup: Some(2), cpus, memory_bytes: memory.map(|b| b as u64) };
    }
    let (cpu, memory) = (mounted.join("cpu"), mounted.join("memory"));
    if !cpu.exists() && !memory.exists() {
        return Limits::default();
    }
    let cpus = tightest(&cpu, &path_of("cpu").unwrap_or_default(), &|p| {
        let quota = number(p, "cpu.cfs_quota_us").filter(|q| *q > 0.0)?;
        Some(quota / number(p, "cpu.cfs_period_us").filter(|n| *n > 0.0)?)
    });
    // Version 1 says "unlimited" as the largest multiple of the page size.
    const UNLIMITED: f64 = (1u64 << 62) as f64;
    let memory = tightest(&memory, &path_of("memory").unwrap_or_default(), &|p| {
        number(p, "memory.limit_in_bytes").filter(|b| *b < UNLIMITED)
    });
    Limits { cgroup: Some(1), cpus, memory_bytes: memory.map(|b| b as u64) }
}

/// Bytes of memory that this process could still take without swapping; `None` where the system does not say.
pub fn memory_left() -> Option<u64> {
    memory_left_below(Path::new("/"))
}

fn memory_left_below(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let free = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map(|k| k * 1024);
    [free, limits_below(root).memory_bytes].into_iter().flatten().min()
}

/// CUDA, as far as it can be known without loading a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cuda {
    /// Version line of NVIDIA's kernel driver, where it is loaded.
    pub driver: Option<String>,
    /// GPUs that have a device file.
    pub devices: usize,
    /// Why it cannot be used, if it cannot.
    pub why_not: Option<String>,
}

/// Folders where drivers and containers put `libcuda.so.1`, beside those of LD_LIBRARY_PATH and the loader's cache.
const DRIVER_FOLDERS: [&str; 9] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/nvidia/lib64",
    "usr/local/cuda/compat",
    "usr/lib/wsl/lib",
    "run/opengl-driver/lib",
];

/// Whether CUDA can be used with the libtorch in that folder, or the exact reason why not: no driver, no GPU, a libtorch
/// without CUDA. `None` for the folder leaves libtorch out of it.
pub fn cuda(libtorch: Option<&Path>) -> Cuda {
    let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    cuda_below(Path::new("/"), &std::env::split_paths(&own).collect::<Vec<_>>(), libtorch)
}

fn cuda_below(root: &Path, own: &[PathBuf], libtorch: Option<&Path>) -> Cuda {
    let version = fs::read_to_string(root.join("proc/driver/nvidia/version")).ok();
    let driver = version
        .as_deref()
        .and_then(|t| t.lines().next())
        .map(|l| l.trim_start_matches("NVRM version: ").trim().to_owned());
    let entries = fs::read_dir(root.join("dev")).into_iter().flatten().flatten();
    let devices = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.strip_prefix("nvidia").is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())))
        .count();
    // Windows' Linux has its driver outside: one device file, no /proc entry.
    let windows = root.join("dev/dxg").exists();
    let loaded = driver.is_some() || root.join("dev/nvidiactl").exists() || windows;
    let library = || {
        let cache = fs::read(root.join("etc/ld.so.cache")).unwrap_or_default();
        let cached = cache.windows(LIBCUDA.len()).any(|w| w == LIBCUDA.as_bytes());
        let folders = DRIVER_FOLDERS.iter().map(|f| root.join(f)).chain(own.iter().cloned());
        cached || folders.into_iter().any(|f| f.join(LIBCUDA).exists())
    };
    let why_not = if !loaded {
        Some("no NVIDIA driver is loaded (there is no /proc/driver/nvidia)".to_owned())
    } else if devices == 0 && !windows {
        Some(
            "the NVIDIA driver is loaded, but there is no device file /dev/nvidia0 (a container needs `--gpus all`)"
                .to_owned(),
        )
    } else if !library() {
        Some(format!("the NVIDIA driver's library {LIBCUDA} was not found"))
    } else {
        libtorch.filter(|folder| !folder.join("libtorch_cuda.so").exists()).map(|folder| {
            format!("libtorch in `{}` was built without CUDA (there is no libtorch_cuda.so)", folder.display())
        })
    };
    Cuda { driver, devices, why_not }
}

const LIBCUDA: &str = "libcuda.so.1";

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that plays the root of a machine.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("rust-host-machine-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_missing_piece_of_cuda_is_named() {
        let none = Root::new("none", &[("dev/null", "")]);
        assert!(cuda_below(&none.0, &[], None).why_not.unwrap().contains("no NVIDIA driver"));
        let driver = ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1\nGCC");
        let no_device = Root::new("nodev", &[driver, ("dev/nvidiactl", "")]);
        assert!(cuda_below(&no_device.0, &[], None).why_not.unwrap().contains("/dev/nvidia0"));
        let no_library = Root::new("nolib", &[driver, ("dev/nvidia0", ""), ("dev/nvidia-uvm", "")]);
        let found = cuda_below(&no_library.0, &[], None);
        assert_eq!((found.devices, found.driver.as_deref()), (1, Some("NVIDIA UNIX x86_64 Kernel Module  580.1")));
        assert!(found.why_not.unwrap().contains("libcuda.so.1"));
        let whole =
            Root::new("whole", &[driver, ("dev/nvidia0", ""), ("dev/nvidia1", ""), ("usr/lib64/libcuda.so.1", "")]);
        assert_eq!(cuda_below(&whole.0, &[], None).why_not, None);
        assert!(cuda_below(&whole.0, &[], Some(&whole.0)).why_not.unwrap().contains("built without CUDA"));
    }

    #[test]
    fn the_tightest_limit_of_the_groups_above_counts() {
        let v2 = Root::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/cgroup.controllers", "cpu memory"),
                ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/a/memory.max", "max\n"),
                ("sys/fs/cgroup/a/b/memory.max", "1048576\n"),
            ],
        );
        let expected = Limits { cgroup: Some(2), cpus: Some(1.5), memory_bytes: Some(1 << 20) };
        assert_eq!(limits_below(&v2.0), expected);
        let v1 = Root::new(
            "v1",
            &[
                ("proc/self/cgroup", "4:memory:/m\n3:cpu,cpuacct:/c\n"),
                ("sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "50000\n"),
                ("sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        assert_eq!(limits_below(&v1.0), Limits { cgroup: Some(1), cpus: Some(0.5), memory_bytes: None });
        assert_eq!(limits_below(Path::new("/nowhere")), Limits::default());
    }

    #[test]
    fn a_libtorch_of_another_version_is_refused_with_both_versions() {
        let root =
            Root::new("torch", &[("torch/version.py", "x = 1\n__version__ = '2.12.1+cpu'\n"), ("torch/lib/x", "")]);
        let folder = root.0.join("torch/lib");
        assert_eq!(libtorch_version(&folder).as_deref(), Some("2.12.1+cpu"));
        let path = Some(folder.join("libtorch_cpu.so"));
        let location = LibtorchLocation {
            path,
            version: Some("2.12.1+cpu".into()),
            searched: vec![folder.clone()],
            of_python: false,
        };
        let message = location.check().unwrap_err().message;
        assert!(
            message.contains("2.12.1+cpu") && message.contains(LIBTORCH_VERSION) && message.contains("libtorch_cpu.so")
        );
        let missing = LibtorchLocation { path: None, version: None, searched: vec![folder.clone()], of_python: false };
        assert!(missing.check().unwrap_err().message.contains(&folder.display().to_string()));
        let nowhere = LibtorchLocation { searched: Vec::new(), of_python: true, ..missing };
        assert!(nowhere.check().unwrap_err().message.ends_with("torch is not installed"));
        fs::write(folder.join("libtorch-version"), "2.13.0\n").unwrap();
        assert_eq!(libtorch_version(&folder).as_deref(), Some("2.13.0"));
    }

    #[test]
    fn an_allocator_is_known_by_its_file() {
        let of = |path: &str| {
            allocator_among(&format!("7f-80 r-xp 0 08:01 12 /usr/lib/libc.so.6\n7f-80 r-xp 0 08:01 13 {path}\n"))
        };
        assert_eq!(of("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"), Some("jemalloc"));
        assert_eq!(of("/home/jemalloc/libm.so.6"), None);
    }

    #[test]
    fn features_are_those_of_the_first_processor() {
        let root = Root::new(
            "cpu",
            &[("proc/cpuinfo", "model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f\n\nmodel name: B\n")],
        );
        let cpu = cpu_below(&root.0);
        assert_eq!(cpu.computes_with(), "no wide instructions"); // AVX2 alone, without FMA, is none of libtorch's kinds
        let with =
            |features: &[&str]| Cpu { model: None, features: features.iter().map(|f| (*f).to_owned()).collect() };
        assert_eq!(with(&["avx2", "fma"]).computes_with(), "AVX2");
        assert_eq!(with(&["avx2", "fma", "avx512f", "avx512bw", "avx512vl"]).computes_with(), "AVX-512");
        assert_eq!(
            (cpu.model.as_deref(), cpu.features),
            (Some("AMD EPYC"), vec!["avx2".to_owned(), "avx512f".to_owned()])
        );
    }
}
