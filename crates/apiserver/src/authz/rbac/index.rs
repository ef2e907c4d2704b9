//! Roles and bindings, arranged so that the rules of one user are found without looking at those of others.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::super::feed::{Change, split};
use super::rule::{Rule, null_is_empty};
use crate::user::UserInfo;

/// Which feed a change came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `roles`
    Roles,
    /// `clusterroles`
    ClusterRoles,
    /// `rolebindings`
    RoleBindings,
    /// `clusterrolebindings`
    ClusterRoleBindings,
}

/// A role as a binding names it. The namespace is empty for cluster roles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoleRef {
    /// Namespace of a Role; empty for a ClusterRole.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Whom a binding is for, as users show themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

struct Binding {
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<(Subject, String)>,
}

#[derive(Deserialize)]
struct RoleView {
    #[serde(default, deserialize_with = "null_is_empty")]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingView {
    role_ref: RoleRefView,
    #[serde(default, deserialize_with = "null_is_empty")]
    subjects: Vec<SubjectView>,
}

#[derive(Deserialize)]
struct RoleRefView {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct SubjectView {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

/// The index.
#[derive(Default)]
pub struct Index {
    roles: HashMap<RoleRef, Arc<[Rule]>>,
    bindings: HashMap<(bool, Arc<str>), Arc<Binding>>,
    by_subject: HashMap<Subject, Vec<Arc<Binding>>>,
}

/// Where a rule comes from, in the words of the audit reason.
pub struct Origin<'a> {
    binding: &'a Binding,
    subject: &'a str,
}

impl std::fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let b = self.binding;
        if b.namespace.is_empty() {
            write!(f, "ClusterRoleBinding {:?}", b.name)?;
        } else {
            write!(f, "RoleBinding {:?}", format!("{}/{}", b.name, b.namespace))?;
        }
        let kind = if b.role.namespace.is_empty() { "ClusterRole" } else { "Role" };
        write!(f, " of {kind} {:?} to {}", b.role.name, self.subject)
    }
}

impl Index {
    /// Takes in a change. An object that cannot be read grants nothing.
    pub fn apply(&mut self, source: Source, change: Change) {
        match (source, change) {
            (Source::Roles, Change::Reset) => self.roles.retain(|r, _| r.namespace.is_empty()),
            (Source::ClusterRoles, Change::Reset) => self.roles.retain(|r, _| !r.namespace.is_empty()),
            (Source::Roles | Source::ClusterRoles, Change::Put(key, json)) => {
                let rules = serde_json::from_slice::<RoleView>(&json).map(|v| v.rules).unwrap_or_default();
                self.roles.insert(role_ref(&key), rules.into());
            }
            (Source::Roles | Source::ClusterRoles, Change::Delete(key)) => {
                self.roles.remove(&role_ref(&key));
            }
            (Source::RoleBindings | Source::ClusterRoleBindings, change) => {
                let cluster = source == Source::ClusterRoleBindings;
                match change {
                    Change::Reset => {
                        let keys: Vec<_> = self.bindings.keys().filter(|(c, _)| *c == cluster).cloned().collect();
                        for key in keys {
                            self.unbind(key);
                        }
                    }
                    Change::Put(key, json) => {
                        self.unbind((cluster, Arc::clone(&key)));
                        if let Ok(view) = serde_json::from_slice::<BindingView>(&json) {
                            self.bind((cluster, key), view);
                        }
                    }
                    Change::Delete(key) => self.unbind((cluster, key)),
                }
            }
        }
    }

    fn bind(&mut self, key: (bool, Arc<str>), view: BindingView) {
        let (namespace, name) = split(&key.1);
        let role_namespace = match view.role_ref.kind.as_str() {
            "ClusterRole" => String::new(),
            "Role" if !namespace.is_empty() => namespace.to_owned(),
            _ => return,
        };
        let binding = Arc::new(Binding {
            namespace: namespace.into(),
            name: name.into(),
            role: RoleRef { namespace: role_namespace, name: view.role_ref.name },
            subjects: view.subjects.into_iter().filter_map(|s| subject(s, namespace)).collect(),
        });
        for (subject, _) in &binding.subjects {
            let list = self.by_subject.entry(subject.clone()).or_default();
            if !list.iter().any(|b| Arc::ptr_eq(b, &binding)) {
                list.push(Arc::clone(&binding));
            }
        }
        self.bindings.insert(key, binding);
    }

    fn unbind(&mut self, key: (bool, Arc<str>)) {
        let Some(binding) = self.bindings.remove(&key) else { return };
        for (subject, _) in &binding.subjects {
            if let Some(list) = self.by_subject.get_mut(subject) {
                list.retain(|b| !Arc::ptr_eq(b, &binding));
                if list.is_empty() {
                    self.by_subject.remove(subject);
                }
            }
        }
    }

    /// The rules of a role.
    pub fn role(&self, role: &RoleRef) -> Option<Arc<[Rule]>> {
        self.roles.get(role).cloned()
    }

    /// Shows every rule of a user, cluster-wide ones first, then those of the namespace, until `visit` returns false.
    /// A binding to a role that does not exist is shown as a problem.
    pub fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut visit: impl FnMut(&Origin<'_>, Result<&Rule, String>) -> bool,
    ) {
        let subjects: Vec<Subject> = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().map(|g| Subject::Group(g.clone())))
            .collect();
        for cluster in [true, false] {
            if !cluster && namespace.is_empty() {
                return;
            }
            for subject in &subjects {
                for binding in self.by_subject.get(subject).into_iter().flatten() {
                    let wanted = if cluster { "" } else { namespace };
                    if binding.namespace != wanted {
                        continue;
                    }
                    let shown = binding.subjects.iter().find(|(s, _)| s == subject).map_or("", |(_, text)| text);
                    let origin = Origin { binding, subject: shown };
                    match self.roles.get(&binding.role) {
                        Some(rules) => {
                            for rule in rules.iter() {
                                if !visit(&origin, Ok(rule)) {
                                    return;
                                }
                            }
                        }
                        None => {
                            if !visit(&origin, Err(not_found(&binding.role))) {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }
}

fn role_ref(key: &str) -> RoleRef {
    let (namespace, name) = split(key);
    RoleRef { namespace: namespace.into(), name: name.into() }
}

/// The text for a role that is missing.
pub fn not_found(role: &RoleRef) -> String {
    let kind = if role.namespace.is_empty() { "clusterrole" } else { "role" };
    format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name)
}

/// A subject and its text.
fn subject(view: SubjectView, binding_namespace: &str) -> Option<(Subject, String)> {
    match view.kind.as_str() {
        "User" => Some((Subject::User(view.name.clone()), format!("User {:?}", view.name))),
        "Group" => Some((Subject::Group(view.name.clone()), format!("Group {:?}", view.name))),
        "ServiceAccount" => {
            let namespace = if view.namespace.is_empty() { binding_namespace } else { &view.namespace };
            if namespace.is_empty() {
                return None;
            }
            let user = format!("system:serviceaccount:{namespace}:{}", view.name);
            Some((Subject::User(user), format!("ServiceAccount {:?}", format!("{}/{namespace}", view.name))))
        }
        _ => None,
    }
}
