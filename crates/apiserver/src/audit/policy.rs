//! The policy of audit: which request is written down, how much of it, and when (`k8s.io/apiserver/pkg/audit/policy`,
//! `pkg/apis/audit`). Pure.

use std::collections::BTreeSet;

use orkd_api::codec::{Strictness, yaml};
use serde::Deserialize;

use crate::route::RequestInfo;
use crate::user::UserInfo;

/// How much of a request is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when.
    Metadata,
    /// And the body of the request.
    Request,
    /// And that of the answer.
    RequestResponse,
}

impl Level {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// A moment in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Stage {
    /// Its head was read and its user is known.
    RequestReceived,
    /// The head of the answer was sent; of requests that stay open only.
    ResponseStarted,
    /// The answer was sent.
    ResponseComplete,
    /// The server failed over it.
    Panic,
}

impl Stage {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    rules: Vec<RuleFile>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuleFile {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// A policy that was checked.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<(RuleFile, Verdict)>,
}

/// What the policy says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How much.
    pub level: Level,
    /// When not.
    pub omit_stages: BTreeSet<Stage>,
    /// Whether bodies are written without their managed fields.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy file. The error is for the operator.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let (value, _) = yaml::decode_untyped(text.as_bytes(), Strictness::Ignore)
            .map_err(|e| format!("failed decoding: {}", e.message))?;
        let file: File = serde_json::from_value(value).map_err(|e| format!("failed decoding: {e}"))?;
        if file.api_version != "audit.k8s.io/v1" || file.kind != "Policy" {
            return Err(format!("unknown group version field {:?} in policy", file.api_version));
        }
        if file.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        let mut errors = Vec::new();
        for (i, rule) in file.rules.iter().enumerate() {
            check(rule, &format!("rules[{i}]"), &mut errors);
        }
        if !errors.is_empty() {
            return Err(errors.join(", "));
        }
        let (stages, managed) = (file.omit_stages, file.omit_managed_fields);
        let rules = file.rules.into_iter().map(|rule| {
            let verdict = Verdict {
                level: rule.level.unwrap_or_default(),
                omit_stages: stages.iter().chain(&rule.omit_stages).copied().collect(),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(managed),
            };
            (rule, verdict)
        });
        Ok(Policy { rules: rules.collect() })
    }

    /// The verdict of the first rule that is about a request; nothing is written where there is none. `user` is none
    /// for a request whose credential was refused.
    pub fn verdict(&self, user: Option<&UserInfo>, request: &RequestInfo) -> Option<&Verdict> {
        let found = self.rules.iter().find(|(rule, _)| matches(rule, user, request));
        found.map(|(_, verdict)| verdict).filter(|v| v.level != Level::None)
    }
}

fn check(rule: &RuleFile, at: &str, errors: &mut Vec<String>) {
    if rule.level.is_none() {
        errors.push(format!("{at}.level: Required value"));
    }
    if !rule.non_resource_urls.is_empty() && (!rule.resources.is_empty() || !rule.namespaces.is_empty()) {
        errors.push(format!(
            "{at}.nonResourceURLs: Invalid value: {:?}: rules cannot apply to both regular resources and non-resource URLs",
            rule.non_resource_urls
        ));
    }
    for (i, url) in rule.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
        if !url.starts_with('/') {
            errors.push(format!(
                "{at}.nonResourceURLs[{i}]: Invalid value: {url:?}: non-resource URL rules must begin with a '/' character"
            ));
        }
        if url.find('*').is_some_and(|star| star + 1 != url.len()) {
            errors.push(format!(
                "{at}.nonResourceURLs[{i}]: Invalid value: {url:?}: non-resource URL wildcards '*' must be the final \
                 character of the rule"
            ));
        }
    }
    for (i, group) in rule.resources.iter().enumerate() {
        if !group.resource_names.is_empty() && group.resources.is_empty() {
            errors.push(format!(
                "{at}.resources[{i}].resourceNames: Invalid value: {:?}: using resourceNames requires at least one resource",
                group.resource_names
            ));
        }
        if group.group.contains('/') {
            errors.push(format!("{at}.resources[{i}].group: Invalid value: {:?}: a group has no version", group.group));
        }
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|v| v == value)
}

fn matches(rule: &RuleFile, user: Option<&UserInfo>, request: &RequestInfo) -> bool {
    if !rule.users.is_empty() && !user.is_some_and(|u| has(&rule.users, &u.name)) {
        return false;
    }
    if !rule.user_groups.is_empty() && !user.is_some_and(|u| u.groups.iter().any(|g| has(&rule.user_groups, g))) {
        return false;
    }
    if !rule.verbs.is_empty() && !has(&rule.verbs, &request.verb) {
        return false;
    }
    if !rule.namespaces.is_empty() || !rule.resources.is_empty() {
        return matches_resource(rule, request);
    }
    if !rule.non_resource_urls.is_empty() {
        return !request.is_resource && rule.non_resource_urls.iter().any(|spec| matches_path(&request.path, spec));
    }
    true
}

