//! Bootstrap tokens and join tokens.
//!
//! A bootstrap token is upstream's: `ID.SECRET`, 6 and 16 characters of `[a-z0-9]`; the cluster keeps it in a
//! Secret `kube-system/bootstrap-token-ID`. A join token adds what the node needs to know the cluster by:
//! `orkd1.HASH.ID.SECRET`, HASH being the SHA-256 of the CA's public key (`SubjectPublicKeyInfo`) in hex, the same
//! value as kubeadm's `--discovery-token-ca-cert-hash`. The hash is of the key, so a renewed CA certificate
//! leaves tokens valid. The `1` is the version of the form.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result, random_id};

/// `ID.SECRET`.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Public part; also the end of the Secret's name.
    pub id: String,
    /// Secret part.
    pub secret: String,
}

impl BootstrapToken {
    /// A new token.
    pub fn generate() -> Self {
        BootstrapToken { id: random_id(6), secret: random_id(16) }
    }

    /// The name of the Secret that holds it in `kube-system`.
    pub fn secret_name(&self) -> String {
        format!("bootstrap-token-{}", self.id)
    }
}

impl FromStr for BootstrapToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let good = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('.') {
            Some((id, secret)) if good(id, 6) && good(secret, 16) => {
                Ok(BootstrapToken { id: id.into(), secret: secret.into() })
            }
            _ => Err(Error::malformed("bootstrap token", "it must match [a-z0-9]{6}.[a-z0-9]{16}")),
        }
    }
}

impl fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.[hidden]", self.id)
    }
}

/// `orkd1.HASH.ID.SECRET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA's public key, 64 lower-case hex digits.
    pub ca_hash: String,
    /// The credential.
    pub bootstrap: BootstrapToken,
}

const PREFIX: &str = "orkd1.";

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad =
            || Error::malformed("join token", "it must be orkd1.CA-HASH.ID.SECRET, as `orkd token create` prints");
        let rest = text.trim().strip_prefix(PREFIX).ok_or_else(bad)?;
        let (hash, bootstrap) = rest.split_once('.').ok_or_else(bad)?;
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(bad());
        }
        Ok(JoinToken { ca_hash: hash.into(), bootstrap: bootstrap.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.{}", self.ca_hash, self.bootstrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_text_and_hide_their_secret() {
        let token = JoinToken { ca_hash: "0a".repeat(32), bootstrap: BootstrapToken::generate() };
        assert_eq!(token.to_string().parse::<JoinToken>().expect("same"), token);
        assert!(!format!("{token:?}").contains(&token.bootstrap.secret));
        for bad in ["", "orkd1.", "abcdef.0123456789abcdef", "orkd1.zz.abcdef.0123456789abcdef", "abcdef.ABC"] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
        }
        assert!("abcdef.0123456789abcdef".parse::<BootstrapToken>().is_ok());
        assert!("abcdef.0123456789abcdeF".parse::<BootstrapToken>().is_err());
    }
}
