//! A request as rules and expressions see it.

use orkd_api::kind::{Name, ResourceInfo};

use super::super::{Operation, Request};

/// Group, version and kind of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyKind {
    /// API group.
    pub group: Name,
    /// Version.
    pub version: Name,
    /// Kind.
    pub kind: Name,
}

/// `group/version, Kind=kind`, as upstream prints it.
impl std::fmt::Display for BodyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// A resource in one of its versions, and the kind of what is sent there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// API group.
    pub group: Name,
    /// Version.
    pub version: Name,
    /// Plural resource.
    pub resource: Name,
    /// What the body is.
    pub body: BodyKind,
}

impl Door {
    /// The door of a resource or subresource.
    pub fn of(info: &ResourceInfo, subresource: &str) -> Door {
        let sub = info.subresources.iter().find(|s| s.name == subresource);
        Door {
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.plural.clone(),
            body: BodyKind {
                group: sub.and_then(|s| s.group.clone()).unwrap_or_else(|| info.group.clone()),
                version: sub.and_then(|s| s.version.clone()).unwrap_or_else(|| info.version.clone()),
                kind: sub.map_or_else(|| info.kind.clone(), |s| s.kind.clone()),
            },
        }
    }

    /// Whether this is the resource of namespaces.
    pub fn is_namespaces(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }
}

/// A request (`admission.Attributes`, as far as matching goes).
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// What is done.
    pub operation: Operation,
    /// Where the request came in.
    pub own: Door,
    /// The same storage in its other versions and groups.
    pub others: Vec<Door>,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; of a Namespace its own name; empty for what else is cluster-wide.
    pub namespace: &'a str,
    /// Name; may be empty on create with `generateName`.
    pub name: &'a str,
}

impl<'a> Asked<'a> {
    /// A request, and the doors beside its own.
    pub fn new(request: &'a Request<'_>, others: Vec<Door>) -> Asked<'a> {
        let own = Door::of(request.resource, request.subresource);
        let namespace = if own.is_namespaces() { request.name } else { request.namespace };
        Asked {
            operation: request.operation,
            own,
            others,
            subresource: request.subresource,
            namespace,
            name: request.name,
        }
    }
}
