//! `kill -9` of orkd at random moments under writes, twenty times, on a node with running containers.
//!
//! Clients outside orkd keep a journal of what was acknowledged to them and an open watch. After each restart: nothing
//! acknowledged is lost, revisions neither repeat nor go back, the watch goes on where it was or is told that its
//! place is gone, containers are the same processes, and the node is Ready in time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::jiff::Timestamp;
use orkd_tests::client::{Client, Lines, revision};
use orkd_tests::cluster::Cluster;
use orkd_tests::machine::joined;
use orkd_tests::{eventually, is_root};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::healing::{FACTS, WORKLOAD, processes};

const ROUNDS: usize = 20;
const WRITERS: usize = 4;
const PATH: &str = "/api/v1/namespaces/crash/configmaps";
/// How soon the node must be Ready after a restart.
const READY: Duration = Duration::from_secs(10);

/// An object as it was told to a client: revision and value, or that it is gone.
type State = Option<(u64, String)>;

/// What the writers were told.
#[derive(Default)]
struct Journal {
    acknowledged: BTreeMap<String, State>,
    /// What a write without an answer would have made of an object: its value, or that it is gone.
    doubtful: BTreeMap<String, Option<String>>,
    /// Objects whose deletion was asked for, answered or not.
    deletions: BTreeSet<String>,
    revisions: BTreeSet<u64>,
    problems: Vec<String>,
}

impl Journal {
    fn newest(&self) -> u64 {
        self.revisions.last().copied().unwrap_or_default()
    }

    /// Takes an acknowledged write down. `floor` is the newest revision that was acknowledged before it was asked for.
    fn take(&mut self, name: &str, floor: u64, revision: u64, value: &str) {
        if revision <= floor {
            self.problems.push(format!("{name}: revision {revision} was given after {floor}"));
        }
        if !self.revisions.insert(revision) {
            self.problems.push(format!("{name}: revision {revision} was given twice"));
        }
        self.acknowledged.insert(name.to_owned(), Some((revision, value.to_owned())));
    }

