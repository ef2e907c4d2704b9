//! Nodes that fall silent, and the taints that say how nodes are.
//!
//! Follows `pkg/controller/nodelifecycle`: a node whose lease and status have not changed for the grace period gets
//! its conditions `Unknown`; conditions become taints (`NoSchedule` for all, `NoExecute` for not ready and
//! unreachable); pods of a node that is not ready are marked not ready. When every node is silent, the fault is
//! rather ours, and nothing is evicted; in a zone where many are, less is ([`zones`]).

mod zones;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{BoxError, Clock};
use orkd_reconcile::{
    Api, Informer, Key, Lease, ObjectRef, Options, Outcome, Patch, Queue, Recorder, Resource, time, work,
};
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::views::{Condition, Node, Pod, Taint, condition};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "node-lifecycle-controller",
    service_account: "node-controller",
    run: |cx| Box::pin(start(cx)),
};

/// How long a node may be silent, unless told otherwise.
const GRACE: Duration = Duration::from_secs(50);
/// How long a node that never reported may be silent.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Labels of nodes, and the older names under which they stand as well.
const OLDER_LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// Conditions, their status and the taint it stands for.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Index of pods by their node.
pub(crate) const BY_NODE: &str = "node";

pub(crate) fn add_node_index(pods: &Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| {
        if pod.spec.node_name.is_empty() { Vec::new() } else { vec![pod.spec.node_name.to_string()] }
    });
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let nodes: Informer<Node> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    let leases: Informer<Lease> = cx.informers.informer_with(Options::default().namespace("kube-node-lease"));
    add_node_index(&pods);
    let queue: Queue<Key> = cx.queue(SPEC.name);
    // When each node was last heard of, by our own clock.
    let heard: Arc<Mutex<HashMap<Arc<str>, Timestamp>>> = Arc::default();
    {
        let (queue, heard, clock, recorder) = (queue.clone(), heard.clone(), cx.clock.clone(), cx.recorder.clone());
        nodes.subscribe(move |event| {
            let node = event.object();
            let name = node.metadata.name.clone();
            let about = ObjectRef::of(&**node);
            match event {
                orkd_reconcile::Event::Added(_) => {
                    let text = format!("Node {name} event: Registered Node {name} in Controller");
                    recorder.normal(&about, "RegisteredNode", text);
                    heard.lock().insert(name, clock.now());
                }
                orkd_reconcile::Event::Updated { old, new } => {
                    if reported(old) != reported(new) {
                        heard.lock().insert(name, clock.now());
                    }
                }
                orkd_reconcile::Event::Deleted(_) => {
                    let text = format!("Node {name} event: Removing Node {name} from Controller");
                    recorder.normal(&about, "RemovingNode", text);
                    heard.lock().remove(&name);
                }
            }
            queue.add(event.key());
        });
    }
    {
        let (heard, clock) = (heard.clone(), cx.clock.clone());
        leases.subscribe(move |event| {
            // A renewal wakes nobody: the round that waits for the grace period reads it then.
            if let Some(at) = heard.lock().get_mut(&event.object().metadata.name) {
                *at = clock.now();
            }
        });
    }
    nodes.synced().await;
    pods.synced().await;
    leases.synced().await;
    let grace = cx.config.node_monitor_grace.unwrap_or(GRACE);
    let controller = Lifecycle { nodes, pods, api: cx.api, recorder: cx.recorder, clock: cx.clock.clone() };
    let was_down = &AtomicBool::new(false);
    let zones = Mutex::new(zones::Zones::default());
    let (controller, heard, clock, queue_ref, zones_ref) = (&controller, &heard, &cx.clock, &queue, &zones);
    work(queue.clone(), 4, cx.stop.clone(), |key| async move {
        let Some(node) = controller.nodes.get(&key) else { return Ok(Outcome::Done) };
        let now = clock.now();
        let heard_at = *heard.lock().entry(key.name.clone()).or_insert(now);
        let nodes = controller.nodes.list();
        let all_down = nodes.iter().all(|n| ready(n) != "True");
        if was_down.swap(all_down, Ordering::Relaxed) != all_down {
            // What is true of all has changed for each.
            nodes.iter().for_each(|n| queue_ref.add(n.metadata.key()));
        }
        let mut plan = plan(&node, heard_at, grace, all_down, now);
        if plan.begins_eviction(&node)
            && let Err(wait) = zones_ref.lock().take(&nodes, &node, now)
        {
            // Not yet: so many nodes at once are rather a fault of the network than of theirs.
            plan.put_off(&node, wait);
        }
        controller.act(&node, &plan).await?;
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    })
    .await;
    Ok(())
}

/// What a kubelet changes when it reports.
fn reported(node: &Node) -> Vec<(&str, Option<Timestamp>)> {
    node.status.conditions.iter().map(|c| (c.kind.as_str(), c.last_heartbeat_time)).collect()
}

