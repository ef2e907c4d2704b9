//! Discovery: `/api`, `/apis`, the lists of group versions, the aggregated form, `/version`.
//!
//! All of it derives from the resources served. Upstream: `endpoints/discovery`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use orkd_api::kind::{ResourceInfo, Scope};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Body;
use crate::health;
use crate::negotiation::{Format, Wanted};
use crate::pipeline::ApiServer;
use crate::resources::{Resources, api_version};
use crate::respond;

/// Groups in the order in which upstream lists them; others follow by name.
const ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Groups and their versions, preferred first, in the order of discovery.
pub fn groups(resources: &Resources) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for resource in resources.iter() {
        let info = resource.info();
        match groups.iter_mut().find(|(g, _)| *g == info.group) {
            Some((_, versions)) => {
                if !versions.iter().any(|v| *v == info.version) {
                    versions.push(info.version.to_string());
                }
            }
            None => groups.push((info.group.to_string(), vec![info.version.to_string()])),
        }
    }
    let rank = |g: &str| ORDER.iter().position(|o| *o == g).unwrap_or(ORDER.len());
    groups.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then(a.cmp(b)));
    for (_, versions) in &mut groups {
        // v2 before v1 before v1beta1.
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
    }
    groups
}

/// Stable versions first, the higher the better (`version.CompareKubeAwareVersionStrings`).
fn priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let digits = |s: &str| s.parse::<u32>().unwrap_or(0);
    if let Some((major, minor)) = rest.split_once("beta") {
        (2, digits(major), digits(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (1, digits(major), digits(minor))
    } else {
        (3, digits(rest), 0)
    }
}

/// A hash of the version in which a kind is stored.
fn storage_version_hash(info: &ResourceInfo) -> String {
    // Upstream stores these in an older version; clients compare the hash, so it is upstream's.
    let version = match &*info.kind {
        "CustomResourceDefinition" | "MutatingAdmissionPolicy" | "MutatingAdmissionPolicyBinding" => "v1beta1",
        _ => &info.version,
    };
    let digest = Sha256::digest(format!("{}/{version}/{}", info.group, info.kind));
    STANDARD.encode(&digest[..8])
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let version = |v: &str| json!({"groupVersion": api_version(group, v), "version": v});
    json!({
        "name": group,
        "versions": versions.iter().map(|v| version(v)).collect::<Vec<_>>(),
        "preferredVersion": version(&versions[0]),
    })
}

fn resource_list(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let mut list: Vec<Value> = Vec::new();
    for resource in resources.iter().filter(|r| r.info().group == group && r.info().version == version) {
        let info = resource.info();
        let namespaced = info.scope == Scope::Namespaced;
        let mut main = json!({
            "name": info.plural, "singularName": info.singular, "namespaced": namespaced, "kind": info.kind,
            "verbs": info.verbs,
        });
        if !info.short_names.is_empty() {
            main["shortNames"] = json!(info.short_names);
        }
        if !info.categories.is_empty() {
            main["categories"] = json!(info.categories);
        }
        if let Some(cache) = &resource.cache {
            main["storageVersionHash"] = json!(storage_version_hash(cache.kind.info()));
        }
        list.push(main);
        for sub in &info.subresources {
            let mut value = json!({
                "name": format!("{}/{}", info.plural, sub.name), "singularName": "", "namespaced": namespaced,
                "kind": sub.kind, "verbs": sub.verbs,
            });
            if let Some(group) = &sub.group {
                value["group"] = json!(group);
            }
            if let Some(version) = &sub.version {
                value["version"] = json!(version);
            }
            list.push(value);
        }
    }
    if list.is_empty() {
        return None;
    }
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut value = json!({
        "kind": "APIResourceList", "groupVersion": api_version(group, version), "resources": list,
    });
    if !group.is_empty() {
        value["apiVersion"] = json!("v1");
    }
    Some(value)
}

fn aggregated(resources: &Resources, legacy: bool) -> Value {
    let mut items = Vec::new();
    for (group, versions) in groups(resources).into_iter().filter(|(g, _)| g.is_empty() == legacy) {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let mut list: Vec<Value> = resources
                    .iter()
                    .filter(|r| r.info().group == group && r.info().version == **version)
                    .map(|r| aggregated_resource(r.info()))
                    .collect();
                list.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
                json!({"version": version, "resources": list, "freshness": "Current"})
            })
            .collect();
        let metadata = if legacy { json!({}) } else { json!({"name": group}) };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(info: &ResourceInfo) -> Value {
    let scope = if info.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let mut value = json!({
        "resource": info.plural, "responseKind": {"group": "", "version": "", "kind": info.kind}, "scope": scope,
        "singularResource": info.singular, "verbs": info.verbs,
    });
    if !info.short_names.is_empty() {
        value["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        value["categories"] = json!(info.categories);
    }
    if !info.subresources.is_empty() {
        let subs: Vec<Value> = info
            .subresources
            .iter()
            .map(|s| {
                json!({
                    "subresource": s.name,
                    "responseKind": {
                        "group": s.group.as_deref().unwrap_or_default(),
                        "version": s.version.as_deref().unwrap_or_default(),
                        "kind": s.kind,
                    },
                    "verbs": s.verbs,
                })
            })
            .collect();
        value["subresources"] = json!(subs);
    }
    value
}

/// Whether a client asks for the aggregated form, which every kubectl does first. The version it asks for.
fn asks_aggregated(parts: &Parts) -> Option<&'static str> {
    let header = parts.headers.get(ACCEPT)?.to_str().ok()?;
    header.split(',').find_map(|clause| {
        let mut pieces = clause.split(';').map(str::trim);
        let media = pieces.next()?;
        let params: Vec<&str> = pieces.collect();
        let fits = media == "application/json"
            && params.contains(&"g=apidiscovery.k8s.io")
            && params.contains(&"as=APIGroupDiscoveryList");
        (fits && params.contains(&"v=v2")).then_some("v2")
    })
}

/// Answers below `/api` and `/apis`.
pub fn serve(server: &ApiServer, parts: &Parts, wanted: &Wanted, segments: &[&str]) -> Option<Response<Body>> {
    let resources = server.resources();
    let value = match segments {
        ["api"] | ["apis"] => {
            let legacy = segments[0] == "api";
            if asks_aggregated(parts).is_some() {
                return Some(with_etag(parts, wanted, &aggregated(&resources, legacy)));
            }
            if legacy {
                json!({
                    "kind": "APIVersions", "versions": ["v1"],
                    "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address(parts)}],
                })
            } else {
                let all = groups(&resources);
                let list: Vec<Value> =
                    all.iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| group_value(g, v)).collect();
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
            }
        }
        ["api", version] => resource_list(&resources, "", version)?,
        ["apis", group] => {
            let all = groups(&resources);
            let (group, versions) = all.iter().find(|(g, _)| g == group && !g.is_empty())?;
            let mut value = group_value(group, versions);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            value
        }
        ["apis", group, version] if !group.is_empty() => resource_list(&resources, group, version)?,
        _ => return None,
    };
    Some(respond::object(wanted, 200, &value))
}

