//! A webhook that authorizes (`k8s.io/apiserver/plugin/pkg/authorizer/webhook`): a SubjectAccessReview is posted, its
//! verdict is believed for a while. Where it has match conditions, requests that they do not all hold for pass it by.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use orkd_api::selector::Operator;
use orkd_base::metrics::{Counter, Family, Histogram};
use orkd_cel::Bindings;
use serde_json::{Value, json};

use super::{Attributes, Authorizer, Decision, Rules};
use crate::authn::webhook::retried;
use crate::expression::Expression;
use crate::outbound::Endpoint;
use crate::selector::{FieldSelector, LabelSelector};
use crate::ttl_cache::TtlCache;
use crate::user::UserInfo;

const REMEMBERED: usize = 8192;
/// What a question may be long to be remembered.
const MAX_KEY: usize = 10_000;

const OF_CONDITION: &[&str] = &["name", "type"];
static CONDITION_ERRORS: Family<Counter> = Family::counter(
    "apiserver_authorization_match_condition_evaluation_errors_total",
    "[ALPHA] Total number of errors when an authorization webhook encounters a match condition error split by authorizer \
     type and name.",
    OF_CONDITION,
);
static EXCLUSIONS: Family<Counter> = Family::counter(
    "apiserver_authorization_match_condition_exclusions_total",
    "[ALPHA] Total number of exclusions when an authorization webhook is skipped because match conditions exclude it.",
    OF_CONDITION,
);
static CONDITION_TIME: Family<Histogram> = Family::histogram(
    "apiserver_authorization_match_condition_evaluation_seconds",
    "[ALPHA] Authorization match condition evaluation time in seconds, split by authorizer type and name.",
    OF_CONDITION,
    &[0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25],
);
const OF_CALL: &[&str] = &["name", "result"];
static CALLS: Family<Counter> = Family::counter(
    "apiserver_authorization_webhook_evaluations_total",
    "[BETA] Round-trips to authorization webhooks.",
    OF_CALL,
);
static CALL_TIME: Family<Histogram> = Family::histogram(
    "apiserver_authorization_webhook_duration_seconds",
    "[BETA] Request latency in seconds.",
    OF_CALL,
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
);
static FAIL_OPEN: Family<Counter> = Family::counter(
    "apiserver_authorization_webhook_evaluations_fail_open_total",
    "[BETA] NoOpinion results due to webhook timeout or error.",
    OF_CALL,
);

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
    /// What must hold for a request that it is asked about (`matchConditions`).
    pub conditions: Vec<Expression>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            version: "v1beta1".into(),
            allowed_ttl: Duration::from_secs(300),
            other_ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            failure_denies: false,
            conditions: Vec::new(),
        }
    }
}

/// Asks the webhook.
pub struct Webhook {
    name: String,
    endpoint: Endpoint,
    settings: Settings,
    cache: TtlCache<String, Decision>,
}

impl Webhook {
    /// The server of a kubeconfig. The name is for metrics.
    pub fn new(name: &str, kubeconfig: &Path, settings: Settings) -> Result<Self, String> {
        if !["v1", "v1beta1"].contains(&settings.version.as_str()) {
            return Err(format!(
                "unsupported webhook authorizer version {:?}, supported versions are v1, v1beta1",
                settings.version
            ));
        }
        let endpoint = Endpoint::from_kubeconfig(kubeconfig, settings.timeout)?;
        Ok(Webhook { name: name.to_owned(), endpoint, settings, cache: TtlCache::new(REMEMBERED) })
    }

    /// Whether the webhook is to be asked about a request.
    fn concerned(&self, attributes: &Attributes<'_>) -> Result<bool, String> {
        if self.settings.conditions.is_empty() {
            return Ok(true);
        }
        let (begun, labels) = (Instant::now(), [self.name.as_str(), "Webhook"]);
        let verdict = all_hold(&self.settings.conditions, &subject(attributes));
        CONDITION_TIME.with(&labels).observe(begun.elapsed().as_secs_f64());
        match &verdict {
            Ok(true) => {}
            Ok(false) => EXCLUSIONS.with(&labels).inc(),
            Err(_) => CONDITION_ERRORS.with(&labels).inc(),
        }
        verdict
    }

