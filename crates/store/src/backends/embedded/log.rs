//! The log in front of the database: the one synchronisation of an ordinary commit.
//!
//! A group of commits is appended to the log and synchronised; the database takes the same rows without
//! synchronising. Now and then (the log is full, many rows, or something must be in the database itself) a group is
//! committed to the database durably instead, which makes everything before it durable too, and the log is written
//! from its beginning again. After a crash the database is at that checkpoint and the log's rows are put in again.
//!
//! The file has a fixed size and is written with zeros once, so that synchronising it does not change the file
//! system's records. It is
//!
//! ```text
//! header: magic 8 bytes | id u64 | crc u32, padded to 64 bytes
//! group:  length of payload u32 | crc u32 of length and payload | payload: rows of (slot varint, length varint, record)
//! ```
//!
//! numbers little-endian. The id says which opening of which database the log belongs to, so that a log never runs
//! into a database that was put beside it later. Whatever does not check ends the log: a group that was being written
//! when the process died was not acknowledged. Groups of an earlier round may stand behind the last one; their rows
//! are below what the database holds and are passed over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::codec::{Slot, read_varint, write_varint};
use super::file::open_private;

const MAGIC: &[u8; 8] = b"orkdlog1";
const HEADER: usize = 64;
const GROUP_HEADER: usize = 8;
/// Size of the file.
const CAPACITY: usize = 4 << 20;

/// More is never read.
const LARGEST: usize = 256 << 20;

/// The log, open for writing.
pub(super) struct Log {
    file: File,
    /// Where the next group goes.
    end: usize,
    syncs: Arc<AtomicU64>,
}

impl Log {
    /// Opens or creates the file and returns what stands in it.
    pub fn open(path: &Path, syncs: Arc<AtomicU64>) -> io::Result<(Self, Vec<u8>)> {
        let file = open_private(path)?;
        // Another release may have made it larger.
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(LARGEST);
        let mut contents = vec![0; len];
        file.read_exact_at(&mut contents, 0)?;
        if len < CAPACITY {
            file.write_all_at(&vec![0; CAPACITY - len], len as u64)?;
        }
        Ok((Self { file, end: HEADER, syncs }, contents))
    }

    /// Begins a log that belongs to `id`: what stood in it counts no longer.
    pub fn start(&mut self, id: u64) -> io::Result<()> {
        self.file.write_all_at(&header(id), 0)?;
        self.end = HEADER;
        self.sync()
    }

    /// Whether a group has room.
    pub fn has_room_for(&self, group: &Group) -> bool {
        self.end + group.bytes.len() <= CAPACITY
    }

    /// Writes a group durably.
    pub fn append(&mut self, group: &mut Group) -> io::Result<()> {
        group.seal();
        self.file.write_all_at(&group.bytes, self.end as u64)?;
        self.end += group.bytes.len();
        self.sync()
    }

    /// Everything in the log is in the database: the next group is written over it.
    pub fn restart(&mut self) {
        self.end = HEADER;
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
}

/// A group of rows on its way to the log.
pub(super) struct Group {
    bytes: Vec<u8>,
}

impl Group {
    /// One without rows.
    pub fn new() -> Self {
        Self { bytes: vec![0; GROUP_HEADER] }
    }

    /// Adds a row.
    pub fn push(&mut self, slot: Slot, record: &[u8]) {
        write_varint(&mut self.bytes, slot.0);
        write_varint(&mut self.bytes, record.len() as u64);
        self.bytes.extend_from_slice(record);
    }

    /// Removes all rows, and memory that only a large group needs.
    pub fn clear(&mut self) {
        self.bytes.truncate(GROUP_HEADER);
        self.bytes.shrink_to(64 << 10);
    }

