//! Requests and certificates as they come: PEM in base64. What is inside is looked at no further than that it is one
//! sequence of DER; signers read the rest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A block of PEM. Upstream: Go's `encoding/pem`.
pub(crate) struct Block {
    pub ty: String,
    pub headers: bool,
    pub der: Vec<u8>,
}

/// The blocks in a text in base64; what is between them is no matter, and a block that is none is skipped.
pub(crate) fn blocks(encoded: &str) -> Vec<Block> {
    let text = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let (mut found, mut lines) = (Vec::new(), text.lines());
    while let Some(line) = lines.next() {
        let Some(ty) = line.trim_end().strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) else {
            continue;
        };
        let (end, mut body, mut headers, mut ended) = (format!("-----END {ty}-----"), String::new(), false, false);
        for line in lines.by_ref().map(str::trim) {
            if line == end {
                ended = true;
                break;
            }
            if line.contains(':') {
                headers = true;
            } else {
                body.push_str(line);
            }
        }
        if let (true, Ok(der)) = (ended, STANDARD.decode(&body)) {
            found.push(Block { ty: ty.to_owned(), headers, der });
        }
    }
    found
}

/// Whether these bytes are one sequence and nothing else, as certificates and requests are.
pub(crate) fn is_sequence(der: &[u8]) -> bool {
    let (length, rest) = match der {
        [0x30, short, rest @ ..] if *short < 0x80 => (usize::from(*short), rest),
        [0x30, long, rest @ ..] if (0x81..=0x84).contains(long) && rest.len() >= usize::from(long & 0x7f) => {
            let (bytes, rest) = rest.split_at(usize::from(long & 0x7f));
            (bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)), rest)
        }
        _ => return false,
    };
    length == rest.len()
}

/// What is wrong with an issued certificate; one that is not there is fine. Upstream: `validateCertificate`.
pub(super) fn certificate_problem(encoded: &str) -> Option<String> {
    if encoded.is_empty() {
        return None;
    }
    let blocks = blocks(encoded);
    if blocks.is_empty() {
        return Some("must contain at least one CERTIFICATE PEM block".into());
    }
    blocks.iter().find_map(|block| {
        if block.ty != "CERTIFICATE" {
            Some(format!("only CERTIFICATE PEM blocks are allowed, found {}", crate::field::quote(&block.ty)))
        } else if block.headers {
            Some("no PEM block headers are permitted".into())
        } else if block.der.is_empty() {
            Some("found CERTIFICATE PEM block containing 0 certificates".into())
        } else {
            (!is_sequence(&block.der)).then(|| "x509: malformed certificate".into())
        }
    })
}
