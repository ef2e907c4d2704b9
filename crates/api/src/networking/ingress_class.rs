//! `IngressClass`. Upstream: `pkg/registry/networking/ingressclass/strategy.go`, `ValidateIngressClass`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, at_mut, default_value, text};
use crate::strategy::{first_generation, next_generation};
use crate::table::{age, name};
use crate::validate::immutable_field;

/// The kind `IngressClass`.
pub struct IngressClass;

impl Kind for IngressClass {
    facts!(Facts {
        kind: "IngressClass",
        plural: "ingressclasses",
        columns: &[NAME, ("Controller", "string", "", 0), ("Parameters", "string", "", 0), AGE],
        ..Facts::cluster("networking.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(parameters) = at_mut(obj, &["spec", "parameters"]) {
            default_value(parameters, "scope", "Cluster");
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["spec"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        let controller = spec.get("controller");
        if controller.str().is_empty() {
            errs.required(controller.path(), "");
        } else {
            if controller.len() > 250 {
                errs.too_long(controller.path(), 250);
            }
            domain_path(&mut errs, &controller);
        }
        let parameters = spec.get("parameters");
        if parameters.is_set() {
            super::local_reference(&mut errs, &parameters);
            let (namespace, scope) = (parameters.get("namespace"), parameters.get("scope"));
            match scope.str() {
                "Namespace" if !namespace.is_set() => {
                    errs.required(namespace.path(), "`parameters.scope` is set to 'Namespace'");
                }
                "Namespace" => crate::validate::dns_label_at(&mut errs, &namespace),
                "Cluster" if namespace.is_set() => {
                    errs.forbidden(namespace.path(), "`parameters.scope` is set to 'Cluster'");
                }
                "Cluster" => {}
                _ if !scope.is_set() => errs.required(scope.path(), ""),
                other => errs.not_supported(parameters.get("scope").path(), other, &["Cluster", "Namespace"]),
            }
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        immutable_field(&mut errs, new, old, &["spec", "controller"]);
        errs.extend(self.validate(cx, new));
        errs
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed, MetaPass::New]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let parameters = match at(obj, &["spec", "parameters"]) {
            Value::Null => "<none>".to_owned(),
            p => {
                let group = text(p, &["apiGroup"]);
                let kind = text(p, &["kind"]);
                let head = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
                format!("{head}/{}", text(p, &["name"]))
            }
        };
        vec![json!(name(obj)), json!(text(obj, &["spec", "controller"])), json!(parameters), json!(age(obj, now))]
    }
}

/// `domain/path`. Upstream: `IsDomainPrefixedPath`.
fn domain_path(errs: &mut ErrorList, v: &View<'_>) {
    let Some((domain, path)) = v.str().split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        errs.invalid(v.path(), v.str(), "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    for problem in crate::names::dns_subdomain(domain, false) {
        errs.invalid(v.path(), domain, problem);
    }
    let of_paths = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !path.chars().all(of_paths) {
        errs.invalid(v.path(), path, "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    fn class(spec: Value) -> Value {
        let mut obj = json!({"spec": spec});
        IngressClass.default(&mut obj);
        obj
    }

    #[test]
    fn specs() {
        let check = |spec: Value, expected: &[&str]| assert_eq!(problems(&IngressClass, &class(spec)), expected);
        const SHAPE: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        check(json!({"controller": "acme.io/a~b/c"}), &[]);
        check(json!({}), &["spec.controller: Required value"]);
        for bad in ["acme.io", "/x", "acme.io/"] {
            check(json!({ "controller": bad }), &[&format!("spec.controller: Invalid value: \"{bad}\": {SHAPE}")]);
        }
        check(
            json!({"controller": "acme.io/a b"}),
            &["spec.controller: Invalid value: \"a b\": Invalid path (regex used for validation is \
                 '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')"],
        );
        check(
            json!({"controller": "a/b", "parameters": {"scope": "x"}}),
            &[
                "spec.parameters.kind: Required value",
                "spec.parameters.name: Required value",
                "spec.parameters.scope: Unsupported value: \"x\": supported values: \"Cluster\", \"Namespace\"",
            ],
        );
        check(
            json!({"controller": "a/b", "parameters": {"kind": "k", "name": "n", "namespace": "x"}}),
            &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
        );
        check(
            json!({"controller": "a/b", "parameters": {"kind": "k", "name": "n", "scope": "Namespace"}}),
            &["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
        );
        assert_eq!(
            problems_of_update(
                &IngressClass,
                None,
                &class(json!({"controller": "x"})),
                &class(json!({"controller": "a/b"}))
            ),
            [
                "spec.controller: Invalid value: \"x\": field is immutable".to_owned(),
                format!("spec.controller: Invalid value: \"x\": {SHAPE}")
            ]
        );
    }
}
