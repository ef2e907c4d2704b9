//! Reviews: who is it, and what may he do (`pkg/registry/authentication`, `pkg/registry/authorization`).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Map, Value, json};

use super::{Call, Reply, Rest, body};
use crate::Body;
use crate::admission::{Operation, items};
use crate::authn::{Bearer, TokenVerdict};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::route::RequestInfo;
use crate::user::{AUTHENTICATED, UserInfo};

/// A user as `authentication.k8s.io/v1.UserInfo`.
fn user_view(user: &UserInfo) -> Value {
    let mut view = Map::new();
    view.insert("username".into(), json!(user.name));
    if !user.uid.is_empty() {
        view.insert("uid".into(), json!(user.uid));
    }
    view.insert("groups".into(), json!(user.groups));
    if !user.extra.is_empty() {
        view.insert("extra".into(), json!(user.extra));
    }
    Value::Object(view)
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// The review as it was sent, with an answer.
fn answered(call: &Call, mut review: Value, status: Value) -> Reply {
    let info = call.kind.info();
    review["kind"] = json!(info.kind);
    review["apiVersion"] = json!(format!("{}/{}", info.group, info.version));
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["status"] = status;
    Reply::Object(201, review)
}

/// `tokenreviews`
pub struct TokenReview {
    bearer: Arc<Bearer>,
}

impl TokenReview {
    /// Asks these authenticators.
    pub fn new(bearer: Arc<Bearer>) -> Self {
        TokenReview { bearer }
    }
}

#[async_trait]
impl Rest for TokenReview {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let mut review = body::read(&call, request, "TokenReview").await?;
        call.admit(Operation::Create, &mut review).await?;
        let token = text(&review["spec"], "token").to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked: Vec<String> =
            items(&review["spec"]["audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let status = match self.bearer.review(&token, &asked).await {
            TokenVerdict::User(mut user, audiences) => {
                if !user.in_group(AUTHENTICATED) {
                    user.groups.push(AUTHENTICATED.into());
                }
                json!({ "authenticated": true, "user": user_view(&user), "audiences": audiences })
            }
            TokenVerdict::NotMine => json!({ "user": {}, "error": "invalid bearer token" }),
            TokenVerdict::Bad(why) => json!({ "user": {}, "error": format!("[invalid bearer token, {why}]") }),
        };
        Ok(answered(&call, review, status))
    }
}

/// `selfsubjectreviews`
pub struct SelfReview;

#[async_trait]
impl Rest for SelfReview {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let mut review = body::read(&call, request, "SelfSubjectReview").await?;
        call.admit(Operation::Create, &mut review).await?;
        // What is answered is made anew upstream, without what was sent.
        review["metadata"] = json!({ "creationTimestamp": crate::registry::stamp(call.now) });
        let status = json!({ "userInfo": user_view(&call.user) });
        Ok(answered(&call, review, status))
    }
}

/// Whom an access review is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The user named in it.
    Named,
    /// The user named in it, in the namespace of the request.
    NamedHere,
    /// The asking user.
    Own,
}

/// `subjectaccessreviews`, `localsubjectaccessreviews`, `selfsubjectaccessreviews`
pub struct AccessReview {
    authorizer: Arc<dyn Authorizer>,
    whose: Whose,
}

impl AccessReview {
    /// Asks this authorizer.
    pub fn new(authorizer: Arc<dyn Authorizer>, whose: Whose) -> Self {
        AccessReview { authorizer, whose }
    }
}

#[async_trait]
impl Rest for AccessReview {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let name = call.kind.info().kind.to_string();
        let mut review = body::read(&call, request, &name).await?;
        call.admit(Operation::Create, &mut review).await?;
        body::validate(&call, &name, &review)?;
        let spec = &review["spec"];
        if self.whose == Whose::NamedHere && text(&spec["resourceAttributes"], "namespace") != call.info.namespace {
            return Err(Status::bad_request(format!(
                "spec.resourceAttributes.namespace must match namespace: {}",
                call.info.namespace
            )));
        }
        let user = match self.whose {
            Whose::Own => call.user.clone(),
            Whose::Named | Whose::NamedHere => named_user(spec),
        };
        let asked = request_of(spec);
        let status = match self.authorizer.authorize(&Attributes { user: &user, request: &asked }).await {
            Decision::Allow(reason) => verdict(true, false, &reason),
            Decision::Deny(reason) => verdict(false, true, &reason),
            Decision::NoOpinion(reason) => verdict(false, false, &reason),
        };
        Ok(answered(&call, review, status))
    }
}

