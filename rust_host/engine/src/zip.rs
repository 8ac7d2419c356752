//! Reads the one kind of zip that torch writes, strictly: libtorch checks no CRC, takes the last of two members with one
//! name, and reads foreign memory where a record is too short, so everything that could be read in two ways is refused
//! here, before libtorch sees the file.

use crate::{Bytes, Error, Result};
use std::{borrow::Cow, collections::HashMap, io::Read};

/// One member of the archive: where its bytes are and what they must be.
#[derive(Debug, Clone)]
pub struct Member {
    /// Full name in the archive, with the top folder.
    pub name: String,
    /// Size when unpacked.
    pub size: u64,
    crc: u32,
    deflated: bool,
    start: usize,
    packed: usize,
}

/// A whole zip in memory whose directory was checked; members are checked as they are read.
#[derive(Clone)]
pub struct Zip {
    bytes: Bytes,
    members: Vec<Member>,
    by_name: HashMap<String, usize>,
    compares_checksums: bool,
}

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const ENTRY: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// DOS's mark of a folder among the external attributes.
const FOLDER: u32 = 0x10;
/// Unpacked bytes may be twice the file and this much more: weights hardly shrink, so a larger ratio is a bomb.
const SLACK: u64 = 256 << 20;
const MOST_MEMBERS: u64 = 1 << 20;

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::invalid_model(format!("the archive is damaged: {what}"))
}

/// A little-endian cursor; running off the end is a sentence, not a panic.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let part = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end));
        self.at += n;
        part.ok_or_else(|| damaged(format!("its {} is cut off", self.what)))
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let what = self.what;
        self.take(N)?.try_into().map_err(|_| damaged(format!("its {what} is cut off")))
    }
    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

fn index(value: u64, what: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| damaged(format!("{what} is out of range")))
}

impl Zip {
    /// Reads and checks the directory.
    ///
    /// # Errors
    /// `InvalidModel` if it is cut off, contradicts itself, has two members of one name (also if they differ only in
    /// case), a name that leaves the folder, or unpacks to much more than the file's size.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let (count, directory, directory_size) = find_directory(&bytes)?;
        if count > MOST_MEMBERS {
            return Err(damaged(format!("it claims to have {count} members")));
        }
        let end = directory.checked_add(directory_size).filter(|&e| e <= bytes.len());
        let end = end.ok_or_else(|| damaged("its directory is cut off"))?;
        let mut cursor = Cursor { bytes: &bytes[..end], at: directory, what: "directory" };
        let mut members = Vec::new();
        let mut by_name = HashMap::new();
        let mut folded = HashMap::new();
        let mut total = 0u64;
        for _ in 0..count {
            let member = read_entry(&mut cursor, &bytes)?;
            total = total.saturating_add(member.size);
            if let Some(other) = folded.insert(member.name.to_lowercase(), member.name.clone()) {
                return Err(damaged(format!("it has two members named `{other}` and `{}`", member.name)));
            }
            by_name.insert(member.name.clone(), members.len());
            members.push(member);
        }
        if cursor.at != end {
            return Err(damaged("its directory has more than it says"));
        }
        if total > (bytes.len() as u64).saturating_mul(2).saturating_add(SLACK) {
            return Err(damaged(format!("{} bytes unpack to {total}", bytes.len())));
        }
        refuse_overlaps(&members)?;
        Ok(Self { bytes, members, by_name, compares_checksums: true })
    }

    /// The same, for bytes that are known to be what was written.
    #[must_use]
    pub fn without_checksums(self) -> Self {
        Self { compares_checksums: false, ..self }
    }

    /// All members, in the directory's order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of that full name.
    pub fn find(&self, name: &str) -> Option<&Member> {
        self.by_name.get(name).map(|&i| &self.members[i])
    }

    /// The member's bytes, unpacked and compared with its CRC.
    ///
    /// # Errors
    /// `InvalidModel` if size or CRC is another.
    pub fn read(&self, member: &Member) -> Result<Cow<'_, [u8]>> {
        let packed = &self.bytes[member.start..member.start + member.packed];
        let data = if member.deflated {
            let mut out = Vec::new();
            flate2::read::DeflateDecoder::new(packed)
                .take(member.size.saturating_add(1))
                .read_to_end(&mut out)
                .map_err(|e| damaged(format!("`{}` does not unpack", member.name)).caused_by(e))?;
            Cow::Owned(out)
        } else {
            Cow::Borrowed(packed)
        };
        if data.len() as u64 != member.size {
            return Err(damaged(format!("`{}` has {} bytes instead of {}", member.name, data.len(), member.size)));
        }
        if self.compares_checksums && crc32fast::hash(&data) != member.crc {
            return Err(damaged(format!("`{}` does not have the checksum that was written with it", member.name)));
        }
        Ok(data)
    }
}

