//! One audited request and the JSON of its events (`audit.k8s.io/v1.Event`, field by field in upstream's order).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use http::request::Parts;
use jiff::Timestamp;
use orkd_api::status::Status;
use serde_json::Value;

use super::policy::{Stage, Verdict};
use crate::codec;
use crate::route::RequestInfo;
use crate::user::{Peer, UserInfo};

/// Longer user agents are cut.
const MAX_USER_AGENT: usize = 1024;

/// What is known of a request from its beginning.
#[derive(Debug)]
pub struct Head {
    /// What the policy says.
    pub verdict: Verdict,
    /// The `Audit-Id`.
    pub audit_id: String,
    /// When the request came.
    pub received: Timestamp,
    uri: String,
    user: Option<UserInfo>,
    source_ips: Vec<String>,
    user_agent: String,
    request: RequestInfo,
}

/// What becomes known on its way.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Whom the request acts as.
    pub impersonated: Option<UserInfo>,
    /// The verb of constrained impersonation that allowed it.
    pub constraint: String,
    /// The object of the request, as JSON; of a patch, the patch.
    pub request_object: Option<Box<str>>,
    /// The object of the answer, as JSON.
    pub response_object: Option<Box<str>>,
    /// The four facts of the object's metadata that the URL may not have.
    pub object: ObjectFacts,
    /// The answer's status.
    pub status: Option<ResponseStatus>,
}

/// Facts of the object sent.
#[derive(Clone, Debug, Default)]
pub struct ObjectFacts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// resourceVersion.
    pub resource_version: String,
}

impl ObjectFacts {
    /// The facts of an object.
    pub fn of(object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        ObjectFacts {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        }
    }
}

/// The bounded part of a `Status`, and the code.
#[derive(Clone, Debug, Default)]
pub struct ResponseStatus {
    /// `Success` or `Failure`; empty where the answer is an object.
    pub status: &'static str,
    /// Text.
    pub message: String,
    /// Reason.
    pub reason: String,
    /// Details, as JSON.
    pub details: Option<Value>,
    /// HTTP code.
    pub code: u16,
}

impl ResponseStatus {
    /// An answer that is no `Status`.
    pub fn code(code: u16) -> Self {
        ResponseStatus { code, ..ResponseStatus::default() }
    }

    /// A failure.
    pub fn failure(status: &Status) -> Self {
        let value = status.to_value();
        ResponseStatus {
            status: "Failure",
            message: status.message.clone(),
            reason: status.reason.to_string(),
            details: value.get("details").cloned(),
            code: status.code,
        }
    }
}

impl Head {
    /// Takes down what a request says of itself.
    pub fn new(
        verdict: Verdict,
        audit_id: String,
        received: Timestamp,
        parts: &Parts,
        user: Option<&UserInfo>,
        request: &RequestInfo,
    ) -> Self {
        let mut user_agent = text(parts, "user-agent").to_owned();
        if user_agent.len() > MAX_USER_AGENT {
            let mut end = MAX_USER_AGENT;
            while !user_agent.is_char_boundary(end) {
                end -= 1;
            }
            user_agent.truncate(end);
            user_agent.push_str("...TRUNCATED");
        }
        Head {
            verdict,
            audit_id,
            received,
            uri: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            user: user.cloned(),
            source_ips: source_ips(parts).iter().map(IpAddr::to_string).collect(),
            user_agent,
            request: request.clone(),
        }
    }

    /// The verb.
    pub fn verb(&self) -> &str {
        &self.request.verb
    }

