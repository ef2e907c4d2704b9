//! How fast nodes are found, in memory: no API, no queue. `cargo run --release -p orkd-scheduler --example algorithm`.
//!
//! The workloads are those of upstream's `scheduler_perf`. With a number as argument, that many nodes and pods of each
//! are a tenth, a hundredth: `-- 0.1`; with a name as well, only that workload.

use std::sync::Arc;
use std::time::Instant;

use orkd_scheduler::config::default_profile;
use orkd_scheduler::cycle::Algorithm;
use orkd_scheduler::plugins::Doors;
use orkd_scheduler::pod::PodInfo;
use serde_json::{Value, json};

struct Workload {
    name: &'static str,
    nodes: usize,
    pods: usize,
    /// Pods a second that are wanted.
    budget: f64,
    spec: fn() -> Value,
}

fn basic() -> Value {
    json!({"containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10",
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]})
}

fn anti_affinity() -> Value {
    let mut spec = basic();
    spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"color": "green"}}}]}});
    spec
}

fn spread() -> Value {
    let mut spec = basic();
    spec["topologySpreadConstraints"] = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"color": "green"}}}]);
    spec
}

fn preferred_affinity() -> Value {
    let mut spec = basic();
    spec["affinity"] = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
        "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone",
            "labelSelector": {"matchLabels": {"color": "green"}}}}]}});
    spec
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "basic", nodes: 5000, pods: 10_000, budget: 50_000.0, spec: basic },
    Workload { name: "anti-affinity", nodes: 5000, pods: 2000, budget: 5000.0, spec: anti_affinity },
    Workload { name: "spread", nodes: 5000, pods: 5000, budget: 5000.0, spec: spread },
    Workload { name: "preferred-affinity", nodes: 5000, pods: 5000, budget: 5000.0, spec: preferred_affinity },
];

fn node(i: usize) -> Value {
    let name = format!("node-{i}");
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}})
}

fn pod(i: usize, spec: Value) -> Arc<PodInfo> {
    let pod = json!({"metadata": {"name": format!("pod-{i}"), "namespace": "default", "uid": format!("uid-{i}"),
        "labels": {"color": "green"}}, "spec": spec});
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn main() {
    let mut args = std::env::args().skip(1);
    let share: f64 = args.next().and_then(|a| a.parse().ok()).unwrap_or(1.0);
    let only = args.next();
    for workload in WORKLOADS.iter().filter(|w| only.as_ref().is_none_or(|o| w.name == o)) {
        let part = |n: usize| ((n as f64 * share) as usize).max(1);
        let mut algorithm = Algorithm::new(vec![default_profile(&Doors::default())]);
        for i in 0..part(workload.nodes) {
            algorithm.cluster.nodes.set_node(&serde_json::from_value(node(i)).expect("a node"));
        }
        let pods: Vec<_> = (0..part(workload.pods)).map(|i| pod(i, (workload.spec)())).collect();
        let count = pods.len();
        let start = Instant::now();
        for (i, pod) in pods.into_iter().enumerate() {
            let Ok(at) = algorithm.schedule(0, &pod, i) else { panic!("{}: no node for pod {i}", workload.name) };
            let name = algorithm.cluster.nodes.rows.name(at as usize).to_owned();
            algorithm.cluster.nodes.place(pod, &name);
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        let verdict = if rate >= workload.budget { "" } else { "  (missed)" };
        let what = format!("{}, {} nodes, {count} pods, in memory", workload.name, part(workload.nodes));
        println!("{what:<55} {rate:>9.0} pods/s of {}{verdict}", workload.budget);
    }
}
