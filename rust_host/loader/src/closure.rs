//! All libraries that have to lie beside libtorch on a machine that has none of it.

use crate::elf;
use rust_host_engine::{Error, Result};
use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// What every Linux has that torch runs on.
const SYSTEM: [&str; 8] = ["libc", "libm", "libdl", "librt", "libpthread", "libutil", "libgcc_s", "libstdc++"];
const OWN_FOLDER: &[u8] = b"$ORIGIN\0";

/// In a copy of that library: it is to look for the others in its own folder alone. torch's look in folders beside theirs first,
/// which are anybody's where the copies lie.
///
/// # Errors
/// `Unavailable` if the copy cannot be written, or has no room for it.
pub fn look_in_own_folder(library: &Path, copy: &File) -> Result<()> {
    for entry in elf::run_paths(library) {
        if entry.text.len() + 1 < OWN_FOLDER.len() {
            return Err(Error::unavailable(format!(
                "`{}` looks for its libraries in a folder of another machine",
                library.display()
            )));
        }
        copy.write_all_at(OWN_FOLDER, entry.place).map_err(|e| Error::io(library, "copy", e))?;
    }
    Ok(())
}

/// That library and every other one that it needs, directly or not, but for the system's own.
///
/// # Errors
/// `Unavailable` that names a library which is in none of the folders where the dynamic loader would look for it.
pub fn libraries_of(library: &Path) -> Result<Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    let mut open = vec![library.to_owned()];
    while let Some(library) = open.pop() {
        let Some(name) = library.file_name().map(ToOwned::to_owned) else { continue };
        let own = library.parent().unwrap_or(Path::new("/")).to_owned();
        if found.insert(name, library.clone()).is_some() {
            continue;
        }
        let folders: Vec<PathBuf> = elf::run_path(&library).into_iter().chain([own]).collect();
        for needed in elf::needed(&library).iter().filter(|name| !is_systems(name)) {
            let file = folders.iter().map(|folder| folder.join(needed)).find(|file| file.is_file());
            open.push(file.ok_or_else(|| {
                let folders: Vec<_> = folders.iter().map(|f| format!("`{}`", f.display())).collect();
                Error::unavailable(format!(
                    "`{}` needs `{needed}`, which is in none of {}",
                    library.display(),
                    folders.join(", ")
                ))
                .hint("install the whole of that torch again")
            })?);
        }
    }
    Ok(found.into_values().collect())
}

fn is_systems(name: &str) -> bool {
    name.starts_with("ld-linux") || name.split_once(".so").is_some_and(|(stem, _)| SYSTEM.contains(&stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_system_needs_nothing_else() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(libraries_of(&own).unwrap(), [own]);
    }

    #[test]
    fn the_systems_libraries_are_known_by_their_names() {
        assert!(["libc.so.6", "libstdc++.so.6", "ld-linux-aarch64.so.1"].iter().all(|name| is_systems(name)));
        assert!(["libc10.so", "libgomp.so.1", "libcudart.so.13", "libm"].iter().all(|name| !is_systems(name)));
    }
}
