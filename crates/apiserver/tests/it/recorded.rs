//! The answers of a v1.36 server to bad input and its discovery documents, for the kinds served.

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

#[tokio::test]
async fn discovery_is_as_recorded_for_what_is_served() {
    let cluster = cluster().await;
    for (url, file) in [
        ("/api/v1", "discovery/api__v1.json"),
        ("/apis/apps/v1", "discovery/apis__apps__v1.json"),
        ("/apis/rbac.authorization.k8s.io/v1", "discovery/apis__rbac.authorization.k8s.io__v1.json"),
        ("/apis/coordination.k8s.io/v1", "discovery/apis__coordination.k8s.io__v1.json"),
    ] {
        let Some(expected) = recorded(file) else { return };
        let (code, answer) = cluster.get(url).await;
        assert_eq!(code, 200);
        assert_eq!(answer["apiVersion"], expected["apiVersion"], "{url}");
        assert_eq!(answer["groupVersion"], expected["groupVersion"], "{url}");
        for resource in answer["resources"].as_array().expect("resources") {
            let theirs = expected["resources"]
                .as_array()
                .and_then(|all| all.iter().find(|r| r["name"] == resource["name"]))
                .unwrap_or_else(|| panic!("{resource} is not recorded"));
            assert_eq!(resource, theirs);
        }
    }
    let Some(expected) = recorded("discovery/api-aggregated.json") else { return };
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (_, answer) = cluster.send("GET", "/api", b"", &[("accept", accept)]).await;
    assert_eq!(answer["kind"], "APIGroupDiscoveryList");
    for resource in answer["items"][0]["versions"][0]["resources"].as_array().expect("resources") {
        let theirs = expected["items"][0]["versions"][0]["resources"]
            .as_array()
            .and_then(|all| all.iter().find(|r| r["resource"] == resource["resource"]))
            .unwrap_or_else(|| panic!("{resource} is not recorded"));
        assert_eq!(resource, theirs);
    }
}
