//! Convergence, and survival of restart at every write.
//!
//! A [`Scenario`] is a small world of objects and a story about it. It is told once undisturbed, and must come to its
//! end; then once for each write of the controllers, which are killed right after it (the write is done, the answer never
//! arrives) and started anew. Every time it must end in the same state, and no time may more objects be made on the way
//! than in the first: a pod too many that is removed again is a pod too many.
//!
//! What only time brings about is told by moving the controllers' clock on ([`Pass`], [`Meanwhile`]).
//!
//! [`inventory`](every_controller_has_a_scenario) compares the scenarios with the list of controllers.

mod cluster;
mod network;
mod storage;
mod time;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orkd_base::{Clock, Supervisor};
use orkd_reconcile::{DeleteOptions, Propagation};
use serde_json::{Value, json};

use crate::world::{Fate, Stub, World, running, soon};

/// Whether an answer is right.
type Right = fn(&Value) -> bool;

/// What is done from outside.
enum Change {
    /// Makes an object; the path is that of its collection.
    Make(Value),
    Merge(Value),
    Delete(Propagation),
}

/// One step of a story.
enum Step {
    /// Waits until what a path answers is right.
    Until(&'static str, Right),
    /// Changes what is at a path.
    Do(&'static str, Change),
    /// Moves the controllers' clock on.
    Pass(Duration),
    /// Moves the controllers' clock on with each look, until what a path answers is right: for what begins anew with a
    /// controller, as what it merely remembers does.
    Meanwhile(Duration, &'static str, Right),
    /// Changes what is at a path again and again, until what another answers is right: for what goes on as long as there is
    /// somebody, such as the reports of a node.
    Repeat(&'static str, Value, &'static str, Right),
}
use Step::{Do, Meanwhile, Pass, Repeat, Until};

/// What is told. `NAMESPACE` in objects and paths stands for the namespace of the run, `NOW` in objects for the time by the
/// controllers' clock; a path that begins with a slash is whole, `group/version:rest` and `rest` are below the namespace.
struct Scenario {
    controllers: &'static [&'static str],
    /// What the kubelet makes of a pod.
    kubelet: fn(&Value) -> Option<Value>,
    /// Objects to make, by the path of their collection.
    objects: Vec<(&'static str, Value)>,
    story: Vec<Step>,
    /// What is compared.
    compared: &'static [&'static str],
    /// What paths are answered by somebody else.
    stubs: Vec<(&'static str, Value)>,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            controllers: &[],
            kubelet: running,
            objects: Vec::new(),
            story: Vec::new(),
            compared: &[],
            stubs: Vec::new(),
        }
    }
}

/// Lists the scenarios of a file and makes a test of each.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        /// The scenarios of this file.
        pub(super) fn all() -> Vec<super::Scenario> {
            vec![$($name()),*]
        }

        mod told {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::super::survives(super::$name()).await;
                }
            )*
        }
    };
}
use scenarios;

#[test]
fn every_controller_has_a_scenario() {
    let scenarios = [workloads::all(), storage::all(), network::all(), cluster::all(), time::all()];
    let scenarios: Vec<Scenario> = scenarios.into_iter().flatten().collect();
    let told: BTreeSet<&str> = scenarios.iter().flat_map(|s| s.controllers).copied().collect();
    let listed: BTreeSet<&str> = orkd_controllers::all().iter().map(|c| c.name).collect();
    let missing: Vec<_> = listed.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&listed).collect();
    assert!(missing.is_empty(), "no scenario tells of {missing:?}");
    assert!(unknown.is_empty(), "scenarios tell of {unknown:?}, which are not listed");
    let passes = |s: &&Scenario| s.story.iter().any(|step| matches!(step, Pass(_) | Meanwhile(..)));
    let timed: BTreeSet<&str> = scenarios.iter().filter(passes).flat_map(|s| s.controllers).copied().collect();
    let missing: Vec<_> = TIMED.iter().filter(|name| !timed.contains(**name)).collect();
    assert!(missing.is_empty(), "in no scenario with {missing:?} time passes");
}

