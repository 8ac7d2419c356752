//! A package of compiled code (`torch._inductor.aoti_compile_and_package`, `model.pt2`): what it was compiled for and what it
//! takes from its host, read before anything of it is opened.

use crate::{Archive, Error, Result, machine};
use object::{
    Object, ObjectSymbol,
    elf::DT_NEEDED,
    read::elf::{Dyn, ElfFile64},
};
use serde::Deserialize;
use std::borrow::Cow;

/// The model of a package.
#[derive(Debug)]
pub struct Package<'a> {
    /// The shared library that holds code and weights.
    pub code: Cow<'a, [u8]>,
    /// What it was compiled for.
    pub built_for: BuiltFor,
    /// The functions of libtorch that it calls, by their names: `aoti_torch_cpu_mkldnn__convolution_pointwise`.
    pub operators: Vec<String>,
    /// The functions of OpenMP that it calls: `GOMP_parallel`.
    pub parallel: Vec<String>,
    /// The libraries that it needs beside it: `libc.so.6`.
    pub libraries: Vec<String>,
}

/// The machine that a package was compiled for, as torch's compiler wrote it down.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BuiltFor {
    /// `cpu`, `cuda`.
    #[serde(rename = "AOTI_DEVICE_KEY")]
    pub device: String,
    /// `linux`
    #[serde(rename = "AOTI_PLATFORM")]
    pub system: String,
    /// `x86_64`
    #[serde(rename = "AOTI_MACHINE")]
    pub machine: String,
    /// Extensions of the processor's instruction set: `AVX512 AVX512_VNNI`.
    #[serde(rename = "AOTI_CPU_ISA")]
    pub isa: String,
}

impl Default for BuiltFor {
    fn default() -> Self {
        let unknown = || "unknown".to_owned();
        Self { device: unknown(), system: unknown(), machine: unknown(), isa: unknown() }
    }
}

/// Where torch puts what it compiled, each model in a folder of its name.
const FOLDER: &str = "data/aotinductor";
/// The model that torch loads, and before it the same for processors that have more (`py-authoring export --cpu x86-64-v3+v4`).
const CODES: [&str; 2] = ["x86-64-v4", "model"];

impl<'a> Package<'a> {
    /// Finds the code in an archive, of several the best that this machine runs, and reads its symbols.
    ///
    /// # Errors
    /// As [`Package::all`].
    pub fn read(archive: &'a Archive) -> Result<Self> {
        let mut codes = Self::all(archive)?;
        let best = best(codes.iter().map(|code| &code.built_for));
        Ok(codes.swap_remove(best))
    }

    /// All codes of the one model in an archive, the best first; at least one.
    ///
    /// # Errors
    /// `InvalidModel` if there is none, another model beside it, or a code is no whole library.
    pub fn all(archive: &'a Archive) -> Result<Vec<Self>> {
        let names: Vec<&str> = archive.members().map(|(name, _)| name).filter(|name| name.ends_with(".so")).collect();
        if names.is_empty() {
            return Err(Error::invalid_model("the package holds no compiled code"));
        }
        let libraries = of_one_model(&names).ok_or_else(|| {
            Error::invalid_model(format!(
                "the package holds `{}`, expected one library in `{FOLDER}/model/`, the model of the name `model`, and at most \
                 one in `{FOLDER}/x86-64-v4/`",
                names.join("`, `")
            ))
        })?;
        libraries.into_iter().map(|name| Self::of_library(archive, name)).collect()
    }

    fn of_library(archive: &'a Archive, name: &str) -> Result<Self> {
        let wrong = |text: String| Error::invalid_model(text);
        let built_for = built_for(archive, name)?;
        let code = archive.member(name)?.unwrap_or_default();
        let elf: ElfFile64 =
            ElfFile64::parse(&*code).map_err(|e| wrong(format!("the compiled code is no 64-bit ELF library: {e}")))?;
        let wanted = |prefixes: [&str; 2]| {
            let undefined = elf.dynamic_symbols().filter(|s| s.is_undefined()).filter_map(|s| s.name().ok());
            let mut names: Vec<String> =
                undefined.filter(|name| prefixes.iter().any(|p| name.starts_with(p))).map(str::to_owned).collect();
            names.sort();
            names
        };
        let (operators, parallel) = (wanted(["aoti_torch_", "Sleef_"]), wanted(["GOMP_", "omp_"]));
        let libraries = needed(&elf).ok_or_else(|| wrong("the compiled code is no whole library".into()))?;
        Ok(Self { code, built_for, operators, parallel, libraries })
    }
}

/// Which of these, the best first, this machine runs; the last if none: what that one needs is the least.
fn best<'b>(codes: impl ExactSizeIterator<Item = &'b BuiltFor>) -> usize {
    let last = codes.len().saturating_sub(1);
    codes.enumerate().find(|(_, code)| code.check().is_ok()).map_or(last, |(at, _)| at)
}

/// The libraries in the order of [`CODES`]; `None` if there is another, two of a kind, or none of the name that torch loads.
fn of_one_model<'n>(libraries: &[&'n str]) -> Option<Vec<&'n str>> {
    let mut found = Vec::new();
    for code in CODES {
        let folder = format!("{FOLDER}/{code}/");
        let mut of_code = libraries.iter().filter(|name| name.starts_with(&folder));
        match (of_code.next(), of_code.next()) {
            (Some(one), None) => found.push(*one),
            (None, _) if code != "model" => {}
            _ => return None,
        }
    }
    (found.len() == libraries.len()).then_some(found)
}

