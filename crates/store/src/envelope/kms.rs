//! Keys of a key management service, version 2 of its interface
//! (`storage/value/encrypt/envelope/kmsv2`, `encrypt/aes/aes_extended_nonce.go`).
//!
//! The server makes a seed, has the service encrypt it, and stores the encrypted seed with every value. Each value has
//! an AES-GCM key of its own, derived from the seed and 32 random bytes. The service is asked when a key is new, when a
//! seed is met that is not in memory, and for its state: every 20 seconds, every 3 while it is not healthy. A seed whose
//! key has not been confirmed for three minutes writes no more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use prost::Message;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use super::ciphers::{Cipher, random};
use super::kms_meters::{Direction, KeyUse, Meters};
use super::proto::key_management_service_client::KeyManagementServiceClient;
use super::proto::{
    DecryptRequest, EncryptRequest, EncryptedDekSourceType, EncryptedObject, StatusRequest, StatusResponse,
};

/// Bytes of a seed, of what a key is derived with, and of a key.
const SEED: usize = 32;
/// For how long a confirmed key may write.
const CONFIRMED_FOR: Duration = Duration::from_secs(180);
const HEALTHY_INTERVAL: Duration = Duration::from_secs(20);
const UNHEALTHY_INTERVAL: Duration = Duration::from_secs(3);
/// For how long the first answer is waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// The longest name of a key.
pub(super) const MAX_KEY_ID: usize = 1024;
const MAX_ENCRYPTED_SEED: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;
/// How many seeds are kept in memory.
const MAX_SEEDS: usize = 4096;

/// A seed or, in data of older servers, a key.
enum Source {
    Seed(Prk),
    Key(Cipher),
}

impl Source {
    fn new(kind: EncryptedDekSourceType, bytes: &[u8]) -> Result<Self, String> {
        match kind {
            EncryptedDekSourceType::AesGcmKey => Cipher::gcm(bytes).map(Source::Key),
            EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed => {
                if !(SEED..=64).contains(&bytes.len()) {
                    return Err(format!("invalid seed length {} used for key generation", bytes.len()));
                }
                Ok(Source::Seed(Prk::new_less_safe(HKDF_SHA256, bytes)))
            }
        }
    }

    fn seal(&self, aad: &[u8], clear: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Source::Key(key) => key.seal(aad, clear),
            Source::Seed(seed) => {
                let info: [u8; SEED] = random()?;
                let body = derived(seed, &info)?.seal(aad, clear)?;
                Ok([&info[..], &body].concat())
            }
        }
    }

    fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Source::Key(key) => key.open(aad, sealed),
            Source::Seed(seed) => {
                let short = "the stored data was shorter than the required size";
                let (info, body) = sealed.split_first_chunk::<SEED>().ok_or(short)?;
                derived(seed, info)?.open(aad, body)
            }
        }
    }
}

/// The length of a derived key, for the key derivation.
struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        SEED
    }
}

fn derived(seed: &Prk, info: &[u8]) -> Result<Cipher, String> {
    let failed = |_| "failed to derive key from KDF".to_owned();
    let mut key = [0; SEED];
    seed.expand(&[info], KeyLength).map_err(failed)?.fill(&mut key).map_err(failed)?;
    Cipher::gcm(&key)
}

/// What writes now.
struct Writing {
    source: Arc<Source>,
    key_id: String,
    encrypted_seed: Vec<u8>,
    annotations: BTreeMap<String, Vec<u8>>,
    until: Instant,
    used: KeyUse,
}

/// A seed in memory, by which values are read.
#[derive(Clone)]
struct Known {
    source: Arc<Source>,
    used: KeyUse,
}

/// Encrypts with seeds that a service keeps.
pub struct Envelope {
    name: String,
    timeout: Duration,
    client: KeyManagementServiceClient<Channel>,
    writing: RwLock<Option<Arc<Writing>>>,
    health: RwLock<Result<(), String>>,
    seeds: RwLock<HashMap<Vec<u8>, Known>>,
    meters: Meters,
}

