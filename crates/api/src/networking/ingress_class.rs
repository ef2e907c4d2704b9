//! `IngressClass`. Upstream: `pkg/registry/networking/ingressclass/strategy.go`, `ValidateIngressClass`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
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
    let Some((domain, path)) = v.str().split_once('/') else {
        errs.invalid(v.path(), v.str(), "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    for problem in crate::names::dns_subdomain(domain, false) {
        errs.invalid(v.path(), domain, problem);
    }
    if path.is_empty() {
        errs.invalid(v.path(), v.str(), "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
}
