//! URL and query become a [`RequestInfo`] (`k8s.io/apiserver/pkg/endpoints/request.RequestInfoFactory`).

use crate::names::is_path_segment;
use crate::query::Query;
use crate::selector::FieldSelector;

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
    /// Object name; empty for collections. A list or watch of `metadata.name=X` has it, too.
    pub name: String,
    /// What follows the subresource (`proxy` paths), without a leading slash.
    pub rest: String,
    /// The field selector of a list, watch or deletecollection, as it was sent.
    pub field_selector: String,
    /// Its label selector, as it was sent.
    pub label_selector: String,
}

/// Understands a request line. `None` for a path that is wrongly formed (`/api/v1/watch`).
pub fn route(method: &http::Method, raw_path: &str, query: &Query) -> Option<RequestInfo> {
    let path = percent_encoding::percent_decode_str(raw_path).decode_utf8_lossy().into_owned();
    let mut info =
        RequestInfo { verb: method.as_str().to_ascii_lowercase(), path: path.clone(), ..RequestInfo::default() };
    let trimmed = path.trim_matches('/');
    let all: Vec<&str> = if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').collect() };
    let mut parts = all.as_slice();
    match parts {
        ["api", rest @ ..] if rest.len() >= 2 => parts = rest,
        ["apis", group, rest @ ..] if rest.len() >= 2 => {
            info.group = (*group).to_owned();
            parts = rest;
        }
        _ => return Some(info),
    }
    info.is_resource = true;
    info.version = parts[0].to_owned();
    parts = &parts[1..];
    let mut whole_tail = false;
    if parts[0] == "watch" || parts[0] == "proxy" {
        if parts.len() < 2 {
            return None;
        }
        info.verb = parts[0].to_owned();
        whole_tail = true;
        parts = &parts[1..];
    } else {
        info.verb = match method.as_str() {
            "POST" => "create",
            "GET" | "HEAD" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        }
        .to_owned();
    }
    if parts[0] == "namespaces" && parts.len() > 1 {
        info.namespace = parts[1].to_owned();
        if parts.len() > 2 && parts[2] != "status" && parts[2] != "finalize" {
            parts = &parts[2..];
        }
    }
    info.resource = parts[0].to_owned();
    info.name = parts.get(1).copied().unwrap_or_default().to_owned();
    if !whole_tail && parts.len() > 2 {
        info.subresource = parts[2].to_owned();
        info.rest = tail(&path, &parts[3..]);
    }
    if info.name.is_empty() && info.verb == "get" {
        info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
    }
    if info.name.is_empty() && matches!(info.verb.as_str(), "list" | "watch") {
        let name = FieldSelector::parse(query.text("fieldSelector"))
            .ok()
            .and_then(|s| s.exact("metadata.name").map(str::to_owned))
            .filter(|name| !name.is_empty() && is_path_segment(name));
        info.name = name.unwrap_or_default();
    }
    if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".to_owned();
    }
    if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        info.field_selector = query.text("fieldSelector").to_owned();
        info.label_selector = query.text("labelSelector").to_owned();
    }
    Some(info)
}

/// The parts joined, with the trailing slash of the path, which proxied servers may need.
fn tail(path: &str, parts: &[&str]) -> String {
    let mut rest = parts.join("/");
    if !rest.is_empty() && path.ends_with('/') {
        rest.push('/');
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verb group/version namespace resource name subresource rest`, `-` for empty.
    fn check(request: &str, expected: &str) {
        let (method, url) = request.split_once(' ').unwrap_or_default();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let method = method.parse().unwrap_or_default();
        let text = match route(&method, path, &Query::parse(query)) {
            None => "none".to_owned(),
            Some(i) if !i.is_resource => format!("{} {}", i.verb, i.path),
            Some(i) => {
                let dash = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
                let texts = [&i.namespace, &i.resource, &i.name, &i.subresource, &i.rest].map(|s| dash(s));
                format!("{} {}/{} {}", dash(&i.verb), i.group, i.version, texts.join(" "))
            }
        };
        assert_eq!(text, expected, "{request}");
    }

    #[test]
    fn paths_are_understood_as_upstream_does() {
        check("GET /", "get /");
        check("GET /api", "get /api");
        check("GET /api/v1", "get /api/v1");
        check("GET /apis/apps/v1", "get /apis/apps/v1");
        check("GET /healthz/ping", "get /healthz/ping");
        check("GET /api/v1/pods", "list /v1 - pods - - -");
        check("GET /api/v1/pods?watch=true", "watch /v1 - pods - - -");
        check("GET /api/v1/pods?watch=false", "list /v1 - pods - - -");
        check("GET /api/v1/pods?watch", "watch /v1 - pods - - -");
        check("GET /api/v1/namespaces", "list /v1 - namespaces - - -");
        check("GET /api/v1/namespaces/x", "get /v1 x namespaces x - -");
        check("PUT /api/v1/namespaces/x/finalize", "update /v1 x namespaces x finalize -");
        check("GET /api/v1/namespaces/x/status", "get /v1 x namespaces x status -");
        check("POST /api/v1/namespaces/x/pods", "create /v1 x pods - - -");
        check("DELETE /api/v1/namespaces/x/pods", "deletecollection /v1 x pods - - -");
        check("DELETE /api/v1/namespaces/x/pods/p", "delete /v1 x pods p - -");
        check("PATCH /apis/apps/v1/namespaces/x/deployments/d/scale", "patch apps/v1 x deployments d scale -");
        check("GET /api/v1/namespaces/x/pods?fieldSelector=metadata.name%3Dp", "list /v1 x pods p - -");
        check("GET /api/v1/watch/namespaces/x/pods/p", "watch /v1 x pods p - -");
        check("GET /api/v1/watch/pods", "watch /v1 - pods - - -");
        check("GET /api/v1/watch", "none");
        check("GET /api/v1/namespaces/x/services/s:80/proxy/a/b/", "get /v1 x services s:80 proxy a/b/");
        check("GET /api/v1/namespaces/x/pods/p%2Fq/log", "get /v1 x pods p q log");
        check("OPTIONS /api/v1/pods", "- /v1 - pods - - -");
    }
}
