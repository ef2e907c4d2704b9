//! Events of objects, as people read them in `kubectl describe`.
//!
//! Follows `k8s.io/client-go/tools/record`: the same event again becomes a higher `count` by a patch; more than ten
//! that differ in their text only become one "(combined from similar events)" within ten minutes; an object may
//! cause 25 at once and then one in five minutes. Recording never blocks and never fails the caller: when the
//! writers cannot keep up, events are dropped, `Normal` ones first.
//!
//! Some components speak of events as `events.k8s.io` has them: [`Recorder::of_controller`], [`crate::series`].
//!
//! Differs: upstream writes one event after the other and drops the 1,001st that waits. A rollout of thousands of
//! objects makes more than that in a second, so here several lanes write side by side; all that is said of an object goes
//! by one lane, and so in order.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{Clock, Supervisor, TaskKind};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::series::Series;
use crate::{Api, ApiError, Meta, Patch, Resource, View, time};

const EVENTS: Resource = Resource::new("", "v1", "events", "Event", true);

/// How many events are written at once.
const LANES: usize = 4;
/// Events waiting to be written in a lane; more are dropped, as upstream's broadcaster does.
const WAITING: usize = 2000;
/// Of these, places that are kept for warnings.
const RESERVED: usize = WAITING / 4;
/// How many correlations a lane remembers.
pub(crate) const REMEMBERED: usize = 4096 / LANES;
/// How often an event is sent to a server that cannot be reached, and how long the first wait is; it doubles.
const TRIES: (u32, Duration) = (6, Duration::from_millis(500));
/// Distinct texts after which events are combined.
const MAX_SIMILAR: usize = 10;
/// How long similar events are remembered, in seconds.
const SIMILAR_SECONDS: i64 = 600;
/// How many events an object may cause at once.
const BURST: f64 = 25.0;
/// One event is given back in this many seconds.
const REFILL_SECONDS: f64 = 300.0;

/// How often it is looked whether a series has ended.
const SERIES_PERIOD: Duration = Duration::from_secs(60);

/// How many events this process dropped.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things go as they should.
    Normal,
    /// Something needs a look.
    Warning,
}

impl EventType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What an event is about (`core/v1.ObjectReference`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// Group and version, such as `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for cluster-wide objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
    /// Version; may be empty.
    pub resource_version: String,
    /// A part of the object, such as `spec.containers{app}`; may be empty.
    pub field_path: String,
}

impl ObjectRef {
    /// The reference to a view's object.
    pub fn of<T: View>(object: &T) -> Self {
        ObjectRef::new(&Resource::of::<T>(), object.meta())
    }

    /// The reference to an object of a resource.
    pub fn new(resource: &Resource, meta: &Meta) -> Self {
        ObjectRef {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: String::new(),
        }
    }

    /// The reference to a part of the object.
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field_path = path.into();
        self
    }

    pub(crate) fn json(&self) -> Value {
        let mut map = serde_json::Map::new();
        for (key, value) in [
            ("kind", &self.kind),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("apiVersion", &self.api_version),
            ("resourceVersion", &self.resource_version),
            ("fieldPath", &self.field_path),
        ] {
            if !value.is_empty() {
                map.insert(key.into(), value.as_str().into());
            }
        }
        Value::Object(map)
    }
}

/// Records events as one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    /// One lane for each writer. Boxed: a channel keeps room for dozens, and most lanes are empty.
    lanes: Vec<mpsc::Sender<Box<Occurrence>>>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) struct Occurrence {
    pub(crate) about: ObjectRef,
    /// Another object that has to do with it.
    pub(crate) related: Option<ObjectRef>,
    pub(crate) annotations: Option<Value>,
    pub(crate) event_type: EventType,
    pub(crate) reason: String,
    /// What was being done.
    pub(crate) action: String,
    pub(crate) message: String,
}

impl Recorder {
    /// A recorder for a component such as `deployment-controller` or `kubelet`, on a host that may be empty. Writes
    /// by `api` from a task of `supervisor`.
    pub fn new(api: Api, supervisor: &Supervisor, component: &str, host: &str) -> Self {
        Self::writing(&api, supervisor, component, || Style::Counted(Correlator::new(component, host)))
    }

    /// A recorder for a controller that tells what it does ([`Recorder::act`]), on a host: its events are as
    /// `events.k8s.io` has them.
    pub fn of_controller(api: Api, supervisor: &Supervisor, controller: &str, host: &str) -> Self {
        Self::writing(&api, supervisor, controller, || Style::Series(Series::new(controller, host)))
    }