    fn seal(&mut self) {
        let len = u32::try_from(self.bytes.len() - GROUP_HEADER).unwrap_or(u32::MAX).to_le_bytes();
        let crc = crc32c(&[&len, &self.bytes[GROUP_HEADER..]]).to_le_bytes();
        self.bytes[..4].copy_from_slice(&len);
        self.bytes[4..GROUP_HEADER].copy_from_slice(&crc);
    }
}

/// Whether a log was begun for `id`.
pub(super) fn belongs_to(log: &[u8], id: u64) -> bool {
    log.starts_with(&header(id))
}

/// The rows of a log that belongs to `id`, in the order they were written; none if it belongs to something else.
pub(super) fn rows(log: &[u8], id: u64) -> Vec<(Slot, &[u8])> {
    let mut rows = Vec::new();
    if !belongs_to(log, id) {
        return rows;
    }
    let mut rest = &log[HEADER..];
    while let Some((group, after)) = split_group(rest) {
        let Some(group) = parse_rows(group) else { return rows };
        rows.extend(group);
        rest = after;
    }
    rows
}

/// The payload of the first group, if it is whole, and what follows it.
fn split_group(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let payload_len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let (payload, after) = rest.split_at_checked(payload_len)?;
    let is_whole = !payload.is_empty() && crc32c(&[len, payload]) == u32::from_le_bytes(*crc);
    is_whole.then_some((payload, after))
}

fn parse_rows(mut payload: &[u8]) -> Option<Vec<(Slot, &[u8])>> {
    let mut rows = Vec::new();
    while !payload.is_empty() {
        let slot = Slot(read_varint(&mut payload)?);
        let len = usize::try_from(read_varint(&mut payload)?).ok()?;
        let (record, rest) = payload.split_at_checked(len)?;
        rows.push((slot, record));
        payload = rest;
    }
    Some(rows)
}

fn header(id: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c(&[&header[..16]]).to_le_bytes();
    header[16..20].copy_from_slice(&crc);
    header
}

/// Tables for eight bytes at a time.
const CRC_TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
};

/// CRC-32C (Castagnoli) of the parts one after the other.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for part in parts {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word) ^ u64::from(crc);
            crc = 0;
            for (table, byte) in CRC_TABLES.iter().rev().zip(word.to_le_bytes()) {
                crc ^= table[usize::from(byte)];
            }
        }
        for byte in rest {
            crc = crc >> 8 ^ CRC_TABLES[0][((crc ^ u32::from(*byte)) & 0xff) as usize];
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(rows: &[(u64, &[u8])]) -> Vec<u8> {
        let mut group = Group::new();
        for (slot, record) in rows {
            group.push(Slot(*slot), record);
        }
        group.seal();
        group.bytes
    }

    fn log(id: u64, groups: &[Vec<u8>]) -> Vec<u8> {
        [header(id).to_vec(), groups.concat(), vec![0; 100]].concat()
    }

    #[track_caller]
    fn check(log: &[u8], id: u64, expected: &[u64]) {
        let found: Vec<u64> = rows(log, id).into_iter().map(|(slot, _)| slot.0).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_check_value_of_crc32c_is_the_published_one() {
        assert_eq!(crc32c(&[b"123456789"]), 0xE306_9283);
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xE306_9283);
    }

    #[test]
    fn groups_are_read_in_order_until_one_is_not_whole() {
        let groups = [group(&[(1, b"a"), (2, b"")]), group(&[(3, &[7; 1000])]), group(&[(4, b"d")])];
        let whole = log(9, &groups);
        check(&whole, 9, &[1, 2, 3, 4]);
        check(&whole, 8, &[]);
        check(&[], 9, &[]);
        check(&whole[..HEADER], 9, &[]);
        let torn = HEADER + groups[0].len() + groups[1].len() - 1;
        check(&whole[..torn], 9, &[1, 2]);
        let mut flipped = whole;
        flipped[HEADER + groups[0].len() + 500] ^= 1;
        check(&flipped, 9, &[1, 2]);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            rows(&bytes, 0);
            rows(&[header(0).to_vec(), bytes.clone()].concat(), 0);
            parse_rows(&bytes);
        }
    }
}
