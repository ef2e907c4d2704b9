//! Resources apart from the pod that asks for them (pure): what it was granted, and what is in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use orkd_api::quantity::Quantity;
use serde::{Deserialize, Serialize};

use crate::pod;

/// The resources of a pod's containers that can be resized, by name, and of the pod as a whole (`PodResourceInfo`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Of containers and sidecars.
    pub containers: BTreeMap<String, ResourceRequirements>,
    /// Of the pod as a whole.
    pub pod: Option<ResourceRequirements>,
}

/// The containers that can be resized (`IsResizableContainer`).
pub fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().filter(|c| pod::is_sidecar(c)).chain(&spec.containers)
}

type List = BTreeMap<String, Text>;

fn same_amount(a: &Text, b: &Text) -> bool {
    a == b || a.0.parse::<Quantity>().ok().zip(b.0.parse::<Quantity>().ok()).is_some_and(|(a, b)| a == b)
}

/// Whether both are the same amounts, however they are written.
pub fn same(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    fn lists(
        resources: Option<&ResourceRequirements>,
        which: fn(&ResourceRequirements) -> &Option<List>,
    ) -> Option<&List> {
        resources.and_then(|r| which(r).as_ref()).filter(|list| !list.is_empty())
    }
    let equal = |which: fn(&ResourceRequirements) -> &Option<List>| match (lists(a, which), lists(b, which)) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().all(|(name, of_a)| b.get(name).is_some_and(|of_b| same_amount(of_a, of_b)))
        }
        _ => false,
    };
    equal(|r| &r.requests) && equal(|r| &r.limits)
}

/// Takes one resource over from another container's.
pub fn adopt(to: &mut ResourceRequirements, from: &ResourceRequirements, name: &str) {
    fn list(to: &mut Option<List>, from: Option<&List>, name: &str) {
        match from.and_then(|list| list.get(name)) {
            Some(amount) => drop(to.get_or_insert_default().insert(name.to_owned(), amount.clone())),
            None => drop(to.as_mut().and_then(|list| list.remove(name))),
        }
    }
    list(&mut to.requests, from.requests.as_ref(), name);
    list(&mut to.limits, from.limits.as_ref(), name);
}

impl Grant {
    /// What a pod asks for.
    pub fn of(object: &Pod) -> Grant {
        let spec = pod::spec(object);
        let containers = resizable(&spec).map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()));
        Grant { containers: containers.collect(), pod: spec.resources.clone() }
    }

    /// Whether a pod asks for just this.
    pub fn is_all_of(&self, object: &Pod) -> bool {
        let spec = pod::spec(object);
        let granted = |c: &Container| match self.containers.get(&c.name) {
            Some(granted) => same(Some(granted), c.resources.as_ref()),
            None => true,
        };
        resizable(&spec).all(granted) && same(self.pod.as_ref(), spec.resources.as_ref())
    }

    /// A pod as if it asked for this (`UpdatePodFromAllocation`).
    pub fn apply(&self, object: &Arc<Pod>) -> Arc<Pod> {
        if self.is_all_of(object) {
            return object.clone();
        }
        let mut object = (**object).clone();
        if let Some(spec) = object.spec.as_mut() {
            let sidecars = spec.init_containers.iter_mut().flatten().filter(|c| pod::is_sidecar(c));
            for container in sidecars.chain(&mut spec.containers) {
                if let Some(granted) = self.containers.get(&container.name) {
                    container.resources = Some(granted.clone());
                }
            }
            spec.resources.clone_from(&self.pod);
        }
        Arc::new(object)
    }

    /// The larger of both requests, resource by resource: what a pod may hold while it is being resized.
    pub fn at_least(mut self, other: &Grant) -> Grant {
        fn raise(to: &mut ResourceRequirements, from: &ResourceRequirements) {
            let to = to.requests.get_or_insert_default();
            for (name, amount) in from.requests.iter().flatten() {
                let number = |text: &Text| text.0.parse::<Quantity>().ok();
                if to.get(name).is_none_or(|has| number(has) < number(amount)) {
                    to.insert(name.clone(), amount.clone());
                }
            }
        }
        for (name, resources) in &mut self.containers {
            other.containers.get(name).into_iter().for_each(|from| raise(resources, from));
        }
        if let (Some(to), Some(from)) = (&mut self.pod, &other.pod) {
            raise(to, from);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> ResourceRequirements {
        serde_json::from_value(value).expect("resources")
    }

    #[test]
    fn amounts_are_compared_not_texts() {
        let check = |a: Value, b: Value, expected: bool| {
            assert_eq!(same(Some(&read(a.clone())), Some(&read(b.clone()))), expected, "{a} {b}");
        };
        check(json!({}), json!({"requests": {}}), true);
        check(json!({"requests": {"cpu": "1"}}), json!({"requests": {"cpu": "1000m"}}), true);
        check(json!({"requests": {"cpu": "1"}}), json!({"limits": {"cpu": "1"}}), false);
        check(json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "1024Mi"}}), true);
        check(json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "1Gi", "cpu": "1"}}), false);
        assert!(same(None, Some(&read(json!({})))));
    }

    #[test]
    fn a_grant_replaces_what_a_pod_asks_for() {
        let pod = |cpu: &str| -> Arc<Pod> {
            let asks = json!({"requests": {"cpu": cpu, "memory": "1Mi"}});
            Arc::new(
                serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": asks}],
                    "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": asks},
                        {"name": "i", "resources": asks}]}}))
                .expect("a pod"),
            )
        };
        let granted = Grant::of(&pod("1"));
        assert_eq!(granted.containers.keys().collect::<Vec<_>>(), ["c", "s"], "init containers that end have none");
        assert!(granted.is_all_of(&pod("1000m")) && !granted.is_all_of(&pod("2")));
        let applied = granted.apply(&pod("2"));
        assert!(granted.is_all_of(&applied));
        let init = applied.spec.as_ref().and_then(|s| s.init_containers.clone()).unwrap_or_default();
        assert_eq!(init[1].resources, pod("2").spec.as_ref().and_then(|s| s.containers[0].resources.clone()));
        let both = granted.at_least(&Grant::of(&pod("500m")));
        assert!(both.is_all_of(&pod("1")));
        assert!(both.at_least(&Grant::of(&pod("1500m"))).is_all_of(&pod("1.5")));
    }

    #[test]
    fn one_resource_is_taken_over_alone() {
        let mut has = read(json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "2"}}));
        adopt(
            &mut has,
            &read(json!({"requests": {"cpu": "3", "memory": "3Mi"}, "limits": {"memory": "4Mi"}})),
            "memory",
        );
        let wanted = json!({"requests": {"cpu": "1", "memory": "3Mi"}, "limits": {"cpu": "2", "memory": "4Mi"}});
        assert_eq!(has, read(wanted));
        adopt(&mut has, &read(json!({"requests": {"cpu": "3"}})), "cpu");
        assert_eq!(has, read(json!({"requests": {"cpu": "3", "memory": "3Mi"}, "limits": {"memory": "4Mi"}})));
    }
}