    fn writing(api: &Api, supervisor: &Supervisor, component: &str, style: impl Fn() -> Style) -> Self {
        let lane = |_| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let (api, correlator) = (api.clone(), style());
            supervisor.spawn(TaskKind::Worker, format!("events of {component}"), move |stop| async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = write_all(&api, correlator, receiver) => {}
                }
            });
            sender
        };
        Recorder { lanes: (0..LANES).map(lane).collect() }
    }

    /// A recorder whose events go nowhere, for tests.
    pub fn discarding() -> Self {
        Recorder { lanes: Vec::new() }
    }

    /// Records an event.
    pub fn event(&self, about: &ObjectRef, event_type: EventType, reason: &str, message: impl Into<String>) {
        self.act(about, None, event_type, (reason, ""), message);
    }

    /// Records an event of an object that came of an action, such as `("Preempted", "Preempting")`, and perhaps has to do
    /// with another object. Only a recorder of a controller tells of the action and the other object.
    pub fn act(
        &self,
        about: &ObjectRef,
        related: Option<ObjectRef>,
        event_type: EventType,
        (reason, action): (&str, &str),
        message: impl Into<String>,
    ) {
        let occurrence = Box::new(Occurrence {
            about: about.clone(),
            related,
            annotations: None,
            event_type,
            reason: reason.to_owned(),
            action: action.to_owned(),
            message: message.into(),
        });
        if !self.lanes.is_empty() && !offer(&self.lanes[lane_of(about, self.lanes.len())], occurrence) {
            let dropped = DROPPED.fetch_add(1, Ordering::Relaxed) + 1;
            // A flood of events must not become a flood of warnings.
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, reason, "events are dropped: more are made than can be written");
            }
        }
    }

    /// Records a `Normal` event.
    pub fn normal(&self, about: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.event(about, EventType::Normal, reason, message);
    }

    /// Records a `Warning` event.
    pub fn warning(&self, about: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.event(about, EventType::Warning, reason, message);
    }
}

/// The lane of an object. Parts of an object go with it: they share its budget.
fn lane_of(about: &ObjectRef, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (&about.kind, &about.namespace, &about.name).hash(&mut hasher);
    usize::try_from(hasher.finish() % lanes.max(1) as u64).unwrap_or(0)
}

/// Puts an occurrence into a lane, unless the lane is full; the last places are for warnings.
fn offer(lane: &mpsc::Sender<Box<Occurrence>>, occurrence: Box<Occurrence>) -> bool {
    let needed = if occurrence.event_type == EventType::Normal { RESERVED } else { 0 };
    lane.capacity() > needed && lane.try_send(occurrence).is_ok()
}

/// How a recorder's events are put together.
enum Style {
    /// An event that happens again is counted.
    Counted(Correlator),
    /// An event that happens again becomes a series.
    Series(Series),
}

impl Style {
    fn correlate(&mut self, occurrence: Occurrence, now: Timestamp) -> Option<Write> {
        match self {
            Style::Counted(correlator) => correlator.correlate(occurrence, now),
            Style::Series(series) => series.correlate(occurrence, now),
        }
    }

    /// What is to be written because time has passed.
    fn due(&mut self, now: Timestamp) -> Vec<Write> {
        match self {
            Style::Counted(_) => Vec::new(),
            Style::Series(series) => series.due(now),
        }
    }

    /// Whether something may become due.
    fn waits(&self) -> bool {
        matches!(self, Style::Series(series) if !series.is_empty())
    }
}

/// Writes what a lane holds, one after the other.
async fn write_all(api: &Api, mut style: Style, mut lane: mpsc::Receiver<Box<Occurrence>>) {
    let clock = Clock::real();
    let mut look_at = tokio::time::Instant::now() + SERIES_PERIOD;
    loop {
        let writes = tokio::select! {
            occurrence = lane.recv() => match occurrence {
                Some(occurrence) => style.correlate(*occurrence, clock.now()).into_iter().collect(),
                None => return,
            },
            () = tokio::time::sleep_until(look_at), if style.waits() => {
                look_at = tokio::time::Instant::now() + SERIES_PERIOD;
                style.due(clock.now())
            }
        };
        for write in &writes {
            write_one(api, write).await;
        }
    }
}

async fn write_one(api: &Api, write: &Write) {
    let (tries, mut wait) = TRIES;
    for attempt in 1..=tries {
        match Box::pin(send(api, write)).await {
            Ok(()) => break,
            // What the server refused it will refuse again.
            Err(err) if err.status().is_some() || attempt == tries => {
                tracing::debug!(error = %orkd_base::chain(&err), "an event was not written");
                break;
            }
            Err(_) => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
        }
    }
}

