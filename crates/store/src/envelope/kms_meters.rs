//! The metrics of key management services, under upstream's names (`storage/value/encrypt/envelope/metrics`).
//!
//! Keys are told by hash, and of each service the last few only: a service that has a new key every minute does not make
//! the registry grow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use orkd_base::metrics::{Counter, Family, Gauge, Histogram};
use parking_lot::Mutex;

const KEY: &[&str] = &["apiserver_id_hash", "key_id_hash", "provider_name", "transformation_type"];
/// How many keys of a service are told of.
const KEYS: usize = 10;

static USED: Family<Counter> = Family::counter(
    "apiserver_envelope_encryption_key_id_hash_total",
    "[ALPHA] Number of times a keyID is used split by transformation type, provider, and apiserver identity.",
    KEY,
);
static USED_AT: Family<Gauge> = Family::gauge(
    "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds",
    "[ALPHA] The last time in seconds when a keyID was used.",
    KEY,
);
static TOLD_AT: Family<Gauge> = Family::gauge(
    "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
    "[ALPHA] The last time in seconds when a keyID was returned by the Status RPC call.",
    &["apiserver_id_hash", "key_id_hash", "provider_name"],
);
static BAD_KEYS: Family<Counter> = Family::counter(
    "apiserver_envelope_encryption_invalid_key_id_from_status_total",
    "[ALPHA] Number of times an invalid keyID is returned by the Status RPC call split by error.",
    &["error", "provider_name"],
);
static CALLS: Family<Histogram> = Family::histogram(
    "apiserver_envelope_encryption_kms_operations_latency_seconds",
    "[ALPHA] KMS operation duration with gRPC error code status total.",
    &["grpc_status_code", "method_name", "provider_name"],
    &[
        0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
        1.6384, 3.2768, 6.5536, 13.1072, 26.2144, 52.4288,
    ],
);

/// Whether a value is read or written.
#[derive(Clone, Copy, Debug)]
pub enum Direction {
    /// Read.
    FromStorage,
    /// Written.
    ToStorage,
}

/// The meters of one key in one direction, looked up once.
#[derive(Clone)]
pub struct KeyUse {
    total: Arc<Counter>,
    last: Arc<Gauge>,
}

impl KeyUse {
    /// Counts one use.
    pub fn count(&self) {
        self.total.inc();
        self.last.set(now());
    }
}

/// The meters of one service.
pub struct Meters {
    provider: String,
    server: String,
    recent: Mutex<VecDeque<String>>,
}

impl Meters {
    /// Those of a provider; `server` is the hash of what the API server is called.
    pub fn new(provider: &str, server: &str) -> Self {
        Meters { provider: provider.to_owned(), server: server.to_owned(), recent: Mutex::default() }
    }

    /// The meters of a key.
    pub fn key(&self, direction: Direction, key_id: &str) -> KeyUse {
        let direction = match direction {
            Direction::FromStorage => "from_storage",
            Direction::ToStorage => "to_storage",
        };
        let hash = self.seen(key_id);
        let labels = [&*self.server, &*hash, &*self.provider, direction];
        KeyUse { total: USED.with(&labels), last: USED_AT.with(&labels) }
    }

    /// The service said in its status that this is its key.
    pub fn told(&self, key_id: &str) {
        let error = match key_id.len() {
            0 => "empty",
            n if n > super::kms::MAX_KEY_ID => "too_long",
            _ => {
                let hash = self.seen(key_id);
                TOLD_AT.with(&[&self.server, &hash, &self.provider]).set(now());
                return;
            }
        };
        BAD_KEYS.with(&[error, &self.provider]).inc();
    }

    /// The service was asked something.
    pub fn called(&self, method: &str, code: &str, took: Duration) {
        CALLS.with(&[code, method, &self.provider]).observe(took.as_secs_f64());
    }

    /// The hash of a key; the key that was not met for the longest time is forgotten where there are too many.
    fn seen(&self, key_id: &str) -> String {
        let hash = hash(key_id);
        let mut recent = self.recent.lock();
        recent.retain(|h| *h != hash);
        recent.push_back(hash.clone());
        if recent.len() > KEYS
            && let Some(old) = recent.pop_front()
        {
            USED.forget("key_id_hash", &old);
            USED_AT.forget("key_id_hash", &old);
            TOLD_AT.forget("key_id_hash", &old);
        }
        hash
    }
}

/// `sha256:` and the digest of a text, as upstream hides names; nothing for nothing.
pub fn hash(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().fold("sha256:".to_owned(), |out, byte| out + &format!("{byte:02x}"))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> String {
        let mut out = String::new();
        orkd_base::metrics::render(&mut out);
        out.lines().filter(|l| l.contains("provider_name=\"of-meters\"")).map(|l| format!("{l}\n")).collect()
    }

    #[test]
    fn keys_are_counted_by_hash_and_the_oldest_are_forgotten() {
        let meters = Meters::new("of-meters", "sha256:me");
        meters.key(Direction::ToStorage, "first").count();
        meters.key(Direction::FromStorage, "first").count();
        meters.told("");
        let first = hash("first");
        assert_eq!(first.len(), "sha256:".len() + 64);
        let text = shown();
        for direction in ["from_storage", "to_storage"] {
            let line = format!(
                "key_id_hash_total{{apiserver_id_hash=\"sha256:me\",key_id_hash=\"{first}\",provider_name=\"of-meters\",\
                 transformation_type=\"{direction}\"}} 1\n"
            );
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("invalid_key_id_from_status_total{error=\"empty\",provider_name=\"of-meters\"} 1\n"));
        for n in 0..KEYS {
            meters.told(&format!("other-{n}"));
        }
        let text = shown();
        assert!(!text.contains(&first) && text.contains(&hash("other-0")), "{text}");
        assert_eq!(hash(""), "");
    }
}
