//! `FlowSchema`: which requests belong together and to which priority level.
//!
//! Upstream: `pkg/registry/flowcontrol/flowschema/strategy.go`, `ValidateFlowSchema`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::names;
use crate::object::{View, at, at_mut, default_number, list, same, text};
use crate::table::{age, name};
use crate::validate::internal::{self, Fields, Go};

/// The kind `FlowSchema`.
pub struct FlowSchema;

impl Kind for FlowSchema {
    facts!(Facts {
        kind: "FlowSchema",
        plural: "flowschemas",
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("PriorityLevel", "string", "", 0),
            ("MatchingPrecedence", "string", "", 0),
            ("DistinguisherMethod", "string", "", 0),
            AGE,
            ("MissingPL", "string", "", 0)
        ],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = at_mut(obj, &["spec"]) {
            default_number(spec, "matchingPrecedence", 1000);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        super::prepare_create(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        super::prepare_update(cx, new, old);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let schema = root.dig("metadata.name").str();
        let spec = root.get("spec");
        validate_spec(&mut errs, schema, &spec);
        if let Some(fixed) = mandatory(schema)
            && !same(spec.value(), &fixed)
        {
            let shown = internal::shown(SPEC, spec.value());
            errs.invalid(spec.path(), shown, format!("spec of '{schema}' must equal the fixed value"));
        }
        super::conditions(&mut errs, obj);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            let mut errs = ErrorList::new();
            super::conditions(&mut errs, new);
            return errs;
        }
        self.validate(cx, new)
    }

    /// Those that are asked first stand first (`printFlowSchemaList`); names decide among equals, as they do in lists.
    fn row_rank(&self, obj: &Value) -> Option<i64> {
        Some(at(obj, &["spec", "matchingPrecedence"]).as_i64().unwrap_or_default())
    }

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        if subresource == Some("status") { &[] } else { &[MetaPass::New] }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let method = text(obj, &["spec", "distinguisherMethod", "type"]);
        let dangling = list(obj, &["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
        vec![
            json!(name(obj)),
            json!(text(obj, &["spec", "priorityLevelConfiguration", "name"])),
            json!(at(obj, &["spec", "matchingPrecedence"]).as_i64().unwrap_or_default()),
            json!(if at(obj, &["spec", "distinguisherMethod"]).is_null() { "<none>" } else { method }),
            json!(age(obj, now)),
            json!(dangling.map_or("?", |c| text(c, &["status"]))),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        crate::strategy::reset_all_or_status(subresource)
    }
}

/// The specs of the schemas that must exist and cannot be changed.
pub fn mandatory(name: &str) -> Option<Value> {
    let everything = |subjects: Value| {
        json!([{"subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
                "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}])
    };
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    match name {
        "exempt" => Some(json!({"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1,
            "rules": everything(json!([group("system:masters")]))})),
        "catch-all" => Some(json!({"priorityLevelConfiguration": {"name": "catch-all"}, "matchingPrecedence": 10000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": everything(json!([group("system:unauthenticated"), group("system:authenticated")]))})),
        _ => None,
    }
}

/// `flowcontrol.FlowSchemaSpec`.
const SPEC: Fields = &[
    ("priorityLevelConfiguration", "PriorityLevelConfiguration", Go::Object(&[("name", "Name", Go::Text)])),
    ("matchingPrecedence", "MatchingPrecedence", Go::Zero),
    ("distinguisherMethod", "DistinguisherMethod", Go::Struct(internal::DISTINGUISHER)),
    (
        "rules",
        "Rules",
        Go::List(&[
            (
                "subjects",
                "Subjects",
                Go::List(&[
                    ("kind", "Kind", Go::Text),
                    ("user", "User", Go::Struct(&[("name", "Name", Go::Text)])),
                    ("group", "Group", Go::Struct(&[("name", "Name", Go::Text)])),
                    (
                        "serviceAccount",
                        "ServiceAccount",
                        Go::Struct(&[("namespace", "Namespace", Go::Text), ("name", "Name", Go::Text)]),
                    ),
                ]),
            ),
            (
                "resourceRules",
                "ResourceRules",
                Go::List(&[
                    ("verbs", "Verbs", Go::Nil),
                    ("apiGroups", "APIGroups", Go::Nil),
                    ("resources", "Resources", Go::Nil),
                    ("clusterScope", "ClusterScope", Go::False),
                    ("namespaces", "Namespaces", Go::Nil),
                ]),
            ),
            (
                "nonResourceRules",
                "NonResourceRules",
                Go::List(&[("verbs", "Verbs", Go::Nil), ("nonResourceURLs", "NonResourceURLs", Go::Nil)]),
            ),
        ]),
    ),
];

fn validate_spec(errs: &mut ErrorList, schema: &str, spec: &View<'_>) {
    let precedence = spec.get("matchingPrecedence");
    let n = precedence.int().unwrap_or_default();
    if n <= 0 {
        errs.invalid(precedence.path(), n, "must be a positive value");
    }
    if n > 10_000 {
        errs.invalid(precedence.path(), n, "must not be greater than 10000");
    }
    if n == 1 && schema != "exempt" {
        errs.invalid(precedence.path(), n, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = spec.get("distinguisherMethod");
    let ty = method.get("type");
    if method.is_set() && !matches!(ty.str(), "ByNamespace" | "ByUser") {
        let shown = internal::shown(internal::DISTINGUISHER, method.value());
        errs.not_supported(ty.path(), shown, &["ByNamespace", "ByUser"]);
    }
    let level = spec.dig("priorityLevelConfiguration.name");
    if level.is_empty() {
        errs.required(level.path(), "must reference a priority level");
    } else {
        crate::validate::dns_subdomain_at(errs, &level);
    }
    for rule in spec.items("rules") {
        let subjects = rule.get("subjects");
        if subjects.is_empty() {
            errs.required(subjects.path(), "subjects must contain at least one value");
        }
        for subject in subjects.list() {
            validate_subject(errs, &subject);
        }
        let (resources, others) = (rule.items("resourceRules"), rule.items("nonResourceRules"));
        if resources.is_empty() && others.is_empty() {
            errs.required(rule.path(), "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        for rule in resources {
            resource_rule(errs, &rule);
        }
        for rule in others {
            non_resource_rule(errs, &rule);
        }
    }
}

fn validate_subject(errs: &mut ErrorList, subject: &View<'_>) {
    const FIELDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.get("kind");
    let Some((_, own)) = FIELDS.iter().find(|(k, _)| *k == kind.str()) else {
        errs.not_supported(kind.path(), kind.str(), &["Group", "ServiceAccount", "User"]);
        return;
    };
    let body = subject.get(own);
    if body.is_set() {
        let named = body.get("name");
        if named.is_empty() {
            errs.required(named.path(), "");
        } else if *own == "serviceAccount" && named.str() != "*" {
            crate::validate::dns_subdomain_at(errs, &named);
        }
        if *own == "serviceAccount" {
            let namespace = body.get("namespace");
            if namespace.is_empty() {
                errs.required(namespace.path(), "must specify namespace for service account");
            } else {
                crate::validate::dns_label_at(errs, &namespace);
            }
        }
    } else {
        errs.required(body.path(), format!("{own} is required when subject kind is '{}'", kind.str()));
    }
    // Upstream names the others in this order: service account, user, group.
    for (k, field) in FIELDS.iter().filter(|(_, f)| f != own) {
        let v = subject.get(field);
        if v.is_set() {
            errs.forbidden(v.path(), format!("{field} is forbidden when subject kind is not '{k}'"));
        }
    }
}

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn verbs(errs: &mut ErrorList, rule: &View<'_>) {
    let v = rule.get("verbs");
    let verbs = v.strs();
    if verbs.is_empty() {
        errs.required(v.path(), "verbs must contain at least one value");
    } else if verbs.contains(&"*") {
        if verbs.len() > 1 {
            errs.invalid(v.path(), v.value(), "if '*' is present, must not specify other verbs");
        }
    } else if !verbs.iter().all(|verb| VERBS.contains(verb)) {
        errs.not_supported(v.path(), v.value(), &VERBS);
    }
}

/// A list that is not empty, and has the wildcard alone or not at all.
fn alone(errs: &mut ErrorList, v: &View<'_>, required: &str, others: &str) {
    let values = v.strs();
    if values.is_empty() {
        errs.required(v.path(), required);
    } else if values.len() > 1 && values.contains(&"*") {
        errs.invalid(v.path(), v.value(), format!("if '*' is present, must not specify other {others}"));
    }
}

fn resource_rule(errs: &mut ErrorList, rule: &View<'_>) {
    verbs(errs, rule);
    let required = "resource rules must supply at least one";
    alone(errs, &rule.get("apiGroups"), &format!("{required} api group"), "api groups");
    alone(errs, &rule.get("resources"), &format!("{required} resource"), "resources");
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && !rule.get("clusterScope").is_true() {
        errs.required(
            namespaces.path(),
            "resource rules that are not cluster scoped must supply at least one namespace",
        );
    } else if namespaces.strs().contains(&"*") {
        if namespaces.len() > 1 {
            errs.invalid(namespaces.path(), namespaces.value(), "if '*' is present, must not specify other namespaces");
        }
    } else {
        for namespace in namespaces.list() {
            for problem in names::dns_label(namespace.str(), false) {
                let intro = "each member of this list must be '*' or a DNS-1123 label; ";
                errs.invalid(namespace.path(), namespace.str(), format!("{intro}{problem}"));
            }
        }
    }
}

fn non_resource_rule(errs: &mut ErrorList, rule: &View<'_>) {
    verbs(errs, rule);
    let urls = rule.get("nonResourceURLs");
    if urls.is_empty() || urls.strs().contains(&"*") {
        alone(errs, &urls, "nonResourceURLs must contain at least one value", "non-resource URLs");
        return;
    }
    for url in urls.list() {
        if let Some(problem) = url_problem(url.str()) {
            let path: &Path = url.path();
            errs.invalid(path, url.str(), problem);
        }
    }
}

/// What is wrong with the path of a rule; a star may end it.
fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    fn schema(spec: Value) -> Value {
        json!({"metadata": {"name": "x"}, "spec": spec})
    }

    fn with_rule(rule: Value) -> Vec<String> {
        let mut obj = schema(json!({"priorityLevelConfiguration": {"name": "p"}, "rules": [rule]}));
        FlowSchema.default(&mut obj);
        problems(&FlowSchema, &obj)
    }

    #[test]
    fn defaults() {
        let mut obj = schema(json!({"priorityLevelConfiguration": {"name": "p"}}));
        FlowSchema.default(&mut obj);
        assert_eq!(obj["spec"]["matchingPrecedence"], 1000);
        assert_eq!(problems(&FlowSchema, &obj), [""; 0]);
    }

    #[test]
    fn specs() {
        let check = |spec: Value, expected: &[&str]| assert_eq!(problems(&FlowSchema, &schema(spec)), expected);
        check(
            json!({"matchingPrecedence": 1, "distinguisherMethod": {"type": "x"}}),
            &[
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.distinguisherMethod.type: Unsupported value: {\"Type\":\"x\"}: supported values: \"ByNamespace\", \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ],
        );
        check(
            json!({"matchingPrecedence": 10001, "priorityLevelConfiguration": {"name": "p"}}),
            &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
        );
        for name in ["exempt", "catch-all"] {
            let mut obj = json!({"metadata": {"name": name}, "spec": mandatory(name)});
            assert_eq!(problems(&FlowSchema, &obj), [""; 0]);
            obj["spec"]["priorityLevelConfiguration"]["name"] = json!("other");
            assert!(problems(&FlowSchema, &obj)[0].ends_with("must equal the fixed value"));
        }
    }

    #[test]
    fn rules() {
        let user = json!([{"kind": "User", "user": {"name": "u"}}]);
        let check = |rule: Value, expected: &[&str]| assert_eq!(with_rule(rule), expected);
        check(
            json!({"subjects": []}),
            &[
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        );
        check(
            json!({"subjects": [{"kind": "Group", "user": {"name": "u"}}, {"kind": "x"},
                {"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/a*", "b", "/c/*"]}]}),
            &[
                "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
                "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                "spec.rules[0].subjects[1].kind: Unsupported value: \"x\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                "spec.rules[0].subjects[2].serviceAccount.namespace: Required value: must specify namespace for service account",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"b\": must start with slash",
            ],
        );
        check(
            json!({"subjects": user, "resourceRules": [{"verbs": ["*", "get"], "apiGroups": [""], "resources": ["*", "pods"]}]}),
            &[
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ],
        );
    }

    #[test]
    fn a_status_has_each_condition_once() {
        let old = schema(json!({}));
        let mut new = old.clone();
        new["status"] = json!({"conditions": [{"type": "Dangling"}, {"type": "Dangling"}, {}]});
        assert_eq!(
            problems_of_update(&FlowSchema, Some("status"), &new, &old),
            [
                "status.conditions[1].type: Duplicate value: \"Dangling\"",
                "status.conditions[2].type: Required value: must not be empty"
            ]
        );
    }
}
