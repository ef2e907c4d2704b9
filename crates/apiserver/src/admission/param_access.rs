//! Whoever makes admission policies look at parameters may read these parameters
//! (`authorizeCreate` and `authorizeUpdate` in `pkg/registry/admissionregistration/*policy*/authz.go`).
//!
//! The writer of a policy must be allowed to get every object of its `paramKind`, the writer of a binding the objects of
//! its `paramRef`. Members of `system:masters` may all of it. Upstream does this in the storage of these kinds, once they
//! are valid; here it is a plugin at the end of admission, which sees the same object.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use orkd_api::field::{ErrorList, Path};
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request, mapping, meta};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::lookup::{self, Lookup};
use crate::pipeline::WeakServer;
use crate::route::RequestInfo;
use crate::user::{MASTERS, UserInfo};

const GROUP: &str = "admissionregistration.k8s.io";

/// Refuses policies and bindings whose parameters their writer may not read.
pub struct ParamAccess {
    authorizer: Arc<dyn Authorizer>,
    objects: Lookup,
    server: OnceLock<WeakServer>,
}

impl ParamAccess {
    /// Asks `authorizer`, and finds the policies of bindings among `objects`.
    pub fn new(authorizer: Arc<dyn Authorizer>, objects: Lookup) -> Self {
        ParamAccess { authorizer, objects, server: OnceLock::new() }
    }

    async fn may(&self, user: &UserInfo, param_kind: &Value, verb: &str, namespace: &str, name: &str) -> bool {
        let text = |field: &str| param_kind[field].as_str().unwrap_or_default();
        let known = param_kind.is_object() && text("apiVersion").matches('/').count() < 2;
        let (group, version) = match text("apiVersion") {
            _ if !known => ("*", "*"),
            v => v.split_once('/').unwrap_or(("", v)),
        };
        let found = mapping(&self.server, text("apiVersion"), text("kind"));
        let request = RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: group.into(),
            version: version.into(),
            resource: found.map_or_else(|| "*".into(), |(plural, _)| plural),
            namespace: namespace.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        matches!(self.authorizer.authorize(&Attributes { user, request: &request }).await, Decision::Allow(_))
    }

    async fn policy(&self, request: &Request<'_>, object: &Value) -> Result<(), String> {
        let kind = &object["spec"]["paramKind"];
        if !kind.is_object()
            || request.old.is_some_and(|old| old["spec"]["paramKind"] == *kind)
            || self.may(request.user, kind, "get", "*", "*").await
        {
            return Ok(());
        }
        let text = |field: &str| kind[field].as_str().unwrap_or_default();
        Err(format!(
            "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            shown(request.user),
            text("kind"),
            text("apiVersion")
        ))
    }

    async fn binding(&self, request: &Request<'_>, object: &Value, policies: &str) -> Result<(), String> {
        // Upstream means to let a reference pass that has not changed, but compares where its parts lie in memory.
        let params = &object["spec"]["paramRef"];
        if !params.is_object() {
            return Ok(());
        }
        let policy = object["spec"]["policyName"].as_str().unwrap_or_default();
        let policy = lookup::get_fresh(&*self.objects, GROUP, policies, "", policy).await.ok().flatten();
        let kind = policy.map(|policy| policy["spec"]["paramKind"].clone()).unwrap_or_default();
        let text = |field: &str| params[field].as_str().unwrap_or_default();
        let verb = if text("name").is_empty() { "list" } else { "get" };
        if self.may(request.user, &kind, verb, text("namespace"), text("name")).await {
            return Ok(());
        }
        // Verb and user stand as upstream has them.
        let user = shown(request.user);
        Err(format!("user {verb} does not have \"{user}\" permission on the object referenced by paramRef"))
    }
}

/// A user as `%v` shows it.
fn shown(user: &UserInfo) -> String {
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" "))).collect();
    format!("&{{{} {} [{}] map[{}]}}", user.name, user.uid, user.groups.join(" "), extra.join(" "))
}