/// What the library of that name was compiled for, by the file beside it.
fn built_for(archive: &Archive, library: &str) -> Result<BuiltFor> {
    let beside = format!("{}_metadata.json", library.trim_end_matches(".so"));
    match archive.member(&beside)? {
        Some(json) => serde_json::from_slice(&json)
            .map_err(|e| Error::invalid_model(format!("`{beside}` does not say what the code was compiled for: {e}"))),
        None => Err(Error::invalid_model(format!("`{beside}` is missing, which says what the code was compiled for"))),
    }
}

/// The names of a library's DT_NEEDED.
fn needed(elf: &ElfFile64) -> Option<Vec<String>> {
    let (endian, sections) = (elf.endian(), elf.elf_section_table());
    let Some((entries, link)) = sections.dynamic(endian, elf.data()).ok()? else { return Some(Vec::new()) };
    let strings = sections.strings(endian, elf.data(), link).ok()?;
    let names = entries.iter().filter(|entry| entry.d_tag.get(endian) == DT_NEEDED);
    names.map(|entry| String::from_utf8(entry.string(endian, strings).ok()?.to_vec()).ok()).collect()
}

impl BuiltFor {
    /// Whether this machine runs such code; its processor would end the process at the first instruction that it lacks.
    ///
    /// # Errors
    /// `Unavailable` that names what the code needs and this machine has not.
    pub fn check(&self) -> Result<()> {
        let other = |what: String| {
            Err(Error::unavailable(format!("its code was compiled for {what}")).hint(
                "compile it on such a machine as this: `py-authoring export --method compiled`, or run its `model.pt`",
            ))
        };
        if self.device != "cpu" {
            return other(format!(
                "the device `{}`, and this host opens compiled code for the processor alone",
                self.device
            ));
        }
        if (&*self.system, &*self.machine) != (std::env::consts::OS, std::env::consts::ARCH) {
            let here = (std::env::consts::OS, std::env::consts::ARCH);
            return other(format!("{} on {}, and this is {} on {}", self.system, self.machine, here.0, here.1));
        }
        match self.isa.split_whitespace().find(|extension| !has(extension)) {
            Some(missing) => other(format!("a processor with `{missing}`, which this one does not have")),
            None => Ok(()),
        }
    }
}

/// Whether the processor has an extension, by the name that torch's compiler gives it. An unknown one it has not.
#[cfg(target_arch = "x86_64")]
fn has(extension: &str) -> bool {
    use std::is_x86_feature_detected as detected;
    match extension.to_ascii_uppercase().as_str() {
        // Code without vector instructions.
        "INVALID_VEC_ISA" => true,
        // The whole levels x86-64-v3 and v4, which g++ used.
        "AVX2" => {
            detected!("avx2")
                && detected!("fma")
                && detected!("f16c")
                && detected!("bmi1")
                && detected!("bmi2")
                && detected!("lzcnt")
                && detected!("movbe")
        }
        "AVX512" => {
            detected!("avx512f")
                && detected!("avx512cd")
                && detected!("avx512dq")
                && detected!("avx512vl")
                && detected!("avx512bw")
                && has("AVX2")
        }
        "AVX512_VNNI" => detected!("avx512vnni"),
        "AVX512_BF16" => detected!("avx512bf16"),
        // The others go by Linux's names: amx_tile.
        other => machine::cpu().features.contains(&other.to_ascii_lowercase()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(extension: &str) -> bool {
    extension == "INVALID_VEC_ISA" || machine::cpu().features.contains(&extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_one_model_come_best_first_and_others_are_refused() {
        let [model, better, other] =
            ["model/a.so", "x86-64-v4/b.so", "other/c.so"].map(|name| format!("{FOLDER}/{name}"));
        let (model, better, other) = (model.as_str(), better.as_str(), other.as_str());
        assert_eq!(of_one_model(&[model]).unwrap(), [model]);
        assert_eq!(of_one_model(&[model, better]).unwrap(), [better, model]);
        for wrong in
            [&[better][..], &[other], &[model, other], &[model, model], &[model, better, better], &["a.so"], &[]]
        {
            assert!(of_one_model(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn the_first_code_that_runs_here_is_taken() {
        let runs = BuiltFor {
            device: "cpu".into(),
            system: std::env::consts::OS.into(),
            machine: std::env::consts::ARCH.into(),
            isa: String::new(),
        };
        let does_not = BuiltFor { isa: "AVX9000".into(), ..runs.clone() };
        assert_eq!(best([&runs, &runs].into_iter()), 0);
        assert_eq!(best([&does_not, &runs].into_iter()), 1);
        assert_eq!(best([&does_not, &does_not].into_iter()), 1);
    }

    #[test]
    fn code_for_another_machine_is_named() {
        let here = BuiltFor {
            device: "cpu".into(),
            system: std::env::consts::OS.into(),
            machine: std::env::consts::ARCH.into(),
            isa: "INVALID_VEC_ISA".into(),
        };
        assert!(here.check().is_ok() && BuiltFor { isa: String::new(), ..here.clone() }.check().is_ok());
        for (other, named) in [
            (BuiltFor { isa: "AVX9000".into(), ..here.clone() }, "`AVX9000`"),
            (BuiltFor { isa: "INVALID_VEC_ISA AMX_TILE9".into(), ..here.clone() }, "`AMX_TILE9`"),
            (BuiltFor { device: "cuda".into(), ..here.clone() }, "`cuda`"),
            (BuiltFor { machine: "sparc".into(), ..here.clone() }, "on sparc"),
            (BuiltFor { system: "win32".into(), ..here.clone() }, "win32"),
            (BuiltFor::default(), "unknown"),
        ] {
            let e = other.check().unwrap_err();
            assert!(e.message.contains(named), "{e}");
        }
    }
}
