//! The cluster's trust: key pairs, certificate authorities, certificates, signing requests, tokens and
//! kubeconfig files.
//!
//! Keys are ECDSA P-256 (made in well under a millisecond; an RSA 2048 key costs more than the whole start-up
//! budget); RSA, P-384 and Ed25519 keys of an existing cluster are read and used. Certificates are written with
//! the few DER functions of [`der`], because the subject and the key of a signing request have to be copied
//! bit by bit (several organizations, any string type, any key algorithm).
//!
//! Invariant: no async and no network. The time is a parameter. Files that hold keys are 0600 before the first
//! byte is written.
//!
//! Start reading at [`cluster`], which is what a server keeps on disk.

pub mod authority;
pub mod cert;
pub mod cluster;
pub mod csr;
pub mod der;
pub mod files;
pub mod jws;
pub mod jwt;
pub mod key;
pub mod kubeconfig;
pub mod oidc;
pub mod tls;
pub mod token;

pub use authority::Authority;
pub use cert::{Certificate, Identity, Profile};
pub use key::Key;

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Bytes that should be a certificate, key, request or configuration are not.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// What the bytes should have been.
        what: &'static str,
        /// What is wrong with them.
        why: String,
    },
    /// A cryptographic operation failed.
    #[error("{0}")]
    Crypto(String),
    /// A kubeconfig lacks what it refers to.
    #[error("kubeconfig: {0}")]
    Kubeconfig(String),
}

impl Error {
    pub(crate) fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Error::Malformed { what, why: why.to_string() }
    }
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Random text of `len` characters `a-z0-9`, from the system's generator: names, token ids and secrets.
pub fn random_id(len: usize) -> String {
    use rand::Rng;
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..len).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}
