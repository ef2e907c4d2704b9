//! Which API servers there are: each keeps a Lease in `kube-system`, and removes those of servers that are gone.
//!
//! Follows `pkg/controlplane/apiserver` (`APIServerIdentity`) and `controller/apiserverleasegc`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use orkd_api::status::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::alloc::cluster_ip::system_user;
use crate::pipeline::ApiServer;
use crate::registry::options::DeleteOptions;
use crate::writer::Writer;

const GROUP: &str = "coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
const LABEL: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";
/// How long a lease holds.
const DURATION_SECONDS: i64 = 3600;
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How many renewals pass between two looks for leases that ended: an hour, as upstream.
const COLLECT_EVERY: u32 = 360;

/// The name of a host's server.
pub fn name_of(host: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(host.as_bytes());
    let (mut bits, mut have, mut name) = (0u32, 0u32, String::from("apiserver-"));
    for byte in &digest[..16] {
        bits = (bits << 8) | u32::from(*byte);
        have += 8;
        while have >= 5 {
            have -= 5;
            name.push(char::from(ALPHABET[((bits >> have) & 31) as usize]));
        }
    }
    if have > 0 {
        name.push(char::from(ALPHABET[((bits << (5 - have)) & 31) as usize]));
    }
    name
}

fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Keeps this server's lease until `stop`.
pub async fn run(server: ApiServer, host: String, stop: CancellationToken) {
    let writer = Writer::new(server.clone(), system_user()).manager(COMPONENT);
    let name = name_of(&host);
    let holder = format!("{name}_{}", uuid::Uuid::new_v4());
    let mut round = 0;
    loop {
        if let Err(status) = renew(&writer, &name, &holder, &host, Timestamp::now()).await {
            tracing::warn!(error = status.message, "the server's lease was not renewed");
        }
        if round % COLLECT_EVERY == 0 {
            collect(&server, &writer, Timestamp::now()).await;
        }
        round = round.wrapping_add(1);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
    }
}

async fn renew(writer: &Writer, name: &str, holder: &str, host: &str, now: Timestamp) -> Result<(), Status> {
    let labels = json!({LABEL: COMPONENT, "kubernetes.io/hostname": host});
    let change = |lease: &mut Value| {
        let spec = &mut lease["spec"];
        if spec["holderIdentity"] != holder {
            spec["holderIdentity"] = holder.into();
        }
        spec["leaseDurationSeconds"] = DURATION_SECONDS.into();
        spec["renewTime"] = micro(now).into();
        for (key, value) in labels.as_object().into_iter().flatten() {
            lease["metadata"]["labels"][key] = value.clone();
        }
        Ok(())
    };
    match writer.update_with(GROUP, "leases", "", NAMESPACE, name, change).await {
        Err(status) if status.code == 404 => {
            let lease = json!({"metadata": {"name": name, "labels": labels}, "spec": {
                "holderIdentity": holder, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": micro(now)}});
            writer.create(GROUP, "leases", NAMESPACE, lease).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}

/// Whether a lease of a server has ended.
fn has_ended(lease: &Value, now: Timestamp) -> bool {
    if lease["metadata"]["labels"][LABEL] != COMPONENT {
        return false;
    }
    let spec = &lease["spec"];
    let renewed = spec["renewTime"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let (Some(renewed), Some(seconds)) = (renewed, spec["leaseDurationSeconds"].as_i64()) else { return true };
    renewed.checked_add(SignedDuration::from_secs(seconds)).is_ok_and(|end| end < now)
}

async fn collect(server: &ApiServer, writer: &Writer, now: Timestamp) {
    for entry in server.reader().list(GROUP, "leases", Some(NAMESPACE)) {
        let lease = entry.decode();
        if has_ended(&lease, now) {
            let name = lease["metadata"]["name"].as_str().unwrap_or_default();
            if let Err(status) = writer.delete(GROUP, "leases", NAMESPACE, name, DeleteOptions::default()).await {
                tracing::debug!(name, error = status.message, "a lease that ended stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_name() {
        let name = name_of("host");
        assert_eq!(name.len(), "apiserver-".len() + 26);
        assert_eq!(name, name_of("host"));
        assert_ne!(name, name_of("other"));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
    }

    #[test]
    fn leases_end() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().expect("a time");
        let lease = |label: &str, renewed: &str| json!({"metadata": {"labels": {LABEL: label}}, "spec": {"renewTime": renewed, "leaseDurationSeconds": 3600}});
        assert!(has_ended(&lease(COMPONENT, "2026-01-01T00:59:59.000000Z"), now));
        assert!(!has_ended(&lease(COMPONENT, "2026-01-01T01:00:01.000000Z"), now));
        assert!(!has_ended(&lease("other", "2025-01-01T00:00:00.000000Z"), now));
    }
}
