//! A static library for other people's programs: the functions of one model, compiled when rust-host was, with the model and
//! the host as data, and nothing else that a program could meet.

use super::header::Header;
use crate::folder::Files;
use ar_archive_writer::{ArchiveKind, NewArchiveMember, write_archive_to_stream};
use object::{
    Architecture, BinaryFormat, Endianness, SectionFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    elf::SHF_ALLOC,
    write::{Object, StandardSection, Symbol, SymbolSection},
};
use rust_host_engine::{Contract, Error, Package, Result, trust};
use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

/// `csrc/host.c`, and `csrc/model.c` for one argument, two, and so on (`build.rs`).
const HOST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/host.o"));
const MODELS: &[&[u8]] = include!(concat!(env!("OUT_DIR"), "/models.rs"));
/// Names in them that the real ones are written over (`csrc/host.h`).
const NAME_OF_HOST: &str = "rust_host_in_place_of_the_host_of_this_version";
const NAME_OF_MODEL: &str =
    "rust_host_in_place_of_the_name_of_the_model_that_is_at_most_ninety_six_bytes_long_and_never_longer_";
const NAME_OF_DATA: &str = "rust_host_in_place_of_the_data_of_the_model_whose_name_is_at_most_ninety_six_bytes_long_with_some_words_before_it_";
/// The flag of sections that are far from code (System V ABI for x86-64, 4.2.1).
const SHF_X86_64_LARGE: u32 = 0x1000_0000;
/// As long as a name may be.
const LONGEST: usize = 96;
/// `-I string` would hide the system's `string.h`, and `libm.a` is another library.
const TAKEN: &str = "assert complex ctype errno fcntl fenv float inttypes iso646 limits locale math memory pthread sched setjmp signal \
    stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar unistd wchar \
    wctype c dl gcc m rt util";

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Architecture = Architecture::X86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Architecture = Architecture::Aarch64;

/// A library that is to be written.
#[derive(Debug)]
pub(super) struct Library {
    /// `digits/libdigits.a`
    path: PathBuf,
    /// `digits`
    name: String,
    functions: &'static [u8],
    header: Header,
}

impl Library {
    /// # Errors
    /// `InvalidInput` if the folder's name cannot begin the names of functions, or the contract is none that a function of C keeps to.
    pub(super) fn new(folder: &Path, contract: &Contract, package: &Package<'_>) -> Result<Self> {
        let shown = folder.display();
        if folder.is_file() {
            return Err(Error::invalid_input(format!(
                "`{shown}` is a file, expected a folder for a library and its header"
            )));
        }
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().replace(['-', '.', ' '], "_");
        let is_name = name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
            && name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
            && name.len() <= LONGEST;
        if !is_name {
            return Err(Error::invalid_input(format!(
                "`{shown}` cannot name functions of C: expected letters, digits and `_`, a letter first, at most {LONGEST}"
            )));
        }
        if TAKEN.split_whitespace().any(|taken| taken == name) {
            return Err(Error::invalid_input(format!(
                "`{shown}` would be taken for the system's `{name}.h` or `lib{name}`, expected another name"
            )));
        }
        let header = Header::new(&name, contract, package)?;
        let functions = header.arguments.checked_sub(1).and_then(|at| MODELS.get(at)).ok_or_else(|| {
            let (most, count) = (MODELS.len(), header.arguments);
            Error::invalid_input(format!("its function would have {count} arguments, expected at most {most}"))
        })?;
        Ok(Self { path: folder.join(format!("lib{name}.a")), name, functions, header })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it offers, for people.
    pub(super) fn declares(&self) -> String {
        self.header.prototype.clone()
    }

    /// Writes both files. Returns their size.
    pub(super) fn write(&self, host: &[u8], model: &[u8]) -> Result<u64> {
        // Libraries of one rust-host share it where they are linked together.
        let all = [&[host, HOST], MODELS].concat().concat();
        let host_name = format!("rust_host_{}", trust::digest(&all).get(..16).unwrap_or_default());
        let size = (host.len() as u64).to_ne_bytes();
        let host_bytes = data(Place::Near, &host_name, &[("bytes", host), ("size", &size)])?;
        let data_name = format!("rust_host_data_{}", self.name);
        let text = format!("{}\0", self.name);
        let length = (model.len() as u64).to_ne_bytes();
        let parts = [("package", model), ("length", &length), ("name", text.as_bytes())];
        let package = data(Place::Far, &data_name, &parts)?;
        let names = [(NAME_OF_HOST, &*host_name), (NAME_OF_MODEL, &*self.name), (NAME_OF_DATA, &*data_name)];
        let archive = archive(vec![
            (format!("{}.o", self.name), renamed(self.functions, &names)?),
            (format!("{}_package.o", self.name), package),
            (format!("{host_name}.o"), renamed(HOST, &names)?),
            (format!("{host_name}_bytes.o"), host_bytes),
        ])?;
        let mut files = Files::begin(self.path.parent().unwrap_or(Path::new(".")))?;
        files.create(&format!("lib{}.a", self.name))?.write(&archive)?;
        files.create(&format!("{}.h", self.name))?.write(self.header.text.as_bytes())?;
        files.finish()?;
        Ok((archive.len() + self.header.text.len()) as u64)
    }
}

/// An object with the names in it: a symbol's is a text that ends with a zero, so a shorter one may take its place.
fn renamed(object: &[u8], names: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut bytes = object.to_vec();
    for (old, new) in names {
        let mut from = 0;
        while let Some(found) = bytes.get(from..).and_then(|rest| find(rest, old.as_bytes())) {
            let start = from + found;
            let end = bytes.iter().skip(start).position(|byte| *byte == 0).map_or(bytes.len(), |length| start + length);
            let text = bytes.get_mut(start..end).unwrap_or_default();
            let mut name = new.as_bytes().to_vec();
            name.extend_from_slice(text.get(old.len()..).unwrap_or_default());
            if name.len() > text.len() {
                return Err(Error::internal(format!("`{new}` is longer than its place")));
            }
            name.resize(text.len(), 0);
            text.copy_from_slice(&name);
            from = end;
        }
    }
    Ok(bytes)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Where constants lie in the program: those that are far from its code may be of any size, and are found by whole addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Near,
    Far,
}

/// An object of nothing but constants, named `{name}_{part}`, which only the library's own functions see.
fn data(place: Place, name: &str, parts: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let endian = if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little };
    let mut object = Object::new(BinaryFormat::Elf, ARCHITECTURE, endian);
    let section = match (place, ARCHITECTURE) {
        (Place::Far, Architecture::X86_64) => {
            let section = object.add_section(Vec::new(), b".lrodata".to_vec(), SectionKind::ReadOnlyData);
            let sh_flags = u64::from(SHF_ALLOC | SHF_X86_64_LARGE);
            object.section_mut(section).flags = SectionFlags::Elf { sh_flags };
            section
        }
        _ => object.section_id(StandardSection::ReadOnlyData),
    };
    for (part, bytes) in parts {
        let symbol = object.add_symbol(Symbol {
            name: format!("{name}_{part}").into_bytes(),
            value: 0,
            size: 0,
            kind: SymbolKind::Data,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Undefined,
            flags: SymbolFlags::None,
        });
        object.add_symbol_data(symbol, section, bytes, 64);
    }
    // Without it a linker takes the object for one that wants its stack to be executable.
    object.add_section(Vec::new(), b".note.GNU-stack".to_vec(), SectionKind::Other);
    object.write().map_err(|e| Error::internal(format!("an object cannot be written: {e}")))
}

