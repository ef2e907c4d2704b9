//! Three machines on one switch: a late node, a drain under a disruption budget, the death of a node, and one that is
//! cut off for a while.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::{Agent, Cluster, load_busybox};
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};
use serde_json::{Deserializer, Value};

/// How long a node may be silent in this cluster.
const GRACE: Duration = Duration::from_secs(20);
/// How long pods here tolerate a node that is.
const TOLERATED: Duration = Duration::from_secs(2);
/// How much later than that their replacements run at the latest.
const LIMIT: Duration = Duration::from_secs(30);

const AGENTS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: "orkd.local/busybox:latest", imagePullPolicy: IfNotPresent, command: [sleep, "10001"]}
"#;

/// Two servers a node, of which all but one must be ready.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: web}}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:
      - name: c
        image: orkd.local/busybox:latest
        imagePullPolicy: IfNotPresent
        command: [sleep, "10002"]
        readinessProbe: {exec: {command: ["true"]}, initialDelaySeconds: 2, periodSeconds: 1, timeoutSeconds: 5}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 6, selector: {matchLabels: {app: web}}}
"#;

/// Identities that may exist once only; two of them a node.
const DB: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 6
  serviceName: db
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: db}}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:
      - {name: c, image: "orkd.local/busybox:latest", imagePullPolicy: IfNotPresent, command: [sleep, "10003"]}
"#;

#[test]
fn workloads_move_between_nodes() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let grace = format!("--node-monitor-grace-period={}s", GRACE.as_secs());
    let cluster = Cluster::node(&[&grace])?;
    let k = cluster.kubectl()?;
    let early = cluster.join("early")?;
    cluster.wait_ready("early").map_err(|e| e.context(early.log()))?;
    load_busybox(&early.machine)?;
    let mut nodes = Nodes { k: &k, cluster: &cluster, agents: vec![early] };
    let scenarios: [(&str, Scenario); 4] = [
        ("a late node", a_late_node_gets_its_daemon),
        ("drain", a_drain_waits_for_the_budget),
        ("death", a_dead_node_is_replaced),
        ("cut off", a_node_cut_off_comes_back),
    ];
    for (name, scenario) in scenarios {
        let begun = Instant::now();
        scenario(&mut nodes).map_err(|e| {
            let seen = k.ok("describe nodes").unwrap_or_default() + &k.ok("get pods -o wide").unwrap_or_default();
            let events = k.ok("get events --sort-by=.metadata.creationTimestamp").unwrap_or_default();
            let logs: Vec<String> = nodes.agents.iter().map(Agent::log).collect();
            e.context(format!("{name}:\n{seen}\n{events}\n{}\n{}", logs.join("\n--\n"), cluster.log()))
        })?;
        println!("{name}: {:?}", begun.elapsed());
    }
    Ok(())
}

/// What happens to the machines, one after the other.
type Scenario = fn(&mut Nodes<'_>) -> Result<()>;

/// The machines of the cluster.
struct Nodes<'a> {
    k: &'a Kubectl<'a>,
    cluster: &'a Cluster,
    agents: Vec<Agent>,
}

impl Nodes<'_> {
    fn agent(&mut self, name: &str) -> Result<&mut Agent> {
        self.agents.iter_mut().find(|a| a.machine.name == name).with_context(|| format!("no machine {name}"))
    }

    /// How many processes of this command line run on each machine.
    fn running(&self, command: &str) -> Result<BTreeMap<String, usize>> {
        let machines = std::iter::once(&self.cluster.machine).chain(self.agents.iter().map(|a| &a.machine));
        machines.map(|m| Ok((m.name.clone(), m.processes(command)?.len()))).collect()
    }

    /// Waits until as many processes run in all, and no more than there are ready pods for on each machine.
    fn run_once(&self, app: &str, command: &str, wanted: usize) -> Result<()> {
        eventually(&format!("each of {app} to run once"), Duration::from_secs(30), || {
            let mut expected: BTreeMap<String, usize> = BTreeMap::new();
            for pod in self.pods(app).map_err(|e| e.to_string())? {
                *expected.entry(pod.node).or_default() += 1;
            }
            let mut found = self.running(command).map_err(|e| e.to_string())?;
            found.retain(|_, count| *count > 0);
            if found == expected && found.values().sum::<usize>() == wanted {
                Ok(())
            } else {
                Err(format!("pods {expected:?}, processes {found:?}"))
            }
        })
    }

    fn pods(&self, app: &str) -> Result<Vec<Seen>> {
        let list = self.k.json(&format!("get pods -l app={app}"))?;
        Ok(list["items"].as_array().context("a list")?.iter().map(Seen::of).collect())
    }

    /// Waits until the pods of an application are as `good` wants them.
    fn until(&self, what: &str, app: &str, limit: Duration, good: impl Fn(&[Seen]) -> bool) -> Result<Vec<Seen>> {
        eventually(what, limit, || {
            let pods = self.pods(app).map_err(|e| e.to_string())?;
            if good(&pods) { Ok(pods) } else { Err(format!("{pods:?}")) }
        })
    }

    /// Waits for the condition Ready of a node.
    fn condition(&self, node: &str, wanted: &str, limit: Duration) -> Result<Value> {
        eventually(&format!("{node} to be Ready={wanted}"), limit, || {
            let object = self.k.json(&format!("get node {node}")).map_err(|e| e.to_string())?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
            if ready["status"] == wanted { Ok(ready) } else { Err(ready.to_string()) }
        })
    }

    /// Waits until `kubectl describe` of an object says all of this.
    fn describe(&self, object: &str, texts: &[&str]) -> Result<()> {
        eventually(&format!("describe {object}"), Duration::from_secs(10), || {
            let told = self.k.ok(&format!("describe {object}")).map_err(|e| e.to_string())?;
            match texts.iter().find(|text| !told.contains(**text)) {
                None => Ok(()),
                Some(text) => Err(format!("no {text:?} in\n{told}")),
            }
        })
    }
}

