//! URL and query become a [`RequestInfo`] (`k8s.io/apiserver/pkg/endpoints/request.RequestInfoFactory`).

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path is below `/api/VERSION/` or `/apis/GROUP/VERSION/` and names a resource.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// Verb: `get list watch create update patch delete deletecollection`, `proxy` is not one; for other paths
    /// the lower-case method.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace; empty for cluster-wide. For `/api/v1/namespaces/X` it is X.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// First part after the name, such as `status`; empty for the object itself.
    pub subresource: String,
    /// Object name; empty for collections.
    pub name: String,
    /// What follows the subresource (`proxy` paths), without a leading slash.
    pub rest: String,
}
