//! The names by which a package asks its host, in the library's own table of names. Each is as long as the one that it takes
//! the place of, so nothing else of the file changes.

use object::{
    Endianness,
    elf::{FileHeader64, SHN_UNDEF},
    read::elf::{FileHeader, Sym},
};

/// torch's and OpenMP's names begin so, ours so.
pub(crate) const PREFIXES: [(&str, &str); 3] = [("aoti_torch_", "rhost_aoti_"), ("GOMP_", "rhost"), ("omp_", "rhos")];

/// What to write over a library's bytes, and where, so that it asks for our functions; `None` if it is no whole library.
pub(crate) fn to_own(code: &[u8]) -> Option<Vec<(usize, &'static str)>> {
    let with_new = |(place, name): (usize, &[u8])| {
        let (_, new) = PREFIXES.iter().find(|(old, _)| name.starts_with(old.as_bytes()))?;
        Some((place, *new))
    };
    Some(asked_for(code)?.into_iter().filter_map(with_new).collect())
}

/// Where the names lie in the file that it asks for, and what they are.
fn asked_for(code: &[u8]) -> Option<Vec<(usize, &[u8])>> {
    let header = FileHeader64::<Endianness>::parse(code).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, code).ok()?;
    let symbols = sections.symbols(endian, code, object::elf::SHT_DYNSYM).ok()?;
    let strings = sections.section(symbols.string_section()).ok()?;
    let first = usize::try_from(strings.sh_offset.get(endian)).ok()?;
    let undefined = symbols.iter().filter(|symbol| symbol.st_shndx(endian) == SHN_UNDEF && symbol.st_name(endian) > 0);
    undefined
        .map(|symbol| {
            let name = symbol.name(endian, symbols.strings()).ok()?;
            Some((first.checked_add(usize::try_from(symbol.st_name(endian)).ok()?)?, name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_are_as_long_as_old_ones() {
        assert!(PREFIXES.iter().all(|(old, new)| old.len() == new.len()));
    }

    #[test]
    fn what_is_no_library_has_no_names() {
        assert!(to_own(b"").is_none() && to_own(b"\x7fELF\x02\x01\x01 cut off").is_none());
    }
}