impl Envelope {
    /// A service at `unix:///path` or `unix:///@name`. Waits a while for its first answer and goes on without it where
    /// none comes: writes fail and health tells until it answers. Asks for its state for as long as it is held. `server`
    /// is what the API server is called in metrics.
    pub async fn connect(name: &str, endpoint: &str, timeout: Duration, server: &str) -> Result<Arc<Self>, String> {
        let path = endpoint.strip_prefix("unix://").ok_or("only unix sockets are supported")?.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { connect(&path).await.map(TokioIo::new) }
        });
        // The authority is never resolved; the connector goes to the socket.
        let channel = Endpoint::from_static("http://kms.invalid").connect_with_connector_lazy(connector);
        let envelope = Arc::new(Envelope {
            name: name.to_owned(),
            timeout,
            client: KeyManagementServiceClient::new(channel),
            writing: RwLock::default(),
            health: RwLock::new(Err("no answer yet".into())),
            seeds: RwLock::default(),
            meters: Meters::new(name, server),
        });
        let started = Instant::now();
        while !envelope.probe().await && started.elapsed() < FIRST_ANSWER {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::spawn(follow(Arc::downgrade(&envelope)));
        Ok(envelope)
    }

    /// Whether the service was healthy when last asked.
    pub fn health(&self) -> Result<(), String> {
        let health = self.health.read().clone();
        health.map_err(|why| format!("kmsv2 Provider {} is not healthy, error: {why}", self.name))
    }

    /// Asks the service for its state and makes a new seed where its key has changed. Whether it is healthy.
    async fn probe(&self) -> bool {
        let outcome = self.refresh().await;
        let healthy = outcome.is_ok();
        if let Err(why) = &outcome {
            tracing::warn!(provider = self.name, why, "the key management service is not healthy");
        }
        *self.health.write() = outcome;
        healthy
    }

    async fn refresh(&self) -> Result<(), String> {
        let until = Instant::now() + CONFIRMED_FOR;
        let status = self.call("Status", self.client.clone().status(StatusRequest {})).await?;
        self.meters.told(&status.key_id);
        check_status(&status)?;
        let current = self.writing.read().clone();
        if let Some(current) = current.filter(|c| c.key_id == status.key_id) {
            *self.writing.write() = Some(Arc::new(Writing {
                source: current.source.clone(),
                key_id: current.key_id.clone(),
                encrypted_seed: current.encrypted_seed.clone(),
                annotations: current.annotations.clone(),
                until,
                used: current.used.clone(),
            }));
            return Ok(());
        }
        let seed: [u8; SEED] = random()?;
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uid()? };
        let answer = self.call("Encrypt", self.client.clone().encrypt(request)).await;
        let answer = answer.map_err(|e| format!("failed to encrypt DEK, error: {e}"))?;
        let kind = EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed;
        check_source(&answer.ciphertext, &answer.key_id, &answer.annotations)?;
        let source = Arc::new(Source::new(kind, &seed)?);
        let known = Known { source: source.clone(), used: self.meters.key(Direction::FromStorage, &answer.key_id) };
        self.remember(seed_key(kind, &answer.ciphertext, &answer.key_id, &answer.annotations), known);
        tracing::info!(provider = self.name, "a new seed is in use, encrypted with the service's current key");
        *self.writing.write() = Some(Arc::new(Writing {
            source,
            used: self.meters.key(Direction::ToStorage, &answer.key_id),
            key_id: answer.key_id,
            encrypted_seed: answer.ciphertext,
            annotations: answer.annotations,
            until,
        }));
        Ok(())
    }

    fn remember(&self, key: Vec<u8>, known: Known) {
        let mut seeds = self.seeds.write();
        if seeds.len() >= MAX_SEEDS {
            seeds.clear();
        }
        seeds.insert(key, known);
    }

    async fn call<T>(
        &self,
        method: &str,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, String> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(self.timeout, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("context deadline exceeded")));
        let code = answer.as_ref().map_or_else(tonic::Status::code, |_| tonic::Code::Ok);
        self.meters.called(method, &format!("{code:?}"), begun.elapsed());
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
    }

    /// Encrypts a value.
    pub fn seal(&self, key: &str, clear: &[u8]) -> Result<Vec<u8>, String> {
        let Some(writing) = self.writing.read().clone() else {
            return Err(format!("got unexpected nil transformer, the KMS provider {} has not answered yet", self.name));
        };
        if Instant::now() > writing.until {
            return Err(format!(
                "encryptedDEKSource of KMS provider {} expired: the service has not confirmed its key for {} seconds",
                self.name,
                CONFIRMED_FOR.as_secs()
            ));
        }
        let object = EncryptedObject {
            encrypted_data: writing.source.seal(key.as_bytes(), clear)?,
            key_id: writing.key_id.clone(),
            encrypted_dek_source: writing.encrypted_seed.clone(),
            annotations: writing.annotations.clone(),
            encrypted_dek_source_type: EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed.into(),
        };
        writing.used.count();
        Ok(object.encode_to_vec())
    }

    /// Decrypts a value; the flag tells that the service has another key by now.
    pub async fn open(&self, key: &str, sealed: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let object = EncryptedObject::decode(sealed).map_err(|e| format!("proto: {e}"))?;
        let kind = EncryptedDekSourceType::try_from(object.encrypted_dek_source_type)
            .map_err(|_| format!("unknown encryptedDEKSourceType: {}", object.encrypted_dek_source_type))?;
        if object.encrypted_data.is_empty() {
            return Err("encrypted data is empty".into());
        }
        check_source(&object.encrypted_dek_source, &object.key_id, &object.annotations)?;
        let seed = seed_key(kind, &object.encrypted_dek_source, &object.key_id, &object.annotations);
        let found = self.seeds.read().get(&seed).cloned();
        let known = match found {
            Some(known) => known,
            None => {
                let request = DecryptRequest {
                    ciphertext: object.encrypted_dek_source,
                    uid: uid()?,
                    key_id: object.key_id.clone(),
                    annotations: object.annotations,
                };
                let answer = self.call("Decrypt", self.client.clone().decrypt(request)).await;
                let answer = answer.map_err(|e| format!("failed to decrypt DEK, error: {e}"))?;
                let source = Arc::new(Source::new(kind, &answer.plaintext)?);
                let known = Known { source, used: self.meters.key(Direction::FromStorage, &object.key_id) };
                self.remember(seed, known.clone());
                known
            }
        };
        let clear = known.source.open(key.as_bytes(), &object.encrypted_data)?;
        known.used.count();
        let current = self.writing.read().clone();
        let stale = kind != EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed
            || current.is_some_and(|c| c.key_id != object.key_id);
        Ok((clear, stale))
    }
}