/// What of a pod matters here.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    name: String,
    uid: String,
    node: String,
    ready: bool,
    deleting: bool,
}

impl Seen {
    fn of(pod: &Value) -> Seen {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        Seen {
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            ready: conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"),
            deleting: pod["metadata"]["deletionTimestamp"].is_string(),
        }
    }

    fn serves(&self) -> bool {
        self.ready && !self.deleting
    }
}

/// A DaemonSet that is complete gets a third node.
fn a_late_node_gets_its_daemon(nodes: &mut Nodes<'_>) -> Result<()> {
    nodes.k.apply(AGENTS)?;
    nodes.k.ok("rollout status daemonset/each --timeout=60s")?;
    ensure!(nodes.pods("each")?.len() == 2);
    let late = nodes.cluster.join("late")?;
    nodes.cluster.wait_ready("late").map_err(|e| e.context(late.log()))?;
    load_busybox(&late.machine)?;
    nodes.agents.push(late);
    // Its image was not there at the first try.
    let pods = nodes.until("a pod on each node", "each", Duration::from_secs(60), |pods| {
        pods.len() == 3 && pods.iter().all(Seen::serves)
    })?;
    let mut on: Vec<&str> = pods.iter().map(|p| p.node.as_str()).collect();
    on.sort_unstable();
    assert_eq!(on, ["early", "late", "server"]);
    nodes.k.ok("rollout status daemonset/each --timeout=20s")?;
    let status = nodes.k.json("get daemonset each")?["status"].clone();
    for count in ["currentNumberScheduled", "desiredNumberScheduled", "numberAvailable", "numberReady"] {
        ensure!(status[count] == 3, "{count}: {status}");
    }
    nodes.describe(
        "daemonset each",
        &["Number of Nodes Scheduled with Available Pods: 3", "SuccessfulCreate", "daemonset-controller"],
    )?;
    nodes.describe(
        "node late",
        &["Starting kubelet.", "Node late status is now: NodeReady", "Registered Node late in Controller"],
    )?;
    nodes.run_once("each", "sleep 10001", 3)
}

/// How many pods of an application serve, at each change that a watch tells of.
struct Watcher {
    child: std::process::Child,
    /// The pods now, and the fewest that served at once since [`Watcher::forget`].
    state: Arc<Mutex<(BTreeMap<String, Seen>, usize)>>,
}

