//! Signs `kube-public/cluster-info` with each bootstrap token that may sign, so that a joining machine which knows a
//! token can tell that the file is from its cluster.
//!
//! Follows `pkg/controller/bootstrap/bootstrapsigner.go`. Where nobody made the map there is nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, Meta, Options, Outcome, Queue, Resource, View, null_default, work};
use serde::Deserialize;
use serde_json::Value;

use crate::views::view;
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "bootstrap-signer-controller",
    service_account: "bootstrap-signer",
    run: |cx| Box::pin(start(cx)),
};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const SIGNATURE: &str = "jws-kubeconfig-";

/// A bootstrap token with its secret.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SigningToken {
    metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    data: BTreeMap<String, String>,
}
view!(SigningToken, "", "v1", "Secret", "secrets");

/// The map.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterInfo {
    metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    data: BTreeMap<String, String>,
}
view!(ClusterInfo, "", "v1", "ConfigMap", "configmaps");

impl SigningToken {
    fn text(&self, field: &str) -> String {
        let bytes = self.data.get(field).and_then(|v| STANDARD.decode(v).ok()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// Id and secret, while it may sign; and when that ends.
    fn signer(&self, now: Timestamp) -> Option<(String, String, Option<Timestamp>)> {
        let (id, secret) = (self.text("token-id"), self.text("token-secret"));
        let named = *self.metadata.name == *format!("bootstrap-token-{id}");
        let signs = self.text("usage-bootstrap-signing") == "true";
        let expiration = self.text("expiration");
        // A time that cannot be read has passed.
        let ends = match expiration.as_str() {
            "" => None,
            text => Some(text.parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH)),
        };
        let alive = ends.is_none_or(|ends| ends > now);
        (named && signs && alive && !id.is_empty() && !secret.is_empty()).then_some((id, secret, ends))
    }
}

/// The data the map shall have, and when a token ends.
fn plan(
    data: &BTreeMap<String, String>,
    tokens: &[impl AsRef<SigningToken>],
    now: Timestamp,
) -> (BTreeMap<String, String>, Option<Timestamp>) {
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(k, _)| !k.starts_with(SIGNATURE)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let Some(kubeconfig) = data.get("kubeconfig") else { return (data.clone(), None) };
    let mut next: Option<Timestamp> = None;
    for (id, secret, ends) in tokens.iter().filter_map(|t| t.as_ref().signer(now)) {
        wanted.insert(format!("{SIGNATURE}{id}"), orkd_pki::jws::detached(kubeconfig, &id, &secret));
        next = [next, ends].into_iter().flatten().min();
    }
    (wanted, next)
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let tokens: Informer<SigningToken> =
        cx.informers.informer_with(Options::fields(format!("type={TYPE}")).namespace("kube-system"));
    let maps: Informer<ClusterInfo> =
        cx.informers.informer_with(Options::fields("metadata.name=cluster-info").namespace("kube-public"));
    let queue: Queue<Key> = cx.queue(SPEC.name);
    let key = Key::new("kube-public", "cluster-info");
    for_each_change(&tokens, &queue, &key);
    for_each_change(&maps, &queue, &key);
    tokens.synced().await;
    maps.synced().await;
    let (api, tokens, maps, clock) = (&cx.api, &tokens, &maps, &cx.clock);
    work(queue, 1, cx.stop, |key| async move {
        let Some(map) = maps.get(&key) else { return Ok(Outcome::Done) };
        let now = clock.now();
        let (wanted, next) = plan(&map.data, &tokens.list(), now);
        if wanted != map.data {
            let target = Resource::of::<ClusterInfo>().at(&key.namespace, &key.name);
            let change = |object: &mut Value| {
                // Only on what was looked at; a newer map comes back to us.
                if object["metadata"]["resourceVersion"] != map.metadata.resource_version.as_str() {
                    return false;
                }
                object["data"] = serde_json::json!(wanted);
                true
            };
            match api.modify(&target, "", change).await {
                Err(err) if err.is_not_found() => {}
                other => drop(other?),
            }
        }
        Ok(match next {
            Some(at) => {
                let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                Outcome::RequeueAfter(left + Duration::from_secs(1))
            }
            None => Outcome::Done,
        })
    })
    .await;
    Ok(())
}

fn for_each_change<T: View>(informer: &Informer<T>, queue: &Queue<Key>, key: &Key) {
    let (queue, key) = (queue.clone(), key.clone());
    informer.subscribe(move |_| queue.add(key.clone()));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn token(id: &str, signing: &str, expiration: &str) -> Arc<SigningToken> {
        let encode = |t: &str| STANDARD.encode(t);
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "data": {
                "token-id": encode(id), "token-secret": encode("secret"), "usage-bootstrap-signing": encode(signing),
                "expiration": encode(expiration)}}))
            .expect("a token"),
        )
    }

    #[test]
    fn tokens_sign_while_they_may() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let data = BTreeMap::from([
            ("kubeconfig".to_owned(), "k".to_owned()),
            ("jws-kubeconfig-old".to_owned(), "x".to_owned()),
        ]);
        let tokens = [
            token("abcdef", "true", "2026-01-01T01:00:00Z"),
            token("nosign", "false", ""),
            token("oldone", "true", "2025-01-01T00:00:00Z"),
        ];
        let (wanted, next) = plan(&data, &tokens, now);
        assert_eq!(wanted.keys().collect::<Vec<_>>(), ["jws-kubeconfig-abcdef", "kubeconfig"]);
        assert!(orkd_pki::jws::is_valid(&wanted["jws-kubeconfig-abcdef"], "k", "abcdef", "secret"));
        assert_eq!(next, "2026-01-01T01:00:00Z".parse().ok());
        let nothing = BTreeMap::from([("other".to_owned(), "k".to_owned())]);
        assert_eq!(plan(&nothing, &tokens, now).0, nothing);
    }
}
