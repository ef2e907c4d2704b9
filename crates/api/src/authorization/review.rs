//! Rules of the access reviews. Upstream: `pkg/apis/authorization/validation/validation.go`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Shown};
use crate::object::{View, default_value};
use crate::validate::internal::{self, Fields, Go};
use crate::validate::selector;

/// `authorization.NonResourceAttributes`.
const NON_RESOURCE: Fields = &[("path", "Path", Go::Text), ("verb", "Verb", Go::Text)];

/// The attributes of a path, as errors show them.
pub(super) fn shown(path: &View<'_>) -> Shown {
    internal::shown(NON_RESOURCE, path.value())
}

/// The answer of a review nobody answered yet, and metadata that is there though empty.
pub(super) fn default(obj: &mut Value) {
    default_value(obj, "metadata", json!({}));
    default_value(obj, "status", json!({"allowed": false}));
    if let Some(status) = crate::object::at_mut(obj, &["status"]) {
        default_value(status, "allowed", false);
    }
}

/// What is asked: either a resource or a path.
pub(super) fn attributes(errs: &mut ErrorList, spec: &View<'_>) {
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    match (resource.is_set(), path.is_set()) {
        (true, true) => {
            errs.invalid(path.path(), shown(&path), "cannot be specified in combination with resourceAttributes")
        }
        (false, false) => errs.invalid(
            resource.path(),
            resource.value(),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
}

/// The selectors that limit what is asked: as text or as requirements. An operator this server does not
/// know is let through, for the authorizers leave it out.
pub(super) fn selectors(errs: &mut ErrorList, spec: &View<'_>) {
    for name in ["fieldSelector", "labelSelector"] {
        let selector = spec.get("resourceAttributes").get(name);
        if !selector.is_set() {
            continue;
        }
        let (raw, requirements) = (selector.get("rawSelector"), selector.get("requirements"));
        match (raw.is_empty(), requirements.is_empty()) {
            (false, false) => errs.invalid(raw.path(), raw.str(), "may not specified at the same time as requirements"),
            (true, true) => errs.required(
                requirements.path(),
                format!("when {} is specified, requirements or rawSelector is required", selector.path()),
            ),
            _ => {}
        }
        for requirement in requirements.list() {
            let key = requirement.get("key");
            if name == "labelSelector" {
                selector::values_fit_operator(errs, &requirement);
                selector::label_and_values(errs, &requirement);
            } else {
                if key.is_empty() {
                    errs.required(key.path(), "must be specified");
                }
                selector::values_fit_operator(errs, &requirement);
            }
        }
    }
}

/// Who is asked about.
pub(super) fn subject(errs: &mut ErrorList, spec: &View<'_>) {
    if spec.get("user").str().is_empty() && spec.get("groups").is_empty() {
        errs.invalid(spec.get("user").path(), "", "at least one of user or group must be specified");
    }
}

/// Reviews have no identity: metadata must be empty but for what the server itself fills in.
pub(super) fn metadata(errs: &mut ErrorList, obj: &Value, namespaced: bool) {
    let metadata = View::root(obj).get("metadata");
    let allowed =
        |key: &str| key == "managedFields" || key == "creationTimestamp" || (namespaced && key == "namespace");
    if metadata.entries().iter().any(|(key, v)| !allowed(key) && !v.is_empty()) {
        let text = if namespaced { "must be empty except for namespace" } else { "must be empty" };
        errs.invalid(metadata.path(), metadata.value(), text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::authorization::local_subject_access_review::LocalSubjectAccessReview;
    use crate::authorization::self_subject_access_review::SelfSubjectAccessReview;
    use crate::authorization::subject_access_review::SubjectAccessReview;
    use crate::kind::Kind;
    use crate::validate::testing::problems;

    #[test]
    fn reviews() {
        let local = json!({"metadata": {"namespace": "a", "name": "n"},
            "spec": {"user": "u", "resourceAttributes": {"namespace": "b"}, "nonResourceAttributes": {"path": "/x"}}});
        let cases = [
            (&SubjectAccessReview as &dyn Kind, json!({"spec": {"user": "u", "resourceAttributes": {}}}), vec![]),
            (
                &SubjectAccessReview,
                json!({"metadata": {"labels": {"a": "b"}}, "spec": {"resourceAttributes": {"fieldSelector": {}, "labelSelector": {}}}}),
                vec![
                    r#"spec.user: Invalid value: "": at least one of user or group must be specified"#,
                    "spec.resourceAttributes.fieldSelector.requirements: Required value: when \
                     spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
                    "spec.resourceAttributes.labelSelector.requirements: Required value: when \
                     spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required",
                    r#"metadata: Invalid value: {"labels":{"a":"b"}}: must be empty"#,
                ],
            ),
            (
                &SelfSubjectAccessReview,
                json!({"spec": {"resourceAttributes": {
                    "fieldSelector": {"rawSelector": "a=b", "requirements": [
                        {"operator": "In"}, {"key": "k", "operator": "Exists", "values": ["v"]},
                        {"key": "k", "operator": "Near"}]},
                    "labelSelector": {"requirements": [
                        {"key": "k", "operator": "NotIn"}, {"key": "k", "operator": "DoesNotExist", "values": ["v"]},
                        {"key": "k!", "operator": "Near", "values": ["v!"]}]},
                }}}),
                vec![
                    r#"spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: "a=b": may not specified at the same time as requirements"#,
                    "spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified",
                    "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: must be specified \
                     when `operator` is 'In' or 'NotIn'",
                    "spec.resourceAttributes.fieldSelector.requirements[1].values: Forbidden: may not be specified \
                     when `operator` is 'Exists' or 'DoesNotExist'",
                    "spec.resourceAttributes.labelSelector.requirements[0].values: Required value: must be specified \
                     when `operator` is 'In' or 'NotIn'",
                    "spec.resourceAttributes.labelSelector.requirements[1].values: Forbidden: may not be specified \
                     when `operator` is 'Exists' or 'DoesNotExist'",
                    "spec.resourceAttributes.labelSelector.requirements[2].key: Invalid value: \"k!\": name part must \
                     consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                     character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "spec.resourceAttributes.labelSelector.requirements[2].values[0]: Invalid value: \"v!\": a valid \
                     label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                     start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
                     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                &LocalSubjectAccessReview,
                local,
                vec![
                    r#"spec.nonResourceAttributes: Invalid value: {"Path":"/x","Verb":""}: cannot be specified in combination with resourceAttributes"#,
                    r#"metadata: Invalid value: {"name":"n","namespace":"a"}: must be empty except for namespace"#,
                    r#"spec.resourceAttributes.namespace: Invalid value: "b": must match metadata.namespace"#,
                    r#"spec.nonResourceAttributes: Invalid value: {"Path":"/x","Verb":""}: disallowed on this kind of request"#,
                ],
            ),
        ];
        for (kind, obj, expected) in cases {
            assert_eq!(problems(kind, &obj), expected, "{obj}");
        }
    }
}