impl Watcher {
    fn start(k: &Kubectl<'_>, app: &str) -> Result<Watcher> {
        let label = format!("app={app}");
        let args = ["get", "pods", "-l", &label, "--watch", "--output-watch-events", "-o", "json"];
        let mut child = k.command(&args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let state = Arc::new(Mutex::new((BTreeMap::new(), usize::MAX)));
        let shared = state.clone();
        std::thread::spawn(move || {
            for event in Deserializer::from_reader(stdout).into_iter::<Value>() {
                let Ok(event) = event else { return };
                let pod = Seen::of(&event["object"]);
                let mut state = shared.lock().expect("no panic");
                match event["type"] == "DELETED" {
                    true => state.0.remove(&pod.name),
                    false => state.0.insert(pod.name.clone(), pod),
                };
                state.1 = state.1.min(state.0.values().filter(|p| p.serves()).count());
            }
        });
        Ok(Watcher { child, state })
    }

    /// Forgets what was, once `count` pods serve.
    fn forget(&self, count: usize) -> Result<()> {
        eventually("the watch to see all pods", Duration::from_secs(20), || {
            let mut state = self.state.lock().expect("no panic");
            let serving = state.0.values().filter(|p| p.serves()).count();
            state.1 = serving;
            if serving == count { Ok(()) } else { Err(format!("{:?}", state.0)) }
        })
    }

    fn fewest(&self) -> usize {
        self.state.lock().expect("no panic").1
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `kubectl drain` moves what the budget allows, one after the other.
fn a_drain_waits_for_the_budget(nodes: &mut Nodes<'_>) -> Result<()> {
    let k = nodes.k;
    k.apply(WEB)?;
    k.ok("rollout status deployment/web --timeout=60s")?;
    let pods = nodes.pods("web")?;
    let on = |pods: &[Seen], node: &str| pods.iter().filter(|p| p.node == node && !p.deleting).count();
    ensure!(["server", "early", "late"].iter().all(|n| on(&pods, n) == 2), "spread over the nodes: {pods:?}");
    let watcher = Watcher::start(k, "web")?;
    watcher.forget(6)?;

    // No disruption is allowed: nothing moves.
    eventually("the budget to be counted", Duration::from_secs(20), || {
        let budget = k.json("get pdb web").map_err(|e| e.to_string())?;
        if budget["status"]["currentHealthy"] == 6 { Ok(()) } else { Err(budget.to_string()) }
    })?;
    let refused = k.fails("drain early --ignore-daemonsets --timeout=6s")?;
    ensure!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{refused}");
    ensure!(watcher.fewest() == 6, "{} served", watcher.fewest());
    ensure!(k.ok("get node early")?.contains("Ready,SchedulingDisabled"));
    nodes.describe("node early", &["node.kubernetes.io/unschedulable:NoSchedule", "NodeNotSchedulable"])?;

    // One may be missing at a time.
    let patch = r#"{"spec":{"minAvailable":5}}"#;
    k.ok_args(&["patch", "pdb", "web", "--type=merge", "-p", patch], "")?;
    let drained = k.ok("drain early --ignore-daemonsets --timeout=90s")?;
    ensure!(drained.contains("node/early drained"), "{drained}");
    let pods = nodes.until("the pods on other nodes", "web", Duration::from_secs(60), |pods| {
        pods.iter().filter(|p| p.serves()).count() == 6
    })?;
    ensure!(on(&pods, "early") == 0, "{pods:?}");
    ensure!(watcher.fewest() == 5, "the budget is five, and {} served", watcher.fewest());
    ensure!(on(&nodes.pods("each")?, "early") == 1, "daemons stay");
    nodes.describe("pdb web", &["Min available:  5", "Desired:              5", "Total:                6"])?;

    // Back in service: the next pods go there.
    k.ok("uncordon early")?;
    nodes.describe("node early", &["Taints:             <none>", "Unschedulable:      false", "NodeSchedulable"])?;
    k.ok("rollout restart deployment/web")?;
    k.ok("rollout status deployment/web --timeout=90s")?;
    let pods = nodes.until("the old pods to go", "web", Duration::from_secs(30), |pods| pods.len() == 6)?;
    ensure!(on(&pods, "early") > 0, "{pods:?}");
    nodes.run_once("web", "sleep 10002", 6)
}

/// The pods of a machine that lost its power are replaced, identities only when somebody says that it is dead.
fn a_dead_node_is_replaced(nodes: &mut Nodes<'_>) -> Result<()> {
    let k = nodes.k;
    k.apply(DB)?;
    k.ok("rollout status statefulset/db --timeout=60s")?;
    let dead = "early";
    let lost = |pods: &[Seen]| pods.iter().filter(|p| p.node == dead).cloned().collect::<Vec<_>>();
    let (web, db) = (lost(&nodes.pods("web")?), lost(&nodes.pods("db")?));
    let [first, second] = &db[..] else { anyhow::bail!("two of six run on each of three nodes: {db:?}") };
    ensure!(!web.is_empty());

    nodes.agent(dead)?.power_off()?;
    let died = Instant::now();
    nodes.until("the replacements to be ready", "web", GRACE + TOLERATED + LIMIT, |pods| {
        pods.iter().filter(|p| p.serves() && p.node != dead).count() == 6
    })?;
    println!("replaced {:?} after the node died; the grace is {:?}", died.elapsed(), GRACE + TOLERATED);
    let ready = nodes.condition(dead, "Unknown", Duration::from_secs(1))?;
    ensure!(ready["reason"] == "NodeStatusUnknown", "{ready}");
    ensure!(ready["message"] == "Kubelet stopped posting node status.", "{ready}");
    nodes.describe(
        &format!("node {dead}"),
        &[
            "node.kubernetes.io/unreachable:NoExecute",
            "node.kubernetes.io/unreachable:NoSchedule",
            "Node early status is now: NodeNotReady",
        ],
    )?;
    // The evicted pods wait for their kubelet, and say why they go.
    let old = k.json(&format!("get pod {}", web[0].name))?;
    let conditions = old["status"]["conditions"].as_array().context("conditions")?;
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").context("DisruptionTarget")?;
    ensure!(target["reason"] == "DeletionByTaintManager", "{target}");
    ensure!(target["message"] == "Taint manager: deleting due to NoExecute taint", "{target}");
    nodes.describe(&format!("pod {}", web[0].name), &["Terminating", "TaintManagerEviction", "Node is not ready"])?;
    ensure!(nodes.pods("each")?.iter().any(|p| p.node == dead && !p.deleting), "a daemon tolerates it for ever");

    // An identity stays where it was ...
    let same = |seen: &Seen, pods: &[Seen]| pods.iter().any(|p| p.uid == seen.uid);
    let pods = nodes.until("the identities to be marked", "db", Duration::from_secs(10), |pods| {
        lost(pods).iter().all(|p| p.deleting)
    })?;
    ensure!(pods.len() == 6 && same(first, &pods) && same(second, &pods), "{pods:?}");
    // ... until it is deleted by force ...
    k.ok(&format!("delete pod {} --force --grace-period=0", first.name))?;
    nodes.until("the identity elsewhere", "db", Duration::from_secs(30), |pods| {
        pods.iter().any(|p| p.name == first.name && p.serves() && p.node != dead)
    })?;
    ensure!(same(second, &nodes.pods("db")?));
    // ... or the node is said to be out of service.
    k.ok(&format!("taint node {dead} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"))?;
    nodes.until("all identities elsewhere", "db", Duration::from_secs(30), |pods| {
        pods.len() == 6 && pods.iter().all(|p| p.serves() && p.node != dead)
    })?;
    nodes.until("no pod of the dead node", "web", Duration::from_secs(30), |pods| lost(pods).is_empty())?;

    // The machine is repaired. What was moved is not started there again.
    nodes.agent(dead)?.boot()?;
    nodes.condition(dead, "True", Duration::from_secs(60))?;
    k.ok(&format!("taint node {dead} node.kubernetes.io/out-of-service-"))?;
    k.ok("rollout status daemonset/each --timeout=60s")?;
    nodes.until("the node's own pod again", "each", Duration::from_secs(60), |pods| {
        pods.len() == 3 && pods.iter().all(Seen::serves)
    })?;
    eventually("the taints to go", Duration::from_secs(20), || {
        let node = k.json(&format!("get node {dead}")).map_err(|e| e.to_string())?;
        if node["spec"]["taints"].is_null() { Ok(()) } else { Err(node["spec"].to_string()) }
    })?;
    nodes.run_once("each", "sleep 10001", 3)?;
    nodes.run_once("web", "sleep 10002", 6)?;
    nodes.run_once("db", "sleep 10003", 6)
}

/// A node whose cable was out for a while: its pods ran on, and those that were replaced meanwhile are ended.
fn a_node_cut_off_comes_back(nodes: &mut Nodes<'_>) -> Result<()> {
    let k = nodes.k;
    let cut = "late";
    let lost: Vec<Seen> = nodes.pods("web")?.into_iter().filter(|p| p.node == cut).collect();
    ensure!(!lost.is_empty());
    nodes.agent(cut)?.machine.connected(false)?;
    nodes.condition(cut, "Unknown", GRACE + LIMIT)?;
    nodes.until("the replacements to be ready", "web", TOLERATED + LIMIT, |pods| {
        pods.iter().filter(|p| p.serves() && p.node != cut).count() == 6
    })?;
    let there = nodes.running("sleep 10002")?;
    ensure!(there[cut] == lost.len(), "what runs there cannot be ended from here: {there:?}");

    nodes.agent(cut)?.machine.connected(true)?;
    let back = Instant::now();
    nodes.condition(cut, "True", Duration::from_secs(30))?;
    println!("Ready {:?} after the cable was in again", back.elapsed());
    nodes.until("the evicted pods to go", "web", Duration::from_secs(40), |pods| pods.len() == 6)?;
    k.ok("rollout status statefulset/db --timeout=60s")?;
    nodes.run_once("each", "sleep 10001", 3)?;
    nodes.run_once("web", "sleep 10002", 6)?;
    nodes.run_once("db", "sleep 10003", 6)
}