    /// The event of a stage, one line of JSON without its end.
    pub fn encode(&self, stage: Stage, at: Timestamp, body: &Body, annotations: &BTreeMap<String, String>) -> String {
        let mut out = String::with_capacity(1024);
        out.push_str("{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"");
        field(&mut out, "level", self.verdict.level.name());
        field(&mut out, "auditID", &self.audit_id);
        field(&mut out, "stage", stage.name());
        field(&mut out, "requestURI", &self.uri);
        field(&mut out, "verb", &self.request.verb);
        out.push_str(",\"user\":");
        user(&mut out, self.user.as_ref());
        if let Some(other) = &body.impersonated {
            out.push_str(",\"impersonatedUser\":");
            user(&mut out, Some(other));
        }
        if !body.constraint.is_empty() {
            out.push_str(",\"authenticationMetadata\":{\"impersonationConstraint\":");
            string(&mut out, &body.constraint);
            out.push('}');
        }
        if !self.source_ips.is_empty() {
            out.push_str(",\"sourceIPs\":");
            list(&mut out, &self.source_ips);
        }
        optional(&mut out, "userAgent", &self.user_agent);
        if self.request.is_resource {
            self.object_ref(&mut out, &body.object);
        }
        if let Some(status) = &body.status {
            response_status(&mut out, status);
        }
        for (name, object) in [("requestObject", &body.request_object), ("responseObject", &body.response_object)] {
            if let Some(object) = object {
                let _ = write!(out, ",\"{name}\":{object}");
            }
        }
        field(&mut out, "requestReceivedTimestamp", &micro(self.received));
        field(&mut out, "stageTimestamp", &micro(at));
        if !annotations.is_empty() {
            out.push_str(",\"annotations\":");
            map(&mut out, annotations, |out, v| string(out, v));
        }
        out.push('}');
        out
    }

    fn object_ref(&self, out: &mut String, object: &ObjectFacts) {
        let request = &self.request;
        let either = |url: &str, body: &str| if url.is_empty() { body.to_owned() } else { url.to_owned() };
        let mut text = String::new();
        optional(&mut text, "resource", &request.resource);
        optional(&mut text, "namespace", &either(&request.namespace, &object.namespace));
        optional(&mut text, "name", &either(&request.name, &object.name));
        optional(&mut text, "uid", &object.uid);
        optional(&mut text, "apiGroup", &request.group);
        optional(&mut text, "apiVersion", &request.version);
        optional(&mut text, "resourceVersion", &object.resource_version);
        optional(&mut text, "subresource", &request.subresource);
        let _ = write!(out, ",\"objectRef\":{{{}}}", text.strip_prefix(',').unwrap_or(&text));
    }
}

/// Where a request came from: what proxies say, then the peer (`k8s.io/apimachinery/pkg/util/net.SourceIPs`).
fn source_ips(parts: &Parts) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> =
        text(parts, "x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse().ok()).take(64).collect();
    if let Ok(ip) = text(parts, "x-real-ip").trim().parse::<IpAddr>()
        && !all.contains(&ip)
    {
        all.push(ip);
    }
    let peer = match parts.extensions.get::<Peer>() {
        Some(peer) => peer.addr.map(|a| a.ip().to_canonical()),
        None => Some(IpAddr::from([127, 0, 0, 1])),
    };
    if let Some(ip) = peer
        && all.last() != Some(&ip)
    {
        all.push(ip);
    }
    all
}

fn text<'p>(parts: &'p Parts, header: &str) -> &'p str {
    parts.headers.get(header).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// A time with microseconds, as `metav1.MicroTime`.
fn micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn string(out: &mut String, value: &str) {
    // Writing a text as JSON cannot fail.
    out.push_str(&serde_json::to_string(value).unwrap_or_default());
}

fn field(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, ",\"{name}\":");
    string(out, value);
}

fn optional(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        field(out, name, value);
    }
}

fn list(out: &mut String, values: &[String]) {
    out.push('[');
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        string(out, value);
    }
    out.push(']');
}

fn map<V>(out: &mut String, map: &BTreeMap<String, V>, write: impl Fn(&mut String, &V)) {
    out.push('{');
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        string(out, key);
        out.push(':');
        write(out, value);
    }
    out.push('}');
}

fn user(out: &mut String, user: Option<&UserInfo>) {
    let mut text = String::new();
    if let Some(user) = user {
        optional(&mut text, "username", &user.name);
        optional(&mut text, "uid", &user.uid);
        if !user.groups.is_empty() {
            text.push_str(",\"groups\":");
            list(&mut text, &user.groups);
        }
        if !user.extra.is_empty() {
            text.push_str(",\"extra\":");
            map(&mut text, &user.extra, |out, v| list(out, v));
        }
    }
    let _ = write!(out, "{{{}}}", text.strip_prefix(',').unwrap_or(&text));
}

fn response_status(out: &mut String, status: &ResponseStatus) {
    out.push_str(",\"responseStatus\":{\"metadata\":{}");
    optional(out, "status", status.status);
    optional(out, "message", &status.message);
    optional(out, "reason", &status.reason);
    if let Some(details) = &status.details {
        let _ = write!(out, ",\"details\":{details}");
    }
    if status.code != 0 {
        let _ = write!(out, ",\"code\":{}", status.code);
    }
    out.push('}');
}

