//! One policy rule and what it allows (`pkg/apis/rbac/v1/evaluation_helpers.go`).

use serde::Deserialize;
use serde_json::{Value, json};

use crate::route::RequestInfo;

/// `rbac.authorization.k8s.io/v1.PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Verbs; `*` for all.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub verbs: Vec<String>,
    /// API groups; `*` for all.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub api_groups: Vec<String>,
    /// Resources as `pods`, `pods/log`, `*/scale`; `*` for all.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub resources: Vec<String>,
    /// Names; none for all.
    #[serde(rename = "resourceNames", default, deserialize_with = "null_is_empty")]
    pub names: Vec<String>,
    /// Paths outside of resources, with an optional star at the end.
    #[serde(rename = "nonResourceURLs", default, deserialize_with = "null_is_empty")]
    pub urls: Vec<String>,
}

/// A list that may be null.
pub(super) fn null_is_empty<'de, D, T>(d: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|v| v == "*" || v == wanted)
}

impl Rule {
    /// Whether the rule allows a request.
    pub fn allows(&self, request: &RequestInfo) -> bool {
        if !has(&self.verbs, &request.verb) {
            return false;
        }
        if request.is_resource {
            has(&self.api_groups, &request.group)
                && self.resource_matches(&request.resource, &request.subresource)
                && (self.names.is_empty() || self.names.contains(&request.name))
        } else {
            self.urls.iter().any(|u| url_matches(u, &request.path))
        }
    }

    fn resource_matches(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| match r.split_once('/') {
            None => r == "*" || (subresource.is_empty() && r == resource),
            Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
            Some((res, sub)) => !subresource.is_empty() && res == resource && sub == subresource,
        })
    }

    /// The rule as SelfSubjectRulesReview shows it.
    pub fn resource_view(&self) -> Value {
        let mut view = json!({ "verbs": self.verbs });
        for (key, list) in
            [("apiGroups", &self.api_groups), ("resources", &self.resources), ("resourceNames", &self.names)]
        {
            if !list.is_empty() {
                view[key] = json!(list);
            }
        }
        view
    }

    /// The paths of the rule as SelfSubjectRulesReview shows them.
    pub fn path_view(&self) -> Value {
        json!({ "verbs": self.verbs, "nonResourceURLs": self.urls })
    }
}

/// Whether a path of a rule covers a path.
pub(super) fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|_| path.starts_with(rule.trim_end_matches('*')))
}

impl std::fmt::Display for Rule {
    /// `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}`, as `rbacv1helpers.CompactString`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                let quoted: Vec<String> = list.iter().map(|v| format!("{v:?}")).collect();
                parts.push(format!("{name}:[{}]", quoted.join(" ")));
            }
        }
        write!(f, "{{{}}}", parts.join(", "))
    }
}
