//! Private keys.

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use crate::{Error, Result, der};

/// A private key and its public half. Its `Debug` form shows no secret.
#[derive(Debug)]
pub struct Key {
    pair: KeyPair,
}

impl Key {
    /// A new ECDSA P-256 key.
    pub fn generate() -> Result<Self> {
        Ok(Key { pair: KeyPair::generate().map_err(|e| Error::Crypto(format!("failed to make a key: {e}")))? })
    }

    /// Reads a private key: PKCS#8, PKCS#1 or SEC1 in PEM. An `EC PARAMETERS` section before it is skipped.
    pub fn from_pem(text: &str) -> Result<Self> {
        use rustls_pki_types::pem::PemObject;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| Error::malformed("private key", e))?;
        let pair = KeyPair::try_from(&key).map_err(|e| Error::malformed("private key", e))?;
        Ok(Key { pair })
    }

    /// The key in PKCS#8, PEM.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The key in PKCS#8, DER, as rustls takes it.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()))
    }

    /// The public half as `SubjectPublicKeyInfo`, DER.
    pub fn public_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// The public half, PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der())
    }

    /// The bare public key: for an elliptic curve the uncompressed point.
    pub fn public_bytes(&self) -> &[u8] {
        self.pair.der_bytes()
    }

    /// The signature algorithm this key signs with.
    pub fn scheme(&self) -> Scheme {
        let algorithm = self.pair.algorithm();
        if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            Scheme::EcdsaP384Sha384
        } else if algorithm == &rcgen::PKCS_ED25519 {
            Scheme::Ed25519
        } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
            Scheme::RsaSha256
        } else if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            Scheme::EcdsaP256Sha256
        } else {
            Scheme::Other
        }
    }

    /// Signs a message; ECDSA signatures are in the DER form certificates use.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.pair.sign(message).map_err(|e| Error::Crypto(format!("failed to sign: {e}")))
    }
}

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// ECDSA on P-256 with SHA-256: what this crate makes.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384Sha384,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RsaSha256,
    /// Ed25519.
    Ed25519,
    /// Something this crate does not sign certificates with.
    Other,
}

impl Scheme {
    /// The `AlgorithmIdentifier`, DER.
    pub(crate) fn identifier(self) -> Result<Vec<u8>> {
        Ok(match self {
            Scheme::EcdsaP256Sha256 => der::sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 2])]),
            Scheme::EcdsaP384Sha384 => der::sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 3])]),
            Scheme::Ed25519 => der::sequence(&[&der::oid(&[1, 3, 101, 112])]),
            Scheme::RsaSha256 => {
                der::sequence(&[&der::oid(&[1, 2, 840, 113549, 1, 1, 11]), &der::tlv(der::tag::NULL, &[])])
            }
            Scheme::Other => return Err(Error::Crypto("keys of this algorithm cannot sign certificates".into())),
        })
    }
}

/// SHA-256 of a public key (`SubjectPublicKeyInfo`), lower-case hex: how join tokens name a CA.
pub fn hash_hex(public_der: &[u8]) -> String {
    hex::encode(Sha256::digest(public_der))
}

/// A PEM section.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pem() {
        let key = Key::generate().expect("key");
        let again = Key::from_pem(&key.to_pem()).expect("same key");
        assert_eq!(key.public_der(), again.public_der());
        assert_eq!(again.scheme(), Scheme::EcdsaP256Sha256);
        assert!(!format!("{key:?}").contains(&hex::encode(key.pair.serialized_der())));
        assert!(Key::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
        assert!(Key::from_pem("").is_err());
    }
}
