//! Words → settings. Every flag is documented once, here: help, completion and the reference come from it. The only user of
//! clap.

use crate::{
    commands::{bench, build, run, tables, tune},
    worker::{Confinement, Sandbox},
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind as Clap};
use rust_host_console::Given;
use rust_host_engine::{
    DeviceRequest, Error, Platform, Result, error::ErrorKind, operators::Policy, signed::PublicKeys, versions,
};
use rust_host_tables::OnError;
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// What is to be done.
pub(crate) enum Parsed {
    /// A help page or the version.
    Show(String),
    Completions(Vec<u8>),
    Info(PathBuf, Option<PublicKeys>, bool),
    Run(run::Settings),
    Tables(tables::Settings),
    Verify(PathBuf, DeviceRequest, Policy, Confinement, bool),
    Bench(bench::Settings, bool),
    Tune(tune::Settings, bool),
    Build(build::Settings, bool),
    Doctor(bool),
}

/// Runs, verifies and measures PyTorch models without Python
#[derive(Parser)]
#[command(
    name = "rust-host",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Example:\n  rust-host run model.pt --input image=7.png"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what a model takes and gives, without loading it
    #[command(
        after_help = "Example:\n  rust-host info model.pt\n  rust-host info model.pt --json | jq .contract.inputs"
    )]
    Info {
        #[command(flatten)]
        file: FileArg,
        #[command(flatten)]
        signed: SignedArg,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Run a model on inputs from files, from the command line or from stdin
    #[command(
        visible_alias = "predict",
        after_help = "Examples:\n  rust-host run model.pt --input image=7.png --top-k 3\n  rust-host run model.pt --input x=x.npy --input h=h.npy --output results\n  rust-host run model.pt --input '[[1, 2, 3, 4]]' --format json\n  rust-host run model.pt --input - --output - < x.npy > y.npy\n  rust-host run model.pt --input rows.csv --output out.csv\n  rust-host run model.pt --input pictures/ --output out.jsonl --on-error null"
    )]
    Run(RunArgs),
    /// Replay a model's golden examples on this machine
    #[command(
        after_help = "Example:\n  rust-host verify model.pt --device cpu\n\nExit code 1: a difference beyond the tolerance."
    )]
    Verify {
        #[command(flatten)]
        file: FileArg,
        #[command(flatten)]
        device: DeviceArg,
        #[command(flatten)]
        policy: PolicyArg,
        #[command(flatten)]
        confinement: ConfinementArgs,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Measure how long a call takes: median, 99th percentile, throughput
    #[command(after_help = "Example:\n  rust-host bench model.pt --batch 1,8,32 --threads 1 --seconds 2")]
    Bench(BenchArgs),
    /// Find the fastest way to run a model on this machine, and keep it in `host.toml` beside the model
    #[command(
        after_help = "Example:\n  rust-host tune models/mnist --for throughput\n\n`run`, `bench` and the Python module then use what it found, unless told otherwise."
    )]
    Tune(TuneArgs),
    /// Make one program of a compiled model, or a library for C, C++ and Rust
    #[command(
        after_help = "Example:\n  rust-host build models/mnist -o digits\n  ./digits 7.png\n\nExit code 1: it needs libtorch, or does not reproduce its golden examples here."
    )]
    Build(BuildArgs),
    /// Say what this machine has: libtorch, processor, limits, CUDA
    #[command(after_help = "Example:\n  rust-host doctor --json\n\nExit code 1: libtorch cannot be used here.")]
    Doctor {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print the completion script of a shell
    #[command(
        after_help = "Example:\n  rust-host completions bash > ~/.local/share/bash-completion/completions/rust-host"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct FileArg {
    /// A model file, or a model's folder: its newest version
    file: PathBuf,
    /// In a folder with several kinds of file the one to take: torchscript, compiled or onnx (default: what `rust-host tune`
    /// found, else `model.pt`)
    #[arg(long, value_name = "KIND", value_parser = platform)]
    backend: Option<Platform>,
}

impl FileArg {
    fn settle(self) -> Result<PathBuf> {
        versions::file(&self.file, self.backend)
    }
}

#[derive(Args)]
struct DeviceArg {
    /// Where to run: auto, cpu, cuda or cuda:N; `cuda` never falls back to the processor
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceRequest,
}

#[derive(Args)]
struct SignedArg {
    /// Open the file only if `manifest.json` beside it lists its SHA-256 and a key of this PEM file has signed that; default:
    /// the file that RUST_HOST_REQUIRE_SIGNED names
    #[arg(long, value_name = "KEY.pub")]
    require_signed: Option<PathBuf>,
}

impl SignedArg {
    fn settle(self) -> Result<Option<PublicKeys>> {
        PublicKeys::required(self.require_signed.as_deref())
    }
}

#[derive(Args)]
struct PolicyArg {
    /// Let the model call this operator although the gate refuses it; only for a file that you trust
    #[arg(long = "allow-operator", value_name = "NAME")]
    allow_operator: Vec<String>,
    /// Open the compiled code of the file with this SHA-256; only for a file that you trust
    #[arg(long, value_name = "SHA256", value_parser = sha256)]
    trust: Vec<String>,
    #[command(flatten)]
    signed: SignedArg,
}

#[derive(Args)]
struct ConfinementArgs {
    /// Run the model in a process that reaches no files and no network: on, off, or auto: on for a file without a contract
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    sandbox: SandboxArg,
    /// Memory that the model's process may take, as 500MB or 2GB: its weights, values and libtorch's own 100 MB, not code
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_memory: Option<u64>,
}

#[derive(Args)]
struct ThreadsArg {
    /// Threads inside an operator (default: what this process may use)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

#[derive(Args)]
struct InputArg {
    /// An input: a .npy, .npz, .json or picture file, JSON, or `-` for stdin; the name may be left out where one is needed
    #[arg(long = "input", short = 'i', value_name = "NAME=VALUE")]
    input: Vec<OsString>,
}

#[derive(Args)]
struct MethodArg {
    /// Call this method instead of `forward`; `rust-host info` lists those there are
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    input: InputArg,
    #[command(flatten)]
    method: MethodArg,
    /// Write one file for each output into this folder, or `-` for stdout; a .csv, .tsv, .jsonl or .parquet for a table
    #[arg(long, short = 'o', value_name = "DIR")]
    output: Option<PathBuf>,
    /// Form of the outputs (default: table; npy with --output)
    #[arg(long, short = 'f', value_enum)]
    format: Option<Form>,
    /// How many labels to show, where the contract has labels (default: 3; in a table 1, and the values)
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..))]
    top_k: Option<u16>,
    /// What a row of a table does that cannot be read or run: end the run, or leave its outputs empty
    #[arg(long, value_enum, default_value = "stop")]
    on_error: OnErrorArg,
    /// Rows of a table or pictures a call (default: what is fast)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// End a call, or the whole run of a table, that takes longer, with exit code 1
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    /// Draw pictures among the inputs (on a terminal they are drawn anyway)
    #[arg(long)]
    draw: bool,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    policy: PolicyArg,
    #[command(flatten)]
    confinement: ConfinementArgs,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Args)]
