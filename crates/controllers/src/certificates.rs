//! Certificate signing requests: approving those of nodes, signing what was approved, removing what is old.
//!
//! Follows `pkg/controller/certificates/{approver,signer,cleaner}`. Requests of nodes for client certificates are
//! approved after a subject access review, as upstream. Upstream leaves requests for serving certificates to an
//! administrator; here they are approved when the node asks for its own names and addresses and nothing else
//! (DESIGN.md, section 2), and so are requests of nodes for a client certificate of `system:kube-proxy`, with which orkd's
//! agent runs what upstream runs in a DaemonSet. A request that is recognized and may not be approved is left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use orkd_base::BoxError;
use orkd_pki::cert::{BACKDATE, Usage};
use orkd_pki::csr::Request;
use orkd_reconcile::{
    Api, DeleteOptions, Informer, Key, Meta, Outcome, Queue, Resource, View, null_default, time, work,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cx::Signers;
use crate::views::{Condition, Node, NodeAddress, condition, view};
use crate::{ControllerSpec, Cx};

/// Approves.
pub const APPROVING: ControllerSpec = ControllerSpec {
    name: "certificatesigningrequest-approving-controller",
    service_account: "certificate-controller",
    run: |cx| Box::pin(approving(cx)),
};

/// Signs.
pub const SIGNING: ControllerSpec = ControllerSpec {
    name: "certificatesigningrequest-signing-controller",
    service_account: "certificate-controller",
    run: |cx| Box::pin(signing(cx)),
};

/// Removes.
pub const CLEANING: ControllerSpec = ControllerSpec {
    name: "certificatesigningrequest-cleaner-controller",
    service_account: "certificate-controller",
    run: |cx| Box::pin(cleaning(cx)),
};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// A certificate signing request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CertificateSigningRequest {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: RequestSpec,
    /// Status.
    pub status: RequestStatus,
}
view!(
    CertificateSigningRequest,
    "certificates.k8s.io",
    "v1",
    "CertificateSigningRequest",
    "certificatesigningrequests",
    false
);

/// What is asked for and by whom.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestSpec {
    /// The request, PEM in base64.
    pub request: String,
    /// Who shall sign.
    pub signer_name: String,
    /// For how long.
    pub expiration_seconds: Option<i64>,
    /// What for.
    #[serde(deserialize_with = "null_default")]
    pub usages: Vec<String>,
    /// The user who asks; set by the API server.
    pub username: String,
    /// The user's uid.
    pub uid: String,
    /// The user's groups.
    #[serde(deserialize_with = "null_default")]
    pub groups: Vec<String>,
    /// Further facts about the user.
    #[serde(deserialize_with = "null_default")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What became of a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RequestStatus {
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// The certificate, PEM in base64.
    pub certificate: String,
}

impl CertificateSigningRequest {
    fn is(&self, kind: &str) -> bool {
        condition(&self.status.conditions, kind).is_some()
    }

    fn parse(&self) -> Result<Request, String> {
        let pem = decode_base64(&self.spec.request).ok_or("request is not base64")?;
        Request::from_pem(&pem).map_err(|e| orkd_base::chain(&e).to_string())
    }

    fn target(&self) -> orkd_reconcile::Target {
        Resource::of::<Self>().at("", &self.metadata.name)
    }
}

fn enqueue(requests: &Informer<CertificateSigningRequest>, queue: &Queue<Key>) {
    let queue = queue.clone();
    requests.subscribe(move |event| {
        if !event.is_deleted() {
            queue.add(event.key());
        }
    });
}

// ---- approving

