//! A pod that needs a feature of the kubelet goes to nodes that declare it. Upstream: `plugins/nodedeclaredfeatures`, and
//! what pods need: `k8s.io/component-helpers/nodedeclaredfeatures`.

use crate::cluster::Cluster;
use crate::framework::{Cx, Event, Plugin, Point, PreFilter, State, Verdicts, no_state};
use crate::model::Container;
use crate::pod::PodInfo;

/// A rule of a container starts all containers of its pod again.
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";

/// What a pod needs of its node, sorted. Of the features that Kubernetes 1.36 has nodes declare the others are asked for
/// by changes of running pods alone, or are off.
pub fn needed<'a>(containers: impl IntoIterator<Item = &'a Container>) -> Vec<&'static str> {
    let restarts_all = |c: &Container| c.restart_policy_rules.iter().any(|rule| rule.action == "RestartAllContainers");
    containers.into_iter().any(restarts_all).then_some(RESTART_ALL).into_iter().collect()
}

/// See the module.
pub struct NodeDeclaredFeatures;

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, _cluster: &mut Cluster, pod: &PodInfo) -> PreFilter {
        if pod.template.features.is_empty() { PreFilter::Skip } else { PreFilter::Go(no_state()) }
    }

    fn filter(&self, cx: &Cx<'_>, _state: &State, candidates: &[u32], verdicts: &mut Verdicts) {
        for i in candidates.iter().map(|i| *i as usize) {
            let declared = &cx.cluster.nodes.rows.features[i];
            let is_missing = |f: &&&str| !declared.iter().any(|d| d == **f);
            let missing: Vec<&str> = cx.pod.template.features.iter().filter(is_missing).copied().collect();
            if !missing.is_empty() && verdicts.is_fit(i) {
                let missing = missing.join(", ");
                let reason = format!("node declared features check failed - unsatisfied requirements: {missing}");
                let refusal = verdicts.refusal(self.name(), reason, true);
                verdicts.refuse(i, refusal);
            }
        }
    }

    fn may_help(&self, event: Event<'_>, _pod: &PodInfo, _cluster: &Cluster) -> bool {
        match event {
            Event::Node { change, .. } => change.added || change.features,
            Event::Itself { old, new } => old.template.features != new.template.features,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::default_profile;
    use crate::cycle::Algorithm;
    use crate::plugins::Doors;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_pod_goes_where_what_it_needs_is_declared() {
        let mut algorithm = Algorithm::new(vec![default_profile(&Doors::default())]);
        let mut node = |name: &str, declared: &[&str]| {
            let node = json!({"metadata": {"name": name},
                "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "9"}, "declaredFeatures": declared}});
            algorithm.cluster.nodes.set_node(&serde_json::from_value(node).expect("a node"))
        };
        node("old", &[]);
        assert!(node("old", &["Other"]).features && !node("old", &["Other"]).features);
        node("new", &["Other", RESTART_ALL]);
        let pod = |rules: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"containers": [{"name": "c", "image": "i", "restartPolicyRules": rules}]}});
            Arc::new(serde_json::from_value::<PodInfo>(pod).expect("a pod"))
        };
        let restarts_all = pod(json!([{"action": "RestartAllContainers"}]));
        assert_eq!(restarts_all.template.features, [RESTART_ALL]);
        assert!(pod(json!([{"action": "Restart"}])).template.features.is_empty());
        let at = algorithm.schedule(0, &restarts_all, 1).unwrap_or_else(|_| panic!("one node is fit"));
        assert_eq!(algorithm.cluster.nodes.rows.name(at as usize), "new");
        algorithm.cluster.nodes.remove_node("new");
        assert!(algorithm.schedule(0, &restarts_all, 2).is_err());
    }
}
