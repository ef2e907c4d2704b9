//! The answers of a v1.36 server to bad input and its discovery documents, for the kinds served.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{cluster, config_map};

fn recorded(file: &str) -> Option<Value> {
    let root = std::env::var_os("ORKD_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join("kubernetes-1.36/recorded").join(file);
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("recorded facts are JSON")),
        Err(_) => {
            eprintln!("skipped: no ../shared ({file})");
            None
        }
    }
}

/// Cases whose answer is that of a plugin or an allocator, which this crate's composition adds.
const BY_OTHERS: &[&str] = &["E ns not found", "E serviceaccount missing", "E clusterip range", "E nodeport range"];

#[tokio::test]
async fn bad_input_gets_upstreams_answer() {
    let Some(cases) = recorded("errors.json") else { return };
    let cluster = cluster().await;
    let cm = "/api/v1/namespaces/default/configmaps";
    assert_eq!(cluster.post(cm, config_map("kube-root-ca.crt", "x")).await.0, 201);
    let served = |path: &str| {
        let parts: Vec<&str> = path.split(['?']).next().unwrap_or_default().split('/').collect();
        let (group, rest) = if parts[1] == "api" { ("", &parts[3..]) } else { (parts[2], &parts[4..]) };
        let plural = if rest[0] == "namespaces" && rest.len() > 2 { rest[2] } else { rest[0] };
        plural == "widgets" || cluster.server.resource(group, plural).is_ok()
    };
    let mut failures = Vec::new();
    let (mut tried, mut skipped) = (0, 0);
    for case in cases.as_array().expect("list") {
        let name = case["case"].as_str().unwrap_or_default();
        let path = case["path"].as_str().unwrap_or_default();
        if !served(path) || BY_OTHERS.contains(&name) {
            skipped += 1;
            continue;
        }
        tried += 1;
        let query = case["query"].as_str().unwrap_or_default();
        let url = match (query, path.contains('?')) {
            ("", _) => path.to_owned(),
            (q, true) => format!("{path}&{q}"),
            (q, false) => format!("{path}?{q}"),
        };
        let body = match &case["request"] {
            Value::Null => Vec::new(),
            Value::String(s) => s.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        };
        let content_type = case["contentType"].as_str().unwrap_or_default();
        let method = case["method"].as_str().unwrap_or_default();
        let (code, mut answer) = cluster.send(method, &url, &body, &[("content-type", content_type)]).await;
        let mut expected = case["response"].clone();
        if name == "E rv too large" {
            // The revision that stands is another on each server.
            answer["message"] = answer["message"].as_str().unwrap_or_default().split(", current").next().into();
            expected["message"] = expected["message"].as_str().unwrap_or_default().split(", current").next().into();
        }
        if u64::from(code) != case["status"].as_u64().unwrap_or(0) || answer != expected {
            failures.push(format!("{name}\n  want {} {expected}\n  have {code} {answer}", case["status"]));
        }
    }
    assert!(failures.is_empty(), "{} of {tried} differ ({skipped} skipped)\n{}", failures.len(), failures.join("\n"));
}

/// Where a document says how the server is reached: that of the recording is not ours.
fn without_addresses(mut document: Value) -> Value {
    if let Some(map) = document.as_object_mut() {
        map.remove("serverAddressByClientCIDRs");
    }
    document
}

/// The differences of two values by their paths.
fn differences(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differences(&format!("{path}.{key}"), &ours[key], &theirs[key], out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), a, b, out);
            }
        }
        _ if ours == theirs => {}
        _ => out.push(format!("{path}\n  ours   {ours}\n  theirs {theirs}")),
    }
}