fn ready(node: &Node) -> &str {
    condition(&node.status.conditions, "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// What is to be done for one node.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Conditions to set.
    conditions: Vec<Condition>,
    /// The taints as they should be; `None` when they are.
    taints: Option<Vec<Taint>>,
    /// Labels to set.
    labels: BTreeMap<&'static str, String>,
    /// Whether its pods are to be marked not ready.
    mark_pods: bool,
    again: Option<Duration>,
}

fn plan(node: &Node, heard: Timestamp, grace: Duration, all_down: bool, now: Timestamp) -> Plan {
    let mut plan = Plan { labels: missing_labels(node), ..Plan::default() };
    let never = condition(&node.status.conditions, "Ready").is_none();
    let grace = if never { grace.max(STARTUP_GRACE) } else { grace };
    let left = heard.as_second().saturating_add_unsigned(grace.as_secs()) - now.as_second();
    let mut conditions = node.status.conditions.clone();
    if left < 0 {
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            let current = condition(&conditions, kind);
            let next = match current {
                Some(c) if c.status == "Unknown" => continue,
                Some(c) => Condition {
                    status: "Unknown".into(),
                    reason: "NodeStatusUnknown".into(),
                    message: "Kubelet stopped posting node status.".into(),
                    last_transition_time: Some(seconds(now)),
                    ..c.clone()
                },
                None => Condition {
                    kind: kind.into(),
                    status: "Unknown".into(),
                    reason: "NodeStatusNeverUpdated".into(),
                    message: "Kubelet never posted node status.".into(),
                    last_heartbeat_time: node.metadata.creation_timestamp,
                    last_transition_time: Some(seconds(now)),
                    ..Condition::default()
                },
            };
            conditions.retain(|c| c.kind != kind);
            conditions.push(next.clone());
            plan.conditions.push(next);
        }
    } else {
        plan.again = Some(Duration::from_secs(left.unsigned_abs() + 1));
    }
    let is_ready = condition(&conditions, "Ready").map_or("Unknown", |c| c.status.as_str());
    plan.mark_pods = is_ready != "True" && !never;
    let taints = wanted_taints(&node.spec, &conditions, all_down, now);
    plan.taints = (taints != node.spec.taints).then_some(taints);
    plan
}

/// The older names of labels that are missing or say something else (`reconcileNodeLabels`).
fn missing_labels(node: &Node) -> BTreeMap<&'static str, String> {
    let label = |name| node.metadata.label(name);
    let all = OLDER_LABELS.iter().filter_map(|(name, older)| Some((*older, label(name)?)));
    all.filter(|(older, value)| label(older) != Some(value)).map(|(older, value)| (older, value.to_owned())).collect()
}

fn evicts(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

impl Plan {
    /// Whether the node gets a taint that evicts, and had none.
    fn begins_eviction(&self, node: &Node) -> bool {
        !node.spec.taints.iter().any(evicts) && self.taints.iter().flatten().any(evicts)
    }

    /// Leaves the taints that evict for later.
    fn put_off(&mut self, node: &Node, wait: Duration) {
        if let Some(taints) = &mut self.taints {
            taints.retain(|t| !evicts(t));
        }
        self.taints = self.taints.take().filter(|t| *t != node.spec.taints);
        self.again = Some(self.again.map_or(wait, |a| a.min(wait)));
    }
}

/// The taints of a node: its own, and those that its conditions stand for.
fn wanted_taints(
    spec: &crate::views::NodeSpec,
    conditions: &[Condition],
    all_down: bool,
    now: Timestamp,
) -> Vec<Taint> {
    let ours = |t: &Taint| match t.effect.as_str() {
        "NoSchedule" => t.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| t.key == *key),
        "NoExecute" => t.key == NOT_READY || t.key == UNREACHABLE,
        _ => false,
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key) in CONDITION_TAINTS {
        if condition(conditions, kind).is_some_and(|c| c.status == status) {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" && !all_down {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    // A node that has not reported at all is not ready: admission said so when it was made.
    if condition(conditions, "Ready").is_none() && spec.taints.iter().any(|t| t.key == NOT_READY) {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let mut taints: Vec<Taint> = spec
        .taints
        .iter()
        .filter(|t| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: Some(seconds(now)),
                ..Taint::default()
            });
        }
    }
    taints
}

fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

struct Lifecycle {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    api: Api,
    recorder: Recorder,
    clock: Clock,
}