struct BenchArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    input: InputArg,
    #[command(flatten)]
    method: MethodArg,
    /// Batch sizes (default: 1,8,32 where the contract leaves the batch free)
    #[arg(long, value_name = "N,…", value_delimiter = ',', allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(1..))]
    batch: Vec<i64>,
    /// How long to measure each batch size
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Duration,
    /// Calls at once, from as many threads (default: what `rust-host tune --for throughput` found, else 1)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    at_once: Option<u16>,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    policy: PolicyArg,
    #[command(flatten)]
    confinement: ConfinementArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct TuneArgs {
    #[command(flatten)]
    file: FileArg,
    /// What is to be fast: one call after another, or as many rows a second as possible
    #[arg(long = "for", value_enum, default_value = "latency", value_name = "GOAL")]
    goal: GoalArg,
    /// Rows a call (default: 1 for latency, 8 for throughput)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(1..))]
    batch: Option<i64>,
    /// How long all of it may take; loading comes on top
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Duration,
    #[command(flatten)]
    policy: PolicyArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct BuildArgs {
    /// A compiled package, or a model's folder: `model.pt2` of its newest version
    file: PathBuf,
    /// The program to write
    #[arg(long, short = 'o', value_name = "FILE")]
    output: PathBuf,
    /// For a model that calls operators of libtorch: make FILE a folder with the program and libtorch (450 MB) in it
    #[arg(long)]
    with_libtorch: bool,
    /// For programs in C, C++ or Rust: make FILE a folder with a static library and a header that declares the model as a function
    #[arg(long, conflicts_with = "with_libtorch")]
    header: bool,
    /// Open the compiled code of the file with this SHA-256; only for a file that you trust
    #[arg(long, value_name = "SHA256", value_parser = sha256)]
    trust: Vec<String>,
    #[command(flatten)]
    signed: SignedArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum GoalArg {
    Latency,
    Throughput,
}

#[derive(Clone, Copy, ValueEnum)]
enum SandboxArg {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnErrorArg {
    Stop,
    Null,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Json,
    Npy,
    Npz,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= 3600.0);
    number.map(Duration::from_secs_f64).ok_or_else(|| "expected a number of seconds, at most 3600".to_owned())
}

fn platform(word: &str) -> std::result::Result<Platform, String> {
    Platform::parse(word).map_err(|e| e.message)
}

/// As `sha256sum` prints it.
fn sha256(text: &str) -> std::result::Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    match digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        true => Ok(digits.to_lowercase()),
        false => Err("expected 64 hexadecimal digits, as `sha256sum FILE` prints them".to_owned()),
    }
}

