//! A webhook that authorizes (`k8s.io/apiserver/plugin/pkg/authorizer/webhook`): a SubjectAccessReview is posted, its
//! verdict is believed for a while.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Authorizer, Decision, Rules};
use crate::authn::webhook::retried;
use crate::outbound::Endpoint;
use crate::selector::FieldSelector;
use crate::ttl_cache::TtlCache;
use crate::user::UserInfo;

const REMEMBERED: usize = 8192;
/// What a question may be long to be remembered.
const MAX_KEY: usize = 10_000;

/// What an operator may choose about a webhook.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `v1` or `v1beta1`.
    pub version: String,
    /// For how long an allowed request is believed.
    pub allowed_ttl: Duration,
    /// For how long another one is believed.
    pub other_ttl: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether a webhook that fails denies (structured configuration: `failurePolicy: Deny`).
    pub failure_denies: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            version: "v1beta1".into(),
            allowed_ttl: Duration::from_secs(300),
            other_ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            failure_denies: false,
        }
    }
}

/// Asks the webhook.
pub struct Webhook {
    endpoint: Endpoint,
    settings: Settings,
    cache: TtlCache<String, Decision>,
}

impl Webhook {
    /// The server of a kubeconfig.
    pub fn new(kubeconfig: &Path, settings: Settings) -> Result<Self, String> {
        if !["v1", "v1beta1"].contains(&settings.version.as_str()) {
            return Err(format!(
                "unsupported webhook authorizer version {:?}, supported versions are v1, v1beta1",
                settings.version
            ));
        }
        let endpoint = Endpoint::from_kubeconfig(kubeconfig, settings.timeout)?;
        Ok(Webhook { endpoint, settings, cache: TtlCache::new(REMEMBERED) })
    }
}

/// The question, as the specification of a review.
fn spec(attributes: &Attributes<'_>, version: &str) -> Value {
    let (user, request) = (attributes.user, attributes.request);
    let mut spec = json!({ "user": user.name });
    if !user.uid.is_empty() {
        spec["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        spec[if version == "v1" { "groups" } else { "group" }] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    if !request.is_resource {
        spec["nonResourceAttributes"] = json!({ "path": request.path, "verb": request.verb });
        return spec;
    }
    let mut resource = serde_json::Map::new();
    for (field, text) in [
        ("namespace", &request.namespace),
        ("verb", &request.verb),
        ("group", &request.group),
        ("version", &request.version),
        ("resource", &request.resource),
        ("subresource", &request.subresource),
        ("name", &request.name),
    ] {
        if !text.is_empty() {
            resource.insert(field.into(), json!(text));
        }
    }
    if !request.field_selector.is_empty() && FieldSelector::parse(&request.field_selector).is_ok() {
        resource.insert("fieldSelector".into(), json!({ "requirements": requirements(&request.field_selector) }));
    }
    spec["resourceAttributes"] = Value::Object(resource);
    spec
}

/// A field selector's parts as requirements.
fn requirements(selector: &str) -> Vec<Value> {
    let one = |part: &str| {
        let (key, operator, value) = if let Some((k, v)) = part.split_once("!=") {
            (k, "NotIn", v)
        } else {
            let (k, v) = part.split_once("==").or_else(|| part.split_once('='))?;
            (k, "In", v)
        };
        Some(json!({ "key": key.trim(), "operator": operator, "values": [value.trim()] }))
    };
    selector.split(',').filter_map(one).collect()
}

fn decision(status: &Value) -> Decision {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => Decision::Deny("webhook subject access review returned both allow and deny response".into()),
        (true, false) => Decision::Allow(reason),
        (false, true) => Decision::Deny(reason),
        (false, false) => Decision::NoOpinion(reason),
    }
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let version = &self.settings.version;
        let spec = spec(attributes, version);
        let key = spec.to_string();
        if let Some(known) = self.cache.get(&key, Instant::now()) {
            return known;
        }
        let review = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{version}"),
            "metadata": {},
            "spec": spec,
            "status": { "allowed": false },
        });
        match retried(&self.endpoint, &review).await {
            Ok(answer) => {
                let decision = decision(&answer["status"]);
                let allowed = matches!(decision, Decision::Allow(_));
                let ttl = if allowed { self.settings.allowed_ttl } else { self.settings.other_ttl };
                if key.len() <= MAX_KEY {
                    self.cache.put(key, decision.clone(), ttl, Instant::now());
                }
                decision
            }
            Err(why) => {
                tracing::warn!(why, "the authorization webhook failed");
                if self.settings.failure_denies {
                    Decision::Deny(String::new())
                } else {
                    Decision::NoOpinion(String::new())
                }
            }
        }
    }

    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules {
            incomplete: true,
            error: "webhook authorizer does not support user rule resolution".into(),
            ..Rules::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RequestInfo;

    #[test]
    fn questions_and_answers_are_upstreams() {
        let user = UserInfo { uid: "1".into(), ..UserInfo::new("ann", &["dev"]) };
        let request = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "d".into(),
            field_selector: "spec.nodeName=n1,status.phase!=Failed".into(),
            ..RequestInfo::default()
        };
        let asked = spec(&Attributes { user: &user, request: &request }, "v1");
        assert_eq!(
            asked,
            json!({
                "user": "ann", "uid": "1", "groups": ["dev", "system:authenticated"],
                "resourceAttributes": {
                    "namespace": "d", "verb": "list", "version": "v1", "resource": "pods",
                    "fieldSelector": {"requirements": [
                        {"key": "spec.nodeName", "operator": "In", "values": ["n1"]},
                        {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]},
                    ]},
                },
            })
        );
        let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
        let asked = spec(&Attributes { user: &user, request: &path }, "v1beta1");
        assert_eq!(asked["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
        assert!(asked["group"].is_array() && asked["groups"].is_null());
        assert_eq!(decision(&json!({"allowed": true, "reason": "r"})), Decision::Allow("r".into()));
        assert_eq!(decision(&json!({"denied": true, "reason": "r"})), Decision::Deny("r".into()));
        assert_eq!(decision(&json!({})), Decision::NoOpinion(String::new()));
        assert!(matches!(decision(&json!({"allowed": true, "denied": true})), Decision::Deny(_)));
    }
}
