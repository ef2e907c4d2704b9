//! What docs/compatibility.md says is served is what the server serves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use orkd_tests::kubectl::Kubectl;
use serde_json::Value;

/// Verbs as upstream's documentation orders them.
const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

#[test]
fn the_table_of_served_resources_is_discovery() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let path = orkd_tests::root().join("docs/compatibility.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let written = rows(&text)?;

    let cluster = Cluster::control_plane(&[])?;
    let served = discovery(&cluster.kubectl()?)?;

    let written: BTreeSet<&str> = written.iter().map(String::as_str).collect();
    let seen: BTreeSet<&str> = served.iter().map(String::as_str).collect();
    let missing: Vec<&&str> = seen.difference(&written).collect();
    let wrong: Vec<&&str> = written.difference(&seen).collect();
    ensure!(
        missing.is_empty() && wrong.is_empty(),
        "docs/compatibility.md is not what is served.\nserved, not written: {missing:#?}\nwritten, not served: \
         {wrong:#?}\nThe whole table:\n{}",
        served.join("\n")
    );
    Ok(())
}

/// The rows of the table between the two marks, as they are written.
fn rows(text: &str) -> Result<Vec<String>> {
    let (_, rest) = text.split_once("<!-- served: begin -->").context("no begin mark")?;
    let (table, _) = rest.split_once("<!-- served: end -->").context("no end mark")?;
    Ok(table.lines().filter(|l| l.starts_with("| `")).map(|l| l.trim_end().to_owned()).collect())
}

/// The rows that discovery gives: one for each resource of each version, with its subresources.
fn discovery(k: &Kubectl<'_>) -> Result<Vec<String>> {
    let get = |path: &str| -> Result<Value> { Ok(serde_json::from_str(&k.ok(&format!("get --raw {path}"))?)?) };
    let mut paths = vec![("v1".to_owned(), "/api/v1".to_owned())];
    for group in get("/apis")?["groups"].as_array().context("groups")? {
        for version in group["versions"].as_array().context("versions")? {
            let name = version["groupVersion"].as_str().context("groupVersion")?;
            paths.push((name.to_owned(), format!("/apis/{name}")));
        }
    }
    let mut rows = Vec::new();
    for (version, path) in paths {
        let list = get(&path)?;
        let mut resources: BTreeMap<&str, (&Value, Vec<String>)> = BTreeMap::new();
        let all = list["resources"].as_array().context("resources")?;
        for resource in all {
            let name = resource["name"].as_str().context("name")?;
            if !name.contains('/') {
                resources.insert(name, (resource, Vec::new()));
            }
        }
        for resource in all {
            let name = resource["name"].as_str().context("name")?;
            if let Some((parent, sub)) = name.split_once('/') {
                let (_, subs) = resources.get_mut(parent).with_context(|| format!("{name} has no parent"))?;
                subs.push(format!("{sub} ({})", verbs(resource)));
            }
        }
        for (name, (resource, mut subs)) in resources {
            subs.sort();
            let scope = if resource["namespaced"] == true { "namespace" } else { "cluster" };
            let subs = if subs.is_empty() { "-".to_owned() } else { subs.join(", ") };
            rows.push(format!("| `{version}` | `{name}` | {scope} | {} | {subs} |", verbs(resource)));
        }
    }
    Ok(rows)
}

/// The verbs of a resource, short: `all` stands for all eight.
fn verbs(resource: &Value) -> String {
    let has: BTreeSet<&str> = resource["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if has.len() == VERBS.len() && VERBS.iter().all(|v| has.contains(v)) {
        return "all".into();
    }
    let known = VERBS.iter().copied().filter(|v| has.contains(v));
    let others = has.iter().copied().filter(|v| !VERBS.contains(v));
    known.chain(others).collect::<Vec<_>>().join(" ")
}
