//! Discovery: `/api`, `/apis`, the lists of group versions, the aggregated form, `/version`.
//!
//! All of it derives from the resources served. Upstream: `endpoints/discovery`.

use std::cmp::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use orkd_api::kind::{ResourceInfo, Scope};
use orkd_api::status::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::Body;
use crate::health;
use crate::negotiation::{self, Format, Offer, Wanted};
use crate::pipeline::ApiServer;
use crate::query::Query;
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
        versions.sort_by(|a, b| by_maturity(a, b));
    }
    groups
}

/// The order of versions in discovery: stable before beta before alpha, newer before older, versions of another form last
/// and by name (`version.CompareKubeAwareVersionStrings`, the other way round).
fn by_maturity(a: &str, b: &str) -> Ordering {
    match (maturity(a), maturity(b)) {
        (None, None) => a.cmp(b),
        (a, b) => b.cmp(&a),
    }
}

/// What `v1` or `v1beta2` says: how stable, and the two numbers.
fn maturity(version: &str) -> Option<(u8, u64, u64)> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let rest = version.strip_prefix('v')?;
    let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) else { return Some((3, number(rest)?, 0)) };
    let (major, minor) = rest.split_at(end);
    let (stage, minor) = match (minor.strip_prefix("beta"), minor.strip_prefix("alpha")) {
        (Some(minor), _) => (2, minor),
        (_, Some(minor)) => (1, minor),
        _ => return None,
    };
    Some((stage, number(major)?, number(minor)?))
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

/// Answers below `/api` and `/apis`.
pub fn serve(
    server: &ApiServer,
    parts: &Parts,
    query: &Query,
    segments: &[&str],
) -> Result<Option<Response<Body>>, Status> {
    let resources = server.resources();
    // Upstream's router has routes for these; the others have handlers of their own.
    let is_routed = match segments {
        ["api", ..] => true,
        ["apis", group, version] => {
            resources.built_in().any(|r| r.info().group == *group && r.info().version == *version)
        }
        _ => false,
    };
    if is_routed {
        negotiation::check_route(&parts.headers, &negotiation::DOCUMENTS)?;
    }
    let is_root = matches!(segments, ["api"] | ["apis"]);
    if is_root && let Some(wanted) = negotiation::aggregated_discovery(&parts.headers, query) {
        return Ok(Some(with_etag(parts, &wanted, &aggregated(&resources, segments[0] == "api"))));
    }
    let Some(value) = document(&resources, parts, segments) else { return Ok(None) };
    let wanted = negotiation::negotiate(&parts.headers, query, Offer::Plain)?;
    let mut response = respond::object(&wanted, 200, &value);
    if is_root {
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    }
    Ok(Some(response))
}

/// A document of discovery that is not aggregated.
fn document(resources: &Resources, parts: &Parts, segments: &[&str]) -> Option<Value> {
    match segments {
        ["api"] => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address(parts)}],
        })),
        ["apis"] => {
            let all = groups(resources);
            let list: Vec<Value> = all.iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| group_value(g, v)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}))
        }
        ["api", version] => resource_list(resources, "", version),
        ["apis", group] => {
            let all = groups(resources);
            let (group, versions) = all.iter().find(|(g, _)| g == group && !g.is_empty())?;
            let mut value = group_value(group, versions);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            Some(value)
        }
        ["apis", group, version] if !group.is_empty() => resource_list(resources, group, version),
        _ => None,
    }
}

fn address(parts: &Parts) -> String {
    let header = parts.headers.get(HOST).and_then(|v| v.to_str().ok());
    header.or(parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default().to_owned()
}

/// Answers with aggregated discovery, or that the client has it already (`aggregated/etag.go`). The tag is of the JSON
/// form, whatever form is sent.
fn with_etag(parts: &Parts, wanted: &Wanted, value: &Value) -> Response<Body> {
    let tag = format!("\"{}\"", hex::encode_upper(Sha512::digest(crate::codec::encode(value))));
    let known = parts.headers.get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = respond::object(wanted, 200, value);
        let media = format!("{};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", wanted.format.media_type());
        if let Ok(media) = HeaderValue::from_str(&media) {
            response.headers_mut().insert(CONTENT_TYPE, media);
        }
        response
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// Answers `/version`: always JSON for people (`routes.Version`).
pub fn version(server: &ApiServer, parts: &Parts) -> Result<Response<Body>, Status> {
    negotiation::check_route(&parts.headers, &[Format::Json.media_type()])?;
    let value = json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": server.git_version(), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
    });
    Ok(respond::object(&raw(parts), 200, &value))
}

/// JSON for people, whatever is asked for (`responsewriters.WriteRawJSON`).
fn raw(parts: &Parts) -> Wanted {
    Wanted { gzip: negotiation::accepts_gzip(&parts.headers), ..Wanted::fallback() }
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
pub async fn root(server: &ApiServer, parts: &Parts) -> Response<Body> {
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
    respond::object(&raw(parts), 200, &json!({"paths": paths}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_maturity() {
        let wanted = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10",
            "v1beta",
            "vfoo",
            "v1gamma1",
        ];
        let mut wanted = wanted.to_vec();
        wanted[8..].sort_unstable();
        let mut versions = wanted.clone();
        versions.reverse();
        versions.sort_by(|a, b| by_maturity(a, b));
        assert_eq!(versions, wanted);
    }

    #[test]
    fn hashes_are_upstreams() {
        let digest = Sha256::digest("/v1/ConfigMap");
        assert_eq!(STANDARD.encode(&digest[..8]), "qFsyl6wFWjQ=");
    }
}
