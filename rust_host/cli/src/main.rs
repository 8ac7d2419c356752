//! The standalone binary `rust-host`.

fn main() {
    rust_host_cli::main(&rust_host_loader::Loader)
}
