//! Detached signatures with a shared secret (RFC 7515, `HS256`): what `cluster-info` carries for each bootstrap token
//! (`k8s.io/cluster-bootstrap/token/jws`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const BLOCK: usize = 64;

/// HMAC with SHA-256 (RFC 2104).
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|b| b ^ with);
    let mut inner = Sha256::new();
    inner.update(pad(0x36));
    parts.iter().for_each(|part| inner.update(part));
    let mut outer = Sha256::new();
    outer.update(pad(0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}

/// The signature of a text: header and signature, with nothing between, since the text is elsewhere.
pub fn detached(text: &str, key_id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{key_id}"}}"#));
    let payload = URL_SAFE_NO_PAD.encode(text);
    let signature = hmac(secret.as_bytes(), &[header.as_bytes(), b".", payload.as_bytes()]);
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Whether a signature is of this text, by this key.
pub fn is_valid(signature: &str, text: &str, key_id: &str, secret: &str) -> bool {
    signature == detached(text, key_id, secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let check = |key: &[u8], data: &[u8], expected: &str| {
            let hex: String = hmac(key, &[data]).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, expected);
        };
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    #[test]
    fn signatures_are_detached() {
        let signature = detached("content", "abcdef", "secret");
        assert!(signature.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."), "{signature}");
        assert!(is_valid(&signature, "content", "abcdef", "secret"));
        assert!(!is_valid(&signature, "content", "abcdef", "other"));
    }
}