async fn approving(cx: Cx) -> Result<(), BoxError> {
    let requests: Informer<CertificateSigningRequest> = cx.informers.informer();
    let nodes: Informer<Node> = cx.informers.informer();
    let queue = cx.queue(APPROVING.name);
    enqueue(&requests, &queue);
    {
        // A node's addresses come after the node: what waited for them is looked at again.
        let (queue, requests) = (queue.clone(), requests.clone());
        nodes.subscribe(move |event| {
            let changed = event.old().is_none_or(|old| old.status.addresses != event.object().status.addresses);
            if event.is_deleted() || !changed {
                return;
            }
            for request in requests.list() {
                if request.spec.signer_name == KUBELET_SERVING && request.status.conditions.is_empty() {
                    queue.add(request.metadata.key());
                }
            }
        });
    }
    requests.synced().await;
    nodes.synced().await;
    let (api, requests, nodes, clock) = (&cx.api, &requests, &nodes, &cx.clock);
    work(queue, 1, cx.stop, |key| async move {
        let Some(request) = requests.get(&key) else { return Ok(Outcome::Done) };
        if !request.status.certificate.is_empty() || request.is("Approved") || request.is("Denied") {
            return Ok(Outcome::Done);
        }
        let Ok(parsed) = request.parse() else { return Ok(Outcome::Done) };
        let message = match recognize(&request.spec, &parsed) {
            None => return Ok(Outcome::Done),
            Some(Recognized::ServingNode(name)) => {
                let addresses = nodes.get_named("", &name).map(|n| n.status.addresses.clone()).unwrap_or_default();
                if !names_are_the_nodes(&parsed, &name, &addresses) {
                    tracing::debug!(request = %key, node = name, "names of a serving request are not the node's (yet)");
                    return Ok(Outcome::Done);
                }
                "Auto approving kubelet serving certificate after check of its names."
            }
            Some(Recognized::Proxy) => "Auto approving the client certificate of a node's proxy.",
            Some(Recognized::Client { subresources }) => {
                let mut approved = None;
                for (subresource, message) in subresources {
                    if may(api, &request.spec, subresource).await? {
                        approved = Some(*message);
                        break;
                    }
                }
                match approved {
                    Some(message) => message,
                    None => {
                        tracing::debug!(request = %key, "recognized, but the subject access review was not approved");
                        return Ok(Outcome::Requeue);
                    }
                }
            }
        };
        let uid = request.metadata.uid.as_str();
        let now = time(clock.now());
        let written = api
            .modify(&request.target(), "approval", |live| {
                add_condition(live, uid, "Approved", "AutoApproved", message, &now)
            })
            .await;
        match written {
            Err(err) if err.is_not_found() => {}
            other => other.map(|_| ())?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Recognized {
    /// A node's client: whichever review succeeds gives the text.
    Client { subresources: &'static [(&'static str, &'static str)] },
    /// What this node serves with.
    ServingNode(String),
    /// The client of what runs beside a node's kubelet.
    Proxy,
}

/// Tells what a request is; `None` for one that is no business of the approver.
fn recognize(spec: &RequestSpec, request: &Request) -> Option<Recognized> {
    const SELF: (&str, &str) =
        ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    const ANY: (&str, &str) = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    match spec.signer_name.as_str() {
        KUBELET_CLIENT if check_kubelet_client(request, &spec.usages).is_ok() => {
            let subresources: &'static [_] = if spec.username == request.common_name { &[SELF, ANY] } else { &[ANY] };
            Some(Recognized::Client { subresources })
        }
        KUBELET_SERVING if check_kubelet_serving(request, &spec.usages).is_ok() => {
            let node = request.common_name.strip_prefix("system:node:")?;
            let own = spec.username == request.common_name && spec.groups.iter().any(|g| g == "system:nodes");
            own.then(|| Recognized::ServingNode(node.to_owned()))
        }
        CLIENT if check_proxy(request, &spec.usages) => {
            let node = spec.username.starts_with("system:node:") && spec.groups.iter().any(|g| g == "system:nodes");
            node.then_some(Recognized::Proxy)
        }
        _ => None,
    }
}

async fn may(api: &Api, spec: &RequestSpec, subresource: &str) -> Result<bool, BoxError> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
                "subresource": subresource, "version": "*",
            },
        },
    });
    let reviews = orkd_reconcile::Target::path("/apis/authorization.k8s.io/v1/subjectaccessreviews");
    let answer: Value = api.create(&reviews, &review).await?;
    Ok(answer["status"]["allowed"] == true)
}

