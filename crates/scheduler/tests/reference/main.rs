//! The scheduler against a slow, literal reference: random clusters, random pods, random changes between; after each
//! step both must find the same nodes feasible for the same reasons, and rate them the same.
//!
//! The reference ([`slow`]) keeps nothing: for each pod it goes over all nodes and all pods, plugin by plugin, as
//! upstream's code reads. It shares with the fast path only the decoding of objects.

mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;

use orkd_scheduler::config::default_profile;
use orkd_scheduler::cycle::{Algorithm, NotFound};
use orkd_scheduler::model::Node;
use orkd_scheduler::plugins::Doors;
use orkd_scheduler::pod::PodInfo;
use proptest::prelude::*;
use serde_json::{Value, json};

const ZONES: [&str; 3] = ["x", "y", "z"];
const APPS: [&str; 3] = ["web", "db", "job"];
const NAMESPACES: [&str; 2] = ["one", "two"];
const IMAGES: [&str; 2] = ["big:latest", "small:latest"];

#[derive(Clone, Debug)]
enum Step {
    SetNode(usize, Value),
    RemoveNode(usize),
    /// Schedules a pod and places it where both say it may go, chosen by the number.
    Schedule(Value, usize),
    Remove(usize),
    /// A placed pod begins to end.
    Terminate(usize),
    Label(usize, bool),
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => prop::sample::select(&APPS[..]).prop_map(|app| json!({"matchLabels": {"app": app}})),
        1 => Just(json!({})),
        1 => prop::sample::select(&APPS[..]).prop_map(|app|
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [app]}]})),
        1 => Just(Value::Null),
    ]
}

fn topology_key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["zone", "kubernetes.io/hostname", "rack"][..])
}

fn term() -> impl Strategy<Value = Value> {
    let namespaces = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"namespaces": ["one"]})),
        1 => Just(json!({"namespaceSelector": {}})),
        1 => Just(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}})),
    ];
    (topology_key(), selector(), namespaces).prop_map(|(key, selector, mut term)| {
        term["topologyKey"] = json!(key);
        if !selector.is_null() {
            term["labelSelector"] = selector;
        }
        term
    })
}

fn terms() -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(term(), 1..3)]
}

fn weighted() -> impl Strategy<Value = Vec<Value>> {
    let one = (1..100i64, term()).prop_map(|(weight, term)| json!({"weight": weight, "podAffinityTerm": term}));
    prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(one, 1..3)]
}

fn constraint() -> impl Strategy<Value = Value> {
    (topology_key(), selector(), 1..3i64, any::<bool>(), prop::option::of(1..4i64), any::<[bool; 4]>()).prop_map(
        |(key, selector, skew, hard, domains, policies)| {
            let mut c = json!({"topologyKey": key, "maxSkew": skew,
                "whenUnsatisfiable": if hard { "DoNotSchedule" } else { "ScheduleAnyway" }});
            if !selector.is_null() {
                c["labelSelector"] = selector;
            }
            if let (Some(domains), true) = (domains, hard) {
                c["minDomains"] = json!(domains);
            }
            if policies[0] {
                c["nodeAffinityPolicy"] = json!(if policies[1] { "Honor" } else { "Ignore" });
            }
            if policies[2] {
                c["nodeTaintsPolicy"] = json!(if policies[3] { "Honor" } else { "Ignore" });
            }
            c
        },
    )
}

fn pod() -> impl Strategy<Value = Value> {
    let basics = (
        prop::sample::select(&NAMESPACES[..]),
        prop::option::of(prop::sample::select(&APPS[..])),
        0..8i64,
        0..4i64,
        prop::option::weighted(0.1, prop::sample::select(&[80, 443][..])),
        prop::sample::select(&IMAGES[..]),
    );
    let spread = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(constraint(), 1..3)];
    let node = (
        prop::option::weighted(0.2, prop::sample::select(&ZONES[..])),
        prop::option::weighted(0.2, (1..50i64, prop::sample::select(&ZONES[..]))),
        prop::option::weighted(0.3, any::<bool>()),
    );
    (basics, (terms(), terms(), weighted(), weighted()), spread, node).prop_map(
        |(
            (namespace, app, cpu, memory, port, image),
            (with, away, should, rather_not),
            spread,
            (zone, wish, tolerates),
        )| {
            let mut container = json!({"image": image, "resources": {"requests": {
                "cpu": format!("{}m", cpu * 100), "memory": format!("{}Mi", memory * 64)}}});
            if let Some(port) = port {
                container["ports"] = json!([{"hostPort": port}]);
            }
            let mut spec = json!({
                "containers": [container],
                "topologySpreadConstraints": spread,
                "affinity": {
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": with,
                        "preferredDuringSchedulingIgnoredDuringExecution": should},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": away,
                        "preferredDuringSchedulingIgnoredDuringExecution": rather_not},
                },
            });
            if let Some(zone) = zone {
                spec["nodeSelector"] = json!({"zone": zone});
            }
            if let Some((weight, zone)) = wish {
                spec["affinity"]["nodeAffinity"] = json!({"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": weight, "preference": {"matchExpressions": [
                        {"key": "zone", "operator": "In", "values": [zone]}]}}]});
            }
            if let Some(all) = tolerates {
                spec["tolerations"] =
                    if all { json!([{"operator": "Exists"}]) } else { json!([{"key": "k", "value": "v"}]) };
            }
            let labels = app.map_or(json!({}), |app| json!({"app": app}));
            json!({"metadata": {"namespace": namespace, "labels": labels}, "spec": spec})
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    (
        prop::option::weighted(0.8, prop::sample::select(&ZONES[..])),
        prop::option::weighted(0.5, 0..4i64),
        1..5i64,
        prop::option::weighted(0.2, prop::sample::select(&["NoSchedule", "PreferNoSchedule", "NoExecute"][..])),
        prop::bool::weighted(0.1),
        any::<[bool; 2]>(),
    )
        .prop_map(|(zone, rack, cpu, taint, cordoned, images)| {
            let mut labels = json!({});
            if let Some(zone) = zone {
                labels["zone"] = json!(zone);
                labels["topology.kubernetes.io/zone"] = json!(zone);
            }
            if let Some(rack) = rack {
                labels["rack"] = json!(rack.to_string());
            }
            let taints: Vec<_> = taint.iter().map(|e| json!({"key": "k", "value": "v", "effect": e})).collect();
            let images: Vec<_> = (IMAGES.iter().zip(images).zip([900i64, 90]))
                .filter(|((_, there), _)| *there)
                .map(|((name, _), size)| json!({"names": [name], "sizeBytes": size << 20}))
                .collect();
            json!({"metadata": {"labels": labels}, "spec": {"unschedulable": cordoned, "taints": taints},
                "status": {"images": images, "allocatable": {"cpu": cpu.to_string(), "memory": "1Gi", "pods": "6"}}})
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..8usize, node()).prop_map(|(i, n)| Step::SetNode(i, n)),
        1 => (0..8usize).prop_map(Step::RemoveNode),
        9 => (pod(), any::<usize>()).prop_map(|(p, n)| Step::Schedule(p, n)),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => any::<usize>().prop_map(Step::Terminate),
        1 => (0..2usize, any::<bool>()).prop_map(|(i, on)| Step::Label(i, on)),
    ]
}

