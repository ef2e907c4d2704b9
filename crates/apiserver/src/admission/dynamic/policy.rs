//! What validating and mutating policies have in common, and their bindings (`admission/plugin/policy/generic`).

use orkd_api::selector::LabelSelector;
use orkd_cel::Env;
use orkd_cel::k8s::admission::{Has, Variable, Variables};
use serde_json::Value;

use super::super::{items, meta};
use super::evaluate::Condition;
use super::rules::Constraints;

/// A policy, compiled.
#[derive(Debug)]
pub struct Policy<B> {
    /// Its name.
    pub name: Box<str>,
    /// `failurePolicy: Ignore`: what cannot be evaluated is let pass.
    pub fails_open: bool,
    /// The kind of its parameters.
    pub params: Option<ParamKind>,
    /// Which requests it means.
    pub constraints: Constraints,
    /// What its expressions see as `variables`.
    pub variables: Vec<Variable>,
    /// What else must hold.
    pub conditions: Vec<Condition>,
    /// What it does.
    pub body: B,
}

/// The environments of a policy's expressions.
#[derive(Debug)]
pub struct Envs {
    /// Of most.
    pub all: Env,
    /// Of messages, which are made without the authorizer.
    pub without_authorizer: Env,
}

/// What a policy of one kind does.
pub trait Body: Send + Sync + Sized + 'static {
    /// The resource of the policies.
    const POLICIES: &'static str;
    /// The resource of their bindings.
    const BINDINGS: &'static str;

    /// Compiles the `spec` of a policy.
    fn compile(spec: &Value, envs: &Envs) -> Self;
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl<B: Body> Policy<B> {
    /// Compiles a policy.
    pub fn new(object: &Value) -> Policy<B> {
        let spec = &object["spec"];
        let params = spec["paramKind"].is_object();
        let variables = |authorizer: bool| {
            let mut all = Variables::new(Has { params, authorizer });
            for variable in items(&spec["variables"]) {
                // One that does not compile fails those who ask for it.
                let _ = all.add(text(&variable["name"]), text(&variable["expression"]));
            }
            all
        };
        let all = variables(true);
        let envs = Envs { all: all.env(), without_authorizer: variables(false).env() };
        Policy {
            name: meta(object, "name").into(),
            fails_open: spec["failurePolicy"] == "Ignore",
            params: params.then(|| ParamKind {
                api_version: text(&spec["paramKind"]["apiVersion"]).into(),
                kind: text(&spec["paramKind"]["kind"]).into(),
            }),
            constraints: Constraints::of_policy(&spec["matchConstraints"]),
            conditions: Condition::all(&envs.all, &spec["matchConditions"]),
            body: B::compile(spec, &envs),
            variables: all.into_programs(),
        }
    }
}

/// The kind of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamKind {
    /// `group/version`, or the version alone.
    pub api_version: Box<str>,
    /// Kind.
    pub kind: Box<str>,
}

/// `group/version, Kind=kind`, as upstream prints it.
impl std::fmt::Display for ParamKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.api_version.contains('/') { "" } else { "/" };
        write!(f, "{slash}{}, Kind={}", self.api_version, self.kind)
    }
}

/// A binding of a policy.
#[derive(Debug)]
pub struct Binding {
    /// Its name.
    pub name: Box<str>,
    /// The policy's.
    pub policy: Box<str>,
    /// Which parameters the policy is given here.
    pub params: Option<ParamRef>,
    /// Which requests are meant, of those the policy means.
    pub constraints: Option<Constraints>,
    /// What follows from a refusal (`validationActions`).
    pub actions: Vec<Action>,
}

/// What follows from a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The request is refused.
    Deny,
    /// The client is warned.
    Warn,
    /// It is noted for audit.
    Audit,
}

impl Action {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Deny => "Deny",
            Action::Warn => "Warn",
            Action::Audit => "Audit",
        }
    }
}

/// Parameters by name or labels.
#[derive(Debug)]
pub struct ParamRef {
    /// Their namespace; empty for that of the request.
    pub namespace: Box<str>,
    /// Which ones.
    pub which: Which,
    /// `parameterNotFoundAction: Deny`: none is an error.
    pub must_exist: bool,
}

/// Which parameters.
#[derive(Debug)]
pub enum Which {
    /// The one with this name.
    Named(Box<str>),
    /// Those with certain labels.
    Selected(LabelSelector),
    /// A selector that is none, and why.
    Bad(String),
}

impl Binding {
    /// Reads a binding.
    pub fn new(object: &Value) -> Binding {
        let spec = &object["spec"];
        let action = |value: &Value| match value.as_str()? {
            "Deny" => Some(Action::Deny),
            "Warn" => Some(Action::Warn),
            "Audit" => Some(Action::Audit),
            _ => None,
        };
        let params = &spec["paramRef"];
        let which = || match text(&params["name"]) {
            "" if params["selector"].is_null() => Which::Bad("one of name or selector must be provided".into()),
            "" => LabelSelector::of_object(&params["selector"]).map_or_else(Which::Bad, Which::Selected),
            name => Which::Named(name.into()),
        };
        Binding {
            name: meta(object, "name").into(),
            policy: text(&spec["policyName"]).into(),
            params: params.is_object().then(|| ParamRef {
                namespace: text(&params["namespace"]).into(),
                which: which(),
                must_exist: params["parameterNotFoundAction"] == "Deny",
            }),
            constraints: spec["matchResources"].is_object().then(|| Constraints::of_policy(&spec["matchResources"])),
            actions: items(&spec["validationActions"]).iter().filter_map(action).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bindings_are_read() {
        let read = |spec: Value| Binding::new(&json!({"metadata": {"name": "b"}, "spec": spec}));
        let one = read(json!({"policyName": "p", "validationActions": ["Warn", "Audit"],
            "paramRef": {"name": "x", "namespace": "n", "parameterNotFoundAction": "Deny"}}));
        assert_eq!((&*one.name, &*one.policy, one.actions), ("b", "p", vec![Action::Warn, Action::Audit]));
        assert!(one.constraints.is_none());
        let params = one.params.expect("parameters");
        assert!(
            params.must_exist && &*params.namespace == "n" && matches!(params.which, Which::Named(n) if &*n == "x")
        );
        let selected = read(json!({"policyName": "p", "matchResources": {}, "paramRef": {"selector": {}}}));
        assert!(selected.constraints.is_some());
        let params = selected.params.expect("parameters");
        assert!(!params.must_exist && matches!(params.which, Which::Selected(s) if s.is_empty()));
        assert!(read(json!({"policyName": "p"})).params.is_none());
    }

    #[test]
    fn kinds_of_parameters_are_shown_as_upstream_does() {
        let shown = |api_version: &str| ParamKind { api_version: api_version.into(), kind: "K".into() }.to_string();
        assert_eq!((shown("v1").as_str(), shown("a/v1").as_str()), ("/v1, Kind=K", "a/v1, Kind=K"));
    }
}