#[tokio::test]
async fn discovery_is_as_recorded() {
    let cluster = cluster().await;
    let root = PathBuf::from(std::env::var_os("ORKD_SHARED").unwrap_or_else(|| "../../../shared".into()));
    let Ok(files) = std::fs::read_dir(root.join("kubernetes-1.36/recorded/discovery")) else {
        eprintln!("skipped: no ../shared");
        return;
    };
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in files {
        let name = file.expect("entry").file_name().into_string().expect("name");
        let stem = name.trim_end_matches(".json");
        // The version is that of the program; the paths name upstream's checks and post-start hooks one by one (below).
        if matches!(stem, "version" | "paths") {
            continue;
        }
        let (url, accept) = match stem.strip_suffix("-aggregated") {
            Some(stem) => (format!("/{stem}"), aggregated),
            None => (format!("/{}", stem.replace("__", "/")), "application/json"),
        };
        let theirs = recorded(&format!("discovery/{name}")).expect("the file was listed");
        let (code, ours) = cluster.send("GET", &url, b"", &[("accept", accept)]).await;
        assert_eq!(code, 200, "{url}");
        seen += 1;
        differences(&name, &without_addresses(ours), &without_addresses(theirs), &mut wrong);
    }
    assert!(seen >= 25, "{seen} documents");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_paths_are_those_recorded() {
    /// What is not served: pages about flags and state, and what only servers that issue tokens have.
    const NOT_HERE: [&str; 4] = ["/.well-known/openid-configuration", "/flagz", "/openid/v1/jwks", "/statusz"];
    let cluster = cluster().await;
    let Some(theirs) = recorded("discovery/paths.json") else { return };
    let is_check = |path: &&str| ["/healthz/", "/livez/", "/readyz/"].iter().any(|kind| path.starts_with(kind));
    let (_, ours) = cluster.get("/").await;
    let list = |v: &Value| -> Vec<String> {
        v["paths"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (ours, theirs) = (list(&ours), list(&theirs));
    assert!(ours.is_sorted() && theirs.is_sorted());
    let others = |all: &[String]| -> BTreeSet<String> {
        let all = all.iter().map(String::as_str);
        all.filter(|p| !is_check(p) && !NOT_HERE.contains(p)).map(str::to_owned).collect()
    };
    assert_eq!(others(&ours), others(&theirs));
    let checks = |all: &[String]| all.iter().filter(|p| is_check(&p.as_str())).cloned().collect::<BTreeSet<_>>();
    let missing: Vec<String> = checks(&theirs).difference(&checks(&ours)).cloned().collect();
    // Our own requests do not go over a socket, and need no certificate for it.
    assert!(missing.iter().all(|p| p.ends_with("/loopback-serving-certificate")), "{missing:?}");
    // Each check can be asked by itself.
    for path in ours.iter().map(String::as_str).filter(is_check) {
        assert_eq!(cluster.raw("GET", path, b"", &[]).await.status(), 200, "{path}");
    }
    for path in ["/livez/ping", "/readyz/shutdown", "/healthz/poststarthook/rbac/bootstrap-roles"] {
        assert!(ours.iter().any(|p| p == path) && theirs.iter().any(|p| p == path), "{path}");
    }
}

#[tokio::test]
async fn what_the_version_says_is_what_clients_read() {
    let cluster = cluster().await;
    let Some(theirs) = recorded("discovery/version.json") else { return };
    let (_, ours) = cluster.get("/version").await;
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>());
    assert_eq!(keys(&ours), keys(&theirs));
    for field in
        ["major", "minor", "emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"]
    {
        assert_eq!(ours[field], theirs[field], "{field}");
    }
}

#[tokio::test]
async fn columns_are_as_recorded() {
    let cluster = cluster().await;
    let Some(all) = recorded("table-columns.json") else { return };
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (url, theirs) in all.as_object().expect("map") {
        let (code, table) = cluster.send("GET", url, b"", &[("accept", accept)]).await;
        // Built with its handler in the whole composition only.
        if url == "/api/v1/componentstatuses" && code == 404 {
            continue;
        }
        assert_eq!((code, &table["kind"]), (200, &Value::from("Table")), "{url}: {table}");
        let mut ours = table["columnDefinitions"].clone();
        for column in ours.as_array_mut().into_iter().flatten() {
            column.as_object_mut().expect("column").remove("description");
        }
        assert_eq!(&ours, theirs, "{url}");
    }
}