    fn failed(&self) -> Decision {
        if self.settings.failure_denies { Decision::Deny(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// Whether every condition holds. One that does not decides, whatever becomes of the others
/// (`authorization/cel.CELMatcher`).
fn all_hold(conditions: &[Expression], request: &Value) -> Result<bool, String> {
    let mut errors = Vec::new();
    for condition in conditions {
        match condition.eval(&Bindings::new().with("request", request)) {
            Ok(value) => match value.as_bool() {
                Some(true) => {}
                Some(false) => return Ok(false),
                None => errors.push(format!(
                    "cel evaluation error: expression '{}' eval result type should be bool but got {}",
                    condition.text(),
                    value.ty()
                )),
            },
            Err(why) => {
                errors.push(format!("cel evaluation error: expression '{}' resulted in error: {why}", condition.text()))
            }
        }
    }
    match errors.len() {
        0 => Ok(true),
        1 => Err(errors.remove(0)),
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}

/// What conditions see of a request: every text is there, be it empty (`authorization/cel.convertObjectToUnstructured`).
fn subject(attributes: &Attributes<'_>) -> Value {
    let (user, request) = (attributes.user, attributes.request);
    let mut subject = json!({ "user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra });
    if !request.is_resource {
        subject["nonResourceAttributes"] = json!({ "path": request.path, "verb": request.verb });
        return subject;
    }
    subject["resourceAttributes"] = json!({
        "namespace": request.namespace,
        "verb": request.verb,
        "group": request.group,
        "version": request.version,
        "resource": request.resource,
        "subresource": request.subresource,
        "name": request.name,
    });
    selectors(attributes, &mut subject["resourceAttributes"]);
    subject
}

/// Adds what a list or watch is narrowed to. What is no selector narrows nothing.
fn selectors(attributes: &Attributes<'_>, resource: &mut Value) {
    let request = attributes.request;
    let fields = Some(request.field_selector.as_str()).filter(|s| !s.is_empty() && FieldSelector::parse(s).is_ok());
    if let Some(fields) = fields {
        resource["fieldSelector"] = json!({ "requirements": requirements(fields) });
    }
    let labels = Some(request.label_selector.as_str()).filter(|s| !s.is_empty());
    if let Some(Ok(labels)) = labels.map(LabelSelector::parse) {
        resource["labelSelector"] = json!({ "requirements": label_requirements(&labels) });
    }
}

/// A label selector's parts as requirements; comparisons of numbers have no such form and are left out.
fn label_requirements(selector: &LabelSelector) -> Vec<Value> {
    let one = |r: &orkd_api::selector::Requirement| {
        let operator = match r.operator() {
            Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            _ => return None,
        };
        let mut requirement = json!({ "key": r.key(), "operator": operator });
        if !r.values().is_empty() {
            requirement["values"] = json!(r.values());
        }
        Some(requirement)
    };
    selector.requirements().iter().filter_map(one).collect()
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
    spec["resourceAttributes"] = Value::Object(resource);
    selectors(attributes, &mut spec["resourceAttributes"]);
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
        match self.concerned(attributes) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => {
                tracing::warn!(webhook = self.name, why, "the conditions of an authorization webhook failed");
                return self.failed();
            }
        }
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
        let begun = Instant::now();
        let answer = retried(&self.endpoint, &review).await;
        let result = match &answer {
            Ok(_) => "success",
            Err(why) if why.ends_with("context deadline exceeded") => "timeout",
            Err(_) => "error",
        };
        CALLS.with(&[&self.name, result]).inc();
        CALL_TIME.with(&[&self.name, result]).observe(begun.elapsed().as_secs_f64());
        match answer {
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
                tracing::warn!(webhook = self.name, why, "an authorization webhook failed");
                if !self.settings.failure_denies {
                    FAIL_OPEN.with(&[&self.name, result]).inc();
                }
                self.failed()
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
    fn conditions_choose_what_is_asked_about() {
        let user = UserInfo::new("ann", &["dev"]);
        let list = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            resource: "pods".into(),
            field_selector: "spec.nodeName=n1".into(),
            label_selector: "app in (a,b),!old".into(),
            ..RequestInfo::default()
        };
        let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
        let check = |request: &RequestInfo, conditions: &[&str], expected: Result<bool, &str>| {
            let env = orkd_cel::k8s::authorization::request();
            let compile = |text: &&str| Expression::compile(&env, text, Some(&orkd_cel::Type::Bool)).expect(text);
            let conditions: Vec<Expression> = conditions.iter().map(compile).collect();
            let got = all_hold(&conditions, &subject(&Attributes { user: &user, request }));
            assert_eq!(got.as_ref().map_err(String::as_str).copied(), expected);
        };
        check(&list, &["request.user == 'ann'", "'dev' in request.groups"], Ok(true));
        check(&list, &["has(request.resourceAttributes)", "request.resourceAttributes.namespace == ''"], Ok(true));
        check(&path, &["has(request.resourceAttributes)"], Ok(false));
        check(&path, &["request.nonResourceAttributes.path.startsWith('/met')", "request.uid == ''"], Ok(true));
        check(&list, &["request.resourceAttributes.fieldSelector.requirements.all(r, r.values == ['n1'])"], Ok(true));
        let labels =
            "request.resourceAttributes.labelSelector.requirements.map(r, r.operator) == ['In', 'DoesNotExist']";
        check(&list, &[labels], Ok(true));
        let missing = "request.resourceAttributes.verb == 'get'";
        let why = "cel evaluation error: expression 'request.resourceAttributes.verb == 'get'' resulted in error: no such key: \
                   resourceAttributes";
        check(&path, &[missing], Err(why));
        check(&path, &[missing, "request.user == 'ann'"], Err(why));
        check(&path, &[missing, "request.user == 'bob'"], Ok(false));
    }

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