/// Number of entries, offset and size of the central directory.
fn find_directory(bytes: &[u8]) -> Result<(u64, usize, usize)> {
    let missing = || damaged("its end is missing, as of a file that was cut off or only partly copied");
    let least = bytes.len().checked_sub(22).ok_or_else(missing)?;
    // Where libtorch finds it: the last place that has the signature. A comment may follow, but if its length does not reach
    // exactly to the end of the file, another reader could find another record.
    let at = (least.saturating_sub(0xffff)..=least).rev().find(|&at| bytes[at..at + 4] == END.to_le_bytes());
    let at = at.ok_or_else(missing)?;
    if at + 22 + usize::from(u16::from_le_bytes([bytes[at + 20], bytes[at + 21]])) != bytes.len() {
        return Err(damaged("what follows its end record is not as long as it says"));
    }
    let mut end = Cursor { bytes, at: at + 4, what: "end record" };
    let (disk, first_disk) = (end.u16()?, end.u16()?);
    let (here, count) = (end.u16()?, end.u16()?);
    let (size, offset) = (end.u32()?, end.u32()?);
    let locator = at.checked_sub(20).filter(|&l| bytes[l..l + 4] == END_64_LOCATOR.to_le_bytes());
    let Some(locator) = locator else {
        if disk != 0 || first_disk != 0 || here != count {
            return Err(damaged("it is split over several files"));
        }
        return Ok((count.into(), index(offset.into(), "its directory")?, index(size.into(), "its directory")?));
    };
    let mut cursor = Cursor { bytes, at: locator + 8, what: "zip64 end record" };
    let at = index(cursor.u64()?, "its zip64 end record")?;
    let mut cursor = Cursor { bytes, at, what: "zip64 end record" };
    if cursor.u32()? != END_64 {
        return Err(damaged("its zip64 end record is not where it should be"));
    }
    cursor.take(20)?; // size of the record, versions, disks
    let (here, count_64) = (cursor.u64()?, cursor.u64()?);
    let (size_64, offset_64) = (cursor.u64()?, cursor.u64()?);
    // Two readers must not see two directories: where the short record says something, both must agree.
    let agree = |short: u64, most: u64, long: u64| short == most || short == long;
    if here != count_64
        || !agree(count.into(), 0xffff, count_64)
        || !agree(size.into(), 0xffff_ffff, size_64)
        || !agree(offset.into(), 0xffff_ffff, offset_64)
    {
        return Err(damaged("its two end records contradict each other"));
    }
    Ok((count_64, index(offset_64, "its directory")?, index(size_64, "its directory")?))
}

