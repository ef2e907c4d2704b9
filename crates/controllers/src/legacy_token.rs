//! Tokens that stand in Secrets of type `kubernetes.io/service-account-token`: filled in, taken away with their account,
//! and removed where the system once made them and nobody uses them.
//!
//! Follows `pkg/controller/serviceaccount/{tokens_controller,legacy_serviceaccount_token_cleaner}.go`. The day of the
//! last use is noted by the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::civil::Date;
use orkd_base::BoxError;
use orkd_pki::jwt::{LegacyClaims, Signer};
use orkd_reconcile::{
    DeleteOptions, Informer, Key, Meta, Options, Outcome, Patch, Queue, Resource, View, null_default, work,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::views::{ConfigMap, ServiceAccount, view};
use crate::{ControllerSpec, Cx, MANAGER};

/// Fills the Secrets.
pub const TOKENS: ControllerSpec = ControllerSpec {
    name: "serviceaccount-token-controller",
    service_account: MANAGER,
    run: |cx| Box::pin(tokens(cx)),
};

/// Removes what is not used.
pub const CLEANER: ControllerSpec = ControllerSpec {
    name: "legacy-serviceaccount-token-cleaner-controller",
    service_account: "legacy-service-account-token-cleaner",
    run: |cx| Box::pin(cleaner(cx)),
};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// For how long an unused token is kept (`--legacy-service-account-token-clean-up-period`).
const KEEP_DAYS: i64 = 365;
/// How often unused tokens are looked for.
const INTERVAL: Duration = Duration::from_secs(86_400);

/// A Secret with a token. What is in it is held as what it is the hash of, so that tokens are not in memory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenSecret {
    metadata: Meta,
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "null_default")]
    data: BTreeMap<String, Digest>,
}
view!(TokenSecret, "", "v1", "Secret", "secrets");

/// Whether a value is empty, and its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Digest(u64);

impl Digest {
    fn of(encoded: &str) -> Self {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        encoded.hash(&mut hasher);
        Digest(if encoded.is_empty() { 0 } else { hasher.finish().max(1) })
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Digest::of(&Option::<String>::deserialize(d)?.unwrap_or_default()))
    }
}

impl TokenSecret {
    fn annotation(&self, key: &str) -> &str {
        self.metadata.annotations.get(key).map(String::as_str).unwrap_or_default()
    }

    fn label(&self, key: &str) -> &str {
        self.metadata.labels.get(key).map(String::as_str).unwrap_or_default()
    }

    fn held(&self, key: &str) -> Digest {
        self.data.get(key).copied().unwrap_or_default()
    }

    /// Whether this is the account the Secret is of.
    fn is_of(&self, account: &Meta) -> bool {
        let uid = self.annotation(ACCOUNT_UID);
        self.annotation(ACCOUNT_NAME) == &*account.name && (uid.is_empty() || uid == &*account.uid)
    }
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Item {
    /// A Secret that is there.
    Secret(Key),
    /// A Secret that has gone and the account that may name it.
    Gone { secret: Key, account: String },
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Secret(key) | Item::Gone { secret: key, .. } => key.fmt(f),
        }
    }
}

fn secrets_of(cx: &Cx) -> Informer<TokenSecret> {
    cx.informers.informer_with(Options::fields(format!("type={TYPE}")))
}