/// Controllers of which some deeds are brought about by time alone.
const TIMED: &[&str] = &[
    "deployment-controller",
    "replicaset-controller",
    "replication-controller",
    "daemonset-controller",
    "statefulset-controller",
    "job-controller",
    "ttl-after-finished-controller",
    "cronjob-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "device-taint-eviction-controller",
    "pod-garbage-collector-controller",
    "certificatesigningrequest-cleaner-controller",
    "service-cidr-controller",
    "token-cleaner-controller",
    "bootstrap-signer-controller",
    "attachdetach-controller",
    "disruption-controller",
    "horizontal-pod-autoscaler-controller",
    "legacy-serviceaccount-token-cleaner-controller",
];

/// About how many kills a scenario gets: more writes than that are sampled evenly, unless `ORKD_LONG` is set.
const KILLS: usize = 14;

/// How long a run may take from the end of its story to the state it is to end in.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run ends with.
struct End {
    state: BTreeMap<String, Vec<Value>>,
    /// How many objects the controllers made, by path.
    made: BTreeMap<String, usize>,
}

async fn survives(scenario: Scenario) {
    let world = World::empty().await;
    world.play_kubelet(scenario.kubelet);
    world.play_attacher();
    // What controllers do once for the whole cluster is not part of the story.
    run(&world, &scenario, 0, 0, None).await;
    let (expected, writes) = run(&world, &scenario, 1, 0, None).await;
    assert!(writes > 0, "nothing is written");
    let step = if std::env::var_os("ORKD_LONG").is_some() { 1 } else { writes.div_ceil(KILLS).max(1) };
    for (n, kill) in (1..=writes).step_by(step).enumerate() {
        let (end, _) = run(&world, &scenario, n + 2, kill, Some(&expected)).await;
        assert_eq!(end.state, expected.state, "killed after write {kill} of {writes}");
        for (path, made) in end.made {
            let allowed = expected.made.get(&path).copied().unwrap_or(0);
            assert!(made <= allowed, "killed after write {kill} of {writes}, it makes {made} and not {allowed} {path}");
        }
    }
    world.stop().await;
}

/// The namespace of a run, and paths and objects in it.
struct Place(String);

impl Place {
    fn path(&self, path: &str) -> String {
        let namespace = &self.0;
        let path = path.replace("NAMESPACE", namespace);
        match path.split_once(':') {
            _ if path.starts_with('/') => path,
            Some((group, rest)) => format!("/apis/{group}/namespaces/{namespace}/{rest}"),
            None => format!("/api/v1/namespaces/{namespace}/{path}"),
        }
    }

    fn name_of(&self, body: &Value) -> String {
        body["metadata"]["name"].as_str().unwrap_or_default().replace("NAMESPACE", &self.0)
    }

    fn named(&self, body: &Value, clock: &Clock) -> Value {
        let text = body.to_string().replace("NAMESPACE", &self.0).replace("NOW", &orkd_reconcile::time(clock.now()));
        serde_json::from_str(&text).expect("an object")
    }
}