fn verdict(allowed: bool, denied: bool, reason: &str) -> Value {
    let mut status = json!({ "allowed": allowed });
    if denied {
        status["denied"] = json!(true);
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}

fn named_user(spec: &Value) -> UserInfo {
    let texts = |v: &Value| items(v).iter().filter_map(|t| t.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.to_lowercase(), texts(v))).collect();
    UserInfo { name: text(spec, "user").into(), uid: text(spec, "uid").into(), groups: texts(&spec["groups"]), extra }
}

/// What a review asks about.
fn request_of(spec: &Value) -> RequestInfo {
    let path = &spec["nonResourceAttributes"];
    if path.is_object() {
        return RequestInfo {
            path: text(path, "path").into(),
            verb: text(path, "verb").into(),
            ..RequestInfo::default()
        };
    }
    let resource = &spec["resourceAttributes"];
    let field = |name: &str| text(resource, name).to_owned();
    RequestInfo {
        is_resource: true,
        verb: field("verb"),
        group: field("group"),
        version: field("version"),
        namespace: field("namespace"),
        resource: field("resource"),
        subresource: field("subresource"),
        name: field("name"),
        field_selector: selector_of(&resource["fieldSelector"]),
        label_selector: labels_of(&resource["labelSelector"]),
        ..RequestInfo::default()
    }
}

/// A field selector as it would stand in a request.
fn selector_of(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return raw.to_owned();
    }
    let one = |r: &Value| match (r["operator"].as_str(), items(&r["values"])) {
        (Some("In"), [value]) => Some(format!("{}={}", text(r, "key"), value.as_str()?)),
        (Some("NotIn"), [value]) => Some(format!("{}!={}", text(r, "key"), value.as_str()?)),
        // What cannot be said as a selector narrows nothing.
        _ => None,
    };
    items(&selector["requirements"]).iter().filter_map(one).collect::<Vec<_>>().join(",")
}

/// The same for labels.
fn labels_of(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return raw.to_owned();
    }
    let one = |r: &Value| {
        let values: Vec<&str> = items(&r["values"]).iter().filter_map(Value::as_str).collect();
        let (key, values) = (text(r, "key"), values.join(","));
        match r["operator"].as_str() {
            Some("In") => Some(format!("{key} in ({values})")),
            Some("NotIn") => Some(format!("{key} notin ({values})")),
            Some("Exists") => Some(key.to_owned()),
            Some("DoesNotExist") => Some(format!("!{key}")),
            _ => None,
        }
    };
    items(&selector["requirements"]).iter().filter_map(one).collect::<Vec<_>>().join(",")
}

/// `selfsubjectrulesreviews`
pub struct RulesReview {
    authorizer: Arc<dyn Authorizer>,
}

impl RulesReview {
    /// Asks this authorizer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        RulesReview { authorizer }
    }
}

#[async_trait]
impl Rest for RulesReview {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let mut review = body::read(&call, request, "SelfSubjectRulesReview").await?;
        call.admit(Operation::Create, &mut review).await?;
        let namespace = text(&review["spec"], "namespace").to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let rules = self.authorizer.rules(&call.user, &namespace).await;
        let mut status = json!({
            "resourceRules": rules.resources, "nonResourceRules": rules.paths, "incomplete": rules.incomplete,
        });
        if !rules.error.is_empty() {
            status["evaluationError"] = json!(rules.error);
        }
        // As upstream, which makes the answer anew, it does not say what was asked.
        Ok(answered(&call, json!({ "spec": {} }), status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_ask_about_resources_or_paths() {
        let resource =
            request_of(&json!({"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "a"}}));
        assert!(resource.is_resource && resource.resource == "pods" && resource.namespace == "a");
        let path = request_of(&json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}));
        assert!(!path.is_resource && path.path == "/metrics");
        let user = named_user(&json!({"user": "u", "groups": ["g"], "extra": {"A": ["b"]}}));
        assert_eq!((user.name.as_str(), user.groups[0].as_str(), user.extra["a"][0].as_str()), ("u", "g", "b"));
    }
}