impl Lifecycle {
    async fn act(&self, node: &Node, plan: &Plan) -> Result<(), BoxError> {
        let name = &node.metadata.name;
        let target = Resource::of::<Node>().at("", name);
        if !plan.conditions.is_empty() {
            let patch = json!({
                "metadata": {"uid": node.metadata.uid},
                "status": {"conditions": plan.conditions},
            });
            match self.api.patch::<IgnoredAny>(&target.sub("status"), &Patch::Strategic(patch)).await {
                Err(err) if err.is_not_found() => return Ok(()),
                other => other.map(|_| ())?,
            }
        }
        if !plan.labels.is_empty() {
            let patch = json!({"metadata": {"uid": node.metadata.uid, "labels": plan.labels}});
            match self.api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch)).await {
                Err(err) if err.is_not_found() => return Ok(()),
                other => other.map(|_| ())?,
            }
        }
        if let Some(taints) = &plan.taints {
            // The whole list, of the very version seen: taints of others are not lost.
            let patch = json!({
                "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            });
            match self.api.patch::<IgnoredAny>(&target, &Patch::Merge(patch)).await {
                Err(err) if err.is_not_found() => return Ok(()),
                // Our own change came first; its event brings the next round.
                Err(err) if err.is_conflict() && !(plan.conditions.is_empty() && plan.labels.is_empty()) => {}
                other => other.map(|_| ())?,
            }
        }
        if plan.mark_pods {
            let mut marked = false;
            for pod in self.pods.by_index(BY_NODE, name) {
                marked |= self.mark_not_ready(&pod).await?;
            }
            if marked || plan.conditions.iter().any(|c| c.kind == "Ready") {
                let text = format!("Node {name} status is now: NodeNotReady");
                self.recorder.normal(&ObjectRef::of(node), "NodeNotReady", text);
            }
        }
        Ok(())
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<bool, BoxError> {
        let Some(patch) = not_ready_patch(pod, self.clock.now()) else { return Ok(false) };
        let target = Resource::of::<Pod>().at(&pod.metadata.namespace, &pod.metadata.name).sub("status");
        match self.api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => return Ok(false),
            other => other.map(|_| ())?,
        }
        self.recorder.warning(&ObjectRef::of(pod), "NodeNotReady", "Node is not ready");
        Ok(true)
    }
}

/// Makes a ready pod not ready.
fn not_ready_patch(pod: &Pod, now: Timestamp) -> Option<Value> {
    let ready = condition(&pod.status.conditions, "Ready").filter(|c| c.status == "True")?;
    Some(json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{"type": ready.kind, "status": "False", "lastTransitionTime": time(now)}]},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).expect("a time")
    }

    fn node(ready: Option<&str>, taints: Value) -> Node {
        let conditions = match ready {
            Some(status) => json!([{"type": "Ready", "status": status}]),
            None => json!([]),
        };
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"taints": taints}, "status": {"conditions": conditions},
        }))
        .expect("a node")
    }

    /// Taints as `key:effect`, the common prefix left out; `-` when they stay.
    fn check(node: &Node, silent: i64, all_down: bool, taints: &str, unknown: usize) {
        let plan = plan(node, at(0), GRACE, all_down, at(silent));
        let text = match &plan.taints {
            None => "-".to_owned(),
            Some(taints) => taints
                .iter()
                .map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect))
                .collect::<Vec<_>>()
                .join(" "),
        };
        assert_eq!((text.as_str(), plan.conditions.len()), (taints, unknown));
    }

    #[test]
    fn conditions_become_taints() {
        check(&node(Some("True"), json!([])), 0, false, "-", 0);
        check(&node(Some("False"), json!([])), 0, false, "not-ready:NoSchedule not-ready:NoExecute", 0);
        check(&node(Some("False"), json!([])), 0, true, "not-ready:NoSchedule", 0);
        let mine = json!([{"key": "mine", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        check(&node(Some("True"), mine), 0, false, "mine:NoSchedule", 0);
        let mut cordoned = node(Some("True"), json!([]));
        cordoned.spec.unschedulable = true;
        check(&cordoned, 0, false, "unschedulable:NoSchedule", 0);
    }

    #[test]
    fn a_silent_node_becomes_unknown() {
        check(&node(Some("True"), json!([])), 50, false, "-", 0);
        check(&node(Some("True"), json!([])), 51, false, "unreachable:NoSchedule unreachable:NoExecute", 4);
        let again = |grace| plan(&node(Some("True"), json!([])), at(0), grace, false, at(10)).again;
        assert_eq!(again(GRACE), Some(Duration::from_secs(41)));
        assert_eq!(again(Duration::from_secs(20)), Some(Duration::from_secs(11)));
        assert_eq!(again(Duration::from_secs(5)), None);
    }

    #[test]
    fn a_node_that_never_reported_has_longer() {
        let new = node(None, json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        check(&new, 51, true, "-", 0);
        check(&new, 61, true, "unreachable:NoSchedule", 4);
    }

    #[test]
    fn labels_stand_under_their_older_names_as_well() {
        let check = |labels: Value, expected: Value| {
            let node: Node =
                serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).expect("a node");
            assert_eq!(json!(missing_labels(&node)), expected);
        };
        check(json!({}), json!({}));
        check(json!({"kubernetes.io/os": "linux"}), json!({"beta.kubernetes.io/os": "linux"}));
        let both = json!({"kubernetes.io/arch": "amd64", "beta.kubernetes.io/arch": "amd64"});
        check(both, json!({}));
        let other = json!({"kubernetes.io/arch": "arm64", "beta.kubernetes.io/arch": "amd64"});
        check(other, json!({"beta.kubernetes.io/arch": "arm64"}));
    }
}