/// An object as it is written into an event; without managed fields where the policy says so.
pub fn object_json(object: &Value, omit_managed_fields: bool) -> Box<str> {
    let json = if omit_managed_fields {
        let mut copy = object.clone();
        drop_managed(&mut copy);
        for list in ["items", "rows"] {
            for item in copy.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                drop_managed(if list == "rows" { &mut item["object"] } else { item });
            }
        }
        codec::encode(&copy)
    } else {
        codec::encode(object)
    };
    String::from_utf8_lossy(&json).into()
}

fn drop_managed(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::policy::Level;
    use super::*;
    use crate::query::Query;
    use crate::route::route;

    fn head(url: &str) -> Head {
        let (mut parts, ()) = http::Request::post(url)
            .header("user-agent", "kubectl/v1.36")
            .header("x-forwarded-for", "10.0.0.9, nonsense")
            .body(())
            .expect("request")
            .into_parts();
        parts.extensions.insert(Peer { addr: "[::ffff:10.0.0.1]:999".parse().ok(), certificates: Vec::new() });
        let info = route(&parts.method, parts.uri.path(), &Query::parse("")).expect("routed");
        let verdict = Verdict { level: Level::Request, ..Verdict::default() };
        let mut ann = UserInfo::new("ann", &["dev"]);
        ann.extra.insert("k".into(), vec!["v".into()]);
        let at = "2026-11-21T09:00:00.5Z".parse().expect("time");
        Head::new(verdict, "id-1".into(), at, &parts, Some(&ann), &info)
    }

    #[test]
    fn events_have_upstreams_fields_in_upstreams_order() {
        let head = head("/api/v1/namespaces/x/configmaps?dryRun=All");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "managedFields": [{"manager": "m"}]}});
        let body = Body {
            request_object: Some(object_json(&object, true)),
            object: ObjectFacts::of(&object),
            status: Some(ResponseStatus::code(201)),
            ..Body::default()
        };
        let notes = BTreeMap::from([("authorization.k8s.io/decision".to_owned(), "allow".to_owned())]);
        let text = head.encode(Stage::ResponseComplete, head.received, &body, &notes);
        assert_eq!(
            text,
            "{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"Request\",\"auditID\":\"id-1\",\"stage\":\
             \"ResponseComplete\",\"requestURI\":\"/api/v1/namespaces/x/configmaps?dryRun=All\",\"verb\":\"create\",\"user\":\
             {\"username\":\"ann\",\"groups\":[\"dev\",\"system:authenticated\"],\"extra\":{\"k\":[\"v\"]}},\"sourceIPs\":\
             [\"10.0.0.9\",\"10.0.0.1\"],\"userAgent\":\"kubectl/v1.36\",\"objectRef\":{\"resource\":\"configmaps\",\
             \"namespace\":\"x\",\"name\":\"c\",\"apiVersion\":\"v1\"},\"responseStatus\":{\"metadata\":{},\"code\":201},\
             \"requestObject\":{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"c\"}},\
             \"requestReceivedTimestamp\":\"2026-11-21T09:00:00.500000Z\",\"stageTimestamp\":\
             \"2026-11-21T09:00:00.500000Z\",\"annotations\":{\"authorization.k8s.io/decision\":\"allow\"}}"
        );
    }

    #[test]
    fn impersonation_tells_its_constraint() {
        let head = head("/api/v1/namespaces/x/pods");
        let body = Body {
            impersonated: Some(UserInfo { name: "bob".into(), ..UserInfo::default() }),
            constraint: "impersonate:user-info".into(),
            ..Body::default()
        };
        let text = head.encode(Stage::ResponseComplete, head.received, &body, &BTreeMap::new());
        let part = "\"impersonatedUser\":{\"username\":\"bob\"},\"authenticationMetadata\":{\"impersonationConstraint\":\
                    \"impersonate:user-info\"},\"sourceIPs\"";
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn failures_tell_their_status() {
        let head = head("/api/v1/namespaces/x/pods");
        let status = Status::forbidden("", "pods", "p", "no");
        let body = Body { status: Some(ResponseStatus::failure(&status)), ..Body::default() };
        let text = head.encode(Stage::ResponseComplete, head.received, &body, &BTreeMap::new());
        let event: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(event["responseStatus"]["status"], "Failure");
        assert_eq!(event["responseStatus"]["reason"], "Forbidden");
        assert_eq!(event["responseStatus"]["details"]["kind"], "pods");
        assert_eq!(event["responseStatus"]["code"], 403);
        assert!(event.get("annotations").is_none());
    }
}
