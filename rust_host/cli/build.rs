//! Compiles the C that goes into the libraries of `rust-host build --header`, so that no compiler is needed to write one.
use std::{env, error::Error, fs, path::PathBuf};

/// As many arguments as a model's function may have.
const MOST_ARGUMENTS: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    let source = "../embedded/csrc";
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let compile = |name: &str, parameters: &str, arguments: &str| -> Result<Vec<u8>, Box<dyn Error>> {
        let objects = cc::Build::new()
            .file(format!("{source}/{name}.c"))
            .define("PARAMETERS", parameters)
            .define("ARGUMENTS", arguments)
            .std("c11")
            .opt_level(2)
            .debug(false)
            .pic(true)
            .warnings(true)
            .extra_warnings(true)
            .try_compile_intermediates()?;
        Ok(fs::read(objects.first().ok_or("there is no object")?)?)
    };
    fs::write(out.join("host.o"), compile("host", "", "")?)?;
    let mut all = String::new();
    for count in 1..=MOST_ARGUMENTS {
        let arguments: Vec<String> = (0..count).map(|number| format!("a{number}")).collect();
        let parameters: Vec<String> = arguments.iter().map(|name| format!("uintptr_t {name}")).collect();
        let object = out.join(format!("model_{count}.o"));
        fs::write(&object, compile("model", &parameters.join(", "), &arguments.join(", "))?)?;
        all.push_str(&format!("    include_bytes!({object:?}),\n"));
    }
    fs::write(out.join("models.rs"), format!("&[\n{all}]\n"))?;
    Ok(())
}