/// Whether every name of a request is one of the node's.
fn names_are_the_nodes(request: &Request, node: &str, addresses: &[NodeAddress]) -> bool {
    let known = |kinds: &[&str], text: &str| {
        addresses.iter().any(|a| kinds.contains(&a.kind.as_str()) && a.address.eq_ignore_ascii_case(text))
    };
    let dns =
        |name: &String| name.eq_ignore_ascii_case(node) || known(&["Hostname", "InternalDNS", "ExternalDNS"], name);
    let ip = |ip: &IpAddr| {
        addresses.iter().any(|a| {
            matches!(a.kind.as_str(), "InternalIP" | "ExternalIP") && a.address.parse::<IpAddr>().ok() == Some(*ip)
        })
    };
    request.dns.iter().all(dns) && request.ips.iter().all(ip)
}

// ---- what requests may ask for (`pkg/apis/certificates/helpers.go`)

fn check_kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    check_node_subject(request)?;
    for (present, what) in [
        (!request.dns.is_empty(), "DNS"),
        (!request.emails.is_empty(), "email"),
        (!request.ips.is_empty(), "IP"),
        (!request.uris.is_empty(), "URI"),
    ] {
        if present {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    check_usages(usages, "client auth")
}

fn check_kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    if request.dns.is_empty() && request.ips.is_empty() {
        return Err("at least one DNS or IP subjectAltName is required".into());
    }
    if !request.emails.is_empty() {
        return Err("email subjectAltNames are not allowed".into());
    }
    if !request.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed".into());
    }
    check_node_subject(request)?;
    check_usages(usages, "server auth")
}

fn check_node_subject(request: &Request) -> Result<(), String> {
    if request.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    if !request.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".into());
    }
    Ok(())
}

fn check_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", purpose];
    let all = usages.iter().all(|u| allowed.contains(&u.as_str()));
    let has = |usage: &str| usages.iter().any(|u| u == usage);
    if all && has("digital signature") && has(purpose) {
        return Ok(());
    }
    Err(format!("usages did not match [digital signature {purpose}] or [digital signature key encipherment {purpose}]"))
}

/// `system:kube-proxy` and nothing else.
fn check_proxy(request: &Request, usages: &[String]) -> bool {
    request.common_name == "system:kube-proxy"
        && request.organizations.is_empty()
        && request.dns.is_empty()
        && request.ips.is_empty()
        && request.emails.is_empty()
        && request.uris.is_empty()
        && check_client(usages).is_ok()
}

fn check_client(usages: &[String]) -> Result<(), String> {
    const OPTIONAL: [&str; 2] = ["digital signature", "key encipherment"];
    const NEEDED: &str = "client auth";
    if let Some(other) = usages.iter().find(|u| !OPTIONAL.contains(&u.as_str()) && *u != NEEDED) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|u| u == NEEDED) {
        return Err(format!("missing required usage for client certificate: {NEEDED}"));
    }
    Ok(())
}

// ---- signing