    /// Takes down what was told of a write; whether it was acknowledged.
    fn told(&mut self, name: &str, step: &str, floor: u64, answer: Result<(u16, Value)>) -> Result<bool> {
        match answer {
            Ok((200, _)) if step == "deleted" => drop(self.acknowledged.insert(name.to_owned(), None)),
            Ok((200 | 201, object)) => {
                let revision = revision(&object).context("an acknowledged write without a revision")?;
                self.take(name, floor, revision, step);
            }
            Ok((code @ (400..=428 | 430..=499), object)) => {
                self.problems.push(format!("{step} {name}: {code} {object}"));
                return Ok(false);
            }
            // Nobody knows.
            _ => {
                self.doubtful.insert(name.to_owned(), (step != "deleted").then(|| step.to_owned()));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compares with what is stored.
    fn compare(&self, stored: &BTreeMap<String, (u64, String)>) -> Result<()> {
        for (name, expected) in &self.acknowledged {
            let found = stored.get(name).cloned();
            if found == *expected {
                continue;
            }
            match self.doubtful.get(name) {
                Some(made) if found.as_ref().map(|(_, value)| value) == made.as_ref() => {}
                doubt => bail!("{name}: acknowledged {expected:?}, stored {found:?}, in doubt {doubt:?}"),
            }
        }
        ensure!(self.problems.is_empty(), "{:#?}", self.problems);
        Ok(())
    }
}

/// What the watch told.
#[derive(Default)]
struct Seen {
    state: BTreeMap<String, u64>,
    revisions: BTreeSet<u64>,
    /// Where a list stood in for events: after the first revision, up to the second.
    lists: Vec<(u64, u64)>,
    last: u64,
    resumed: usize,
    gone: usize,
    problems: Vec<String>,
}

impl Seen {
    fn listed(&mut self, list: &Value) -> Result<()> {
        let at = revision(list).context("the revision of a list")?;
        if at < self.last {
            self.problems.push(format!("a list at {at} after an event at {}", self.last));
        }
        self.lists.push((self.last, at));
        self.last = at;
        self.state = stored(list).into_iter().map(|(name, (revision, _))| (name, revision)).collect();
        Ok(())
    }

    /// Takes an event; whether the watch goes on.
    fn take(&mut self, event: &Value) -> bool {
        let kind = event["type"].as_str().unwrap_or_default();
        let object = &event["object"];
        if kind == "ERROR" {
            if object["code"] != 410 {
                self.problems.push(event.to_string());
            }
            self.last_is_gone();
            return false;
        }
        let at = revision(object).unwrap_or_default();
        if kind == "BOOKMARK" {
            if at < self.last {
                self.problems.push(format!("a bookmark at {at} after {}", self.last));
            }
            self.last = self.last.max(at);
            return true;
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let known = self.state.contains_key(&name);
        if at <= self.last || known != (kind != "ADDED") {
            self.problems.push(format!("{kind} {name} at {at} after {}; known: {known}", self.last));
        }
        self.last = at;
        self.revisions.insert(at);
        match kind {
            "DELETED" => drop(self.state.remove(&name)),
            _ => drop(self.state.insert(name, at)),
        }
        true
    }

    fn last_is_gone(&mut self) {
        self.gone += 1;
    }

    fn covers(&self, revision: u64) -> bool {
        self.revisions.contains(&revision) || self.lists.iter().any(|(after, to)| *after < revision && revision <= *to)
    }
}

fn stored(list: &Value) -> BTreeMap<String, (u64, String)> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let facts = |o: &Value| {
        let name = o["metadata"]["name"].as_str()?.to_owned();
        Some((name, (revision(o)?, o["data"]["value"].as_str().unwrap_or_default().to_owned())))
    };
    items.iter().filter_map(facts).filter(|(name, _)| name.starts_with('w')).collect()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads of the test share.
#[derive(Clone)]
struct Shared {
    kubeconfig: PathBuf,
    journal: Arc<Mutex<Journal>>,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
}

/// A short pause before the next attempt while the server is away.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Creates, changes and deletes objects, one write at a time, until told to stop.
async fn write(client: Client, shared: Shared, writer: usize) -> Result<()> {
    let mut number = 0;
    while !shared.stop.is_cancelled() {
        let name = format!("w{writer}-{number}");
        number += 1;
        for step in ["created", "changed", "deleted"] {
            if step == "deleted" && number % 3 != 0 {
                break;
            }
            let floor = {
                let mut journal = lock(&shared.journal);
                if step == "deleted" {
                    journal.deletions.insert(name.clone());
                }
                journal.newest()
            };
            let path = format!("{PATH}/{name}");
            let answer = match step {
                "created" => client.create(PATH, &json!({"metadata": {"name": name}, "data": {"value": step}})).await,
                "changed" => {
                    let patch = json!({"data": {"value": step}}).to_string();
                    client.send("PATCH", &path, "application/merge-patch+json", &patch).await
                }
                _ => client.send("DELETE", &path, "application/json", "").await,
            };
            if !lock(&shared.journal).told(&name, step, floor, answer)? {
                // The object is left alone from here on.
                pause().await;
                break;
            }
        }
    }
    Ok(())
}

/// Lists once and watches on, as client-go's reflector does.
async fn watch(client: Client, shared: Shared) -> Result<()> {
    let mut list = lock(&shared.seen).last == 0;
    while !shared.stop.is_cancelled() {
        if list {
            match client.get(PATH).await {
                Ok(found) => lock(&shared.seen).listed(&found)?,
                Err(_) => {
                    pause().await;
                    continue;
                }
            }
            list = false;
        }
        let from = lock(&shared.seen).last;
        let path = format!("{PATH}?watch=true&resourceVersion={from}&allowWatchBookmarks=true");
        let opened = client.open("GET", &path, "application/json", "").await;
        let answer = match opened {
            Ok(answer) if answer.status() == 200 => answer,
            Ok(answer) if answer.status() == 410 => {
                lock(&shared.seen).last_is_gone();
                list = true;
                continue;
            }
            _ => {
                pause().await;
                continue;
            }
        };
        lock(&shared.seen).resumed += 1;
        let mut lines = Lines::new(answer.into_body());
        loop {
            let line = tokio::select! {
                () = shared.stop.cancelled() => return Ok(()),
                line = lines.next() => line,
            };
            let Some(line) = line else { break };
            let event: Value = serde_json::from_slice(&line).context("a whole line is a whole event")?;
            if !lock(&shared.seen).take(&event) {
                list = true;
                break;
            }
        }
    }
    Ok(())
}

/// Waits until the node has said since `restart` that it lives, is Ready, and its kubelet answers.
async fn ready_again(client: &Client, restart: Timestamp) -> Result<()> {
    let check = async || -> Result<()> {
        let lease = client.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/server").await?;
        let renewed: Timestamp = lease["spec"]["renewTime"].as_str().context("a time")?.parse()?;
        ensure!(renewed > restart, "the lease was renewed at {renewed}");
        let node = client.get("/api/v1/nodes/server").await?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure!(ready, "{conditions:?}");
        let health = client.get("/api/v1/nodes/server/proxy/healthz").await?;
        ensure!(health == "ok", "the kubelet says {health}");
        Ok(())
    };
    let start = Instant::now();
    while let Err(error) = check().await {
        ensure!(start.elapsed() < READY, "not Ready within {READY:?}: {error:#}");
        pause().await;
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_in_twenty_kills() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let seed: u64 = std::env::var("ORKD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("ORKD_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    k.ok("create namespace crash")?;
    k.apply(WORKLOAD)?;
    k.ok("rollout status deployment/web --timeout=60s").with_context(|| cluster.log())?;
    k.ok("wait --for=condition=Ready pod/victim --timeout=60s")?;
    let facts = |cluster: &Cluster| -> Result<String> {
        let pods = cluster.kubectl()?.ok_args(&["get", "pods", "-o", &format!("jsonpath={FACTS}")], "")?;
        Ok([pods, processes(cluster, "sleep 31337")?.join(","), processes(cluster, "sleep 41414")?.join(",")]
            .join("\n"))
    };
    let before = facts(&cluster)?;

    let shared = Shared {
        kubeconfig: cluster.kubeconfig(),
        journal: Arc::default(),
        seen: Arc::default(),
        stop: CancellationToken::new(),
    };
    let outside = shared.clone();
    let clients = cluster.machine.thread(move || async move {
        let client = Client::new(&outside.kubeconfig).await?;
        let writers = (0..WRITERS).map(|writer| write(client.clone(), outside.clone(), writer));
        let writers = futures_util::future::try_join_all(writers);
        futures_util::future::try_join(writers, watch(client.clone(), outside.clone())).await.map(drop)
    })?;
    let (mut worst, mut acknowledged) = (Duration::ZERO, 0);
    for round in 1..=ROUNDS {
        // Under writes: at some moment after a few more were acknowledged.
        let enough = acknowledged + random.random_range(5..60);
        eventually("more writes to be acknowledged", Duration::from_secs(20), || {
            let count = lock(&shared.journal).revisions.len();
            if count >= enough { Ok(()) } else { Err(format!("{count} of {enough}; {}", cluster.log())) }
        })?;
        cluster.kill()?;
        if round % 4 == 0 {
            // Now and then while it starts, too.
            cluster.launch()?;
            std::thread::sleep(Duration::from_millis(random.random_range(0..1500)));
            cluster.kill()?;
        }
        acknowledged = lock(&shared.journal).revisions.len();
        let (start, restart) = (Instant::now(), Timestamp::now());
        cluster.boot()?;
        let (kubeconfig, journal) = (shared.kubeconfig.clone(), shared.journal.clone());
        let compared = cluster.machine.inside(move || async move {
            let client = Client::new(&kubeconfig).await?;
            ready_again(&client, restart).await?;
            let took = start.elapsed();
            // What was acknowledged before the list was asked for is in it.
            let (copy, floor) = {
                let journal = lock(&journal);
                (journal.acknowledged.clone(), journal.newest())
            };
            let list = client.get(PATH).await?;
            ensure!(revision(&list) >= Some(floor), "a list at {:?} after {floor}", revision(&list));
            let found = stored(&list);
            for (name, state) in copy {
                let Some((revision, _)) = state else { continue };
                let newer = found.get(&name).is_some_and(|(r, _)| *r >= revision);
                // Deleted meanwhile, or perhaps deleted.
                let gone = lock(&journal).deletions.contains(&name);
                ensure!(newer || gone, "{name} was acknowledged at {revision}, stored: {:?}", found.get(&name));
            }
            Ok(took)
        });
        let took = compared.with_context(|| format!("round {round}, ORKD_SEED={seed}\n{}", cluster.log()))?;
        ensure!(took < READY, "the node is Ready {took:?} after restart {round}");
        worst = worst.max(took);
        assert_eq!(facts(&cluster)?, before, "containers, round {round}, ORKD_SEED={seed}");
    }

    // At rest, everything agrees.
    shared.stop.cancel();
    joined(clients)?;
    let rest = shared.clone();
    let found = cluster.machine.inside(move || async move {
        let client = Client::new(&rest.kubeconfig).await?;
        let list = client.get(PATH).await?;
        // The watch goes on from where it was, for the last events.
        let again = Shared { stop: CancellationToken::new(), ..rest.clone() };
        let wanted: BTreeMap<String, u64> = stored(&list).into_iter().map(|(name, (at, _))| (name, at)).collect();
        let reached = async {
            while lock(&rest.seen).state != wanted {
                pause().await;
            }
        };
        tokio::select! {
            ended = watch(client, again) => ended?,
            reached = tokio::time::timeout(Duration::from_secs(20), reached) => {
                reached.map_err(|_| anyhow::anyhow!("the watch does not show what is stored"))?;
            }
        }
        Ok(stored(&list))
    })?;
    let (journal, seen) = (lock(&shared.journal), lock(&shared.seen));
    journal.compare(&found)?;
    ensure!(seen.problems.is_empty(), "{:#?}", seen.problems);
    let unseen: Vec<&u64> = journal.revisions.iter().filter(|r| !seen.covers(**r)).collect();
    ensure!(unseen.is_empty(), "acknowledged and never seen by the watch: {unseen:?}");
    println!(
        "{ROUNDS} kills: {} writes acknowledged, {} in doubt; {} events, the watch opened {} times, told that its place is \
         gone {} times; worst Ready {worst:?} after a restart",
        journal.revisions.len(),
        journal.doubtful.len(),
        seen.revisions.len(),
        seen.resumed,
        seen.gone,
    );
    Ok(())
}