/// The members in an archive with an index of their names.
fn archive(members: Vec<(String, Vec<u8>)>) -> Result<Vec<u8>> {
    let member = |(name, bytes): (String, Vec<u8>)| {
        NewArchiveMember::new(bytes, &ar_archive_writer::DEFAULT_OBJECT_READER, name)
    };
    let members: Vec<_> = members.into_iter().map(member).collect();
    let mut archive = Cursor::new(Vec::new());
    write_archive_to_stream(&mut archive, &members, ArchiveKind::Gnu, false, None)
        .map_err(|e| Error::internal(format!("the archive cannot be written: {e}")))?;
    Ok(archive.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_the_place_of_a_longer_one_and_keeps_its_end() {
        let object = [b"\x01\0", NAME_OF_MODEL.as_bytes(), b"_run\0x\0", NAME_OF_HOST.as_bytes(), b"_run\0"].concat();
        let bytes = renamed(&object, &[(NAME_OF_MODEL, "digits"), (NAME_OF_HOST, "host")]).unwrap();
        assert_eq!(bytes.len(), object.len());
        let texts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).filter(|text| !text.is_empty()).collect();
        assert_eq!(texts, [b"\x01".as_slice(), b"digits_run", b"x", b"host_run"]);
    }

    #[test]
    fn every_object_has_the_names_that_are_written_over_and_room_for_the_longest() {
        assert!(NAME_OF_MODEL.len() >= LONGEST && NAME_OF_DATA.len() >= LONGEST + "rust_host_data_".len());
        assert!(NAME_OF_HOST.len() >= "rust_host_".len() + 16);
        assert!(find(HOST, format!("{NAME_OF_HOST}_run\0").as_bytes()).is_some());
        for object in MODELS {
            for (of, part) in [
                (NAME_OF_MODEL, "run"),
                (NAME_OF_MODEL, "verify"),
                (NAME_OF_MODEL, "error"),
                (NAME_OF_DATA, "package"),
                (NAME_OF_DATA, "length"),
                (NAME_OF_DATA, "name"),
            ] {
                assert!(find(object, format!("{of}_{part}\0").as_bytes()).is_some(), "{part}");
            }
        }
    }
}
