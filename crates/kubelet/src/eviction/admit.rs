//! Which new pods a node under pressure takes (pure).
//!
//! Follows `Admit` of upstream's `pkg/kubelet/eviction/eviction_manager.go`.

use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::pressure::Condition;
use crate::{pod, resources};

/// From this priority on pods belong to the system (`SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;
/// The taint of a node whose memory is short.
const TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Whether the node cannot do without a pod: it is taken in any case, and never evicted (`IsCriticalPod`).
pub fn is_critical(object: &Pod) -> bool {
    let priority = object.spec.as_ref().and_then(|s| s.priority);
    pod::is_static(object) || pod::is_mirror(object) || priority.is_some_and(|p| p >= CRITICAL)
}

/// Why a pod is not taken; the text is upstream's.
pub fn refusal(object: &Pod, conditions: &[Condition]) -> Option<String> {
    if conditions.is_empty() || is_critical(object) {
        return None;
    }
    let spec = pod::spec(object);
    let tolerated = || spec.tolerations.iter().flatten().any(tolerates_short_memory);
    if conditions == [Condition::Memory] && (resources::qos_class(&spec) != "BestEffort" || tolerated()) {
        return None;
    }
    let names: Vec<&str> = conditions.iter().map(|c| c.name()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

fn tolerates_short_memory(toleration: &Toleration) -> bool {
    let said = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let key = said(&toleration.key);
    said(&toleration.effect).is_none_or(|effect| effect == "NoSchedule")
        && match said(&toleration.operator).as_deref() {
            Some("Exists") => key.is_none_or(|key| key == TAINT),
            None | Some("Equal") => key.is_some_and(|key| key == TAINT) && said(&toleration.value).is_none(),
            Some(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(pod: Value, conditions: &[Condition], expected: Option<&str>) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        assert_eq!(refusal(&pod, conditions).as_deref(), expected, "{pod:?}");
    }

    #[test]
    fn short_memory_keeps_out_those_who_ask_for_none() {
        let memory = [Condition::Memory];
        let best_effort = |more: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "c"}]}});
            for (key, value) in more.as_object().expect("an object") {
                pod["spec"][key] = value.clone();
            }
            pod
        };
        let burstable = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}});
        let text = "The node had condition: [MemoryPressure]. ";
        check(best_effort(json!({})), &[], None);
        check(best_effort(json!({})), &memory, Some(text));
        check(burstable.clone(), &memory, None);
        check(best_effort(json!({"priority": 2_000_000_000})), &memory, None);
        let tolerating = |toleration: Value| best_effort(json!({"tolerations": [toleration]}));
        check(tolerating(json!({"key": TAINT, "operator": "Exists", "effect": "NoSchedule"})), &memory, None);
        check(tolerating(json!({"operator": "Exists"})), &memory, None);
        check(tolerating(json!({"key": TAINT})), &memory, None);
        check(tolerating(json!({"key": TAINT, "operator": "Exists", "effect": "NoExecute"})), &memory, Some(text));
        check(
            tolerating(json!({"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"})),
            &memory,
            Some(text),
        );
        // A full disk keeps everybody out but the system.
        let both = [Condition::Memory, Condition::Disk];
        check(burstable, &both, Some("The node had condition: [MemoryPressure DiskPressure]. "));
        check(
            tolerating(json!({"operator": "Exists"})),
            &[Condition::Disk],
            Some("The node had condition: [DiskPressure]. "),
        );
        let mut fixed = best_effort(json!({}));
        fixed["metadata"] = json!({"annotations": {"kubernetes.io/config.source": "file"}});
        check(fixed, &both, None);
    }
}
