//! Nobody grants what he does not hold (`pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/
//! policybased`, `pkg/registry/rbac/validation`).
//!
//! A writer of a role must hold every rule in it or the verb `escalate` on it; a writer of a binding must hold every
//! rule of the bound role or the verb `bind` on it. Members of `system:masters` may all of it. Upstream does this in
//! the storage of these kinds; here it is the last plugin of admission, which sees the same object.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::super::{Attributes, Authorizer, Decision};
use super::Rbac;
use super::index::RoleRef;
use super::rule::{Rule, url_matches};
use crate::admission::{Operation, Plugin, Request};
use crate::route::RequestInfo;
use crate::user::{MASTERS, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses roles and bindings that would grant more than their writer holds.
pub struct Escalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl Escalation {
    /// Asks `rbac` for rules and `authorizer` for the verbs `escalate` and `bind`.
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Escalation { rbac, authorizer }
    }

    async fn may(&self, user: &UserInfo, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let request = RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            namespace: namespace.into(),
            resource: resource.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        matches!(self.authorizer.authorize(&Attributes { user, request: &request }).await, Decision::Allow(_))
    }

    /// The refusal if `user` does not hold `rules` in `namespace`.
    fn confirm(&self, user: &UserInfo, namespace: &str, rules: &[Rule]) -> Result<(), String> {
        let (held, problems) = self.rbac.rules_for(user, namespace);
        let missing = uncovered(&held, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
        let shown: Vec<String> = compact(missing).iter().map(ToString::to_string).collect();
        let mut text = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups.join(" "),
            shown.join("\n")
        );
        if !problems.is_empty() {
            text.push_str(&format!("; resolution errors: [{}]", problems.join(", ")));
        }
        Err(text)
    }

    async fn role(&self, request: &Request<'_>, object: &Value) -> Result<(), String> {
        let (user, resource) = (request.user, request.resource.plural.as_ref());
        let name = name_of(request, object);
        if self.may(user, "escalate", resource, request.namespace, name).await {
            return Ok(());
        }
        self.confirm(user, request.namespace, &rules_of(object)).and_then(|()| {
            // Taking the rule away is a matter of it, too: it would keep others from narrowing the role.
            if !aggregates(object) && !request.old.is_some_and(aggregates) {
                return Ok(());
            }
            // Whoever lets others fill the role may fill it with anything.
            let star = || vec!["*".to_owned()];
            let everything = [
                Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() },
                Rule { verbs: star(), urls: star(), ..Rule::default() },
            ];
            self.confirm(user, "", &everything)
                .map_err(|_| "must have cluster-admin privileges to use an aggregationRule".to_owned())
        })
    }

    async fn binding(&self, request: &Request<'_>, object: &Value) -> Result<(), Refusal> {
        let name = object["roleRef"]["name"].as_str().unwrap_or_default();
        let (resource, role) = match object["roleRef"]["kind"].as_str() {
            Some("Role") => ("roles", RoleRef { namespace: request.namespace.into(), name: name.into() }),
            Some("ClusterRole") => ("clusterroles", RoleRef { namespace: String::new(), name: name.into() }),
            _ => return Ok(()),
        };
        if self.may(request.user, "bind", resource, request.namespace, name).await {
            return Ok(());
        }
        let rules = self.rbac.role_rules(&role).ok_or(Refusal::NoRole(resource, role.name))?;
        self.confirm(request.user, request.namespace, &rules).map_err(Refusal::Escalates)
    }
}

/// Why a binding is refused.
enum Refusal {
    /// There is no such role: its resource and name.
    NoRole(&'static str, String),
    /// It would grant more than its writer holds.
    Escalates(String),
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalationCheck"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if request.resource.group != GROUP
            || !request.subresource.is_empty()
            || !matches!(request.operation, Operation::Create | Operation::Update)
            || request.user.in_group(MASTERS)
            || request.old.is_some_and(|old| is_for_collector(old, object))
        {
            return Ok(());
        }
        let checked = match request.resource.plural.as_ref() {
            "roles" | "clusterroles" => self.role(request, object).await.map_err(Refusal::Escalates),
            "rolebindings" | "clusterrolebindings" => self.binding(request, object).await,
            _ => Ok(()),
        };
        checked.map_err(|refusal| match refusal {
            Refusal::NoRole(resource, name) => Status::not_found(GROUP, resource, &name),
            Refusal::Escalates(why) => {
                Status::forbidden(GROUP, &request.resource.plural, name_of(request, object), &why)
            }
        })
    }
}

