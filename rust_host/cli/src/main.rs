//! The standalone binary `rust-host`.

fn main() {
    rust_host_loader::at_start();
    rust_host_cli::main(&rust_host_loader::Loader)
}
