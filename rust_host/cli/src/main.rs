//! The standalone binary `rust-host`.

fn main() -> std::process::ExitCode {
    rust_host_cli::main(&rust_host_loader::Loader)
}