async fn follow(envelope: Weak<Envelope>) {
    loop {
        let healthy = match envelope.upgrade() {
            Some(envelope) => envelope.health.read().is_ok(),
            None => return,
        };
        tokio::time::sleep(if healthy { HEALTHY_INTERVAL } else { UNHEALTHY_INTERVAL }).await;
        match envelope.upgrade() {
            Some(envelope) => envelope.probe().await,
            None => return,
        };
    }
}

async fn connect(path: &str) -> std::io::Result<tokio::net::UnixStream> {
    let Some(name) = path.strip_prefix("/@").or_else(|| path.strip_prefix('@')) else {
        return tokio::net::UnixStream::connect(path).await;
    };
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

fn check_status(status: &StatusResponse) -> Result<(), String> {
    let mut errors = Vec::new();
    if status.healthz != "ok" {
        errors.push(format!("got unexpected healthz status: {}", status.healthz));
    }
    if status.version != "v2" && status.version != "v2beta1" {
        errors.push(format!("expected KMSv2 API version v2, got {}", status.version));
    }
    if let Err(why) = check_key_id(&status.key_id) {
        errors.push(why);
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}

fn check_key_id(key_id: &str) -> Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".into()),
        n if n > MAX_KEY_ID => Err(format!("keyID is {n} bytes, which exceeds the max size of {MAX_KEY_ID}")),
        _ => Ok(()),
    }
}

fn check_source(source: &[u8], key_id: &str, annotations: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    if source.is_empty() {
        return Err("failed to validate encrypted DEK source: encrypted DEK source is empty".into());
    }
    if source.len() > MAX_ENCRYPTED_SEED {
        return Err(format!(
            "failed to validate encrypted DEK source: encrypted DEK source is {} bytes, which exceeds the max size of \
             {MAX_ENCRYPTED_SEED}",
            source.len()
        ));
    }
    check_key_id(key_id).map_err(|e| format!("failed to validate key id: {e}"))?;
    let total: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if total > MAX_ANNOTATIONS {
        return Err(format!(
            "failed to validate annotations: total size of annotations is {total}, which exceeds the max size of \
             {MAX_ANNOTATIONS}"
        ));
    }
    match annotations.keys().find(|k| !k.contains('.')) {
        Some(name) => Err(format!(
            "failed to validate annotations: annotations: Invalid value: {name:?}: should be a domain with at least two \
             segments separated by dots"
        )),
        None => Ok(()),
    }
}

/// What a seed is remembered by: everything that went into its encryption, unambiguously.
fn seed_key(
    kind: EncryptedDekSourceType,
    source: &[u8],
    key_id: &str,
    annotations: &BTreeMap<String, Vec<u8>>,
) -> Vec<u8> {
    EncryptedObject {
        encrypted_dek_source: source.to_vec(),
        key_id: key_id.to_owned(),
        annotations: annotations.clone(),
        encrypted_dek_source_type: kind.into(),
        encrypted_data: Vec::new(),
    }
    .encode_to_vec()
}

/// A random id by which a call is found in the service's log.
fn uid() -> Result<String, String> {
    let b: [u8; 16] = random()?;
    let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>();
    Ok([hex(&b[..4]), hex(&b[4..6]), hex(&b[6..8]), hex(&b[8..10]), hex(&b[10..])].join("-"))
}
