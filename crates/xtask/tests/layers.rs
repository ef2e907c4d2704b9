//! The arrows between our crates are those of `layers.toml`, and `api` and `cel` have no async, no IO and no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crates by short name, each with the names of its normal dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages is a list");
    let name = |p: &Value| p["name"].as_str().expect("a package has a name").trim_start_matches("orkd-").to_owned();
    packages
        .iter()
        .map(|p| {
            let deps = p["dependencies"].as_array().expect("dependencies is a list");
            (name(p), deps.iter().filter(|d| d["kind"].is_null()).map(name).collect())
        })
        .collect()
}

/// `layers.toml`: lines `name = ["a", "b"]`.
fn layers() -> BTreeMap<String, BTreeSet<String>> {
    include_str!("../layers.toml")
        .lines()
        .filter(|l| !l.starts_with('#') && !l.trim().is_empty())
        .map(|l| {
            let (name, list) = l.split_once('=').expect("a line is name = [list]");
            let list = list.trim().trim_start_matches('[').trim_end_matches(']');
            let items = list.split(',').map(|s| s.trim().trim_matches('"').to_owned()).filter(|s| !s.is_empty());
            (name.trim().to_owned(), items.collect())
        })
        .collect()
}

#[test]
fn crates_use_only_what_the_layers_allow() {
    let layers = layers();
    let found = dependencies();
    for (name, deps) in &found {
        if matches!(name.as_str(), "xtask" | "tests") {
            continue;
        }
        let allowed = layers.get(name).unwrap_or_else(|| panic!("crate {name} is missing from layers.toml"));
        for dep in deps.iter().filter(|d| found.contains_key(*d)) {
            assert!(allowed.contains(dep), "{name} may not depend on {dep}: see layers.toml");
        }
    }
}

#[test]
fn api_and_cel_have_no_async_and_no_io() {
    let found = dependencies();
    for banned in ["tokio", "async-trait", "futures-util", "hyper", "nix", "rustix"] {
        for name in ["api", "cel"] {
            assert!(!found[name].contains(banned), "{name} may not depend on {banned}");
        }
    }
}
