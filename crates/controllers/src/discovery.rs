//! Which resources the API serves, for controllers that care for all of them.
//!
//! Asks for aggregated discovery and takes the plain form where that is not served. Of a resource with several
//! versions the first in the group's order is taken (`ServerPreferredResources`).

use std::collections::BTreeMap;

use orkd_reconcile::{Api, ApiError, PATIENCE, Resource, Target, null_default};
use serde::Deserialize;
use serde_json::Value;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A resource and what can be done with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// The resource.
    pub resource: Resource,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl Served {
    /// Whether a verb is served.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// One entry for each group and plural, in its preferred version.
    pub preferred: Vec<Served>,
    /// Every kind of every version: group, version, kind.
    kinds: BTreeMap<(String, String, String), Resource>,
    /// Groups and versions that could not be asked for, with the reason.
    pub failed: Vec<(String, String)>,
}

impl Discovery {
    /// The resource of a kind, in the version named or else the preferred one.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kinds
            .get(&(group.into(), version.into(), kind.into()))
            .or_else(|| self.preferred.iter().map(|s| &s.resource).find(|r| r.group == group && r.kind == kind))
    }

    /// The kind of a resource of a group and version.
    pub fn kind_of(&self, group: &str, version: &str, plural: &str) -> Option<&str> {
        let found = |r: &&Resource| r.group == group && r.version == version && r.plural == plural;
        self.kinds.values().find(found).map(|r| &*r.kind)
    }

    fn add(&mut self, group: &str, version: &str, resource: PlainResource) {
        if resource.name.contains('/') {
            return;
        }
        let found = Resource {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            plural: resource.name.into(),
            kind: resource.kind.clone().into(),
            namespaced: resource.namespaced,
        };
        self.kinds.insert((group.into(), version.into(), resource.kind), found.clone());
        let known = self.preferred.iter().any(|s| s.resource.group == group && s.resource.plural == found.plural);
        if !known {
            self.preferred.push(Served { resource: found, verbs: resource.verbs });
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PlainResource {
    name: String,
    namespaced: bool,
    kind: String,
    #[serde(deserialize_with = "null_default")]
    verbs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PlainResources {
    #[serde(deserialize_with = "null_default")]
    resources: Vec<PlainResource>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PlainGroups {
    #[serde(deserialize_with = "null_default")]
    groups: Vec<PlainGroup>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PlainGroup {
    name: String,
    #[serde(deserialize_with = "null_default")]
    versions: Vec<GroupVersion>,
    preferred_version: GroupVersion,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupVersion {
    version: String,
}

/// Asks the API what it serves. A group that does not answer is noted and left out.
pub async fn discover(api: &Api) -> Result<Discovery, ApiError> {
    let mut found = Discovery::default();
    for root in ["/api", "/apis"] {
        let answer: Value = api.get_as(&Target::path(root), AGGREGATED).await?;
        if answer["kind"] == "APIGroupDiscoveryList" {
            aggregated(&answer, &mut found);
            continue;
        }
        let versions: Vec<(String, String)> = if root == "/api" {
            vec![(String::new(), "v1".into())]
        } else {
            let groups: PlainGroups = serde_json::from_value(answer).unwrap_or_default();
            groups.groups.into_iter().flat_map(versions_of).collect()
        };
        for (group, version) in versions {
            let path = if group.is_empty() { format!("{root}/{version}") } else { format!("{root}/{group}/{version}") };
            match tokio::time::timeout(PATIENCE, api.get::<PlainResources>(&Target::path(path))).await {
                Ok(Ok(list)) => list.resources.into_iter().for_each(|r| found.add(&group, &version, r)),
                Ok(Err(err)) => found.failed.push((format!("{group}/{version}"), err.message())),
                Err(_) => found.failed.push((format!("{group}/{version}"), "it did not answer in time".into())),
            }
        }
    }
    Ok(found)
}

/// Versions of a group, the preferred one first.
fn versions_of(group: PlainGroup) -> Vec<(String, String)> {
    let preferred = group.preferred_version.version;
    let mut versions: Vec<String> = group.versions.into_iter().map(|v| v.version).collect();
    versions.sort_by_key(|v| *v != preferred);
    versions.into_iter().map(|v| (group.name.clone(), v)).collect()
}

fn aggregated(list: &Value, found: &mut Discovery) {
    for group in list["items"].as_array().into_iter().flatten() {
        let name = group["metadata"]["name"].as_str().unwrap_or("");
        for version in group["versions"].as_array().into_iter().flatten() {
            let version_name = version["version"].as_str().unwrap_or("");
            if version["freshness"] == "Stale" {
                let gv = format!("{name}/{version_name}");
                let why = format!("stale GroupVersion discovery: {gv}");
                found.failed.push((gv, why));
            }
            for resource in version["resources"].as_array().into_iter().flatten() {
                let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
                let verbs = resource["verbs"].as_array().map(|v| v.iter().map(text).collect()).unwrap_or_default();
                let resource = PlainResource {
                    name: text(&resource["resource"]),
                    namespaced: resource["scope"] == "Namespaced",
                    kind: text(&resource["responseKind"]["kind"]),
                    verbs,
                };
                if !resource.name.is_empty() {
                    found.add(name, version_name, resource);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_version_of_a_resource_is_preferred() {
        let resource = |name: &str, kind: &str| json!({"resource": name, "scope": "Namespaced", "responseKind": {"kind": kind}, "verbs": ["list"]});
        let list = json!({"items": [{"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "resources": [resource("as", "A")]},
            {"version": "v1", "resources": [resource("as", "A"), resource("bs", "B")], "freshness": "Stale"},
        ]}]});
        let mut found = Discovery::default();
        aggregated(&list, &mut found);
        let names: Vec<_> = found.preferred.iter().map(|s| (&*s.resource.plural, &*s.resource.version)).collect();
        assert_eq!(names, [("as", "v2"), ("bs", "v1")]);
        assert_eq!(found.of_kind("g/v1", "A").map(|r| &*r.version), Some("v1"));
        assert_eq!(found.of_kind("g/v9", "A").map(|r| &*r.version), Some("v2"));
        assert!(found.of_kind("v1", "A").is_none());
        assert_eq!(found.kind_of("g", "v1", "bs"), Some("B"));
        assert_eq!(found.kind_of("g", "v2", "bs"), None);
        assert_eq!(found.failed.len(), 1);
    }
}
