//! Says where the library looks for libtorch. This is why it is a crate of its own: to link it anew takes seconds, to compile
//! the shim anew minutes.
use std::{env, error::Error, fs, os::unix::fs::symlink, path::PathBuf};

const FILE: &str = "librust_host_torch_library.so";

fn main() -> Result<(), Box<dyn Error>> {
    // In a wheel libtorch lies in the package `torch` beside its own. A development build has it in the virtual environment,
    // whose path must not be in what is given away: on another machine that folder may be anybody's. (`bundle.py` takes it out.)
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN:$ORIGIN/../torch/lib");
    println!("cargo::rerun-if-env-changed=PYO3_BUILD_EXTENSION_MODULE");
    if env::var_os("PYO3_BUILD_EXTENSION_MODULE").is_none() {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", env::var("DEP_RUST_HOST_TORCH_LIBTORCH")?);
    }
    show_to_maturin()
}

/// maturin takes into a wheel what is in a build script's folder, and the library will be in `deps` above that.
fn show_to_maturin() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let deps = out.ancestors().map(|folder| folder.join("deps")).find(|deps| deps.is_dir());
    let deps = deps.ok_or_else(|| format!("there is no folder `deps` above `{}`", out.display()))?;
    let link = out.join(FILE);
    let _earlier = fs::remove_file(&link);
    Ok(symlink(deps.join(FILE), link)?)
}
