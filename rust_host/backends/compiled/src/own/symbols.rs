//! What a package asks its host for, in the library's own table of symbols. Each that we answer is written over with the address
//! of our function, as the library's own and absolute: the loader takes it from there and looks for no name anywhere, so the
//! functions need not be visible in the program, which may be anybody's.

use object::{
    Endianness,
    elf::{FileHeader64, SHN_ABS, SHN_UNDEF, SHT_DYNSYM, STV_HIDDEN, Sym64},
    read::elf::{FileHeader, SectionHeader, Sym},
};

/// The bytes of one symbol, and where in the file they go.
pub(crate) type Patch = (usize, [u8; size_of::<Sym64<Endianness>>()]);

/// What to write over a library's bytes, and where, so that it calls our functions; `None` if it is no whole library.
pub(crate) fn to_own(code: &[u8]) -> Option<Vec<Patch>> {
    let header = FileHeader64::<Endianness>::parse(code).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, code).ok()?;
    let symbols = sections.symbols(endian, code, SHT_DYNSYM).ok()?;
    let first = usize::try_from(sections.section(symbols.section()).ok()?.sh_offset(endian)).ok()?;
    let mut patches = Vec::new();
    for (index, symbol) in symbols.enumerate() {
        if symbol.st_shndx(endian) != SHN_UNDEF || symbol.st_name(endian) == 0 {
            continue;
        }
        let name = std::str::from_utf8(symbol.name(endian, symbols.strings()).ok()?).ok()?;
        let Some(address) = super::address(name) else { continue };
        let mut bound = *symbol;
        bound.st_other = STV_HIDDEN;
        bound.st_shndx.set(endian, SHN_ABS);
        bound.st_value.set(endian, address as u64);
        let place = first.checked_add(index.0.checked_mul(size_of_val(symbol))?)?;
        patches.push((place, object::bytes_of(&bound).try_into().ok()?));
    }
    Some(patches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_has_no_symbols() {
        assert!(to_own(b"").is_none() && to_own(b"\x7fELF\x02\x01\x01 cut off").is_none());
    }

    #[test]
    fn a_library_that_asks_for_nothing_of_ours_stays_as_it_is() {
        assert!(to_own(&std::fs::read("/proc/self/exe").unwrap()).unwrap().is_empty());
    }
}
