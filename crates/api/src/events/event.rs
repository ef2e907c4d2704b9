//! `Event` of `events.k8s.io/v1`: the records of the [core kind](crate::core::event) under newer names.
//!
//! Storage holds the core form; [`Kind::to_storage`] and [`Kind::to_served`] rename the fields.
//! Upstream: `pkg/apis/events/v1/conversion.go`.

use serde_json::{Value, json};

use crate::core::event::{self, Shown};
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, Name};
use crate::kinds::{Facts, facts};
use crate::object::{at, set, text};

/// The kind `Event` of `events.k8s.io/v1`.
pub struct Event;

/// Names here and in the core form.
const NAMES: [(&str, &str); 7] = [
    ("reportingController", "reportingComponent"),
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(obj: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(map) = obj.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

fn core_form(obj: &Value) -> Value {
    let mut core = obj.clone();
    Event.to_storage(&mut core);
    core
}

impl Kind for Event {
    facts!(Facts {
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        prefix: "events",
        columns: event::COLUMNS,
        ..Facts::namespaced("events.k8s.io", "v1")
    });

    fn to_storage(&self, obj: &mut Value) {
        rename(obj, NAMES.into_iter());
        set(obj, &["apiVersion"], "v1");
        for field in ["firstTimestamp", "lastTimestamp", "eventTime"] {
            crate::object::default_value(obj, field, Value::Null);
        }
        for (field, empty) in
            [("source", json!({})), ("reportingComponent", json!("")), ("reportingInstance", json!(""))]
        {
            crate::object::default_value(obj, field, empty);
        }
        crate::object::default_value(obj, "involvedObject", json!({}));
    }

    fn to_served(&self, obj: &mut Value) {
        rename(obj, NAMES.into_iter().map(|(here, core)| (core, here)));
        set(obj, &["apiVersion"], "events.k8s.io/v1");
        // Names of the core form that are written even when empty are left out here.
        if let Some(map) = obj.as_object_mut() {
            for field in ["reportingController", "reportingInstance"] {
                if map.get(field).and_then(Value::as_str).is_some_and(str::is_empty) {
                    map.remove(field);
                }
            }
        }
    }

    /// Checked is the core form, whose names the paths have.
    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        event::strict(&core_form(obj))
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        event::strict_update(&core_form(new), &core_form(old))
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn ttl_seconds(&self) -> Option<u64> {
        event::Event.ttl_seconds()
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        const OBJECT: [&str; 7] = [
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
        ];
        event::selectable(obj, OBJECT, "deprecatedSource", "reportingController")
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        event::cells(&Shown {
            obj,
            first: at(obj, &["deprecatedFirstTimestamp"]),
            last: at(obj, &["deprecatedLastTimestamp"]),
            count: at(obj, &["deprecatedCount"]),
            target: at(obj, &["regarding"]),
            source: at(obj, &["deprecatedSource"]),
            reporter: text(obj, &["reportingController"]),
            message: text(obj, &["note"]),
            now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_the_same_record() {
        let mut obj = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "m", "reason": "R",
            "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T00:00:00.000000Z"});
        Event.to_storage(&mut obj);
        assert_eq!((&obj["message"], &obj["involvedObject"]["name"]), (&json!("m"), &json!("p")));
        Event.to_served(&mut obj);
        assert_eq!((&obj["note"], &obj["apiVersion"]), (&json!("m"), &json!("events.k8s.io/v1")));
        assert!(obj.get("message").is_none());
    }
}