/// Tells a scenario in a namespace of its own. Returns how it ends and how many writes that took.
/// Tells the story once, with a kill after so many writes, to the end that is `expected` or, where none is, to a long silence.
async fn run(world: &World, scenario: &Scenario, number: usize, kill: usize, expected: Option<&End>) -> (End, usize) {
    let place = Place(format!("run-{number:03}"));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.0}});
    world.create("/api/v1/namespaces", namespace).await;
    world.account(&place.0).await;
    for (path, answer) in &scenario.stubs {
        world.stubs.set(&place.path(path), Stub::Answer(answer.clone()));
    }
    let clock = Clock::movable();
    let fate = Fate::at(kill, &place.0);
    let supervisor = Supervisor::new();
    world.control(&supervisor, scenario.controllers, clock.clone(), &fate);
    for (path, body) in &scenario.objects {
        world.create(&place.path(path), place.named(body, &clock)).await;
    }
    let story = async {
        for step in &scenario.story {
            match step {
                Until(path, right) => drop(world.eventually("the story", &place.path(path), right).await),
                Do(path, Change::Make(body)) => drop(world.create(&place.path(path), place.named(body, &clock)).await),
                Do(path, Change::Merge(body)) => drop(world.merge(&place.path(path), place.named(body, &clock)).await),
                Do(path, Change::Delete(policy)) => {
                    world.delete(&place.path(path), DeleteOptions::default().propagation(*policy)).await;
                }
                Pass(time) => clock.advance(*time),
                Meanwhile(time, path, right) => {
                    let look = |state: &Value| {
                        let right = right(state);
                        if !right {
                            clock.advance(*time);
                        }
                        right
                    };
                    drop(world.eventually("the story", &place.path(path), look).await);
                }
                Repeat(at, body, path, right) => {
                    let repeat = async {
                        loop {
                            world.merge(&place.path(at), place.named(body, &clock)).await;
                            if world.get(&place.path(path)).await.is_some_and(|state| right(&state)) {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(40)).await;
                        }
                    };
                    soon("what is repeated to show", repeat).await;
                }
            }
        }
    };
    let mut next = None;
    {
        tokio::pin!(story);
        let died = tokio::select! {
            () = &mut story => false,
            () = fate.death() => true,
        };
        if died {
            supervisor.shutdown(Duration::from_millis(1)).await;
            fate.settled().await;
            let again = Supervisor::new();
            world.control(&again, scenario.controllers, clock.clone(), &fate.reborn());
            next = Some(again);
            soon("the story after a kill", story).await;
        }
    }
    // What was begun is let come to its end: the state must be the same several times, and the one that is expected, which
    // may take its time where others use the machine.
    let (looks, patience) = if expected.is_some() { (5, PATIENCE) } else { (20, Duration::ZERO) };
    let started = std::time::Instant::now();
    let mut state = look(world, scenario, &place).await;
    let mut quiet = 0;
    while quiet < looks || expected.is_some_and(|e| e.state != state) && started.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let now = look(world, scenario, &place).await;
        quiet = if now == state { quiet + 1 } else { 0 };
        state = now;
    }
    supervisor.shutdown(Duration::from_millis(1)).await;
    if let Some(next) = next {
        next.shutdown(Duration::from_millis(1)).await;
    }
    for (path, body) in &scenario.objects {
        let target = format!("{}/{}", place.path(path), place.name_of(body));
        if world.get(&target).await.is_some() {
            world.delete(&target, DeleteOptions::default()).await;
        }
    }
    (End { state, made: fate.made() }, fate.writes())
}

async fn look(world: &World, scenario: &Scenario, place: &Place) -> BTreeMap<String, Vec<Value>> {
    let mut state = BTreeMap::new();
    for path in scenario.compared {
        let answer = world.get(&place.path(path)).await.unwrap_or(Value::Null);
        let items = answer["items"].as_array().cloned();
        let mut items: Vec<Value> = items.unwrap_or_else(|| vec![answer]).iter().map(essence).collect();
        items.sort_by_key(Value::to_string);
        state.insert((*path).to_owned(), items);
    }
    state
}

/// An object without what differs from run to run: names that are made up, times, versions.
fn essence(object: &Value) -> Value {
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let meta = &object["metadata"];
    let text = meta["name"].as_str().unwrap_or_default();
    let made_up = !meta["generateName"].is_null() || text.contains("run-") || text.starts_with("csi-");
    let (spec, status) = (&object["spec"], &object["status"]);
    let conditions: Vec<Value> = list(&status["conditions"])
        .iter()
        .filter(|c| c["type"] != "Progressing")
        .map(|c| json!([c["type"], c["status"], c["reason"]]))
        .collect();
    let counts: BTreeMap<&String, &Value> =
        status.as_object().into_iter().flatten().filter(|(k, v)| v.is_number() && *k != "observedGeneration").collect();
    let addresses: Vec<Value> = list(&object["endpoints"]).iter().map(|e| e["addresses"].clone()).collect();
    let taints: Vec<Value> = list(&spec["taints"]).iter().map(|t| json!([t["key"], t["effect"]])).collect();
    let data: Vec<&String> = object["data"].as_object().into_iter().flatten().map(|(key, _)| key).collect();
    json!({
        "name": if made_up { Value::Null } else { meta["name"].clone() },
        "owners": list(&meta["ownerReferences"]).len(),
        "finalizers": meta["finalizers"],
        "deleting": !meta["deletionTimestamp"].is_null(),
        "spec": [spec["replicas"], taints, spec["podCIDRs"].is_array(), spec["finalizers"]],
        "counts": counts,
        "status": [status["phase"], status["completedIndexes"], status["failedIndexes"], conditions, status["hard"],
            status["used"], list(&status["active"]).len(), list(&status["volumesAttached"]).len(),
            status["certificate"].is_string()],
        "rest": [addresses, data, object["rules"], list(&object["secrets"]).len(), list(&object["subsets"]).len()],
    })
}