async fn send(api: &Api, write: &Write) -> Result<(), ApiError> {
    if let Some(patch) = &write.patch {
        let target = EVENTS.at(&write.namespace, &write.name);
        match api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch.clone())).await {
            Err(err) if err.is_not_found() => {}
            other => return other.map(|_| ()),
        }
    }
    match api.create::<IgnoredAny>(&EVENTS.collection(&write.namespace), &write.event).await {
        Err(err) if err.is_already_exists() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// What is to be written for an occurrence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The whole event, to be created.
    pub(crate) event: Value,
    /// The change of an event that was created before; if that is gone the event is created again.
    pub(crate) patch: Option<Value>,
}

/// Turns occurrences into writes. Pure: the time is an argument.
struct Correlator {
    component: String,
    host: String,
    similar: HashMap<(ObjectRef, EventType, String), Similar>,
    written: HashMap<(ObjectRef, EventType, String, Option<String>), Written>,
    budgets: HashMap<ObjectRef, Budget>,
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Written {
    name: String,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

struct Budget {
    tokens: f64,
    last: Timestamp,
}

impl Correlator {
    fn new(component: &str, host: &str) -> Self {
        Correlator {
            component: component.to_owned(),
            host: host.to_owned(),
            similar: HashMap::new(),
            written: HashMap::new(),
            budgets: HashMap::new(),
        }
    }

    fn correlate(&mut self, occurrence: Occurrence, now: Timestamp) -> Option<Write> {
        self.prune(now);
        let Occurrence { about, annotations, event_type, reason, message, .. } = occurrence;
        // Versions differ from event to event; what happened does not.
        let about_key = ObjectRef { resource_version: String::new(), ..about.clone() };

        let similar_key = (about_key.clone(), event_type, reason.clone());
        let similar =
            self.similar.entry(similar_key).or_insert_with(|| Similar { messages: HashSet::new(), last: now });
        if now.as_second() - similar.last.as_second() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        similar.messages.insert(message.clone());
        let combined = similar.messages.len() >= MAX_SIMILAR;
        if combined {
            // Bounded: one more than was there is forgotten again.
            similar.messages.remove(&message);
            if similar.messages.len() >= MAX_SIMILAR
                && let Some(any) = similar.messages.iter().next().cloned()
            {
                similar.messages.remove(&any);
            }
        }
        let message = if combined { format!("(combined from similar events): {message}") } else { message };

        let spam_key = ObjectRef { field_path: String::new(), ..about_key.clone() };
        let budget = self.budgets.entry(spam_key).or_insert(Budget { tokens: BURST, last: now });
        let passed = (now.as_millisecond() - budget.last.as_millisecond()).max(0) as f64 / 1000.0;
        budget.tokens = (budget.tokens + passed / REFILL_SECONDS).min(BURST);
        budget.last = now;
        let affordable = budget.tokens >= 1.0;
        if affordable {
            budget.tokens -= 1.0;
        }

        let namespace = if about.namespace.is_empty() { "default".to_owned() } else { about.namespace.clone() };
        let written_key = (about_key, event_type, reason.clone(), (!combined).then(|| message.clone()));
        let written = self.written.entry(written_key).or_insert_with(|| Written {
            name: format!("{}.{:x}", about.name, now.as_nanosecond()),
            count: 0,
            first: now,
            last: now,
        });
        written.count += 1;
        written.last = now;
        if !affordable {
            return None;
        }
        let mut event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": written.name, "namespace": namespace},
            "involvedObject": about.json(),
            "reason": reason, "message": message, "type": event_type.as_str(),
            "source": {"component": self.component},
            "firstTimestamp": time(written.first), "lastTimestamp": time(now), "count": written.count,
            "eventTime": null,
            "reportingComponent": self.component, "reportingInstance": self.host,
        });
        if !self.host.is_empty() {
            event["source"]["host"] = self.host.as_str().into();
        }
        if let Some(annotations) = annotations {
            event["metadata"]["annotations"] = annotations;
        }
        let patch = (written.count > 1).then(|| {
            let mut patch = json!({"count": written.count, "lastTimestamp": time(now)});
            if combined {
                patch["message"] = event["message"].clone();
            }
            patch
        });
        Some(Write { namespace, name: written.name.clone(), event, patch })
    }

