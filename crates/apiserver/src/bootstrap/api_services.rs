//! APIServices of what this server serves itself, so that `kubectl get apiservices` tells who serves what.
//!
//! Upstream: `apiVersionPriorities` in `pkg/controlplane/apiserver/aggregator.go` and the registration controller of
//! `k8s.io/kube-aggregator`, which makes these once, when the server starts.

use serde_json::{Value, json};

/// The label of an APIService that the server keeps.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Groups with the priority of the group and of a version in it.
const PRIORITIES: &[(&str, &str, u32, u32)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    // The priorities of metrics-server's manifest.
    ("metrics.k8s.io", "v1beta1", 100, 100),
];

/// The APIServices to be made: names and objects.
pub fn all() -> impl Iterator<Item = (String, Value)> {
    PRIORITIES.iter().map(|(group, version, of_group, of_version)| {
        let name = format!("{version}.{group}");
        let mut spec = json!({ "version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version });
        if !group.is_empty() {
            spec["group"] = json!(group);
        }
        let object = json!({ "metadata": { "name": name, "labels": { (MANAGED): "onstart" } }, "spec": spec });
        (name, object)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_group_and_version_served_has_one() {
        let served: BTreeSet<String> = orkd_api::kinds::all()
            .into_iter()
            .chain(orkd_api::kinds::aggregated())
            .map(|k| format!("{}.{}", k.info().version, k.info().group))
            // The group of the APIServices themselves is the aggregator's own.
            .filter(|name| name != "v1.apiregistration.k8s.io")
            .collect();
        assert_eq!(served, all().map(|(name, _)| name).collect());
    }
}
