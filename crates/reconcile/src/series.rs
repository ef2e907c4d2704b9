//! Events as `events.k8s.io` has them: what, of whom, by whom, and a series where the same happens again.
//!
//! Follows `k8s.io/client-go/tools/events`, which only some components use (the scheduler among them): the first event of a
//! kind is written, the second makes it a series, further ones are counted here and written when the series ends (nothing
//! happened for six minutes) or has gone on for half an hour. The text is that of the first.
//!
//! Differs: a series is written only if it has grown, and there is a limit to what is remembered.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::recorder::{ObjectRef, Occurrence, REMEMBERED, Write};
use crate::time::micro_time;

/// A series ends when nothing was heard of it for so long (`finishTime`), in seconds.
const FINISH_SECONDS: i64 = 6 * 60;
/// One that goes on is written so often (`refreshTime`), in seconds.
const REFRESH_SECONDS: i64 = 30 * 60;

/// What makes two events the same (`eventKey`). The object's version is part of it: an object that changed is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    about: ObjectRef,
    related: Option<ObjectRef>,
    event_type: &'static str,
    reason: String,
    action: String,
}

#[derive(Debug)]
struct Seen {
    name: String,
    note: String,
    first: Timestamp,
    last: Timestamp,
    count: u64,
    /// The count that was written, and when.
    written: (u64, Timestamp),
}

/// Turns occurrences into writes. Pure: the time is an argument.
pub(crate) struct Series {
    controller: String,
    instance: String,
    seen: HashMap<Key, Seen>,
}

impl Series {
    /// For a controller on a host.
    pub(crate) fn new(controller: &str, host: &str) -> Series {
        Series { controller: controller.to_owned(), instance: format!("{controller}-{host}"), seen: HashMap::new() }
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// What is to be written for an occurrence, if anything.
    pub(crate) fn correlate(&mut self, occurrence: Occurrence, now: Timestamp) -> Option<Write> {
        self.limit(now);
        let Occurrence { about, related, event_type, reason, action, message, .. } = occurrence;
        let key = Key { about, related, event_type: event_type.as_str(), reason, action };
        let fresh = || Seen {
            name: format!("{}.{:x}", key.about.name, now.as_nanosecond()),
            note: message,
            first: now,
            last: now,
            count: 0,
            written: (0, now),
        };
        let seen = self.seen.entry(key.clone()).or_insert_with(fresh);
        seen.count += 1;
        seen.last = now;
        if seen.count > 2 {
            return None;
        }
        seen.written = (seen.count, now);
        Some(write(&self.controller, &self.instance, &key, seen))
    }

    /// What is to be written because time has passed; what has ended is forgotten.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Write> {
        let mut writes = Vec::new();
        let (controller, instance) = (&self.controller, &self.instance);
        self.seen.retain(|key, seen| {
            let has_ended = now.as_second() - seen.last.as_second() > FINISH_SECONDS;
            let is_due = has_ended || now.as_second() - seen.written.1.as_second() > REFRESH_SECONDS;
            if is_due && seen.count > seen.written.0 {
                seen.written = (seen.count, now);
                writes.push(write(controller, instance, key, seen));
            }
            !has_ended
        });
        writes
    }

    /// Forgets what is old when there is much, then what happened once, and everything when that does not help.
    fn limit(&mut self, now: Timestamp) {
        if self.seen.len() > REMEMBERED {
            self.seen.retain(|_, s| s.count > s.written.0 || now.as_second() - s.last.as_second() <= FINISH_SECONDS);
        }
        if self.seen.len() > 2 * REMEMBERED {
            self.seen.retain(|_, s| s.count > 1);
        }
        if self.seen.len() > 2 * REMEMBERED {
            self.seen.clear();
        }
    }
}

