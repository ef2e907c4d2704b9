//! Which requests a policy, binding or webhook means (`admission/plugin/webhook/predicates`, `policy/matching`).

use orkd_api::selector::LabelSelector;
use serde_json::Value;

use super::super::{Operation, items};
use super::asked::{Asked, Door};

/// Operations, groups, versions and resources.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resources and subresources; `*` is any.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// Names; none for any.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Any,
    Cluster,
    Namespaced,
}

fn texts(value: &Value) -> Vec<String> {
    items(value).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn any_or(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    fn parse(value: &Value) -> Rule {
        let split = |text: String| match text.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (text, String::new()),
        };
        Rule {
            operations: texts(&value["operations"]),
            groups: texts(&value["apiGroups"]),
            versions: texts(&value["apiVersions"]),
            resources: texts(&value["resources"]).into_iter().map(split).collect(),
            scope: match value["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::Any,
            },
            names: texts(&value["resourceNames"]),
        }
    }

    /// Whether a request at a door is meant.
    fn means(&self, asked: &Asked<'_>, door: &Door) -> bool {
        let any = |part: &str, wanted: &str| part == "*" || part == wanted;
        let resource =
            |(resource, sub): &(String, String)| any(resource, &door.resource) && any(sub, asked.subresource);
        let cluster_wide = door.is_namespaces() || asked.namespace.is_empty();
        (match self.scope {
            Scope::Any => true,
            Scope::Cluster => cluster_wide,
            Scope::Namespaced => !cluster_wide,
        }) && any_or(&self.operations, asked.operation.as_str())
            && any_or(&self.groups, &door.group)
            && any_or(&self.versions, &door.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|n| n == asked.name))
    }
}

/// What `matchConstraints` of a policy, `matchResources` of a binding, and a webhook say.
#[derive(Debug)]
pub struct Constraints {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Without rules everything is meant (policies and bindings) or nothing (webhooks).
    all_without_rules: bool,
    /// `matchPolicy: Equivalent`: a rule about another version of the resource counts.
    equivalent: bool,
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
}

fn selector(value: &Value) -> Result<LabelSelector, String> {
    if value.is_null() { Ok(LabelSelector::everything()) } else { LabelSelector::of_object(value) }
}

impl Constraints {
    fn new(value: &Value, rules: &str, all_without_rules: bool) -> Constraints {
        let parse = |field: &str| items(&value[field]).iter().map(Rule::parse).collect();
        Constraints {
            rules: parse(rules),
            excluded: parse("excludeResourceRules"),
            all_without_rules,
            equivalent: value["matchPolicy"] == "Equivalent",
            namespaces: selector(&value["namespaceSelector"]),
            objects: selector(&value["objectSelector"]),
        }
    }

    /// Those of a policy or binding (`MatchResources`).
    pub fn of_policy(value: &Value) -> Constraints {
        Constraints::new(value, "resourceRules", true)
    }

    /// Those of a webhook.
    pub fn of_webhook(value: &Value) -> Constraints {
        Constraints::new(value, "rules", false)
    }

    /// The door that rules found a request at: its own, or an equivalent one, to whose version the object is to be
    /// converted. `None`: the request is not meant.
    pub fn door<'d>(&self, asked: &'d Asked<'_>) -> Option<&'d Door> {
        if find(&self.excluded, self.equivalent, asked).is_some() {
            return None;
        }
        if self.rules.is_empty() && self.all_without_rules {
            return Some(&asked.own);
        }
        find(&self.rules, self.equivalent, asked)
    }

    /// Whether the objects of a request, new and old, are selected by their labels. The error is a selector that is none.
    pub fn selects_object(&self, object: &Value, old: Option<&Value>) -> Result<bool, String> {
        let selector = self.objects.as_ref().map_err(Clone::clone)?;
        let selects = |object: &Value| object.is_object() && selector.matches_object(object);
        Ok(selector.is_empty() || selects(object) || old.is_some_and(selects))
    }