fn address(parts: &Parts) -> String {
    let header = parts.headers.get(HOST).and_then(|v| v.to_str().ok());
    header.or(parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default().to_owned()
}

fn with_etag(parts: &Parts, wanted: &Wanted, value: &Value) -> Response<Body> {
    let bytes = crate::codec::encode(value);
    let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
    let known = parts.headers.get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::json(&Wanted { format: Format::Json, ..*wanted }, 200, bytes)
    };
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    );
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// Answers `/version`.
pub fn version(server: &ApiServer, wanted: &Wanted) -> Response<Body> {
    let value = json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": server.git_version(), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
    });
    respond::object(wanted, 200, &value)
}

/// The architecture as Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers `/`: the paths served, each health check with its own.
pub async fn root(server: &ApiServer, wanted: &Wanted) -> Response<Body> {
    const ALWAYS: [&str; 9] = [
        "/api",
        "/apis",
        "/apis/",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/version",
    ];
    let mut paths: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
    for (group, versions) in groups(&server.resources()) {
        let base = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        paths.extend(versions.iter().map(|v| format!("{base}/{v}")));
        paths.push(base);
    }
    paths.extend(server.fixed_paths().map(str::to_owned));
    for kind in health::KINDS {
        paths.push(format!("/{kind}"));
        paths.extend(health::names(server, kind).await.into_iter().map(|check| format!("/{kind}/{check}")));
    }
    paths.sort();
    paths.dedup();
    respond::object(wanted, 200, &json!({"paths": paths}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_maturity() {
        let mut versions = vec!["v1beta1", "v1", "v2", "v1alpha1", "v2beta2"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v2", "v1", "v2beta2", "v1beta1", "v1alpha1"]);
    }

    #[test]
    fn hashes_are_upstreams() {
        let digest = Sha256::digest("/v1/ConfigMap");
        assert_eq!(STANDARD.encode(&digest[..8]), "qFsyl6wFWjQ=");
    }
}
