//! Outputs → files in a folder: all of them, or none. Each is written and synced before the first is put in its place.

use crate::{interrupted, worker};
use rust_host_engine::{Error, Result, Value, json, npy};
use rust_host_tables::AtomicFile;
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// Bytes and the file name without the folder.
pub(crate) struct Entry {
    /// The file's name.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// One file for each output: tensors as `.npy` (or all as `.json`), everything else as `.json`.
pub(crate) fn entries(outputs: &[(String, Value)], all_json: bool) -> Vec<Entry> {
    let names = file_names(outputs.iter().map(|(n, _)| n.as_str()));
    let entry = |(name, (_, value)): (String, &(String, Value))| match value {
        Value::Tensor(tensor) if !all_json => Entry { name: format!("{name}.npy"), bytes: npy::write(tensor) },
        other => Entry { name: format!("{name}.json"), bytes: format!("{}\n", json::from_value(other)).into_bytes() },
    };
    names.into_iter().zip(outputs).map(entry).collect()
}

/// File names of outputs: what could leave the folder, hide or surprise is percent-encoded; a name that differs from an
/// earlier one in case alone is encoded whole, so that no file system takes the two for one.
fn file_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    const LONGEST: usize = 200;
    let mut taken = HashSet::new();
    let mut one = |(i, name): (usize, &str)| {
        let mut encoded = String::new();
        for (at, c) in name.char_indices() {
            match c {
                '/' | '\\' | '%' => encoded.push_str(&format!("%{:02X}", c as u32)),
                '.' if at == 0 => encoded.push_str("%2E"),
                c if c.is_control() => c.to_string().bytes().for_each(|b| encoded.push_str(&format!("%{b:02X}"))),
                c => encoded.push(c),
            }
        }
        if encoded.len() > LONGEST || encoded.is_empty() {
            let end = (0..=LONGEST.min(encoded.len())).rev().find(|&n| encoded.is_char_boundary(n)).unwrap_or(0);
            encoded = format!("{}%{i}", &encoded[..end]);
        }
        if !taken.insert(encoded.to_lowercase()) {
            encoded = name.bytes().map(|b| format!("%{b:02X}")).collect();
            encoded.truncate(LONGEST);
            if !taken.insert(encoded.to_lowercase()) {
                encoded.push_str(&format!("%{i}"));
                taken.insert(encoded.to_lowercase());
            }
        }
        encoded
    };
    names.enumerate().map(&mut one).collect()
}

/// Files that will be in a folder together; dropped before [`Files::finish`] they leave nothing.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    // Before `made`: a folder can be removed when it is empty.
    files: Vec<AtomicFile>,
    made: Made,
}

/// Folders that were made for files which are not all there yet.
#[derive(Debug, Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn folder(&mut self, path: &Path) -> std::io::Result<()> {
        let mut all = interrupted::new_folders();
        fs::create_dir(path)?;
        all.push(path.to_owned());
        self.0.push(path.to_owned());
        Ok(())
    }

    /// They stay.
    fn keep(&mut self) {
        interrupted::new_folders().retain(|f| !self.0.contains(f));
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            let _gone = fs::remove_dir(folder);
        }
        self.keep();
    }
}

impl Files {
    /// Begins files in the folder, which is made where it is missing.
    ///
    /// # Errors
    /// `Unavailable` with the path and the reason.
    pub(crate) fn begin(folder: &Path) -> Result<Self> {
        interrupted::remove_what_is_begun();
        let mut made = Made::default();
        make_folder(folder, &mut made)?;
        Ok(Self { folder: folder.to_owned(), files: Vec::new(), made })
    }

    /// Begins one file.
    ///
    /// # Errors
    /// As [`Files::begin`].
    pub(crate) fn create(&mut self, name: &str) -> Result<&mut AtomicFile> {
        let path = self.folder.join(name);
        if path.is_dir() {
            return Err(Error::unavailable(format!("`{}`: cannot write: it is a folder", path.display())));
        }
        self.files.push(AtomicFile::create(&path)?);
        self.files.last_mut().ok_or_else(|| Error::internal("a file that was begun is not there"))
    }

    /// Puts all of them in their places.
    ///
    /// # Errors
    /// As [`Files::begin`].
    pub(crate) fn finish(mut self) -> Result<()> {
        self.files.iter().try_for_each(AtomicFile::sync)?;
        self.files.drain(..).try_for_each(AtomicFile::finish)?;
        self.made.keep();
        Ok(())
    }
}

/// Writes all entries into the folder, which is made where it is missing, and returns their paths. Where this process may not
/// write, the one that started it does.
///
/// # Errors
/// `Unavailable` with the path and the reason; nothing new is left behind then.
pub(crate) fn write(folder: &Path, entries: &[Entry]) -> Result<Vec<PathBuf>> {
    if worker::is_worker() {
        for Entry { name, bytes } in entries {
            worker::begin(&folder.join(name))?.write(bytes)?;
        }
        worker::finish(folder)?;
    } else {
        let mut files = Files::begin(folder)?;
        entries.iter().try_for_each(|e| files.create(&e.name)?.write(&e.bytes))?;
        files.finish()?;
    }
    Ok(entries.iter().map(|e| folder.join(&e.name)).collect())
}

fn make_folder(folder: &Path, made: &mut Made) -> Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    for path in missing.into_iter().rev() {
        made.folder(path).map_err(|e| Error::io(path, "make this folder", e))?;
    }
    if !folder.is_dir() {
        return Err(Error::unavailable(format!("`{}` is no folder, expected one for the outputs", folder.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_the_folder_or_hides_or_meets_another() {
        let long = "x".repeat(300);
        let names = ["a/b", "..", "", "A", "a", "%41", &long, "n\0", "ä", "Ä", "A"];
        let files = file_names(names.into_iter());
        assert_eq!(files[..6], ["a%2Fb", "%2E.", "%2", "A", "%61", "%2541"]);
        assert!(files.iter().all(|f| f.len() < 250 && !f.contains('/') && !f.contains('\0') && !f.starts_with('.')));
        let distinct: HashSet<_> = files.iter().map(|f| f.to_lowercase()).collect();
        assert_eq!(distinct.len(), names.len(), "{files:?}");
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        fs::create_dir_all(folder.join("taken.npy")).unwrap();
        let entry = |name: &str| Entry { name: name.to_owned(), bytes: vec![1] };
        let e = write(&folder, &[entry("x.npy"), entry("taken.npy")]).unwrap_err();
        assert!(e.message.contains("taken.npy") && e.message.contains("is a folder"), "{e}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let e = write(&root.path().join("new/deep"), &[entry("no\0name")]).unwrap_err();
        assert!(e.message.contains("cannot write"), "{e}");
        assert!(!root.path().join("new").exists());
    }

    #[test]
    fn a_finished_write_leaves_its_files_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("new/deep");
        let outputs = [("a/b".to_owned(), Value::Int(3)), ("s".to_owned(), Value::Str("t".to_owned()))];
        write(&folder, &entries(&outputs, false)).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["a%2Fb.json", "s.json"]);
        assert_eq!(fs::read_to_string(folder.join("s.json")).unwrap(), "\"t\"\n");
    }
}
