//! The selectors of services and controllers, for spreading by default. Upstream: `plugins/helper/spread.go`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use orkd_reconcile::{Key, LabelSelector};

use crate::pod::{Body, Owner};
use crate::selector::Selector;

/// Labels that must be equal.
type Labels = BTreeMap<String, String>;

/// The selectors.
#[derive(Debug, Default)]
pub struct Workloads {
    /// By namespace: labels that services select.
    services: HashMap<Arc<str>, BTreeMap<Arc<str>, Labels>>,
    /// By kind and key.
    owners: HashMap<(&'static str, Key), Selector>,
    changed: u64,
}

impl Workloads {
    /// Changes whenever a selector does.
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// Takes over a service's selector; `None` when it is gone or selects nothing.
    pub fn set_service(&mut self, key: &Key, selector: Option<LabelSelector>) {
        let of_namespace = self.services.entry(key.namespace.clone()).or_default();
        let before = of_namespace.get(&key.name);
        match selector {
            Some(selector) if before != Some(&selector.match_labels) => {
                of_namespace.insert(key.name.clone(), selector.match_labels);
            }
            None if before.is_some() => {
                of_namespace.remove(&key.name);
            }
            _ => return,
        }
        self.changed += 1;
    }

    /// Takes over a controller's selector; `None` when it is gone.
    pub fn set_owner(&mut self, kind: &'static str, key: &Key, selector: Option<LabelSelector>) {
        let place = (kind, key.clone());
        let new = selector.map(|s| Selector::of(Some(&s)));
        if self.owners.get(&place) == new.as_ref() {
            return;
        }
        match new {
            Some(new) => self.owners.insert(place, new),
            None => self.owners.remove(&place),
        };
        self.changed += 1;
    }

    /// What the services that select a pod and its controller together select (`DefaultSelector`).
    pub fn selector_of(&self, pod: &Body) -> Selector {
        let mut labels = BTreeMap::new();
        for selector in self.services.get(&pod.namespace).into_iter().flat_map(BTreeMap::values) {
            if selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v)) {
                labels.extend(selector.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        let selector = Selector::of_labels(&labels);
        match pod.owner.as_ref().and_then(|owner| self.owners.get(&place(owner, &pod.namespace)?)) {
            Some(of_owner) => selector.and(of_owner),
            None => selector,
        }
    }
}

fn place(owner: &Owner, namespace: &Arc<str>) -> Option<(&'static str, Key)> {
    let kind = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => "ReplicationController",
        ("apps/v1", "ReplicaSet") => "ReplicaSet",
        ("apps/v1", "StatefulSet") => "StatefulSet",
        _ => return None,
    };
    Some((kind, Key { namespace: namespace.clone(), name: owner.name.as_str().into() }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::from_json;

    #[test]
    fn services_and_the_controller_select_together() {
        let labels =
            |l: &[(&str, &str)]| l.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        let selector = |l: &[(&str, &str)]| Some(LabelSelector { match_labels: labels(l), ..Default::default() });
        let mut workloads = Workloads::default();
        workloads.set_service(&Key::new("n", "a"), selector(&[("app", "x")]));
        workloads.set_service(&Key::new("n", "b"), selector(&[("app", "y")]));
        workloads.set_owner("ReplicaSet", &Key::new("n", "r"), selector(&[("hash", "1")]));
        let changed = workloads.changed();
        workloads.set_owner("ReplicaSet", &Key::new("n", "r"), selector(&[("hash", "1")]));
        assert_eq!(workloads.changed(), changed);
        let pod =
            from_json(json!({"metadata": {"namespace": "n", "labels": {"app": "x", "hash": "1"}, "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]}}));
        assert_eq!(workloads.selector_of(&pod.template), Selector::of_labels(&labels(&[("app", "x"), ("hash", "1")])));
        let bare = from_json(json!({"metadata": {"namespace": "n"}}));
        assert!(workloads.selector_of(&bare.template).is_empty());
    }
}