fn write(controller: &str, instance: &str, key: &Key, seen: &Seen) -> Write {
    let namespace = if key.about.namespace.is_empty() { "default".to_owned() } else { key.about.namespace.clone() };
    let mut event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": seen.name, "namespace": namespace},
        "involvedObject": key.about.json(),
        "reason": key.reason, "message": seen.note, "type": key.event_type, "action": key.action,
        "source": {}, "firstTimestamp": null, "lastTimestamp": null, "eventTime": micro_time(seen.first),
        "reportingComponent": controller, "reportingInstance": instance,
    });
    if let Some(related) = &key.related {
        event["related"] = related.json();
    }
    let series: Option<Value> =
        (seen.count > 1).then(|| json!({"count": seen.count, "lastObservedTime": micro_time(seen.last)}));
    if let Some(series) = &series {
        event["series"] = series.clone();
    }
    let patch = series.map(|series| json!({"series": series}));
    Write { namespace, name: seen.name.clone(), event, patch }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventType;

    fn occurrence(version: &str, note: &str) -> Occurrence {
        let about = |name: &str| ObjectRef {
            kind: "Pod".into(),
            namespace: "n".into(),
            name: name.into(),
            resource_version: version.into(),
            ..ObjectRef::default()
        };
        Occurrence {
            about: about("web"),
            related: Some(about("other")),
            event_type: EventType::Warning,
            reason: "FailedScheduling".into(),
            action: "Scheduling".into(),
            message: note.into(),
            annotations: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    #[test]
    fn the_first_is_an_event_and_the_second_makes_it_a_series() {
        let mut series = Series::new("default-scheduler", "host");
        let first = series.correlate(occurrence("1", "no room"), at(0)).expect("written");
        assert_eq!(first.patch, None);
        let expected = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": first.name, "namespace": "n"},
            "involvedObject": {"kind": "Pod", "namespace": "n", "name": "web", "resourceVersion": "1"},
            "related": {"kind": "Pod", "namespace": "n", "name": "other", "resourceVersion": "1"},
            "reason": "FailedScheduling", "message": "no room", "type": "Warning", "action": "Scheduling", "source": {},
            "firstTimestamp": null, "lastTimestamp": null, "eventTime": "2023-11-14T22:13:20.000000Z",
            "reportingComponent": "default-scheduler", "reportingInstance": "default-scheduler-host"});
        assert_eq!(first.event, expected);
        let second = series.correlate(occurrence("1", "still none"), at(9)).expect("written");
        let counted = json!({"count": 2, "lastObservedTime": "2023-11-14T22:13:29.000000Z"});
        assert_eq!((&second.name, second.patch), (&first.name, Some(json!({"series": counted}))));
        assert_eq!((&second.event["series"], &second.event["message"]), (&counted, &json!("no room")));
    }

    #[test]
    fn a_series_is_written_again_when_it_ends_or_is_long() {
        let mut series = Series::new("s", "h");
        let counts = |writes: Vec<Write>| -> Vec<i64> {
            writes.iter().filter_map(|w| w.event["series"]["count"].as_i64()).collect()
        };
        let written = (0..30).filter(|n| series.correlate(occurrence("1", "x"), at(n * 60)).is_some()).count();
        assert_eq!(written, 2, "the others are counted");
        assert_eq!(counts(series.due(at(1740))), [] as [i64; 0]);
        assert_eq!(counts(series.due(at(1870))), [30], "half an hour after it was written last");
        series.correlate(occurrence("1", "x"), at(1900));
        assert_eq!(counts(series.due(at(2200))), [] as [i64; 0]);
        assert_eq!(counts(series.due(at(2300))), [31], "nothing happened for six minutes");
        assert!(series.is_empty());
    }

    #[test]
    fn an_object_that_changed_is_another() {
        let mut series = Series::new("s", "h");
        let name = |series: &mut Series, version: &str, second| {
            series.correlate(occurrence(version, "x"), at(second)).map(|w| (w.name, w.patch.is_some()))
        };
        let first = name(&mut series, "1", 0).expect("written");
        let other = name(&mut series, "2", 1).expect("written");
        assert!(first.0 != other.0 && !other.1);
        assert_eq!(name(&mut series, "1", 2), Some((first.0, true)));
    }

    #[test]
    fn there_is_a_limit_to_what_is_remembered() {
        let mut series = Series::new("s", "h");
        for n in 0..4 * REMEMBERED {
            assert!(series.correlate(occurrence(&n.to_string(), "x"), at(0)).is_some());
            assert!(series.seen.len() <= 2 * REMEMBERED + 1);
        }
    }
}
