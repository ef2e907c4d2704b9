//! The list of transformations of a resource (`storage/value/transformer.go`, `NewPrefixTransformers`): the first
//! writes; the one whose prefix a stored value has reads it.

use bytes::Bytes;

use super::ciphers::Cipher;
use super::kms::Envelope;

/// What every encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// One transformation.
pub enum Provider {
    /// The value as it is.
    Identity,
    /// A cipher with keys by name: the prefix (`k8s:enc:aescbc:v1:`) and the keys in order.
    Keys(&'static str, Vec<(String, Cipher)>),
    /// A key management service: the prefix with its name, and the service.
    Kms(String, std::sync::Arc<Envelope>),
}

impl Provider {
    fn prefix(&self) -> &[u8] {
        match self {
            Provider::Identity => b"",
            Provider::Keys(prefix, _) => prefix.as_bytes(),
            Provider::Kms(prefix, _) => prefix.as_bytes(),
        }
    }

    async fn open(&self, key: &str, value: &[u8]) -> Result<(Vec<u8>, bool), String> {
        match self {
            Provider::Identity if value.starts_with(ENCRYPTED) => {
                Err("identity transformer tried to read encrypted data".into())
            }
            Provider::Identity => Ok((value.to_vec(), false)),
            Provider::Keys(_, keys) => {
                let mut errors = Vec::new();
                for (i, (name, cipher)) in keys.iter().enumerate() {
                    let Some(rest) = value.strip_prefix(name.as_bytes()).and_then(|v| v.strip_prefix(b":")) else {
                        continue;
                    };
                    match cipher.open(key.as_bytes(), rest) {
                        Ok(clear) => return Ok((clear, i != 0)),
                        Err(why) => errors.push(why),
                    }
                }
                Err(joined(errors, || "no matching key was found for the provided transformer".into()))
            }
            Provider::Kms(_, envelope) => envelope.open(key, value).await,
        }
    }

    async fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, String> {
        let sealed = match self {
            Provider::Identity => return Ok(value),
            Provider::Keys(_, keys) => {
                let (name, cipher) = keys.first().ok_or("the provider has no keys")?;
                let sealed = cipher.seal(key.as_bytes(), &value)?;
                let mut out = Vec::with_capacity(self.prefix().len() + name.len() + 1 + sealed.len());
                out.extend_from_slice(self.prefix());
                out.extend_from_slice(name.as_bytes());
                out.push(b':');
                out.extend_from_slice(&sealed);
                out
            }
            Provider::Kms(prefix, envelope) => {
                let mut out = prefix.clone().into_bytes();
                out.extend_from_slice(&envelope.seal(key, &value)?);
                out
            }
        };
        Ok(sealed.into())
    }
}

/// The transformations of a resource, in order.
#[derive(Default)]
pub struct Chain {
    /// None: the value is stored as it is.
    pub(super) providers: Vec<std::sync::Arc<Provider>>,
}

impl Chain {
    /// The value in the clear, and whether it is not as the first transformation would write it now.
    pub async fn open(&self, key: &str, value: &Bytes) -> Result<(Bytes, bool), String> {
        if self.providers.is_empty() {
            return match Provider::Identity.open(key, value).await {
                Ok(_) => Ok((value.clone(), false)),
                Err(why) => Err(why),
            };
        }
        let mut errors = Vec::new();
        for (i, provider) in self.providers.iter().enumerate() {
            let prefix = provider.prefix();
            let Some(rest) = value.strip_prefix(prefix) else { continue };
            match provider.open(key, rest).await {
                Ok((clear, stale)) => return Ok((clear.into(), stale || i != 0)),
                // An identity before the key with which a value was encrypted is how encryption is left.
                Err(_) if prefix.is_empty() => {}
                Err(why) => errors.push(why),
            }
        }
        Err(joined(errors, || "no matching prefix found".into()))
    }

    /// The value as the first transformation writes it.
    pub async fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, String> {
        match self.providers.first() {
            Some(provider) => provider.seal(key, value).await,
            None => Ok(value),
        }
    }
}

fn joined(mut errors: Vec<String>, none: impl FnOnce() -> String) -> String {
    match errors.len() {
        0 => none(),
        1 => errors.remove(0),
        _ => format!("[{}]", errors.join(", ")),
    }
}