async fn signing(cx: Cx) -> Result<(), BoxError> {
    let Some(signers) = cx.config.signers.clone() else { return Ok(()) };
    let requests: Informer<CertificateSigningRequest> = cx.informers.informer();
    let queue = cx.queue(SIGNING.name);
    enqueue(&requests, &queue);
    requests.synced().await;
    let (api, requests, signers, clock) = (&cx.api, &requests, &signers, &cx.clock);
    work(queue, 1, cx.stop, |key| async move {
        let Some(request) = requests.get(&key) else { return Ok(Outcome::Done) };
        let ready = request.is("Approved") && !request.is("Denied") && !request.is("Failed");
        if !ready || !request.status.certificate.is_empty() {
            return Ok(Outcome::Done);
        }
        let now = clock.now();
        let signed = match sign(&request, signers, now) {
            None => return Ok(Outcome::Done),
            Some(signed) => signed,
        };
        let uid = request.metadata.uid.as_str();
        let written = api
            .modify(&request.target(), "status", |live| match &signed {
                Ok(pem) => {
                    let unsigned = live["status"]["certificate"].as_str().unwrap_or("").is_empty();
                    if live["metadata"]["uid"] != uid || !unsigned {
                        return false;
                    }
                    live["status"]["certificate"] = encode_base64(pem.as_bytes()).into();
                    true
                }
                Err(message) => add_condition(live, uid, "Failed", "SignerValidationFailure", message, &time(now)),
            })
            .await;
        match written {
            Err(err) if err.is_not_found() => {}
            other => other.map(|_| ())?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// The certificate for an approved request, or why it cannot be had; `None` when the signer is not ours.
fn sign(request: &CertificateSigningRequest, signers: &Signers, now: Timestamp) -> Option<Result<String, String>> {
    let spec = &request.spec;
    let authority = match spec.signer_name.as_str() {
        CLIENT | KUBELET_CLIENT => &signers.client,
        KUBELET_SERVING | LEGACY => &signers.serving,
        _ => return None,
    };
    let make = || {
        let parsed = request.parse()?;
        match spec.signer_name.as_str() {
            KUBELET_CLIENT => check_kubelet_client(&parsed, &spec.usages)?,
            KUBELET_SERVING => check_kubelet_serving(&parsed, &spec.usages)?,
            CLIENT => check_client(&spec.usages)?,
            _ => {}
        }
        let usage = Usage::of(spec.usages.iter().map(String::as_str))?;
        let lifetime = lifetime(spec.expiration_seconds, signers.longest);
        let certificate =
            authority.sign_request(&parsed, usage, lifetime, now).map_err(|e| orkd_base::chain(&e).to_string())?;
        Ok(certificate.to_pem())
    };
    Some(make())
}

/// How long a certificate is valid from now on: as asked for, between ten minutes and what the signer grants. A long one
/// begins a little in the past and is as long as asked for in all; a short one loses nothing by that.
fn lifetime(asked: Option<i64>, longest: SignedDuration) -> SignedDuration {
    const SHORT: SignedDuration = SignedDuration::from_hours(8);
    let asked = asked.map_or(longest, |seconds| SignedDuration::from_secs(seconds.max(600)).min(longest));
    if asked < SHORT { asked } else { asked - BACKDATE }
}

// ---- cleaning (`cleaner.go`)

async fn cleaning(cx: Cx) -> Result<(), BoxError> {
    let requests: Informer<CertificateSigningRequest> = cx.informers.informer();
    let queue = cx.queue(CLEANING.name);
    enqueue(&requests, &queue);
    requests.synced().await;
    let (api, requests, clock) = (&cx.api, &requests, &cx.clock);
    work(queue, 1, cx.stop, |key| async move {
        let Some(request) = requests.get(&key) else { return Ok(Outcome::Done) };
        let left = seconds_left(&request, clock.now());
        if left == i64::MAX {
            return Ok(Outcome::Done);
        }
        if left > 0 {
            return Ok(Outcome::RequeueAfter(Duration::from_secs(left.unsigned_abs())));
        }
        match api.delete(&request.target(), &DeleteOptions::default().uid(&request.metadata.uid)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => {}
            other => other?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// For how long a request is kept: an hour after it was denied, failed or issued, a day while nothing was decided, never
/// longer than its certificate is valid. One that is approved waits for its signer for ever.
fn seconds_left(request: &CertificateSigningRequest, now: Timestamp) -> i64 {
    const DECIDED: i64 = 3600;
    const PENDING: i64 = 86400;
    let until = |since: Option<Timestamp>, keep: i64| {
        since.or(request.metadata.creation_timestamp).map_or(keep, |at| at.as_second() + keep - now.as_second())
    };
    let issued = !request.status.certificate.is_empty();
    let decided = ["Approved", "Denied", "Failed"]
        .iter()
        .filter(|kind| **kind != "Approved" || issued)
        .filter_map(|kind| condition(&request.status.conditions, kind))
        .map(|c| until(c.last_update_time, DECIDED))
        .min();
    let pending = || if request.status.conditions.is_empty() { until(None, PENDING) } else { i64::MAX };
    let expired = decode_base64(&request.status.certificate)
        .and_then(|pem| orkd_pki::Certificate::from_pem(&String::from_utf8_lossy(&pem)).ok())
        .map(|c| if c.is_valid_at(now) { i64::MAX } else { 0 });
    decided.unwrap_or_else(pending).min(expired.unwrap_or(i64::MAX))
}

// ---- helpers

fn add_condition(live: &mut Value, uid: &str, kind: &str, reason: &str, message: &str, now: &str) -> bool {
    if live["metadata"]["uid"] != uid {
        return false;
    }
    if !live["status"].is_object() {
        live["status"] = json!({});
    }
    if !live["status"]["conditions"].is_array() {
        live["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = live["status"]["conditions"].as_array_mut() else { return false };
    if conditions.iter().any(|c| c["type"] == kind) {
        return false;
    }
    conditions.push(json!({
        "type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now,
    }));
    true
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn encode_base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orkd_pki::{Authority, Key as PrivateKey, Profile, csr};
    use std::sync::Arc;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn request(signer: &str, profile: &Profile, usages: &[&str], user: &str) -> CertificateSigningRequest {
        let key = PrivateKey::generate().expect("a key");
        let pem = csr::create(&key, profile).expect("a request");
        CertificateSigningRequest {
            spec: RequestSpec {
                request: encode_base64(pem.as_bytes()),
                signer_name: signer.into(),
                usages: usages.iter().map(|u| (*u).to_owned()).collect(),
                username: user.into(),
                groups: vec!["system:nodes".into()],
                ..RequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }

    fn node_client() -> Profile {
        Profile::client("system:node:n1", &["system:nodes"])
    }

    #[test]
    fn node_clients_are_recognized() {
        let usages = ["digital signature", "client auth"];
        let check = |profile: &Profile, usages: &[&str], user: &str, expected: Option<usize>| {
            let request = request(KUBELET_CLIENT, profile, usages, user);
            let got = recognize(&request.spec, &request.parse().expect("readable"));
            let count = got.map(|r| match r {
                Recognized::Client { subresources } => subresources.len(),
                Recognized::ServingNode(_) | Recognized::Proxy => 99,
            });
            assert_eq!(count, expected, "{user}");
        };
        check(&node_client(), &usages, "system:bootstrap:abc", Some(1));
        check(&node_client(), &usages, "system:node:n1", Some(2));
        check(&node_client(), &["server auth"], "system:node:n1", None);
        check(&Profile::client("system:node:n1", &["system:masters"]), &usages, "system:node:n1", None);
        check(&Profile::client("admin", &["system:nodes"]), &usages, "admin", None);
    }

    #[test]
    fn a_node_may_serve_under_its_own_names_only() {
        let usages = ["digital signature", "server auth"];
        let mut profile = Profile::server("system:node:n1", vec!["n1".into()], vec![IpAddr::from([10, 0, 0, 5])]);
        profile.organizations = vec!["system:nodes".into()];
        let addresses = [NodeAddress { kind: "InternalIP".into(), address: "10.0.0.5".into() }];
        let own = request(KUBELET_SERVING, &profile, &usages, "system:node:n1");
        let parsed = own.parse().expect("readable");
        assert_eq!(recognize(&own.spec, &parsed), Some(Recognized::ServingNode("n1".into())));
        assert!(names_are_the_nodes(&parsed, "n1", &addresses));
        assert!(!names_are_the_nodes(&parsed, "n1", &[]), "the address is not known yet");
        assert!(!names_are_the_nodes(&parsed, "n2", &addresses));
        let others = request(KUBELET_SERVING, &profile, &usages, "system:node:n2");
        assert_eq!(recognize(&others.spec, &parsed), None);
    }

    #[test]
    fn a_nodes_proxy_is_a_client_of_its_own() {
        let usages = ["digital signature", "client auth"];
        let check = |profile: &Profile, user: &str, expected: bool| {
            let request = request(CLIENT, profile, &usages, user);
            let got = recognize(&request.spec, &request.parse().expect("readable"));
            assert_eq!(got == Some(Recognized::Proxy), expected, "{user} {profile:?}");
        };
        check(&Profile::client("system:kube-proxy", &[]), "system:node:n1", true);
        check(&Profile::client("system:kube-proxy", &["system:masters"]), "system:node:n1", false);
        check(&Profile::client("system:kube-proxy", &["x"]), "system:node:n1", false);
        check(&Profile::client("system:kube-scheduler", &[]), "system:node:n1", false);
        check(&Profile::client("system:kube-proxy", &[]), "someone", false);
        check(&Profile::server("system:kube-proxy", vec!["a".into()], Vec::new()), "system:node:n1", false);
    }

    #[test]
    fn approved_requests_are_signed_or_refused() {
        let authority = Arc::new(Authority::create("test", now()).expect("an authority"));
        let longest = orkd_pki::cert::LEAF_LIFETIME;
        let signers = Signers { client: authority.clone(), serving: authority.clone(), longest };
        let good = request(KUBELET_CLIENT, &node_client(), &["digital signature", "client auth"], "x");
        let pem = sign(&good, &signers, now()).expect("ours").expect("signed");
        let certificate = orkd_pki::Certificate::from_pem(&pem).expect("a certificate");
        assert!(certificate.is_signed_by(authority.certificate()) && certificate.is_valid_at(now()));
        let bad = request(KUBELET_CLIENT, &node_client(), &["server auth"], "x");
        assert!(sign(&bad, &signers, now()).expect("ours").is_err());
        assert!(sign(&request("example.com/x", &node_client(), &[], "x"), &signers, now()).is_none());
    }

    #[test]
    fn lifetimes_are_bounded() {
        let minutes = |asked: Option<i64>| lifetime(asked, SignedDuration::from_hours(365 * 24)).as_mins();
        assert_eq!(minutes(None), 365 * 24 * 60 - 5);
        assert_eq!(minutes(Some(i64::MAX)), 365 * 24 * 60 - 5);
        assert_eq!(minutes(Some(1)), 10);
        assert_eq!(minutes(Some(3600)), 60);
        assert_eq!(minutes(Some(86_400)), 24 * 60 - 5);
    }

    #[test]
    fn old_requests_go() {
        let mut request = CertificateSigningRequest::default();
        request.metadata.creation_timestamp = Some(now());
        let at = |hours: i64| Timestamp::from_second(now().as_second() + hours * 3600).expect("a time");
        assert_eq!(seconds_left(&request, at(23)), 3600);
        let decided =
            |kind: &str| vec![Condition { kind: kind.into(), last_update_time: Some(at(2)), ..Condition::default() }];
        request.status.conditions = decided("Approved");
        assert_eq!(seconds_left(&request, at(100)), i64::MAX, "its signer may take its time");
        request.status.certificate = "eA==".into();
        assert_eq!(seconds_left(&request, at(2)), 3600);
        request.status.certificate = String::new();
        request.status.conditions = decided("Denied");
        assert_eq!(seconds_left(&request, at(2)), 3600);
        assert_eq!(seconds_left(&request, at(3)), 0);
    }
}