struct Both {
    fast: Algorithm,
    slow: slow::Cluster,
    placed: Vec<(Value, String)>,
    pods: usize,
}

fn decode(pod: &Value) -> Arc<PodInfo> {
    Arc::new(serde_json::from_value(pod.clone()).expect("a pod"))
}

impl Both {
    fn place(&mut self, pod: Value, node: &str) {
        self.fast.cluster.nodes.place(decode(&pod), node);
        self.slow.place(&pod, node);
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::SetNode(i, mut node) => {
                node["metadata"]["name"] = json!(format!("n{i}"));
                // Some nodes say who they are, some do not.
                if i % 4 != 3 {
                    node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(format!("n{i}"));
                }
                let node: Node = serde_json::from_value(node).expect("a node");
                self.fast.cluster.nodes.set_node(&node);
                self.slow.nodes.insert(node.metadata.name.to_string(), node);
            }
            Step::RemoveNode(i) => {
                self.fast.cluster.nodes.remove_node(&format!("n{i}"));
                self.slow.nodes.remove(&format!("n{i}"));
            }
            Step::Remove(n) if !self.placed.is_empty() => {
                let (pod, _) = self.placed.swap_remove(n % self.placed.len());
                let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
                self.fast.cluster.nodes.unplace(&uid);
                self.slow.pods.remove(&uid);
            }
            Step::Terminate(n) if !self.placed.is_empty() => {
                let at = n % self.placed.len();
                self.placed[at].0["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                let (pod, node) = self.placed[at].clone();
                self.place(pod, &node);
            }
            Step::Remove(_) | Step::Terminate(_) => {}
            Step::Label(i, on) => {
                let labels = BTreeMap::from_iter(on.then(|| ("team".to_owned(), "a".to_owned())));
                self.fast.cluster.nodes.set_namespace(NAMESPACES[i], Some(&labels));
                self.slow.namespaces.insert(NAMESPACES[i].into(), labels);
            }
            Step::Schedule(mut pod, n) => {
                self.pods += 1;
                pod["metadata"]["name"] = json!(format!("p{}", self.pods));
                pod["metadata"]["uid"] = json!(format!("u{}", self.pods));
                if let Some(node) = self.compare(&pod, n)? {
                    self.place(pod.clone(), &node);
                    self.placed.push((pod, node));
                }
            }
        }
        Ok(())
    }

    /// What both say of a pod; a node where it may go.
    fn compare(&mut self, pod: &Value, choice: usize) -> Result<Option<String>, TestCaseError> {
        let expected = self.slow.schedule(pod);
        let info = decode(pod);
        match self.fast.find(0, &info) {
            Ok(mut found) => {
                let totals = self.fast.rate(0, &info, &mut found);
                let rows = &self.fast.cluster.nodes.rows;
                let got: BTreeMap<String, i64> =
                    found.feasible.iter().zip(totals).map(|(i, t)| (rows.name(*i as usize).to_owned(), t)).collect();
                prop_assert_eq!(&got, &expected.scores, "{}", pod);
                let names: Vec<String> = got.into_keys().collect();
                Ok(Some(names[choice % names.len()].clone()))
            }
            Err((NotFound::Unfit(unfit), _)) => {
                prop_assert!(expected.scores.is_empty(), "{} may go to {:?}, not: {:?}", pod, expected.scores, unfit);
                prop_assert_eq!(unfit.reasons, expected.reasons, "{}", pod);
                let mut names: Vec<&str> =
                    unfit.resolvable.iter().map(|i| self.fast.cluster.nodes.rows.name(*i as usize)).collect();
                names.sort_unstable();
                prop_assert_eq!(names, expected.resolvable);
                Ok(None)
            }
            Err((NotFound::Failed(why), _)) => Err(TestCaseError::fail(why)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn fast_and_slow_agree(steps in prop::collection::vec(step(), 1..60)) {
        let mut both = Both {
            fast: Algorithm::new(vec![default_profile(&Doors::default())]),
            slow: slow::Cluster::default(),
            placed: Vec::new(),
            pods: 0,
        };
        for step in steps {
            both.take(step)?;
        }
    }
}
