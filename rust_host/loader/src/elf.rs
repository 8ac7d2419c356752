//! Reads from a shared library which others it needs and where the dynamic loader would look for them, without loading it.

use object::{
    Endianness,
    elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64},
    read::{
        ReadCache,
        elf::{Dyn, FileHeader, SectionHeader},
    },
};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// The folders of the library's RUNPATH (or RPATH), in order, with `$ORIGIN` replaced by the library's own folder; empty
/// if it has none or is no 64-bit ELF file.
pub(crate) fn run_path(library: &Path) -> Vec<PathBuf> {
    let origin = library.parent().unwrap_or(Path::new("."));
    // The loader ignores RPATH beside RUNPATH, which comes first.
    let first = run_paths(library).into_iter().next();
    let text = first.map(|entry| entry.text).unwrap_or_default();
    let folders = text.split(':').filter(|f| !f.is_empty());
    folders.map(|f| replace_origin(f, origin)).collect()
}

fn replace_origin(folder: &str, origin: &Path) -> PathBuf {
    for name in ["$ORIGIN", "${ORIGIN}"] {
        if let Some(rest) = folder.strip_prefix(name) {
            return origin.join(rest.trim_start_matches('/'));
        }
    }
    PathBuf::from(folder)
}

/// The names of the libraries that it asks for; empty if it is no 64-bit ELF file.
pub(crate) fn needed(library: &Path) -> Vec<String> {
    entries(library, DT_NEEDED).into_iter().map(|entry| entry.text).collect()
}

/// Its run paths as they stand in the file, RUNPATH and RPATH.
pub(crate) fn run_paths(library: &Path) -> Vec<Entry> {
    [DT_RUNPATH, DT_RPATH].into_iter().flat_map(|tag| entries(library, tag)).collect()
}

/// A text that the dynamic loader reads.
pub(crate) struct Entry {
    /// Where it begins in the file.
    pub(crate) place: u64,
    pub(crate) text: String,
}

/// All entries of that tag; none if something is not as in a 64-bit ELF file. Only the pages that are needed are read.
fn entries(library: &Path, tag: i64) -> Vec<Entry> {
    let read = || {
        let file = ReadCache::new(File::open(library).ok()?);
        let header = FileHeader64::<Endianness>::parse(&file).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, &file).ok()?;
        let (entries, link) = sections.dynamic(endian, &file).ok()??;
        let strings = sections.section(link).ok()?;
        let (start, _) = strings.file_range(endian)?;
        let strings = strings.strings(endian, &file).ok()??;
        let of_tag = entries.iter().filter(|e| e.tag(endian) == tag);
        let entry = |e: &object::elf::Dyn64<Endianness>| {
            let text = String::from_utf8(e.string(endian, strings).ok()?.to_vec()).ok()?;
            Some(Entry { place: start.checked_add(e.val(endian))?, text })
        };
        of_tag.map(entry).collect::<Option<Vec<_>>>()
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_the_librarys_folder() {
        assert_eq!(replace_origin("$ORIGIN/../lib", Path::new("/a/bin")), Path::new("/a/bin/../lib"));
        assert_eq!(replace_origin("${ORIGIN}", Path::new("/a/bin")), Path::new("/a/bin"));
        assert_eq!(replace_origin("/x", Path::new("/a/bin")), Path::new("/x"));
    }

    #[test]
    fn what_is_no_library_has_no_run_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.so");
        std::fs::write(&file, b"\x7fELF\x02\x01\x01 cut off").unwrap();
        assert!(run_path(&file).is_empty() && run_path(Path::new("/nowhere.so")).is_empty());
        assert!(needed(&file).is_empty());
    }

    #[test]
    fn this_program_needs_the_c_library() {
        assert!(needed(&std::env::current_exe().unwrap()).iter().any(|name| name == "libc.so.6"));
    }
}