/// `500MB`, `2GB`, `1.5GiB`: a number and a unit.
fn size(text: &str) -> std::result::Result<u64, String> {
    let units =
        [("kib", 1024.0), ("mib", 1048576.0), ("gib", 1073741824.0), ("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("b", 1.0)];
    let lower = text.to_lowercase();
    let parts = units.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?.trim(), factor)));
    let (number, factor) = parts.ok_or("expected a size as 500MB or 2GB")?;
    let bytes = number.parse::<f64>().ok().map(|n| n * factor).filter(|n| (1.0..1e18).contains(n));
    bytes.map(|n| n as u64).ok_or_else(|| "expected a size as 500MB or 2GB".to_owned())
}

impl ConfinementArgs {
    fn settle(self) -> Confinement {
        let sandbox = match self.sandbox {
            SandboxArg::Auto => Sandbox::Auto,
            SandboxArg::On => Sandbox::On,
            SandboxArg::Off => Sandbox::Off,
        };
        Confinement { sandbox, memory: self.max_memory }
    }
}

impl PolicyArg {
    fn settle(self) -> Result<Policy> {
        let signed_by = self.signed.settle()?;
        Ok(Policy { allowed: self.allow_operator.into_iter().collect(), trusted: self.trust, signed_by })
    }
}

/// Reads the words after the program's name.
///
/// # Errors
/// `InvalidInput` in the host's own words.
pub(crate) fn parse(args: &[OsString]) -> Result<Parsed> {
    let name = OsString::from("rust-host");
    match Cli::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(cli) => settle(cli.command),
        Err(e) if matches!(e.kind(), Clap::DisplayHelp | Clap::DisplayVersion) => Ok(Parsed::Show(e.to_string())),
        Err(e) => Err(misuse(&e, args)),
    }
}