fn read_entry(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<Member> {
    if cursor.u32()? != ENTRY {
        return Err(damaged("its directory has something that is no entry"));
    }
    cursor.take(4)?; // versions
    let flags = cursor.u16()?;
    let method = cursor.u16()?;
    cursor.take(4)?; // time and date
    let crc = cursor.u32()?;
    let (packed, size) = (cursor.u32()?, cursor.u32()?);
    let (name_length, extra_length, comment_length) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
    cursor.take(4)?; // disk, internal attributes
    let attributes = cursor.u32()?;
    let offset = cursor.u32()?;
    let name = String::from_utf8(cursor.take(name_length.into())?.to_vec())
        .map_err(|_| damaged("a member's name is not UTF-8"))?;
    let extra = cursor.take(extra_length.into())?;
    cursor.take(comment_length.into())?;
    let (mut packed, mut size, mut offset) = (u64::from(packed), u64::from(size), u64::from(offset));
    read_zip64_extra(extra, &mut size, &mut packed, &mut offset)?;

    if flags & 1 != 0 {
        return Err(Error::invalid_model(format!("`{name}` is encrypted")));
    }
    if name.is_empty() || name.starts_with('/') || name.contains(['\\', '\0']) || name.split('/').any(|p| p == "..") {
        return Err(damaged(format!("the member name `{name}` leaves the archive's folder")));
    }
    // libtorch reads nothing from what is a folder to it, and computes with the memory that it did not fill.
    let folder = attributes & FOLDER != 0 || name.ends_with('/');
    if folder && !(name.ends_with('/') && size == 0) {
        return Err(damaged(format!("`{name}` has {size} bytes and is marked as a folder")));
    }
    let deflated = match method {
        0 => false,
        8 => true,
        other => {
            return Err(Error::invalid_model(format!(
                "`{name}` is packed by method {other}, only stored and deflate are known"
            )));
        }
    };
    if !deflated && packed != size {
        return Err(damaged(format!("`{name}` has two sizes, {packed} and {size}")));
    }
    let start = data_start(bytes, index(offset, "a member")?, &name, method)?;
    let packed = index(packed, "a member")?;
    if start.checked_add(packed).is_none_or(|end| end > bytes.len()) {
        return Err(damaged(format!("`{name}` is cut off")));
    }
    Ok(Member { name, size, crc, deflated, start, packed })
}

/// The zip64 field holds, in this order, those of the three values that did not fit.
fn read_zip64_extra(extra: &[u8], size: &mut u64, packed: &mut u64, offset: &mut u64) -> Result<()> {
    let mut fields = Cursor { bytes: extra, at: 0, what: "directory" };
    while fields.at + 4 <= extra.len() {
        let (id, length) = (fields.u16()?, fields.u16()?);
        let body = fields.take(length.into())?;
        if id == 1 {
            let mut body = Cursor { bytes: body, at: 0, what: "directory" };
            for value in [size, packed, offset] {
                if *value == 0xffff_ffff {
                    *value = body.u64()?;
                }
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Where the member's bytes begin, after a local header that says the same as the directory.
fn data_start(bytes: &[u8], at: usize, name: &str, method: u16) -> Result<usize> {
    let mut local = Cursor { bytes, at, what: "member header" };
    if local.u32()? != LOCAL {
        return Err(damaged(format!("`{name}` is not where the directory says")));
    }
    local.take(4)?; // version, flags
    if local.u16()? != method {
        return Err(damaged(format!("`{name}` is packed in two ways")));
    }
    local.take(16)?; // time, date, crc, sizes: zero where a data descriptor follows
    let (name_length, extra_length) = (local.u16()?, local.u16()?);
    if local.take(name_length.into())? != name.as_bytes() {
        return Err(damaged(format!("`{name}` has another name in its own header")));
    }
    local.take(extra_length.into())?;
    Ok(local.at)
}

fn refuse_overlaps(members: &[Member]) -> Result<()> {
    let mut spans: Vec<_> = members.iter().map(|m| (m.start, m.start + m.packed, &m.name)).collect();
    spans.sort_unstable();
    match spans.windows(2).find(|w| w[0].1 > w[1].0) {
        Some(w) => Err(damaged(format!("`{}` and `{}` share bytes", w[0].2, w[1].2))),
        None => Ok(()),
    }
}
