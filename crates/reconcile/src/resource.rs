//! Where objects are: URLs of the API.

use std::borrow::Cow;
use std::fmt;

use crate::View;

/// A served resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// API group; empty for core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// Plural in URLs.
    pub plural: Cow<'static, str>,
    /// Kind.
    pub kind: Cow<'static, str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// The resource of a view.
    pub const fn of<T: View>() -> Self {
        Resource {
            group: Cow::Borrowed(T::GROUP),
            version: Cow::Borrowed(T::VERSION),
            plural: Cow::Borrowed(T::PLURAL),
            kind: Cow::Borrowed(T::KIND),
            namespaced: T::NAMESPACED,
        }
    }

    /// A resource without a view.
    pub const fn new(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Self {
        Resource {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// One object. The namespace is ignored for cluster-wide resources.
    pub fn at(&self, namespace: &str, name: &str) -> Target {
        let mut target = self.collection(namespace);
        target.path.push('/');
        push_segment(&mut target.path, name);
        target
    }

    /// The objects of one namespace, or of all with an empty one.
    pub fn collection(&self, namespace: &str) -> Target {
        let mut path = String::with_capacity(64);
        if self.group.is_empty() {
            path.push_str("/api/");
        } else {
            path.push_str("/apis/");
            path.push_str(&self.group);
            path.push('/');
        }
        path.push_str(&self.version);
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            push_segment(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        Target { path }
    }
}

impl fmt::Display for Resource {
    /// `pods` or `deployments.apps`, as upstream prints group-resources.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plural)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// The path of an object, a subresource or a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) path: String,
}

impl Target {
    /// A subresource of the object, such as `status`.
    pub fn sub(&self, name: &str) -> Target {
        Target { path: format!("{}/{name}", self.path) }
    }

    /// Any absolute path.
    pub fn path(path: impl Into<String>) -> Target {
        Target { path: path.into() }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.path
    }
}

/// Appends a path segment; what may not stand in one is percent-encoded.
fn push_segment(path: &mut String, segment: &str) {
    for byte in segment.bytes() {
        push_byte(path, byte, b"-._~:@!$&'()*,;=");
    }
}

/// Appends `key=value` to a query.
pub(crate) fn push_query(query: &mut String, key: &str, value: &str) {
    query.push(if query.contains('?') { '&' } else { '?' });
    query.push_str(key);
    query.push('=');
    for byte in value.bytes() {
        push_byte(query, byte, b"-._~:,!");
    }
}

fn push_byte(out: &mut String, byte: u8, extra: &[u8]) {
    if byte.is_ascii_alphanumeric() || extra.contains(&byte) {
        out.push(byte as char);
    } else {
        out.push_str(&format!("%{byte:02X}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_the_api_serves_them() {
        let deployments = Resource::new("apps", "v1", "deployments", "Deployment", true);
        assert_eq!(
            deployments.at("ns", "a").sub("status").as_str(),
            "/apis/apps/v1/namespaces/ns/deployments/a/status"
        );
        assert_eq!(deployments.collection("").as_str(), "/apis/apps/v1/deployments");
        let roles = Resource::new("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false);
        assert_eq!(
            roles.at("ignored", "a:b/c d").as_str(),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a:b%2Fc%20d"
        );
        assert_eq!(deployments.to_string(), "deployments.apps");
    }

    #[test]
    fn queries_are_encoded() {
        let mut query = String::from("/x");
        push_query(&mut query, "labelSelector", "a in (b,c)");
        push_query(&mut query, "limit", "5");
        assert_eq!(query, "/x?labelSelector=a%20in%20%28b,c%29&limit=5");
    }
}
