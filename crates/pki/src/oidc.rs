//! Tokens of other issuers: the key set they publish (RFC 7517) and the check of a signature with it.
//!
//! Issuer, audience, time and what the claims mean are the caller's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use crate::{Error, Result};

/// The largest token looked at.
const MAX_TOKEN: usize = 64 * 1024;

/// Signature algorithms that may be chosen (`--oidc-signing-algs`).
pub const ALGORITHMS: [(&str, Algorithm); 8] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
];

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a token.
    #[error("malformed jwt")]
    Malformed,
    /// Signed with an algorithm that is not allowed.
    #[error("id token signed with unsupported algorithm")]
    Algorithm,
    /// Signed with none of the keys: the set may be out of date.
    #[error("failed to verify id token signature")]
    Signature,
}

/// The keys of an issuer.
pub struct KeySet(Vec<(Option<String>, DecodingKey)>);

impl KeySet {
    /// Reads a key set document. Keys of unknown sorts are left out.
    pub fn parse(document: &[u8]) -> Result<Self> {
        let set: Value = serde_json::from_slice(document).map_err(|e| Error::malformed("key set", e))?;
        let list = set["keys"].as_array().ok_or_else(|| Error::malformed("key set", "it has no keys"))?;
        let read = |key: &Value| {
            let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
            Some((jwk.common.key_id.clone(), DecodingKey::from_jwk(&jwk).ok()?))
        };
        Ok(KeySet(list.iter().filter_map(read).collect()))
    }

    /// Checks a signature. The claims.
    pub fn verify(&self, token: &str, allowed: &[Algorithm]) -> Result<Value, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Malformed)?;
        if !allowed.contains(&header.alg) {
            return Err(Refusal::Algorithm);
        }
        let mut checks = Validation::new(header.alg);
        checks.required_spec_claims.clear();
        checks.validate_exp = false;
        checks.validate_nbf = false;
        checks.validate_aud = false;
        let wanted = header.kid.as_deref().filter(|k| !k.is_empty());
        let candidates = self.0.iter().filter(|(kid, _)| wanted.is_none() || kid.is_none() || kid.as_deref() == wanted);
        candidates
            .filter_map(|(_, key)| jsonwebtoken::decode::<Value>(token, key, &checks).ok())
            .map(|data| data.claims)
            .next()
            .ok_or(Refusal::Signature)
    }
}

/// What a token says, unchecked; `None` for what is no token.
pub fn unverified_claims(token: &str) -> Option<Value> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;
    use crate::jwt::{Claims, Signer, Verifier};

    #[test]
    fn signatures_are_checked_with_published_keys() {
        let (key, other) = (Key::generate().expect("key"), Key::generate().expect("key"));
        let token = Signer::new(&key, "https://issuer").expect("signer").sign(Claims::default()).expect("token");
        let published = |key: &Key| {
            let set = Verifier::new([key], Vec::new()).expect("verifier").key_set();
            KeySet::parse(set.to_string().as_bytes()).expect("set")
        };
        let claims = published(&key).verify(&token, &[Algorithm::ES256]).expect("signed");
        assert_eq!(claims["iss"], "https://issuer");
        assert_eq!(published(&other).verify(&token, &[Algorithm::ES256]), Err(Refusal::Signature));
        assert_eq!(published(&key).verify(&token, &[Algorithm::RS256]), Err(Refusal::Algorithm));
        assert_eq!(published(&key).verify("a.b", &[Algorithm::RS256]), Err(Refusal::Malformed));
        assert_eq!(unverified_claims(&token).expect("claims")["iss"], "https://issuer");
        assert!(unverified_claims("x").is_none());
        assert!(KeySet::parse(b"{}").is_err());
    }
}