    /// Forgets what is old when there is much, and everything when that does not help.
    fn prune(&mut self, now: Timestamp) {
        let old = |at: Timestamp| now.as_second() - at.as_second() > SIMILAR_SECONDS;
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, s| !old(s.last));
        }
        if self.written.len() > REMEMBERED {
            self.written.retain(|_, w| !old(w.last));
        }
        if self.budgets.len() > REMEMBERED {
            self.budgets.retain(|_, b| !old(b.last));
        }
        if self.similar.len() > 2 * REMEMBERED {
            self.similar.clear();
        }
        if self.written.len() > 2 * REMEMBERED {
            self.written.clear();
        }
        if self.budgets.len() > 2 * REMEMBERED {
            self.budgets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str) -> Occurrence {
        Occurrence {
            about: ObjectRef { name: "web".into(), namespace: "n".into(), kind: "Pod".into(), ..ObjectRef::default() },
            related: None,
            annotations: None,
            event_type: EventType::Normal,
            reason: "Pulled".into(),
            action: String::new(),
            message: message.into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    #[test]
    fn the_same_event_again_is_counted() {
        let mut correlator = Correlator::new("kubelet", "n1");
        let first = correlator.correlate(occurrence("x"), at(0)).expect("written");
        assert_eq!(first.patch, None);
        assert_eq!(first.event["source"], json!({"component": "kubelet", "host": "n1"}));
        let second = correlator.correlate(occurrence("x"), at(9)).expect("written");
        assert_eq!(second.name, first.name);
        assert_eq!(second.patch, Some(json!({"count": 2, "lastTimestamp": "2023-11-14T22:13:29Z"})));
        assert_eq!(second.event["firstTimestamp"], first.event["firstTimestamp"]);
    }

    #[test]
    fn many_similar_events_are_combined() {
        let mut correlator = Correlator::new("kubelet", "n1");
        let writes: Vec<Write> =
            (0..12).filter_map(|n| correlator.correlate(occurrence(&format!("try {n}")), at(n))).collect();
        assert_eq!(writes[8].event["message"], "try 8");
        assert_eq!(writes[9].event["message"], "(combined from similar events): try 9");
        assert_eq!(writes[11].name, writes[9].name);
        assert_eq!(writes[11].patch.as_ref().map(|p| p["count"].clone()), Some(json!(3)));
        let later = correlator.correlate(occurrence("try 99"), at(2000)).expect("written");
        assert_eq!(later.event["message"], "try 99");
    }

    #[test]
    fn an_object_has_a_budget() {
        let mut correlator = Correlator::new("kubelet", "n1");
        let written = (0..40).filter(|_| correlator.correlate(occurrence("x"), at(0)).is_some()).count();
        assert_eq!(written, 25);
        let after = correlator.correlate(occurrence("x"), at(301)).expect("one is given back");
        assert_eq!(after.event["count"], 41);
    }
    #[test]
    fn warnings_have_places_of_their_own() {
        let (lane, _receiver) = mpsc::channel(WAITING);
        let taken = (0..2 * WAITING).filter(|n| offer(&lane, Box::new(occurrence(&n.to_string())))).count();
        assert_eq!(taken, WAITING - RESERVED);
        let warning = || Occurrence { event_type: EventType::Warning, ..occurrence("x") };
        assert_eq!((0..2 * WAITING).filter(|_| offer(&lane, Box::new(warning()))).count(), RESERVED);
    }

    #[test]
    fn what_is_said_of_an_object_goes_by_one_lane() {
        let about = |name: &str, field: &str| ObjectRef {
            name: name.into(),
            kind: "Pod".into(),
            field_path: field.into(),
            resource_version: field.into(),
            ..ObjectRef::default()
        };
        assert_eq!(lane_of(&about("a", ""), LANES), lane_of(&about("a", "spec.containers{c}"), LANES));
        let used: HashSet<usize> = (0..99).map(|n| lane_of(&about(&n.to_string(), ""), LANES)).collect();
        assert_eq!(used.len(), LANES);
    }

    /// An API that answers at once or cannot be reached, and remembers what was asked of it.
    fn api(asked: std::sync::Arc<AtomicU64>, unreachable: u64) -> Api {
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            async move {
                if n < unreachable {
                    return Err(std::io::Error::other("away"));
                }
                Ok(http::Response::new(kube::client::Body::from(b"{}".to_vec())))
            }
        });
        Api::new(kube::Client::new(service, "default"), "test")
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_thousands_loses_nothing_and_a_server_that_was_away_neither() {
        for unreachable in [0, 5] {
            let (asked, supervisor) = (std::sync::Arc::<AtomicU64>::default(), Supervisor::new());
            let recorder = Recorder::new(api(asked.clone(), unreachable), &supervisor, "test", "");
            for n in 0..4000 {
                let about = ObjectRef { name: format!("web-{n}"), kind: "Deployment".into(), ..ObjectRef::default() };
                recorder.normal(&about, "ScalingReplicaSet", "Scaled up");
            }
            while asked.load(Ordering::SeqCst) < 4000 + unreachable {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            supervisor.shutdown(Duration::from_secs(1)).await;
            assert_eq!(asked.load(Ordering::SeqCst), 4000 + unreachable);
        }
    }
}