#[async_trait]
impl Plugin for ParamAccess {
    fn name(&self) -> &'static str {
        "AdmissionPolicyParamAccess"
    }

    fn bind(&self, server: &WeakServer) {
        // Bound once, see `NamespaceAutoProvision`.
        let _ = self.server.set(server.clone());
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if request.resource.group != GROUP
            || !request.subresource.is_empty()
            || !matches!(request.operation, Operation::Create | Operation::Update)
            || request.user.in_group(MASTERS)
        {
            return Ok(());
        }
        let (checked, field) = match request.resource.plural.as_ref() {
            "validatingadmissionpolicies" | "mutatingadmissionpolicies" => {
                (self.policy(request, object).await, "paramKind")
            }
            "validatingadmissionpolicybindings" => {
                (self.binding(request, object, "validatingadmissionpolicies").await, "paramRef")
            }
            "mutatingadmissionpolicybindings" => {
                (self.binding(request, object, "mutatingadmissionpolicies").await, "paramRef")
            }
            _ => return Ok(()),
        };
        checked.map_err(|why| {
            let mut errs = ErrorList::new();
            errs.forbidden(&Path::new("spec").child(field), why);
            Status::invalid(GROUP, &request.resource.kind, meta(object, "name"), &errs)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;

    struct Allows(&'static str);

    #[async_trait]
    impl Authorizer for Allows {
        async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
            let r = attributes.request;
            let asked = format!("{} {}/{}/{} {}/{}", r.verb, r.group, r.version, r.resource, r.namespace, r.name);
            match asked == self.0 {
                true => Decision::Allow(String::new()),
                false => Decision::NoOpinion(asked),
            }
        }
    }

    async fn problem(
        allowed: &'static str,
        plural: &str,
        user: &UserInfo,
        object: &Value,
        old: Option<&Value>,
    ) -> Option<String> {
        let policy = json!({"metadata": {"name": "p"}, "spec": {"paramKind": {"apiVersion": "v1", "kind": "Secret"}}});
        let objects = Fake::with([("validatingadmissionpolicies", policy)]);
        let plugin = ParamAccess::new(Arc::new(Allows(allowed)), objects.lookup());
        let kind = kind(plural);
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let request = request(&*kind, operation, "", "x", user, old);
        plugin.validate(&request, object, &mut Vec::new()).await.err().map(|status| status.message)
    }

    #[tokio::test]
    async fn who_names_a_kind_of_parameters_reads_all_of_it() {
        let user = UserInfo::new("u", &["g"]);
        let of = |api_version: &str, kind: &str| {
            json!({"metadata": {"name": "x"},
            "spec": {"paramKind": {"apiVersion": api_version, "kind": kind}}})
        };
        let secrets = of("v1", "Secret");
        for plural in ["validatingadmissionpolicies", "mutatingadmissionpolicies"] {
            let refused = problem("", plural, &user, &secrets, None).await.expect("refused");
            let shown = "spec.paramKind: Forbidden: user &{u  [g system:authenticated] map[]} must have \"get\" \
                         permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
            assert!(refused.ends_with(shown), "{refused}");
            assert_eq!(problem("get /v1/secrets */*", plural, &user, &secrets, None).await, None);
        }
        let plural = "validatingadmissionpolicies";
        assert_eq!(
            problem("get apps/v1/deployments */*", plural, &user, &of("apps/v1", "Deployment"), None).await,
            None
        );
        assert_eq!(problem("get apps/v1/* */*", plural, &user, &of("apps/v1", "Nothing"), None).await, None);
        assert_eq!(problem("", plural, &user, &json!({"spec": {}}), None).await, None);
        assert_eq!(problem("", plural, &user, &secrets, Some(&secrets)).await, None, "as it was");
        assert!(problem("", plural, &user, &secrets, Some(&of("v1", "ConfigMap"))).await.is_some());
        assert_eq!(problem("", plural, &UserInfo::new("root", &[MASTERS]), &secrets, None).await, None);
    }

    #[tokio::test]
    async fn who_names_parameters_reads_them() {
        let user = UserInfo::new("u", &[]);
        let of = |policy: &str, params: Value| {
            json!({"metadata": {"name": "x"},
            "spec": {"policyName": policy, "paramRef": params}})
        };
        let named = of("p", json!({"name": "a", "namespace": "n"}));
        let plural = "validatingadmissionpolicybindings";
        let refused = problem("", plural, &user, &named, Some(&named)).await.expect("refused");
        let shown = "spec.paramRef: Forbidden: user get does not have \"&{u  [system:authenticated] map[]}\" permission \
                     on the object referenced by paramRef";
        assert!(refused.ends_with(shown), "{refused}");
        for (allowed, binding) in [
            ("get /v1/secrets n/a", &named),
            ("list /v1/secrets /", &of("p", json!({"selector": {}}))),
            ("get */*/* /a", &of("unknown", json!({"name": "a"}))),
            ("", &of("p", Value::Null)),
        ] {
            assert_eq!(problem(allowed, plural, &user, binding, None).await, None, "{binding}");
        }
        let plural = "mutatingadmissionpolicybindings";
        assert_eq!(problem("get */*/* n/a", plural, &user, &named, None).await, None, "its policies are others");
    }
}
