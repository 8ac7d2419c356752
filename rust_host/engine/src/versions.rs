//! A model's folder → the file to load. `models/mnist` holds versions `1`, `2`, …, and a version holds the same model in one
//! or more kinds of file; a path to a file is that file.

use crate::{Error, ErrorKind, Platform, Result, host_settings};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The files of a version, in the order in which they are taken where nothing else decides.
pub const FILES: [(&str, Platform); 3] =
    [("model.pt", Platform::TorchScript), ("model.onnx", Platform::Onnx), ("model.pt2", Platform::Compiled)];

/// The file that a path means: the path itself, or in a folder the file of that kind, else the one that `rust-host tune` found
/// to be fastest here, else the first there is.
///
/// # Errors
/// `NotFound` or `InvalidModel` with what the folder holds instead, `InvalidInput` for a kind beside a file.
///
/// ```
/// let folder = std::env::temp_dir().join(format!("versions-{}", std::process::id()));
/// std::fs::create_dir_all(folder.join("2"))?;
/// std::fs::write(folder.join("2/model.pt"), "")?;
/// assert_eq!(rust_host_engine::versions::file(&folder, None)?, folder.join("2/model.pt"));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn file(path: &Path, wanted: Option<Platform>) -> Result<PathBuf> {
    if !path.is_dir() {
        return match wanted {
            None => Ok(path.to_owned()),
            Some(_) => {
                let shown = path.display();
                Err(Error::invalid_input(format!(
                    "`--backend` chooses among the files of a folder, and `{shown}` is no folder"
                )))
            }
        };
    }
    let version = folder(path)?;
    let shown = version.display();
    let there = || files(&version).map(|(file, _)| file);
    match wanted {
        None => {
            let tuned = host_settings::read(&version)?.settings.map(|s| version.join(s.file));
            let file = tuned.filter(|f| f.is_file()).or_else(|| there().next());
            file.ok_or_else(|| Error::internal(format!("`{shown}` has no model file any more")))
        }
        Some(platform) => {
            let found = files(&version).find(|(_, p)| *p == platform).map(|(file, _)| file);
            found.ok_or_else(|| {
                let noun = platform.noun();
                let have: Vec<_> = there().map(|f| format!("`{}`", f.display())).collect();
                Error::new(ErrorKind::NotFound, format!("`{shown}` holds no {noun}, it has {}", have.join(", ")))
                    .hint("`py-authoring export --method script|compiled|onnx` writes each kind")
            })
        }
    }
}

/// The version that a model's folder means: itself, if it holds a model file, else its newest.
///
/// # Errors
/// `NotFound` or `InvalidModel` with what the folder holds instead.
pub fn folder(path: &Path) -> Result<PathBuf> {
    match is_version(path) {
        true => Ok(path.to_owned()),
        false => newest(path),
    }
}

/// The model files of a version's folder.
pub fn files(version: &Path) -> impl Iterator<Item = (PathBuf, Platform)> {
    FILES.into_iter().map(|(name, platform)| (version.join(name), platform)).filter(|(file, _)| file.is_file())
}

fn is_version(folder: &Path) -> bool {
    files(folder).next().is_some()
}

/// The version with the highest number.
fn newest(folder: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    let entries = fs::read_dir(folder)
        .map_err(|e| Error::new(ErrorKind::NotFound, format!("the folder `{shown}` cannot be read: {e}")))?;
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u64>().ok();
    let versions = entries.flatten().filter_map(|entry| Some((number(&entry.path())?, entry.path())));
    versions.filter(|(_, path)| is_version(path)).max().map(|(_, path)| path).ok_or_else(|| {
        let names: Vec<_> = FILES.iter().map(|(name, _)| format!("`{name}`")).collect();
        Error::invalid_model(format!(
            "`{shown}` is a folder without a model: it has neither {} nor a numbered version with one of them",
            names.join(", ")
        ))
        .hint("`py-authoring export` writes one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_by_number_and_the_kind_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        let e = file(top, None).unwrap_err();
        assert!(e.message.contains("without a model") && e.message.contains("model.pt2"), "{e}");
        for name in ["9/model.pt", "10/model.pt2", "10/model.onnx", "11/notes.txt", "12x/model.pt", "runs/model.pt"] {
            fs::create_dir_all(top.join(name).parent().unwrap()).unwrap();
            fs::write(top.join(name), "").unwrap();
        }
        assert_eq!(file(top, None).unwrap(), top.join("10/model.onnx"));
        assert_eq!(file(top, Some(Platform::Compiled)).unwrap(), top.join("10/model.pt2"));
        assert_eq!(file(&top.join("9"), None).unwrap(), top.join("9/model.pt"));
        assert_eq!(file(&top.join("11/notes.txt"), None).unwrap(), top.join("11/notes.txt"));
        assert!(file(&top.join("9/model.pt"), Some(Platform::Compiled)).unwrap_err().message.contains("is no folder"));
        let e = file(top, Some(Platform::TorchScript)).unwrap_err();
        assert!(e.message.contains("no TorchScript archive") && e.message.contains("model.onnx"), "{e}");
    }
}