fn matches_path(path: &str, spec: &str) -> bool {
    spec == "*" || spec == path || (spec.ends_with('*') && path.starts_with(spec.trim_end_matches('*')))
}

fn matches_resource(rule: &RuleFile, request: &RequestInfo) -> bool {
    if !request.is_resource || (!rule.namespaces.is_empty() && !has(&rule.namespaces, &request.namespace)) {
        return false;
    }
    if rule.resources.is_empty() {
        return true;
    }
    rule.resources.iter().filter(|g| g.group == request.group).any(|group| {
        group.resources.is_empty()
            || ((group.resource_names.is_empty() || has(&group.resource_names, &request.name))
                && group.resources.iter().any(|spec| matches_name(spec, &request.resource, &request.subresource)))
    })
}

/// Whether `pods`, `pods/log`, `*`, `*/log` or `pods/*` is about a resource or subresource.
fn matches_name(spec: &str, resource: &str, subresource: &str) -> bool {
    if spec == "*" {
        return true;
    }
    match spec.split_once('/') {
        None => subresource.is_empty() && spec == resource,
        Some((first, "*")) => first == resource,
        Some(("*", second)) => !subresource.is_empty() && second == subresource,
        Some((first, second)) => first == resource && second == subresource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use crate::route::route;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
  resources: [{group: "", resources: [endpoints, services]}]
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: Request
  resources: [{group: "", resources: [configmaps], resourceNames: [one]}]
  namespaces: [kube-system]
  omitManagedFields: false
- level: Metadata
  resources: [{group: "", resources: ["pods/log", "*/status"]}, {group: apps, resources: ["deployments/*"]}]
  omitStages: [ResponseStarted]
- level: RequestResponse
  resources: [{group: batch}]
- level: Metadata
  namespaces: [""]
"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(POLICY).expect("good");
        let check = |user: &str, request: &str, expected: &str| {
            let (method, path) = request.split_once(' ').expect("two words");
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let info = route(&method.parse().expect("method"), path, &Query::parse(query)).expect("routed");
            let user = UserInfo::new(user, &[]);
            let text = policy.verdict(Some(&user), &info).map_or("-".to_owned(), |v| {
                let stages: Vec<&str> = v.omit_stages.iter().map(|s| s.name()).collect();
                format!("{} {} {}", v.level.name(), stages.join("+"), v.omit_managed_fields)
            });
            assert_eq!(text, expected, "{request}");
        };
        check("system:kube-proxy", "GET /api/v1/services?watch=1", "-");
        check("ann", "GET /api/v1/services?watch=1", "Metadata RequestReceived true");
        check("ann", "GET /api/v1/namespaces/x/services?watch=1", "-");
        check("ann", "GET /apis", "-");
        check("ann", "GET /version", "-");
        check("ann", "GET /healthz", "-");
        check("ann", "GET /api/v1/namespaces/kube-system/configmaps/one", "Request RequestReceived false");
        check("ann", "GET /api/v1/namespaces/kube-system/configmaps/two", "-");
        check("ann", "GET /api/v1/namespaces/x/pods/p/log", "Metadata RequestReceived+ResponseStarted true");
        check("ann", "GET /api/v1/namespaces/x/pods/p/status", "Metadata RequestReceived+ResponseStarted true");
        check(
            "ann",
            "GET /apis/apps/v1/namespaces/x/deployments/d/scale",
            "Metadata RequestReceived+ResponseStarted true",
        );
        check("ann", "GET /apis/apps/v1/namespaces/x/deployments/d", "Metadata RequestReceived+ResponseStarted true");
        check("ann", "DELETE /apis/batch/v1/namespaces/x/jobs/j", "RequestResponse RequestReceived true");
    }

    #[test]
    fn wrong_policies_are_refused_with_their_place() {
        let check = |rules: &str, expected: &str| {
            let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n");
            assert!(Policy::parse(&text).expect_err("refused").contains(expected), "{rules}");
        };
        check("[]", "0 rules");
        check("[{users: [a]}]", "rules[0].level: Required value");
        check("[{level: Loud}]", "Loud");
        check("[{level: None, nonResourceURLs: [a]}]", "must begin with a '/' character");
        check("[{level: None, nonResourceURLs: [/a*b]}]", "must be the final character");
        check("[{level: None, nonResourceURLs: [/a], namespaces: [x]}]", "cannot apply to both");
        check("[{level: None, resources: [{resourceNames: [x]}]}]", "requires at least one resource");
        check("[{level: None, omitStages: [Never]}]", "Never");
        assert!(Policy::parse("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]").is_err());
    }
}
