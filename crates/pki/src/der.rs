//! Writing DER: the handful of types a certificate is made of (X.690, RFC 5280).

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Universal and context tags in use.
pub mod tag {
    #![allow(missing_docs)]
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const NULL: u8 = 0x05;
    pub const OID: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;
}

/// A value with its tag and length.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 5);
    out.push(tag);
    match content.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n => {
            let bytes = n.to_be_bytes();
            let significant = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1)..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A sequence of values that are DER already.
pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(tag::SEQUENCE, &parts.concat())
}

/// An object identifier.
pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let head = arcs.first().copied().unwrap_or(0) * 40 + arcs.get(1).copied().unwrap_or(0);
    for arc in std::iter::once(head).chain(arcs.iter().skip(2).copied()) {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        groups.reverse();
        content.extend_from_slice(&groups);
    }
    tlv(tag::OID, &content)
}

/// A non-negative integer given as big-endian bytes.
pub fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
    if content.first().is_none_or(|b| b & 0x80 != 0) {
        content.insert(0, 0);
    }
    tlv(tag::INTEGER, &content)
}

/// A bit string of whole bytes.
pub fn bit_string(bytes: &[u8]) -> Vec<u8> {
    let mut content = vec![0];
    content.extend_from_slice(bytes);
    tlv(tag::BIT_STRING, &content)
}

/// A bit string of named bits: bit 0 is the first. Trailing zero bits are left out, as DER wants.
pub fn named_bits(bits: u16) -> Vec<u8> {
    if bits == 0 {
        return tlv(tag::BIT_STRING, &[0]);
    }
    let highest = 15 - bits.leading_zeros() as usize;
    let mut content = vec![0u8; 1 + highest / 8 + 1];
    content[0] = 7 - (highest % 8) as u8;
    for bit in 0..=highest {
        if bits & (1 << bit) != 0 {
            content[1 + bit / 8] |= 0x80 >> (bit % 8);
        }
    }
    tlv(tag::BIT_STRING, &content)
}

/// A time: `UTCTime` before 2050, `GeneralizedTime` from then on (RFC 5280, 4.1.2.5).
pub fn time(at: Timestamp) -> Vec<u8> {
    let t = at.to_zoned(TimeZone::UTC).datetime();
    let rest = format!("{:02}{:02}{:02}{:02}{:02}Z", t.month(), t.day(), t.hour(), t.minute(), t.second());
    if (1950..2050).contains(&t.year()) {
        tlv(tag::UTC_TIME, format!("{:02}{rest}", t.year() % 100).as_bytes())
    } else {
        tlv(tag::GENERALIZED_TIME, format!("{:04}{rest}", t.year()).as_bytes())
    }
}

/// A distinguished name with a common name and organizations; empty ones are left out.
pub fn subject(common_name: &str, organizations: &[String]) -> Vec<u8> {
    let attribute =
        |arcs: &[u64], text: &str| tlv(tag::SET, &sequence(&[&oid(arcs), &tlv(tag::UTF8_STRING, text.as_bytes())]));
    let mut content = Vec::new();
    for organization in organizations {
        content.extend(attribute(&[2, 5, 4, 10], organization));
    }
    if !common_name.is_empty() {
        content.extend(attribute(&[2, 5, 4, 3], common_name));
    }
    tlv(tag::SEQUENCE, &content)
}

/// One extension of a certificate.
pub fn extension(arcs: &[u64], critical: bool, content: &[u8]) -> Vec<u8> {
    let flag = if critical { tlv(tag::BOOLEAN, &[0xff]) } else { Vec::new() };
    sequence(&[&oid(arcs), &flag, &tlv(tag::OCTET_STRING, content)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_numbers_are_minimal() {
        assert_eq!(tlv(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(tlv(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(unsigned(&[0, 0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        // digitalSignature and keyEncipherment
        assert_eq!(named_bits(0b101), [3, 2, 5, 0xa0]);
        assert_eq!(named_bits(0b10_0000_0000_0000), [3, 3, 2, 0, 4]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        let at = |s: &str| s.parse::<Timestamp>().expect("test time");
        assert_eq!(&time(at("2049-12-31T23:59:59Z"))[2..], b"491231235959Z");
        assert_eq!(&time(at("2050-01-01T00:00:00Z"))[2..], b"20500101000000Z");
    }
}
