//! What the four RBAC kinds have in common: policy rules, subjects, references to roles.
//!
//! Upstream: `pkg/apis/rbac/validation/validation.go`, `pkg/apis/rbac/v1/defaults.go`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Cells;
use crate::object::{View, at_mut, default_text, items_mut, list, set, text};
use crate::table::{age, name};
use crate::validate::internal;

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

/// Upstream's strategies check a changed object as a new one, and once more as part of checking the change.
pub(super) fn twice(errs: ErrorList) -> ErrorList {
    let mut all = errs.clone();
    all.extend(errs);
    all
}

/// The role of a binding may not change: who holds the binding would hold another role.
pub(super) fn validate_role_unchanged(errs: &mut ErrorList, new: &Value, old: &Value) {
    let role = View::root(new).get("roleRef");
    if !crate::object::same(role.value(), old.get("roleRef").unwrap_or(&Value::Null)) {
        errs.invalid(role.path(), internal::shown(internal::ROLE_REF, role.value()), "cannot change roleRef");
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
    use crate::rbac::cluster_role::ClusterRole;
    use crate::rbac::cluster_role_binding::ClusterRoleBinding;
    use crate::rbac::role::Role;
    use crate::rbac::role_binding::RoleBinding;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn rules() {
        assert_eq!(
            problems(
                &Role,
                &json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}, {}]})
            ),
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and \
                 non-resource URLs",
                "rules[1].verbs: Required value: verbs must contain at least one value",
                "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        assert_eq!(
            problems(&ClusterRole, &json!({"aggregationRule": {}})),
            ["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
                 aggregationRule is non-nil"]
        );
    }

    #[test]
    fn bindings() {
        let mut bad = json!({"roleRef": {"apiGroup": "x", "kind": "Role", "name": "a/b"}, "subjects": [
            {"kind": "User"}, {"kind": "Group", "apiGroup": "x", "name": "g"}, {"kind": "ServiceAccount", "name": "A"}, {"kind": "?"}]});
        default_binding(&mut bad);
        let found = problems(&ClusterRoleBinding, &bad);
        assert!(
            found[5].starts_with("subjects[2].name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"),
            "{found:?}"
        );
        assert_eq!(
            [&found[..5], &found[6..]].concat(),
            [
                "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
                "subjects[0].name: Required value",
                "subjects[1].apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                "subjects[2].namespace: Required value",
                "subjects[3].name: Required value",
                "subjects[3].kind: Unsupported value: \"?\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
        let mut old = json!({"roleRef": {"kind": "Role", "name": "a"}});
        default_binding(&mut old);
        let mut new = old.clone();
        new["roleRef"]["name"] = json!("b");
        assert_eq!(
            problems_of_update(&RoleBinding, None, &new, &old),
            [
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"b\"}: cannot \
                 change roleRef"
            ]
        );
    }

    #[test]
    fn what_is_wrong_with_a_changed_object_is_told_twice() {
        const VERBS: &str = "rules[0].verbs: Required value: verbs must contain at least one value";
        let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(problems(&Role, &role), [VERBS]);
        assert_eq!(problems_of_update(&Role, None, &role, &role), [VERBS, VERBS]);
        assert_eq!(problems_of_update(&ClusterRole, None, &role, &role), [VERBS, VERBS]);
    }

    #[test]
    fn aggregation_selects() {
        let selecting =
            |selectors: Value| problems(&ClusterRole, &json!({"aggregationRule": {"clusterRoleSelectors": selectors}}));
        assert_eq!(selecting(json!([{"matchLabels": {"a": "b"}}])), [""; 0]);
        assert_eq!(
            selecting(json!([])),
            ["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
                 aggregationRule is non-nil"]
        );
        assert_eq!(
            selecting(json!([{"matchExpressions": [{"key": "a", "operator": "x"}]}])),
            [
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: Invalid value: \"x\": not a valid \
                 selector operator",
                "aggregationRule.clusterRoleSelectors[0]: Invalid value: null: invalid label selector.",
            ]
        );
    }

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
