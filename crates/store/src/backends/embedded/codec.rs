//! How a record lies on disk. Pure.
//!
//! A record is found by its slot, `revision << 16 | index within the commit`, so that the table of records is in
//! order of history. Its bytes are
//!
//! ```text
//! flags u8 | previous slot varint | create revision varint | deadline varint (ms since 1970, 0 for none)
//!          | key length varint, key | [length before compression varint] | value
//! ```
//!
//! The previous slot is the version of the key that this one replaced (0 for none): a chain that a read at an old
//! revision walks back. A removal is a record of its own (flag [`TOMBSTONE`]), without a value.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{Error, MAX_TXN_OPS, MAX_VALUE_BYTES};

/// The record is a removal.
pub const TOMBSTONE: u8 = 1;
/// The value is compressed.
const COMPRESSED: u8 = 2;
/// Values longer than this are compressed.
const COMPRESS_FROM: usize = 512;

const INDEX_BITS: u32 = 16;
const _: () = assert!(MAX_TXN_OPS <= 1 << INDEX_BITS);

/// Where a record lies: revision and index within its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u64);

impl Slot {
    /// The slot of the record `index` of the commit `revision`.
    pub fn new(revision: u64, index: usize) -> Self {
        Self(revision << INDEX_BITS | (index as u64 & ((1 << INDEX_BITS) - 1)))
    }

    /// The revision of the commit.
    pub fn revision(self) -> u64 {
        self.0 >> INDEX_BITS
    }

    /// The first slot a commit of `revision` can have.
    pub fn first_of(revision: u64) -> Self {
        Self::new(revision, 0)
    }
}

/// A value as it is stored: compressed where that pays.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What callers wrote.
    pub value: Bytes,
    /// `None`: stored as it is.
    compressed: Option<Vec<u8>>,
}

impl Packed {
    /// Compresses long values; done by the caller of a commit, not by the one writer.
    pub fn new(value: Bytes) -> Self {
        let compressed = (value.len() > COMPRESS_FROM)
            .then(|| lz4_flex::block::compress(&value))
            .filter(|packed| packed.len() < value.len() - value.len() / 8);
        Self { value, compressed }
    }

    /// How many bytes it takes on disk.
    pub fn stored_len(&self) -> usize {
        self.compressed.as_ref().map_or(self.value.len(), Vec::len)
    }
}

/// The parts of a record, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    flags: u8,
    /// The version that this one replaced.
    pub previous: Option<Slot>,
    /// Revision of the commit that created the key.
    pub create_revision: u64,
    /// When it expires, in milliseconds since 1970; 0 for never.
    pub deadline: u64,
    /// The key.
    pub key: &'a str,
    raw_len: usize,
    stored: &'a [u8],
}

impl<'a> View<'a> {
    /// Reads a record.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::parse_parts(bytes).ok_or_else(|| Error::Corrupt("a record cannot be parsed".to_string()))
    }

    fn parse_parts(bytes: &'a [u8]) -> Option<Self> {
        let (&flags, mut rest) = bytes.split_first()?;
        let previous = read_varint(&mut rest)?;
        let create_revision = read_varint(&mut rest)?;
        let deadline = read_varint(&mut rest)?;
        let key_len = usize::try_from(read_varint(&mut rest)?).ok()?;
        let (key, mut rest) = rest.split_at_checked(key_len)?;
        let key = std::str::from_utf8(key).ok()?;
        let raw_len = if flags & COMPRESSED != 0 { usize::try_from(read_varint(&mut rest)?).ok()? } else { rest.len() };
        (raw_len <= MAX_VALUE_BYTES).then_some(Self {
            flags,
            previous: (previous != 0).then_some(Slot(previous)),
            create_revision,
            deadline,
            key,
            raw_len,
            stored: rest,
        })
    }

    /// Whether the record is a removal.
    pub fn is_tombstone(&self) -> bool {
        self.flags & TOMBSTONE != 0
    }

    /// The value, decompressed.
    pub fn value(&self) -> Result<Bytes, Error> {
        let value: Cow<'_, [u8]> = if self.flags & COMPRESSED != 0 {
            let value = lz4_flex::block::decompress(self.stored, self.raw_len)
                .map_err(|error| Error::Corrupt(format!("value of {:?} cannot be decompressed: {error}", self.key)))?;
            if value.len() != self.raw_len {
                return Err(Error::Corrupt(format!("value of {:?} has the wrong length", self.key)));
            }
            value.into()
        } else {
            self.stored.into()
        };
        Ok(Bytes::from(value.into_owned()))
    }
}

/// Writes a record; `packed` is `None` for a removal.
pub fn encode(
    out: &mut Vec<u8>,
    previous: Option<Slot>,
    create_revision: u64,
    deadline: u64,
    key: &str,
    packed: Option<&Packed>,
) {
    out.clear();
    let (flags, stored): (u8, &[u8]) = match packed {
        None => (TOMBSTONE, &[]),
        Some(Packed { compressed: Some(compressed), .. }) => (COMPRESSED, compressed),
        Some(Packed { value, compressed: None }) => (0, value),
    };
    out.push(flags);
    write_varint(out, previous.map_or(0, |slot| slot.0));
    write_varint(out, create_revision);
    write_varint(out, deadline);
    write_varint(out, key.len() as u64);
    out.extend_from_slice(key.as_bytes());
    if let (COMPRESSED, Some(packed)) = (flags, packed) {
        write_varint(out, packed.value.len() as u64);
    }
    out.extend_from_slice(stored);
}

/// Appends a number in groups of seven bits, lowest first.
pub fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number off the front; `None` if there is no whole one.
pub fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(key: &str, value: &[u8], previous: Option<Slot>, create_revision: u64, deadline: u64) {
        let packed = Packed::new(Bytes::copy_from_slice(value));
        let mut bytes = Vec::new();
        encode(&mut bytes, previous, create_revision, deadline, key, Some(&packed));
        let view = View::parse(&bytes).expect("what was encoded parses");
        assert_eq!(
            (view.key, view.previous, view.create_revision, view.deadline),
            (key, previous, create_revision, deadline)
        );
        assert_eq!(view.value().expect("value"), value);
        assert!(!view.is_tombstone());
    }

    #[test]
    fn records_survive_the_round_trip() {
        check("/registry/pods/a/b", b"{}", None, 1, 0);
        check("k", b"", Some(Slot::new(7, 3)), u64::MAX, u64::MAX);
        check("k", &[b'x'; 100_000], Some(Slot::new(1 << 40, 127)), 5, 1);
    }

    #[test]
    fn long_repetitive_values_are_compressed_and_noise_is_not() {
        assert!(Packed::new(vec![b'x'; 10_000].into()).stored_len() < 1000);
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let noise: Vec<u8> = (0..4000).map(|_| next()).collect();
        assert_eq!(Packed::new(noise.clone().into()).stored_len(), noise.len());
    }

    #[test]
    fn a_compressed_value_that_claims_another_length_is_corrupt() {
        let mut bytes = Vec::new();
        encode(&mut bytes, None, 1, 0, "k", Some(&Packed::new(vec![b'x'; 1000].into())));
        let view = View::parse(&bytes).expect("parses");
        assert!(matches!(View { raw_len: 10, ..view }.value(), Err(Error::Corrupt(_))));
        assert!(matches!(View { raw_len: 1001, ..view }.value(), Err(Error::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(view) = View::parse(&bytes) {
                let _ = view.value();
            }
        }

        #[test]
        fn varints_survive_the_round_trip(number in any::<u64>()) {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, number);
            prop_assert_eq!(read_varint(&mut bytes.as_slice()), Some(number));
        }
    }
}
