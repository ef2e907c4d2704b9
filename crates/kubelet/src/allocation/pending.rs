//! Whether a node grants what a pod asks for anew, and whom it hears first (pure). Follows upstream's
//! `pkg/kubelet/allocation`: `podResizesAdmitHandler` and `sortPendingResizes`.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;

use crate::admit;
use crate::eviction::{self, pressure::Condition};
use crate::{pod, resources};

/// The reason of a resize that this node can never grant.
pub const INFEASIBLE: &str = "Infeasible";
/// The reason of one that it cannot grant now.
pub const DEFERRED: &str = "Deferred";

/// Why a node with these `others` does not grant a pod what it asks for: the reason, and a text.
pub fn refusal(
    object: &Pod,
    node: Option<&Node>,
    others: &[&Pod],
    short_of: &[Condition],
) -> Option<(&'static str, String)> {
    if pod::is_static(object) {
        return Some((INFEASIBLE, "In-place resize of static-pods is not supported".to_owned()));
    }
    if let Some(message) = eviction::admit::refusal(object, short_of) {
        return Some((DEFERRED, message));
    }
    let node = node?;
    let spec = pod::spec(object);
    for name in ["memory", "cpu"] {
        let requested = resources::pod_request(&spec, name);
        let Some(capacity) = admit::allocatable(node, name).filter(|all| requested > *all) else { continue };
        let text = format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}");
        return Some((INFEASIBLE, text));
    }
    admit::shortage(&spec, node, others).map(|short| (DEFERRED, short.message))
}

/// Sorts resizes: those that ask for no more, then important pods, then guaranteed ones, then who has waited longest.
pub fn order(wanted: &Pod, granted: &Pod, pending: Option<&PodCondition>) -> impl Ord + use<> {
    let (spec, has) = (pod::spec(wanted), pod::spec(granted));
    let more = |name| resources::pod_request(&spec, name) > resources::pod_request(&has, name);
    let since = pending.and_then(|c| c.last_transition_time.as_ref()).map_or(Timestamp::MAX, |t| t.0);
    let guaranteed = resources::qos_class(&spec) == "Guaranteed";
    (more("cpu") || more("memory"), Reverse(spec.priority.unwrap_or(0)), !guaranteed, since)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, cpu: &str, memory: &str, more: Value) -> Pod {
        let mut object = json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}});
        for (key, value) in more.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).expect("a pod")
    }

    #[test]
    fn what_never_fits_is_told_from_what_does_not_now() {
        let node = json!({"status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"}}});
        let node: Node = serde_json::from_value(node).expect("a node");
        let other = pod("other", "1", "1Gi", json!({}));
        let check = |asked: Pod, short_of: &[Condition], expected: Option<(&str, &str)>| {
            let found = refusal(&asked, Some(&node), &[&other], short_of);
            assert_eq!(found.as_ref().map(|(reason, text)| (*reason, text.as_str())), expected, "{asked:?}");
        };
        let asks = |cpu, memory| pod("p", cpu, memory, json!({}));
        check(asks("3", "3Gi"), &[], None);
        let text = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000";
        check(asks("5", "1Gi"), &[], Some(("Infeasible", text)));
        let text = "Node didn't have enough capacity: memory, requested: 4718592000, capacity: 4294967296";
        check(asks("5", "4500Mi"), &[], Some(("Infeasible", text)));
        let text = "Node didn't have enough resource: cpu, requested: 3500, used: 1000, capacity: 4000";
        check(asks("3500m", "1Gi"), &[], Some(("Deferred", text)));
        let text =
            "Node didn't have enough resource: memory, requested: 4294967296, used: 1073741824, capacity: 4294967296";
        check(asks("1", "4Gi"), &[], Some(("Deferred", text)));
        let critical = json!({"priority": 2_000_000_000});
        check(pod("p", "1", "4Gi", critical), &[], Some(("Deferred", text)));
        check(asks("1", "1Gi"), &[Condition::Disk], Some(("Deferred", "The node had condition: [DiskPressure]. ")));
        let mut fixed = asks("1", "1Gi");
        fixed.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        check(fixed, &[], Some(("Infeasible", "In-place resize of static-pods is not supported")));
        assert_eq!(refusal(&asks("100", "1Gi"), None, &[], &[]), None, "of a node that is not known yet");
    }

    /// The pods of upstream's `TestSortPendingResizes`.
    #[test]
    fn the_modest_the_important_and_the_patient_come_first() {
        let since = |second: i64| PodCondition {
            last_transition_time: Timestamp::from_second(second).ok().map(Time),
            ..PodCondition::default()
        };
        let limits = json!({"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1500Mi"}}}]});
        let mut waiting = [
            (pod("new", "1500m", "1500Mi", json!({})), None),
            (pod("later", "1500m", "1500Mi", json!({})), Some(since(20))),
            (pod("earlier", "1500m", "1500Mi", json!({})), Some(since(10))),
            (pod("guaranteed", "", "", limits), None),
            (pod("important", "1500m", "1500Mi", json!({"priority": 100})), None),
            (pod("less", "500m", "500Mi", json!({})), None),
        ];
        let has = pod("any", "1", "1000Mi", json!({}));
        waiting.sort_by_cached_key(|(wanted, pending)| order(wanted, &has, pending.as_ref()));
        let names: Vec<&str> = waiting.iter().map(|(p, _)| pod::name(p)).collect();
        assert_eq!(names, ["less", "important", "guaranteed", "earlier", "later", "new"]);
    }
}