async fn tokens(cx: Cx) -> Result<(), BoxError> {
    let Some(signer) = cx.config.token_signer.clone() else { return Ok(()) };
    let secrets = secrets_of(&cx);
    let accounts: Informer<ServiceAccount> = cx.informers.informer();
    let queue: Queue<Item> = cx.queue(TOKENS.name);
    {
        let queue = queue.clone();
        secrets.subscribe(move |event| {
            let account = event.object().annotation(ACCOUNT_NAME).to_owned();
            queue.add(match event.is_deleted() {
                true => Item::Gone { secret: event.key(), account },
                false => Item::Secret(event.key()),
            });
        });
    }
    {
        let (queue, secrets) = (queue.clone(), secrets.clone());
        accounts.subscribe(move |event| {
            let account = &event.object().metadata;
            if event.is_deleted() || event.old().is_none() {
                for secret in secrets.list_namespace(&account.namespace) {
                    if secret.annotation(ACCOUNT_NAME) == &*account.name {
                        queue.add(Item::Secret(Key::new(&secret.metadata.namespace, &secret.metadata.name)));
                    }
                }
            }
        });
    }
    secrets.synced().await;
    accounts.synced().await;
    let (cx, signer, secrets, accounts) = (&cx, &signer, &secrets, &accounts);
    work(queue, 2, cx.stop.clone(), |item| async move {
        match item {
            Item::Gone { secret, account } => forget(cx, &secret, &account).await?,
            Item::Secret(key) => {
                let Some(secret) = secrets.get(&key).filter(|s| s.kind == TYPE) else { return Ok(Outcome::Done) };
                look_at(cx, signer, &secret, accounts).await?;
            }
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// The account's list of Secrets does not name one that has gone.
async fn forget(cx: &Cx, secret: &Key, account: &str) -> Result<(), BoxError> {
    if account.is_empty() {
        return Ok(());
    }
    let target = Resource::of::<ServiceAccount>().at(&secret.namespace, account);
    let changed = cx.api.modify(&target, "", |live| {
        let Some(list) = live["secrets"].as_array_mut() else { return false };
        let before = list.len();
        list.retain(|s| s["name"] != *secret.name);
        list.len() != before
    });
    match changed.await {
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

async fn look_at(
    cx: &Cx,
    signer: &Signer,
    secret: &TokenSecret,
    accounts: &Informer<ServiceAccount>,
) -> Result<(), BoxError> {
    let (namespace, name) = (&*secret.metadata.namespace, &*secret.metadata.name);
    let account_name = secret.annotation(ACCOUNT_NAME);
    if account_name.is_empty() {
        return Ok(());
    }
    let target = Resource::of::<TokenSecret>().at(namespace, name);
    let known = accounts.get_named(namespace, account_name).filter(|a| secret.is_of(&a.metadata));
    let account = match known {
        Some(account) => account,
        // The cache may be behind: what is not there is asked for.
        None => {
            let at = Resource::of::<ServiceAccount>().at(namespace, account_name);
            match cx.api.get::<ServiceAccount>(&at).await {
                Ok(live) if secret.is_of(&live.metadata) => Arc::new(live),
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {
                    return match cx.api.delete(&target, &DeleteOptions::default().uid(&secret.metadata.uid)).await {
                        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
                        other => Ok(other?),
                    };
                }
            }
        }
    };
    let ca = STANDARD.encode(&cx.config.root_ca_pem);
    if !is_wanting(secret, &ca) {
        return Ok(());
    }
    let claims = LegacyClaims::new(namespace, name, account_name, &account.metadata.uid);
    let token = signer.sign_legacy(&claims)?;
    let (uid, account_uid) = (&*secret.metadata.uid, &*account.metadata.uid);
    let filled = cx.api.modify(&target, "", |live| fill(live, uid, namespace, &token, &ca, account_name, account_uid));
    match filled.await {
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

/// Whether token, namespace or authority are missing.
fn is_wanting(secret: &TokenSecret, ca: &str) -> bool {
    secret.held("token") == Digest::default()
        || secret.held("namespace") == Digest::default()
        || (!ca.is_empty() && secret.held("ca.crt") != Digest::of(ca))
}

fn fill(live: &mut Value, uid: &str, namespace: &str, token: &str, ca: &str, account: &str, account_uid: &str) -> bool {
    if live["metadata"]["uid"] != uid {
        return false;
    }
    if !live["data"].is_object() {
        live["data"] = json!({});
    }
    let data = &mut live["data"];
    let is_empty = |v: &Value| v.as_str().is_none_or(str::is_empty);
    if is_empty(&data["token"]) {
        data["token"] = json!(STANDARD.encode(token));
    }
    if is_empty(&data["namespace"]) {
        data["namespace"] = json!(STANDARD.encode(namespace));
    }
    if !ca.is_empty() {
        data["ca.crt"] = json!(ca);
    }
    live["metadata"]["annotations"][ACCOUNT_NAME] = json!(account);
    live["metadata"]["annotations"][ACCOUNT_UID] = json!(account_uid);
    true
}

// ---- what is not used

/// What of a pod names Secrets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodSecrets {
    spec: Value,
}

async fn cleaner(cx: Cx) -> Result<(), BoxError> {
    let secrets = secrets_of(&cx);
    secrets.synced().await;
    loop {
        if let Err(error) = clean(&cx, &secrets).await {
            tracing::warn!(%error, "looking for unused service account tokens failed");
        }
        tokio::select! {
            () = cx.stop.cancelled() => return Ok(()),
            () = cx.clock.sleep(INTERVAL) => {}
        }
    }
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn parsed(text: &str) -> Option<Date> {
    text.parse().ok()
}

/// What is to be done with a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Keep,
    /// It is not used: it is marked, and counts no more.
    Mark,
    /// It was marked long ago.
    Remove,
}

/// What its dates say of a Secret that the system made and no pod uses.
fn judge(secret: &TokenSecret, now: Timestamp) -> Verdict {
    let Ok(oldest) = day(now).checked_sub(jiff::Span::new().days(KEEP_DAYS)) else { return Verdict::Keep };
    let created = secret.metadata.creation_timestamp.map_or(day(now), day);
    if created >= oldest || secret.metadata.is_deleting() {
        return Verdict::Keep;
    }
    let last = secret.label(LAST_USED);
    if !last.is_empty() && parsed(last).is_none_or(|last| last >= oldest) {
        // What cannot be read may have been yesterday.
        return Verdict::Keep;
    }
    match parsed(secret.label(INVALID_SINCE)) {
        None => Verdict::Mark,
        Some(since) if since >= oldest => Verdict::Keep,
        Some(_) => Verdict::Remove,
    }
}

async fn clean(cx: &Cx, secrets: &Informer<TokenSecret>) -> Result<(), BoxError> {
    let now = cx.clock.now();
    let candidates: Vec<_> =
        secrets.list().into_iter().filter(|s| s.kind == TYPE && judge(s, now) != Verdict::Keep).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let map = Resource::of::<ConfigMap>().at("kube-system", TRACKING);
    let map: Value = cx.api.get(&map).await?;
    let since = map["data"]["since"].as_str().and_then(parsed).ok_or("the day since when use is noted is not known")?;
    let oldest = day(now).checked_sub(jiff::Span::new().days(KEEP_DAYS))?;
    if since >= oldest {
        // Use has not been noted for long enough.
        return Ok(());
    }
    let reader = cx.informers.api();
    let mut mounted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for secret in candidates {
        let (namespace, name) = (&*secret.metadata.namespace, &*secret.metadata.name);
        let at = Resource::of::<ServiceAccount>().at(namespace, secret.annotation(ACCOUNT_NAME));
        let account: Value = match reader.get(&at).await {
            Ok(account) => account,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let uid = secret.annotation(ACCOUNT_UID);
        let named = account["secrets"].as_array().is_some_and(|l| l.iter().any(|s| s["name"] == name));
        if !named || (!uid.is_empty() && account["metadata"]["uid"] != uid) {
            // Nothing tells that the system made it.
            continue;
        }
        if !mounted.contains_key(namespace) {
            let pods = Resource::of::<crate::views::Pod>().collection(namespace);
            let pods: Vec<PodSecrets> = reader.list_all(&pods, &Default::default()).await?.items;
            mounted.insert(namespace.to_owned(), pods.iter().flat_map(|p| used(&p.spec)).collect());
        }
        if mounted.get(namespace).is_some_and(|used| used.contains(name)) {
            continue;
        }
        let target = Resource::of::<TokenSecret>().at(namespace, name);
        let done = match judge(&secret, now) {
            Verdict::Keep => Ok(()),
            Verdict::Mark => {
                let label = json!({"metadata": {"uid": &*secret.metadata.uid,
                    "labels": {INVALID_SINCE: day(now).to_string()}}});
                cx.api.patch::<serde::de::IgnoredAny>(&target, &Patch::Merge(label)).await.map(|_| ())
            }
            Verdict::Remove => {
                let options = DeleteOptions::default().resource_version(&secret.metadata.resource_version);
                cx.api.delete(&target, &options).await
            }
        };
        match done {
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            other => other?,
        }
    }
    Ok(())
}

/// Secrets that a pod names, wherever in it.
fn used(spec: &Value) -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    match (key.as_str(), inner) {
                        ("secretName", Value::String(name)) => found.push(name.clone()),
                        ("secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef", inner) => {
                            found.extend(inner["name"].as_str().map(str::to_owned));
                            walk(inner, found);
                        }
                        ("imagePullSecrets", Value::Array(list)) => {
                            found.extend(list.iter().filter_map(|s| s["name"].as_str().map(str::to_owned)));
                        }
                        (_, inner) => walk(inner, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(spec, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(labels: Value, created: &str, data: Value) -> TokenSecret {
        let object = json!({"metadata": {"name": "s", "namespace": "d", "uid": "u", "labels": labels,
            "creationTimestamp": created, "annotations": {ACCOUNT_NAME: "a", ACCOUNT_UID: "ua"}},
            "type": TYPE, "data": data});
        serde_json::from_value(object).expect("a secret")
    }

    #[test]
    fn what_is_missing_is_filled_in_and_the_rest_stays() {
        let full = json!({"token": "dA==", "namespace": "ZA==", "ca.crt": "Y2E="});
        let check = |data: Value, expected: bool| {
            assert_eq!(
                is_wanting(&secret(json!({}), "2026-01-01T00:00:00Z", data.clone()), "Y2E="),
                expected,
                "{data}"
            );
        };
        check(full.clone(), false);
        check(json!({}), true);
        check(json!({"token": "", "namespace": "ZA==", "ca.crt": "Y2E="}), true);
        check(json!({"token": "dA==", "namespace": "ZA==", "ca.crt": "b2xk"}), true);
        let mut live = json!({"metadata": {"uid": "u", "annotations": {ACCOUNT_NAME: "a"}}, "data": {"mine": "eA=="}});
        assert!(!fill(&mut live.clone(), "other", "d", "t", "Y2E=", "a", "ua"));
        assert!(fill(&mut live, "u", "d", "t", "Y2E=", "a", "ua"));
        assert_eq!(live["data"], json!({"mine": "eA==", "token": "dA==", "namespace": "ZA==", "ca.crt": "Y2E="}));
        assert_eq!(live["metadata"]["annotations"][ACCOUNT_UID], "ua");
    }

    #[test]
    fn unused_tokens_are_marked_then_removed() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let check = |labels: Value, created: &str, expected: Verdict| {
            assert_eq!(judge(&secret(labels.clone(), created, json!({})), now), expected, "{labels} {created}");
        };
        let old = "2020-01-01T00:00:00Z";
        check(json!({}), old, Verdict::Mark);
        check(json!({}), "2026-06-01T00:00:00Z", Verdict::Keep);
        check(json!({LAST_USED: "2026-11-01"}), old, Verdict::Keep);
        check(json!({LAST_USED: "nonsense"}), old, Verdict::Keep);
        check(json!({LAST_USED: "2021-11-01"}), old, Verdict::Mark);
        check(json!({LAST_USED: "2021-11-01", INVALID_SINCE: "2026-01-01"}), old, Verdict::Keep);
        check(json!({INVALID_SINCE: "2022-01-01"}), old, Verdict::Remove);
        check(json!({INVALID_SINCE: "?"}), old, Verdict::Mark);
    }

    #[test]
    fn a_pods_secrets_are_found_wherever_they_are() {
        let spec = json!({"imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"secretRef": {"name": "from"}}]}],
            "volumes": [{"secret": {"secretName": "vol"}}, {"projected": {"sources": [{"secret": {"name": "proj"}}]}}]});
        let mut found = used(&spec);
        found.sort();
        assert_eq!(found, ["env", "from", "proj", "pull", "vol"]);
    }
}