fn name_of<'a>(request: &Request<'a>, object: &'a Value) -> &'a str {
    if request.name.is_empty() { object["metadata"]["name"].as_str().unwrap_or_default() } else { request.name }
}

fn rules_of(object: &Value) -> Vec<Rule> {
    let rules = object["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    rules.iter().filter_map(|r| serde_json::from_value(r.clone()).ok()).collect()
}

fn aggregates(role: &Value) -> bool {
    role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|s| !s.is_empty())
}

/// Whether an update changes finalizers and owners alone, as the garbage collector does
/// (`rbacregistry.IsOnlyMutatingGCFields`). A label is another matter: roles are gathered by them.
fn is_for_collector(old: &Value, new: &Value) -> bool {
    const ITS: [&str; 5] = ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"];
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            ITS.iter().for_each(|field| drop(metadata.remove(*field)));
        }
        object
    };
    rest(old) == rest(new)
}

/// The parts of `wanted`, one verb, group, resource and name each, that no rule of `held` covers.
fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(split).filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

fn split(rule: &Rule) -> Vec<Rule> {
    let one = |s: &String| vec![s.clone()];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part =
                    Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                if rule.names.is_empty() {
                    parts.push(part);
                } else {
                    parts.extend(rule.names.iter().map(|n| Rule { names: one(n), ..part.clone() }));
                }
            }
        }
        parts.extend(rule.urls.iter().map(|u| Rule { verbs: one(verb), urls: one(u), ..Rule::default() }));
    }
    parts
}

fn covers(rule: &Rule, part: &Rule) -> bool {
    let has =
        |list: &[String], wanted: &[String]| list.iter().any(|v| v == "*") || wanted.iter().all(|w| list.contains(w));
    let resource = |wanted: &String| {
        rule.resources.contains(wanted)
            || wanted.split_once('/').is_some_and(|(_, sub)| rule.resources.contains(&format!("*/{sub}")))
    };
    has(&rule.verbs, &part.verbs)
        && has(&rule.api_groups, &part.api_groups)
        && (rule.resources.iter().any(|r| r == "*") || part.resources.iter().all(resource))
        && (rule.names.is_empty() || (!part.names.is_empty() && part.names.iter().all(|n| rule.names.contains(n))))
        && part.urls.iter().all(|u| rule.urls.iter().any(|r| url_matches(r, u)))
}

/// Joins parts that differ in their verb only, for a text that can be read.
fn compact(parts: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for part in parts {
        let twin = out.iter_mut().find(|r| {
            r.api_groups == part.api_groups
                && r.resources == part.resources
                && r.names == part.names
                && r.urls == part.urls
        });
        match twin {
            Some(twin) => {
                let verbs: BTreeSet<String> = twin.verbs.drain(..).chain(part.verbs).collect();
                twin.verbs = verbs.into_iter().collect();
            }
            None => out.push(part),
        }
    }
    out.sort_by_key(ToString::to_string);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |t: &str| t.split(',').filter(|p| !p.is_empty()).map(|p| p.replace('-', "")).collect::<Vec<_>>();
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            names: list(names),
            urls: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_held_is_named() {
        let check = |held: &[Rule], wanted: Rule, expected: &[&str]| {
            let missing = compact(uncovered(held, &[wanted]));
            assert_eq!(missing.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        };
        let pods = rule("get,list", "-", "pods", "");
        check(std::slice::from_ref(&pods), rule("get", "-", "pods", ""), &[]);
        check(std::slice::from_ref(&pods), rule("get", "-", "pods", "a"), &[]);
        check(
            &[rule("get", "-", "pods", "a")],
            rule("get", "-", "pods", ""),
            &["{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"],
        );
        check(
            std::slice::from_ref(&pods),
            rule("get,delete,patch", "-", "pods,secrets", ""),
            &[
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"patch\"]}",
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"delete\" \"get\" \"patch\"]}",
            ],
        );
        check(&[rule("*", "*", "*", "")], rule("get", "apps", "deployments/scale", ""), &[]);
        check(&[rule("get", "*", "*/scale", "")], rule("get", "apps", "deployments/scale", ""), &[]);
        let url = |u: &str| Rule { verbs: vec!["get".into()], urls: vec![u.into()], ..Rule::default() };
        check(&[url("/logs/*")], url("/logs/a"), &[]);
        check(&[rule("*", "*", "*", "")], url("/logs"), &["{NonResourceURLs:[\"/logs\"], Verbs:[\"get\"]}"]);
    }
}