    /// What selects the namespace of a request by its labels; `None` where any will do, and for what is in none: that is
    /// never exempt.
    pub fn namespace_selector(&self, asked: &Asked<'_>) -> Result<Option<&LabelSelector>, String> {
        if asked.namespace.is_empty() && !asked.own.is_namespaces() {
            return Ok(None);
        }
        let selector = self.namespaces.as_ref().map_err(Clone::clone)?;
        Ok(Some(selector).filter(|s| !s.is_empty()))
    }
}

/// Whether the labels that count for a Namespace are those it is about to have: the one that stands is not yet so.
pub fn brings_namespace(asked: &Asked<'_>) -> bool {
    asked.own.resource == "namespaces"
        && asked.subresource.is_empty()
        && matches!(asked.operation, Operation::Create | Operation::Update)
}

fn find<'d>(rules: &[Rule], equivalent: bool, asked: &'d Asked<'_>) -> Option<&'d Door> {
    if rules.iter().any(|rule| rule.means(asked, &asked.own)) {
        return Some(&asked.own);
    }
    let others = if equivalent { asked.others.as_slice() } else { &[] };
    // Earlier rules come first.
    rules.iter().find_map(|rule| others.iter().find(|door| rule.means(asked, door)))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::asked::BodyKind;
    use super::*;

    /// A door, such as `apps/v1/deployments`; `v1/pods` of the core.
    pub(in super::super) fn door(text: &str) -> Door {
        let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
        let (group, version, resource) = match parts.as_slice() {
            [version, resource] => (String::new(), version.clone(), resource.clone()),
            [group, version, resource] => (group.clone(), version.clone(), resource.clone()),
            _ => panic!("{text}"),
        };
        let body = BodyKind { group: group.clone().into(), version: version.clone().into(), kind: "Kind".into() };
        Door { group: group.into(), version: version.into(), resource: resource.into(), body }
    }

    pub(in super::super) fn asked(operation: Operation, resource: &str, namespace: &'static str) -> Asked<'static> {
        let mut parts = resource.split(':');
        let own = door(parts.next().expect("a door"));
        let subresource = parts.next().map_or("", |s| if s == "status" { "status" } else { "scale" });
        Asked { operation, own, others: Vec::new(), subresource, namespace, name: "x" }
    }

    fn rule(operations: &[&str], groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
        json!({"operations": operations, "apiGroups": groups, "apiVersions": versions, "resources": resources})
    }

    #[test]
    fn rules_mean_requests() {
        use Operation::{Create, Delete, Update};
        let check = |rule: Value, asked: Asked<'_>, expected: bool| {
            let constraints = Constraints::of_webhook(&json!({"rules": [rule]}));
            assert_eq!(constraints.door(&asked).is_some(), expected, "{rule} {asked:?}");
        };
        let deployments = || asked(Create, "apps/v1/deployments", "n");
        check(rule(&["*"], &["*"], &["*"], &["*"]), deployments(), true);
        check(rule(&["CREATE"], &["apps"], &["v1"], &["deployments"]), deployments(), true);
        check(
            rule(&["UPDATE", "CREATE"], &["x", "apps"], &["v2", "v1"], &["pods", "deployments"]),
            deployments(),
            true,
        );
        check(rule(&["UPDATE"], &["apps"], &["v1"], &["deployments"]), deployments(), false);
        check(rule(&["*"], &[""], &["v1"], &["deployments"]), deployments(), false);
        check(rule(&["*"], &["apps"], &["v1beta1"], &["deployments"]), deployments(), false);
        check(rule(&["*"], &["apps"], &["v1"], &["replicasets"]), deployments(), false);
        let scale = || asked(Update, "apps/v1/deployments:scale", "n");
        for (resource, expected) in [
            ("*", false),
            ("deployments", false),
            ("deployments/*", true),
            ("deployments/scale", true),
            ("deployments/status", false),
            ("*/scale", true),
            ("*/*", true),
            ("*/status", false),
        ] {
            check(rule(&["*"], &["*"], &["*"], &[resource]), scale(), expected);
        }
        check(rule(&["*"], &["*"], &["*"], &["*/*"]), deployments(), true);
        check(rule(&["*"], &["*"], &["*"], &["deployments/*"]), deployments(), true);
        let scoped = |scope: &str| {
            let mut rule = rule(&["*"], &["*"], &["*"], &["*"]);
            rule["scope"] = json!(scope);
            rule
        };
        for (scope, namespaced, cluster, namespaces) in
            [("*", true, true, true), ("Namespaced", true, false, false), ("Cluster", false, true, true)]
        {
            check(scoped(scope), deployments(), namespaced);
            check(scoped(scope), asked(Delete, "v1/nodes", ""), cluster);
            check(scoped(scope), asked(Delete, "v1/namespaces", "x"), namespaces);
        }
        let mut named = rule(&["*"], &["*"], &["*"], &["*"]);
        named["resourceNames"] = json!(["y"]);
        check(named.clone(), deployments(), false);
        named["resourceNames"] = json!(["y", "x"]);
        check(named, deployments(), true);
    }

    #[test]
    fn equivalent_doors_are_found() {
        let events =
            || Asked { others: vec![door("events.k8s.io/v1/events")], ..asked(Operation::Create, "v1/events", "n") };
        let constraints = |policy: &str, rules: Value, excluded: Value| {
            Constraints::of_policy(
                &json!({"matchPolicy": policy, "resourceRules": rules, "excludeResourceRules": excluded}),
            )
        };
        let check = |constraints: Constraints, expected: Option<&str>| {
            assert_eq!(constraints.door(&events()).map(|d| d.group.to_string()).as_deref(), expected);
        };
        let of = |group: &str| json!([rule(&["*"], &[group], &["v1"], &["events"])]);
        check(constraints("Equivalent", of("events.k8s.io"), json!([])), Some("events.k8s.io"));
        check(constraints("Exact", of("events.k8s.io"), json!([])), None);
        check(constraints("Exact", of(""), json!([])), Some(""));
        check(constraints("Equivalent", of("*"), json!([])), Some(""));
        check(constraints("Equivalent", of(""), of("events.k8s.io")), None);
        check(constraints("Exact", of(""), of("events.k8s.io")), Some(""));
        check(constraints("Equivalent", json!([]), json!([])), Some(""));
        check(Constraints::of_webhook(&json!({"rules": []})), None);
    }

    #[test]
    fn selectors_look_at_what_is_and_was() {
        let with = |field: &str| Constraints::of_policy(&json!({field: {"matchLabels": {"a": "b"}}}));
        let (yes, no) = (json!({"metadata": {"labels": {"a": "b"}}}), json!({"metadata": {}}));
        let objects = with("objectSelector");
        let selects = |object: &Value, old: Option<&Value>| objects.selects_object(object, old);
        assert_eq!(selects(&yes, None), Ok(true));
        assert_eq!(selects(&no, Some(&yes)), Ok(true));
        assert_eq!(selects(&no, Some(&no)), Ok(false));
        assert_eq!(selects(&Value::Null, Some(&yes)), Ok(true));
        assert_eq!(selects(&Value::Null, None), Ok(false));
        let anything = Constraints::of_policy(&json!({"objectSelector": {}}));
        assert_eq!(anything.selects_object(&Value::Null, None), Ok(true));

        let namespaces = with("namespaceSelector");
        let asks = |asked: &Asked<'_>| namespaces.namespace_selector(asked).expect("a selector").is_some();
        assert!(asks(&asked(Operation::Create, "v1/pods", "n")));
        assert!(asks(&asked(Operation::Create, "v1/namespaces", "x")));
        assert!(!asks(&asked(Operation::Create, "v1/nodes", "")));
        assert_eq!(anything.namespace_selector(&asked(Operation::Create, "v1/pods", "n")), Ok(None));
        assert!(brings_namespace(&asked(Operation::Update, "v1/namespaces", "x")));
        assert!(!brings_namespace(&asked(Operation::Delete, "v1/namespaces", "x")));
        assert!(!brings_namespace(&asked(Operation::Update, "v1/namespaces:status", "x")));
        let bad =
            Constraints::of_policy(&json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "x"}]}}));
        assert_eq!(bad.selects_object(&yes, None), Err("\"x\" is not a valid label selector operator".to_owned()));
    }
}
