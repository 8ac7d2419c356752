//! Whether the owner of this machine wants a file's native code. TorchScript is interpreted and checked; a compiled package
//! does what its author likes, so it is opened only if its digest stands in a `trusted.toml` or was named.

use crate::{Archive, Error, ErrorKind, Platform, Result, operators::Policy};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What lies in a model's folder, or in the folder of one of its versions.
const FILE: &str = "trusted.toml";

#[derive(Deserialize)]
struct Trusted {
    #[serde(default)]
    package: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    sha256: String,
}

/// SHA-256 of some bytes: 64 hexadecimal digits, as `sha256sum` prints them.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks a file that holds native code; others need no trust.
///
/// # Errors
/// `Refused` with the digest and how to trust it, or for a list that is somebody else's; `InvalidInput` for a `trusted.toml` that cannot be read.
pub fn check(archive: &Archive, policy: &Policy) -> Result<()> {
    if archive.platform() != Platform::Compiled {
        return Ok(());
    }
    let digest = digest(archive.bytes());
    let is_it = |text: &str| {
        let text = text.trim().to_ascii_lowercase();
        text.strip_prefix("sha256:").unwrap_or(&text) == digest
    };
    if policy.trusted.iter().any(|text| is_it(text)) {
        return Ok(());
    }
    let files = files_for(archive.path());
    for file in &files {
        if read(file)?.iter().any(|text| is_it(text)) {
            return Ok(());
        }
    }
    let shown = archive.path().display();
    let places = files.iter().map(|f| format!("`{}`", f.display())).collect::<Vec<_>>().join(" or ");
    Err(Error::new(
        ErrorKind::Refused,
        format!("`{shown}` holds compiled code, which may do anything, and its SHA-256 is not in {places}"),
    )
    .hint(format!("if you trust who made it: `--trust {digest}`")))
}

/// Beside the file, and beside the folder of its version.
fn files_for(path: &Path) -> Vec<PathBuf> {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole.ancestors().skip(1).take(2).map(|folder| folder.join(FILE)).collect()
}

/// The digests of one file; none if it is not there.
fn read(file: &Path) -> Result<Vec<String>> {
    let wrong = |text: String| Error::invalid_input(format!("`{}`: {text}", file.display()));
    refuse_a_strangers(file)?;
    let text = match fs::read_to_string(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| wrong(format!("it cannot be read: {e}")))?,
    };
    let trusted: Trusted = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text.get(..span.start).unwrap_or_default().lines().count().max(1));
        wrong(format!("line {line}: {}, expected entries `[[package]]` with a `sha256`", e.message()))
    })?;
    Ok(trusted.package.into_iter().map(|entry| entry.sha256).collect())
}

/// A list that somebody else may have written is nobody's trust: the folder may be one that all users share.
fn refuse_a_strangers(file: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(list), Ok(own)) = (fs::metadata(file), fs::metadata("/proc/self")) else { return Ok(()) };
    let who = match list.uid() {
        _ if list.mode() & 0o002 != 0 => "anybody may write to it",
        uid if uid != 0 && uid != own.uid() => "it belongs to another user",
        _ => return Ok(()),
    };
    let shown = file.display();
    Err(Error::new(ErrorKind::Refused, format!("`{shown}` is not a list to trust: {who}"))
        .hint("make it your own, or name the digest: `--trust SHA256`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_list_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        assert!(read(&file).unwrap().is_empty());
        fs::write(&file, "# ours\n[[package]]\nsha256 = \"AB\"\nfile = \"1/model.pt2\"\n").unwrap();
        assert_eq!(read(&file).unwrap(), ["AB"]);
        for text in ["[[package]]\nsha256 = 3\n", "[[package]\n", "package = \"x\"\n", "[[package]]\n"] {
            fs::write(&file, text).unwrap();
            let e = read(&file).unwrap_err();
            assert!(e.message.contains("trusted.toml") && e.message.contains("line "), "{e}");
            assert_eq!(e.message.lines().count(), 1, "{e}");
        }
    }

    #[test]
    fn a_list_that_anybody_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        fs::write(&file, "[[package]]\nsha256 = \"AB\"\n").unwrap();
        for (mode, trusted) in [(0o644, true), (0o664, true), (0o666, false), (0o602, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file).is_ok(), trusted, "{mode:o}");
        }
    }

    #[test]
    fn the_lists_are_those_of_version_and_model() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        assert_eq!(files_for(&top.join("3/model.pt2")), [top.join("3").join(FILE), top.join(FILE)]);
    }
}
