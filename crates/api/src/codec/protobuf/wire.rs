//! Varints, tags and length-delimited fields.

use super::super::DecodeError;

pub(super) type Result<T> = std::result::Result<T, DecodeError>;

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const FIXED32: u8 = 5;

fn eof<T>() -> Result<T> {
    Err(DecodeError::syntax("unexpected EOF"))
}

/// The value of a field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A kind of field that no Kubernetes type has.
    Other,
}

/// Takes a varint off the front.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for i in 0..10 {
        let Some((&b, rest)) = bytes.split_first() else { return eof() };
        *bytes = rest;
        value |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::syntax("proto: integer overflow"))
}

fn take<'a>(bytes: &mut &'a [u8], n: u64) -> Result<&'a [u8]> {
    match usize::try_from(n).ok().and_then(|n| bytes.split_at_checked(n)) {
        Some((head, rest)) => {
            *bytes = rest;
            Ok(head)
        }
        None => eof(),
    }
}

/// Takes a field off the front: its number and value. `None` at the end.
pub(super) fn field<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u32, Raw<'a>)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).unwrap_or(0);
    if number == 0 {
        return Err(DecodeError::syntax(format!("proto: illegal tag {} (wire type {})", tag >> 3, tag & 7)));
    }
    let raw = match (tag & 7) as u8 {
        VARINT => Raw::Varint(varint(bytes)?),
        FIXED64 => {
            let b = take(bytes, 8)?;
            Raw::Fixed64(b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
        }
        BYTES => {
            let len = varint(bytes)?;
            Raw::Bytes(take(bytes, len)?)
        }
        FIXED32 => {
            take(bytes, 4)?;
            Raw::Other
        }
        other => return Err(DecodeError::syntax(format!("proto: illegal wireType {other}"))),
    };
    Ok(Some((number, raw)))
}

pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_tag(number: u32, wire: u8, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | u64::from(wire), out);
}

pub(super) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_tag(number, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A field that is a message, written by `body`; its length is put in front once it is known.
pub(super) fn put_message(number: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    put_tag(number, BYTES, out);
    let at = out.len();
    out.push(0);
    body(out);
    let len = out.len() - at - 1;
    if len < 0x80 {
        out[at] = len as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(len as u64, &mut prefix);
    out.splice(at..=at, prefix);
}
