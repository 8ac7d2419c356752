//! Protocol Buffers' wire format: bytes → fields, one after the other, borrowed from the bytes.
//!
//! A reader that builds a message would do it for every message of a file: an empty one takes two bytes there and a hundred
//! in memory, so that a file of 1 GB could ask for 50. Here nothing is built but what the caller keeps.

use crate::{Error, Result};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// An integer, a truth value or an enumeration.
    Varint(u64),
    /// Four or eight bytes: a floating-point number.
    Fixed,
    /// A text, a message or packed numbers.
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    /// The bytes, where it is of that kind. A field of another kind than the format says is one that nobody knows: skipped.
    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The text; what is no UTF-8 in it is replaced.
    pub(crate) fn text(self) -> Option<String> {
        self.bytes().map(|b| String::from_utf8_lossy(b).into_owned())
    }

    /// The integers of a repeated field, which are packed into one field or come one a field.
    pub(crate) fn integers(self) -> impl Iterator<Item = Result<u64>> + 'a {
        let (one, mut packed) = match self {
            Self::Varint(n) => (Some(n), &[][..]),
            Self::Fixed => (None, &[][..]),
            Self::Bytes(bytes) => (None, bytes),
        };
        let rest = std::iter::from_fn(move || {
            if packed.is_empty() {
                return None;
            }
            let number = varint(&mut packed);
            if number.is_err() {
                packed = &[];
            }
            Some(number)
        });
        one.map(Ok).into_iter().chain(rest)
    }
}

/// The fields of a message, each with its number. Ends after the first error.
///
/// # Errors
/// Each item: `InvalidModel` if the bytes are no such message.
pub(crate) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Field<'_>)>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes);
        if field.is_err() {
            bytes = &[];
        }
        Some(field)
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Field<'a>)> {
    const LARGEST: u64 = (1 << 29) - 1;
    let key = varint(bytes)?;
    let number = key >> 3;
    if number == 0 || number > LARGEST {
        return Err(damaged("a field has a number that no field has"));
    }
    let field = match key & 7 {
        0 => Field::Varint(varint(bytes)?),
        1 => take(bytes, 8).map(|_| Field::Fixed)?,
        2 => {
            let length = varint(bytes)?;
            Field::Bytes(take(bytes, length)?)
        }
        5 => take(bytes, 4).map(|_| Field::Fixed)?,
        // Groups (3 and 4) ended with the second version of the format, before ONNX was there.
        _ => return Err(damaged("a field is of a kind that no field has")),
    };
    Ok((number as u32, field))
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let Some((&byte, rest)) = bytes.split_first() else { return Err(ends_early()) };
        *bytes = rest;
        // The tenth byte holds one bit; what does not fit is cut off, as the library of Google does.
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(damaged("a number has more than ten bytes"))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let parts = usize::try_from(length).ok().and_then(|n| bytes.split_at_checked(n));
    let (taken, rest) = parts.ok_or_else(ends_early)?;
    *bytes = rest;
    Ok(taken)
}

fn damaged(why: &str) -> Error {
    Error::invalid_model(format!("it is damaged: {why}"))
}

fn ends_early() -> Error {
    damaged("it ends in the middle of a field")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_field_is_read_and_numbers_may_be_packed_or_not() {
        let bytes = [
            &[0x08, 0xac, 0x02][..],            // 1: 300
            &[0x12, 0x02, b'h', b'i'],          // 2: "hi"
            &[0x1d, 1, 2, 3, 4],                // 3: four bytes
            &[0x21, 1, 2, 3, 4, 5, 6, 7, 8],    // 4: eight bytes
            &[0x2a, 0x03, 0x01, 0xac, 0x02],    // 5: 1, 300 packed
            &[0xf8, 0xff, 0xff, 0xff, 0x0f, 0], // the largest number: 0
        ]
        .concat();
        let all: Vec<_> = fields(&bytes).collect::<Result<_>>().unwrap();
        assert_eq!(all.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3, 4, 5, (1 << 29) - 1]);
        assert_eq!((all[0].1, all[1].1.text().as_deref()), (Field::Varint(300), Some("hi")));
        let numbers = |at: usize| all[at].1.integers().collect::<Result<Vec<_>>>().unwrap();
        assert_eq!((numbers(0), numbers(4), numbers(2)), (vec![300], vec![1, 300], vec![]));
        assert_eq!((all[2].1, all[0].1.bytes()), (Field::Fixed, None));
    }

    #[test]
    fn what_is_no_message_is_a_sentence() {
        let long = [[0x08].as_slice(), &[0xff; 10], &[1]].concat();
        for (bytes, why) in [
            (&[0x0a, 0x05, 1][..], "ends in the middle"),
            (&[0x0a], "ends in the middle"),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "ends in the middle"),
            (&[0x1d, 1], "ends in the middle"),
            (&[0x80], "ends in the middle"),
            (&[0x00, 0x00], "a number that no field has"),
            (&[0x0b], "a kind that no field has"),
            (&[0x0f], "a kind that no field has"),
            (&long, "more than ten bytes"),
        ] {
            let mut read = fields(bytes);
            let e = read.find_map(Result::err).unwrap();
            assert!(e.message.contains(why), "{bytes:?}: {e}");
            assert!(read.next().is_none());
        }
    }
}
