//! What the four RBAC kinds have in common: policy rules, subjects, references to roles.
//!
//! Upstream: `pkg/apis/rbac/validation/validation.go`, `pkg/apis/rbac/v1/defaults.go`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Cells;
use crate::object::{View, at_mut, default_text, items_mut, list, set, text};
use crate::table::{age, name};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// Columns of the two bindings.
pub(super) const BINDING_COLUMNS: &[(&str, &str, &str, i32)] = &[
    crate::kinds::NAME,
    ("Role", "string", "", 0),
    crate::kinds::AGE,
    ("Users", "string", "", 1),
    ("Groups", "string", "", 1),
    ("ServiceAccounts", "string", "", 1),
];

/// An empty list of rules is written as `null`, as upstream writes it.
pub(super) fn default_rules(obj: &mut Value) {
    if list(obj, &["rules"]).is_empty() {
        set(obj, &["rules"], Value::Null);
    }
}

pub(super) fn validate_rules(errs: &mut ErrorList, obj: &Value, namespaced: bool) {
    for rule in View::root(obj).items("rules") {
        let (verbs, urls) = (rule.get("verbs"), rule.get("nonResourceURLs"));
        if verbs.is_empty() {
            errs.required(verbs.path(), "verbs must contain at least one value");
        }
        if !urls.is_empty() {
            if namespaced {
                errs.invalid(urls.path(), urls.value(), "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.get(f).is_empty()) {
                errs.invalid(
                    urls.path(),
                    urls.value(),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if rule.get("apiGroups").is_empty() {
            errs.required(rule.get("apiGroups").path(), "resource rules must supply at least one api group");
        }
        if rule.get("resources").is_empty() {
            errs.required(rule.get("resources").path(), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn default_binding(obj: &mut Value) {
    if let Some(role) = at_mut(obj, &["roleRef"]) {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in items_mut(obj, "subjects") {
        if matches!(text(subject, &["kind"]), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

pub(super) fn validate_binding(obj: &Value, kinds: &[&str], namespaced: bool) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(obj);
    let role = root.get("roleRef");
    let (group, kind, role_name) = (role.get("apiGroup"), role.get("kind"), role.get("name"));
    if group.str() != GROUP {
        errs.not_supported(group.path(), group.str(), &[GROUP]);
    }
    if !kinds.contains(&kind.str()) {
        errs.not_supported(kind.path(), kind.str(), kinds);
    }
    if role_name.str().is_empty() {
        errs.required(role_name.path(), "");
    } else {
        for problem in crate::names::path_segment(role_name.str(), false) {
            errs.invalid(role_name.path(), role_name.str(), problem);
        }
    }
    for subject in root.items("subjects") {
        let (name, group) = (subject.get("name"), subject.get("apiGroup"));
        if name.str().is_empty() {
            errs.required(name.path(), "");
        }
        match subject.get("kind").str() {
            "ServiceAccount" => {
                if !name.str().is_empty() {
                    for problem in crate::names::dns_subdomain(name.str(), false) {
                        errs.invalid(name.path(), name.str(), problem);
                    }
                }
                if !group.str().is_empty() {
                    errs.not_supported(group.path(), group.str(), &[""]);
                }
                if !namespaced && subject.get("namespace").str().is_empty() {
                    errs.required(subject.get("namespace").path(), "");
                }
            }
            "User" | "Group" => {
                if group.str() != GROUP {
                    errs.not_supported(group.path(), group.str(), &[GROUP]);
                }
            }
            other => errs.not_supported(subject.get("kind").path(), other, &["ServiceAccount", "User", "Group"]),
        }
    }
    errs
}

/// The role of a binding may not change: who holds the binding would hold another role.
pub(super) fn validate_role_unchanged(errs: &mut ErrorList, new: &Value, old: &Value) {
    let role = View::root(new).get("roleRef");
    if !crate::object::same(role.value(), old.get("roleRef").unwrap_or(&Value::Null)) {
        errs.invalid(role.path(), role.value(), "cannot change roleRef");
    }
}

pub(super) fn binding_cells(obj: &Value, now: jiff::Timestamp) -> Cells {
    let of = |kind: &str| -> Vec<String> {
        list(obj, &["subjects"])
            .iter()
            .filter(|s| s["kind"] == kind)
            .map(|s| match (kind, text(s, &["namespace"])) {
                ("ServiceAccount", ns) if !ns.is_empty() => format!("{ns}/{}", text(s, &["name"])),
                _ => text(s, &["name"]).to_owned(),
            })
            .collect()
    };
    vec![
        json!(name(obj)),
        json!(format!("{}/{}", text(obj, &["roleRef", "kind"]), text(obj, &["roleRef", "name"]))),
        json!(age(obj, now)),
        json!(of("User").join(", ")),
        json!(of("Group").join(", ")),
        json!(of("ServiceAccount").join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_name_their_subjects() {
        let mut binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "d"}]});
        default_binding(&mut binding);
        assert!(validate_binding(&binding, &["Role"], true).is_empty());
        let cells = binding_cells(&binding, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..], [json!("Role/r"), json!("<unknown>"), json!("u"), json!(""), json!("d/s")]);
    }
}
