//! Events of objects, as people read them in `kubectl describe`.
//!
//! Follows `k8s.io/client-go/tools/record`: the same event again becomes a higher `count` by a patch; more than ten
//! that differ in their text only become one "(combined from similar events)" within ten minutes; an object may
//! cause 25 at once and then one in five minutes. Recording never blocks and never fails the caller: when the
//! writer cannot keep up, events are dropped.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use orkd_base::{BoxError, Clock, Supervisor, TaskKind};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Api, Meta, Patch, Resource, View, time};

const EVENTS: Resource = Resource::new("", "v1", "events", "Event", true);

/// Events waiting to be written; more are dropped, as upstream's broadcaster does.
const WAITING: usize = 1000;
/// How many correlations are remembered.
const REMEMBERED: usize = 4096;
/// Distinct texts after which events are combined.
const MAX_SIMILAR: usize = 10;
/// How long similar events are remembered, in seconds.
const SIMILAR_SECONDS: i64 = 600;
/// How many events an object may cause at once.
const BURST: f64 = 25.0;
/// One event is given back in this many seconds.
const REFILL_SECONDS: f64 = 300.0;

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things go as they should.
    Normal,
    /// Something needs a look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
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

    fn json(&self) -> Value {
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
    sender: mpsc::Sender<Occurrence>,
}

#[derive(Clone, Debug)]
struct Occurrence {
    about: ObjectRef,
    annotations: Option<Value>,
    event_type: EventType,
    reason: String,
    message: String,
}

impl Recorder {
    /// A recorder for a component such as `deployment-controller` or `kubelet`, on a host that may be empty. Writes
    /// by `api` from a task of `supervisor`.
    pub fn new(api: Api, supervisor: &Supervisor, component: &str, host: &str) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Occurrence>(WAITING);
        let mut correlator = Correlator::new(component, host);
        supervisor.spawn(TaskKind::Worker, format!("events of {component}"), move |stop| async move {
            let clock = Clock::real();
            loop {
                let occurrence = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    next = receiver.recv() => match next {
                        Some(occurrence) => occurrence,
                        None => return,
                    },
                };
                if let Some(write) = correlator.correlate(occurrence, clock.now())
                    && let Err(err) = send(&api, &write).await
                {
                    tracing::debug!(error = %orkd_base::chain(&*err), "an event was not written");
                }
            }
        });
        Recorder { sender }
    }

    /// A recorder whose events go nowhere, for tests.
    pub fn discarding() -> Self {
        let (sender, _) = mpsc::channel(1);
        Recorder { sender }
    }

    /// Records an event.
    pub fn event(&self, about: &ObjectRef, event_type: EventType, reason: &str, message: impl Into<String>) {
        let occurrence = Occurrence {
            about: about.clone(),
            annotations: None,
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
        };
        if let Err(err) = self.sender.try_send(occurrence) {
            tracing::debug!(error = %err, reason, "an event was dropped");
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

async fn send(api: &Api, write: &Write) -> Result<(), BoxError> {
    if let Some(patch) = &write.patch {
        let target = EVENTS.at(&write.namespace, &write.name);
        match api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch.clone())).await {
            Err(err) if err.is_not_found() => {}
            other => return Ok(other.map(|_| ())?),
        }
    }
    match api.create::<IgnoredAny>(&EVENTS.collection(&write.namespace), &write.event).await {
        Err(err) if err.is_already_exists() => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

/// What is to be written for an occurrence.
#[derive(Clone, Debug, PartialEq)]
struct Write {
    namespace: String,
    name: String,
    /// The whole event, to be created.
    event: Value,
    /// The change of an event that was created before; if that is gone the event is created again.
    patch: Option<Value>,
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
        let Occurrence { about, annotations, event_type, reason, message } = occurrence;
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
            annotations: None,
            event_type: EventType::Normal,
            reason: "Pulled".into(),
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
}