fn settle(command: Command) -> Result<Parsed> {
    let given = |words: InputArg| words.input.into_iter().map(Given::new).collect();
    Ok(match command {
        Command::Info { file, signed, json } => Parsed::Info(file.settle()?, signed.settle()?, json),
        Command::Verify { file, device, policy, confinement, json } => {
            Parsed::Verify(file.settle()?, device.device, policy.settle()?, confinement.settle(), json)
        }
        Command::Doctor { json } => Parsed::Doctor(json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rust-host", &mut script);
            Parsed::Completions(script)
        }
        Command::Bench(b) => Parsed::Bench(
            bench::Settings {
                file: b.file.settle()?,
                inputs: given(b.input),
                method: b.method.method,
                batches: b.batch,
                time: b.seconds,
                device: b.device.device,
                threads: b.threads.threads.map(usize::from),
                at_once: b.at_once.map(usize::from),
                policy: b.policy.settle()?,
                confinement: b.confinement.settle(),
            },
            b.json,
        ),
        Command::Tune(t) => Parsed::Tune(
            tune::Settings {
                path: t.file.file,
                backend: t.file.backend,
                goal: match t.goal {
                    GoalArg::Latency => tune::Goal::Latency,
                    GoalArg::Throughput => tune::Goal::Throughput,
                },
                batch: t.batch,
                time: t.seconds,
                policy: t.policy.settle()?,
            },
            t.json,
        ),
        Command::Build(b) => {
            let wanted = Some(Platform::Compiled).filter(|_| b.file.is_dir());
            let policy = Policy { trusted: b.trust, signed_by: b.signed.settle()?, ..Policy::default() };
            let file = versions::file(&b.file, wanted)?;
            let form = match (b.with_libtorch, b.header) {
                (true, _) => build::Form::WithLibtorch,
                (_, true) => build::Form::Library,
                _ => build::Form::Program,
            };
            Parsed::Build(build::Settings { file, output: b.output, form, policy }, b.json)
        }
        Command::Run(r) if tables::are_meant(&r.input.input, r.output.as_deref()) => Parsed::Tables(tables::Settings {
            file: r.file.settle()?,
            words: r.input.input,
            output: r.output,
            method: r.method.method,
            form: r.format.is_some(),
            on_error: match r.on_error {
                OnErrorArg::Stop => OnError::Stop,
                OnErrorArg::Null => OnError::Null,
            },
            batch_size: r.batch_size.and_then(|n| usize::try_from(n).ok()),
            top_k: r.top_k.map(usize::from),
            timeout: r.timeout,
            device: r.device.device,
            threads: r.threads.threads.map(usize::from),
            policy: r.policy.settle()?,
            confinement: r.confinement.settle(),
            json: r.json,
        }),
        Command::Run(r) => {
            let target = match r.output {
                Some(p) if p.as_os_str() == "-" => run::Target::Stdout,
                Some(p) => run::Target::Folder(p),
                None => run::Target::Screen,
            };
            let form = match r.format {
                _ if r.json => Some(run::Form::Json),
                Some(Form::Table) => Some(run::Form::Table),
                Some(Form::Json) => Some(run::Form::Json),
                Some(Form::Npy) => Some(run::Form::Npy),
                Some(Form::Npz) => Some(run::Form::Npz),
                None => None,
            };
            Parsed::Run(run::Settings {
                file: r.file.settle()?,
                inputs: given(r.input),
                method: r.method.method,
                target,
                form,
                top_k: usize::from(r.top_k.unwrap_or(3)),
                timeout: r.timeout,
                draw: r.draw,
                device: r.device.device,
                threads: r.threads.threads.map(usize::from),
                policy: r.policy.settle()?,
                confinement: r.confinement.settle(),
            })
        }
    })
}

/// clap's text as an error of ours: one sentence, names in backticks, what to do as a hint.
fn misuse(error: &clap::Error, args: &[OsString]) -> Error {
    let command = args.first().and_then(|a| a.to_str()).filter(|a| {
        Cli::command().get_subcommands().any(|c| c.get_name() == *a || c.get_all_aliases().any(|alias| alias == *a))
    });
    let help = command.map_or("`rust-host --help` lists the commands".to_owned(), |c| {
        format!("`rust-host {c} --help` shows every flag and an example")
    });
    if error.kind() == Clap::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::new(ErrorKind::InvalidInput, "a command is missing").hint(help);
    }
    let text = error.to_string();
    let text = text.split("\n\nUsage:").next().unwrap_or_default().split("\n\nFor more").next().unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let mut message = lines.next().unwrap_or_default().trim_start_matches("error: ").replace('\'', "`");
    let mut hint = None;
    for line in lines {
        match line.strip_prefix("tip: ") {
            Some(tip) => hint = hint.or(Some(tip.replace('\'', "`"))),
            None => message.push_str(&format!(" {line}")),
        }
    }
    Error::new(ErrorKind::InvalidInput, message).hint(hint.unwrap_or(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit() {
        let sizes =
            [("500MB", 500_000_000), ("2GB", 2_000_000_000), ("1.5 GiB", 1_610_612_736), ("1b", 1), ("64kib", 65536)];
        for (text, bytes) in sizes {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "500", "MB", "-1GB", "0MB", "nanGB", "infGB", "1e300GB", "2 TBs", "1.5.2MB", "١MB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
