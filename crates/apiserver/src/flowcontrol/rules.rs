//! FlowSchemas: which requests are theirs (`util/flowcontrol/rule.go`). Pure.

use serde_json::Value;

use crate::admission::items;
use crate::route::RequestInfo;
use crate::user::UserInfo;

/// A FlowSchema, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// Name.
    pub name: String,
    /// Uid, for the header.
    pub uid: String,
    /// Name of its level.
    pub level: String,
    precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Distinguisher {
    #[default]
    None,
    User,
    Namespace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name.
    Account(String, String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PathRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    items(value).iter().map(text).collect()
}

impl Schema {
    /// Reads an object. It has been checked when it was written.
    pub fn read(object: &Value) -> Schema {
        let (meta, spec) = (&object["metadata"], &object["spec"]);
        Schema {
            name: text(&meta["name"]),
            uid: text(&meta["uid"]),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: items(&spec["rules"]).iter().map(Rule::read).collect(),
        }
    }

    /// The order in which schemas are asked.
    pub fn rank(&self) -> (i64, &str) {
        (self.precedence, &self.name)
    }

    /// Whether a request is one of this schema's.
    pub fn matches(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, request))
    }

    /// What tells the flows of the schema apart.
    pub fn flow<'a>(&self, user: &'a UserInfo, request: &'a RequestInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &request.namespace,
        }
    }
}

impl Rule {
    fn read(rule: &Value) -> Rule {
        let subject = |s: &Value| match s["kind"].as_str()? {
            "User" => Some(Subject::User(text(&s["user"]["name"]))),
            "Group" => Some(Subject::Group(text(&s["group"]["name"]))),
            "ServiceAccount" => {
                let account = &s["serviceAccount"];
                Some(Subject::Account(text(&account["namespace"]), text(&account["name"])))
            }
            _ => None,
        };
        let resource = |r: &Value| ResourceRule {
            verbs: texts(&r["verbs"]),
            groups: texts(&r["apiGroups"]),
            resources: texts(&r["resources"]),
            cluster: r["clusterScope"].as_bool().unwrap_or_default(),
            namespaces: texts(&r["namespaces"]),
        };
        Rule {
            subjects: items(&rule["subjects"]).iter().filter_map(subject).collect(),
            resources: items(&rule["resourceRules"]).iter().map(resource).collect(),
            paths: items(&rule["nonResourceRules"])
                .iter()
                .map(|r| PathRule { verbs: texts(&r["verbs"]), urls: texts(&r["nonResourceURLs"]) })
                .collect(),
        }
    }

    fn matches(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        self.subjects.iter().any(|s| s.is(user))
            && match request.is_resource {
                true => self.resources.iter().any(|r| r.matches(request)),
                false => self.paths.iter().any(|r| r.matches(request)),
            }
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::Account(namespace, name) => {
                let account = user.name.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':'));
                account.is_some_and(|(ns, n)| ns == namespace && (name == "*" || n == name))
            }
        }
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|v| v == "*" || v == value)
}

impl ResourceRule {
    fn matches(&self, request: &RequestInfo) -> bool {
        let named = |spec: &String| {
            spec == "*"
                || match spec.split_once('/') {
                    None => request.subresource.is_empty() && *spec == request.resource,
                    Some((resource, sub)) => resource == request.resource && sub == request.subresource,
                }
        };
        has(&self.verbs, &request.verb)
            && has(&self.groups, &request.group)
            && self.resources.iter().any(named)
            && match request.namespace.as_str() {
                "" => self.cluster,
                namespace => has(&self.namespaces, namespace),
            }
    }
}

impl PathRule {
    fn matches(&self, request: &RequestInfo) -> bool {
        let url = |spec: &String| {
            *spec == request.path || spec.strip_suffix('*').is_some_and(|prefix| request.path.starts_with(prefix))
        };
        has(&self.verbs, &request.verb) && self.urls.iter().any(url)
    }
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;
    use crate::query::Query;
    use crate::route::route;

    #[test]
    fn default_schemas_take_what_is_theirs() {
        let mut schemas: Vec<Schema> = defaults::schemas().iter().map(Schema::read).collect();
        schemas.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let check = |user: &UserInfo, request: &str, expected: &str| {
            let (method, url) = request.split_once(' ').expect("two words");
            let info = route(&method.parse().expect("method"), url, &Query::parse("")).expect("routed");
            let found = schemas.iter().find(|s| s.matches(user, &info)).expect("catch-all");
            let text = format!("{} {} {}", found.name, found.level, found.flow(user, &info));
            assert_eq!(text.trim(), expected, "{request}");
        };
        let (admin, ann) = (UserInfo::new("root", &["system:masters"]), UserInfo::new("ann", &[]));
        let node = UserInfo::new("system:node:n", &["system:nodes"]);
        let manager = UserInfo::new("system:kube-controller-manager", &[]);
        let system = UserInfo::service_account("kube-system", "x");
        let account = UserInfo::service_account("a", "x");
        check(&admin, "GET /api/v1/pods", "exempt exempt");
        check(&UserInfo::anonymous(), "GET /healthz", "probes exempt");
        check(&ann, "GET /readyz", "probes exempt");
        check(&ann, "GET /readyz/etcd", "global-default global-default ann");
        check(
            &manager,
            "PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l",
            "system-leader-election leader-election system:kube-controller-manager",
        );
        check(&manager, "GET /api/v1/namespaces/a/pods", "kube-controller-manager workload-high a");
        check(&node, "PATCH /api/v1/nodes/n/status", "system-node-high node-high system:node:n");
        check(&node, "GET /api/v1/namespaces/a/pods/p", "system-nodes system system:node:n");
        check(&system, "GET /api/v1/namespaces/b/pods", "kube-system-service-accounts workload-high b");
        check(&account, "GET /api/v1/pods", "service-accounts workload-low system:serviceaccount:a:x");
        check(&ann, "GET /api/v1/pods", "global-default global-default ann");
    }
}
