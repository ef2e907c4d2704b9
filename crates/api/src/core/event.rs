//! `Event` of the core group: something that happened to an object. The same records are served as
//! [`events.k8s.io/v1`](crate::events), under other field names; in storage they have the core form.
//!
//! Upstream: `pkg/registry/core/event/strategy.go`, `pkg/apis/core/validation/events.go`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::{Cells, Cx, Kind, MetaRules, Name};
use crate::kinds::{Facts, NAME, facts};
use crate::object::{View, at, same, text};
use crate::table::{name, since};
use crate::validate::internal;

/// The kind `Event` of the core group.
pub struct Event;

const TTL_SECONDS: u64 = 3600;

/// The columns of events, in both groups.
pub(crate) const COLUMNS: &[(&str, &str, &str, i32)] = &[
    ("Last Seen", "string", "", 0),
    ("Type", "string", "", 0),
    ("Reason", "string", "", 0),
    ("Object", "string", "", 0),
    ("Subobject", "string", "", 1),
    ("Source", "string", "", 1),
    ("Message", "string", "", 0),
    ("First Seen", "string", "", 1),
    ("Count", "string", "", 1),
    (NAME.0, NAME.1, NAME.2, 1),
];

impl Kind for Event {
    facts!(Facts {
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        columns: COLUMNS,
        ..Facts::namespaced("", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        legacy(obj)
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        legacy(new)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn ttl_seconds(&self) -> Option<u64> {
        Some(TTL_SECONDS)
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        const OBJECT: [&str; 7] = [
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
        ];
        selectable(obj, OBJECT, "source", "reportingComponent")
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Registry
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let source = at(obj, &["source"]);
        cells(&Shown {
            obj,
            first: at(obj, &["firstTimestamp"]),
            last: at(obj, &["lastTimestamp"]),
            count: at(obj, &["count"]),
            target: at(obj, &["involvedObject"]),
            source,
            reporter: text(obj, &["reportingComponent"]),
            message: text(obj, &["message"]),
            now,
        })
    }
}

/// Fields both forms can be selected by; the labels differ in the name of the object and of the source.
/// Upstream: `pkg/registry/core/event.ToSelectableFields`.
pub(crate) fn selectable(
    obj: &Value,
    object: [&'static str; 7],
    source: &str,
    reporter: &'static str,
) -> Vec<(Name, String)> {
    let of_object = |path: &'static str| {
        let (object, field) = path.split_once('.').unwrap_or_default();
        (path.into(), text(obj, &[object, field]).to_owned())
    };
    let mut fields: Vec<(Name, String)> = object.into_iter().map(of_object).collect();
    let component = match text(obj, &[source, "component"]) {
        "" => text(obj, &[reporter]),
        component => component,
    };
    fields.push(("reason".into(), text(obj, &["reason"]).to_owned()));
    fields.push((reporter.into(), text(obj, &[reporter]).to_owned()));
    fields.push(("source".into(), component.to_owned()));
    fields.push(("type".into(), text(obj, &["type"]).to_owned()));
    fields
}

/// What a row of events is made of, whichever form it has.
pub(crate) struct Shown<'a> {
    pub obj: &'a Value,
    pub first: &'a Value,
    pub last: &'a Value,
    pub count: &'a Value,
    pub target: &'a Value,
    pub source: &'a Value,
    pub reporter: &'a str,
    pub message: &'a str,
    pub now: jiff::Timestamp,
}

/// Upstream: `printEvent`.
pub(crate) fn cells(e: &Shown<'_>) -> Cells {
    let or_else = |a: &Value, b: &str| match a.as_str() {
        Some(time) => since(Some(time), e.now),
        None => b.to_owned(),
    };
    let event_time = since(at(e.obj, &["eventTime"]).as_str(), e.now);
    let first = or_else(e.first, &event_time);
    let mut last = or_else(e.last, &first);
    let mut count = e.count.as_i64().unwrap_or_default();
    let series = at(e.obj, &["series"]);
    if !series.is_null() {
        last = since(at(series, &["lastObservedTime"]).as_str(), e.now);
        count = at(series, &["count"]).as_i64().unwrap_or_default();
    } else if count == 0 {
        count = 1;
    }
    let kind = text(e.target, &["kind"]).to_lowercase();
    let target = match text(e.target, &["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let or = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
    let component = or(text(e.source, &["component"]), e.reporter);
    let instance = or(text(e.source, &["host"]), text(e.obj, &["reportingInstance"]));
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        json!(last),
        json!(text(e.obj, &["type"])),
        json!(text(e.obj, &["reason"])),
        json!(target),
        json!(text(e.target, &["fieldPath"])),
        json!(source),
        json!(e.message.trim()),
        json!(first),
        json!(count),
        json!(name(e.obj)),
    ]
}

/// The rules of every event: those of old clients, which know no `eventTime`, are only checked for being where their
/// object is. Paths are those of upstream's internal type. Upstream: `legacyValidateEvent`.
fn legacy(obj: &Value) -> ErrorList {
    const ELSEWHERE: &str = "does not match event.namespace";
    let mut errs = ErrorList::new();
    let root = View::root(obj);
    let about = root.dig("involvedObject.namespace");
    let namespace = text(obj, &["metadata", "namespace"]);
    if root.get("eventTime").is_set() {
        if about.str().is_empty() && !matches!(namespace, "default" | "kube-system") {
            errs.invalid(about.path(), about.str(), ELSEWHERE);
        }
        let (controller, path) = (text(obj, &["reportingComponent"]), Path::new("reportingController"));
        if controller.is_empty() {
            errs.required(&path, "");
        }
        for problem in crate::names::qualified_name(controller) {
            errs.invalid(&path, controller, problem);
        }
        for field in ["reportingInstance", "action", "reason"] {
            let v = root.get(field);
            if v.str().is_empty() {
                errs.required(v.path(), "");
            } else if v.len() > MAX_WORD {
                errs.invalid(v.path(), "", format!("can have at most {MAX_WORD} characters"));
            }
        }
        let message = root.get("message");
        if message.len() > MAX_NOTE {
            errs.invalid(message.path(), "", format!("can have at most {MAX_NOTE} characters"));
        }
    } else {
        // Events of objects outside namespaces are in the default one.
        let there = if about.str().is_empty() { matches!(namespace, "" | "default") } else { about.str() == namespace };
        if !there {
            errs.invalid(about.path(), about.str(), ELSEWHERE);
        }
    }
    for problem in crate::names::dns_subdomain(namespace, false) {
        errs.invalid(&Path::new("namespace"), namespace, problem);
    }
    errs
}

const MAX_NOTE: usize = 1024;
const MAX_WORD: usize = 128;

/// The rules of events that come in by `events.k8s.io/v1`, of the core form they are stored in.
/// Upstream: `ValidateEventCreate`.
pub(crate) fn strict(obj: &Value) -> ErrorList {
    let mut errs = legacy(obj);
    let root = View::root(obj);
    series(&mut errs, &root);
    if !root.get("eventTime").is_set() {
        errs.required(root.get("eventTime").path(), "");
    }
    let ty = root.get("type");
    if !matches!(ty.str(), "Normal" | "Warning") {
        errs.invalid(ty.path(), "", format!("has invalid value: {}", ty.str()));
    }
    let source = root.get("source");
    for (v, given) in [
        (root.get("firstTimestamp"), root.get("firstTimestamp").is_set()),
        (root.get("lastTimestamp"), root.get("lastTimestamp").is_set()),
        (root.get("count"), root.get("count").int().is_some_and(|n| n != 0)),
        (source.clone(), ["component", "host"].iter().any(|f| !source.get(f).is_empty())),
    ] {
        if given {
            errs.invalid(v.path(), "", "needs to be unset");
        }
    }
    errs
}

fn series(errs: &mut ErrorList, root: &View<'_>) {
    let series = root.get("series");
    if !series.is_set() {
        return;
    }
    if series.get("count").int().unwrap_or_default() < 2 {
        errs.invalid(series.get("count").path(), "", "should be at least 2");
    }
    if !series.get("lastObservedTime").is_set() {
        errs.required(series.get("lastObservedTime").path(), "");
    }
}

/// What an update by `events.k8s.io/v1` may not change: everything but the series. Upstream: `ValidateEventUpdate`.
pub(crate) fn strict_update(new: &Value, old: &Value) -> ErrorList {
    let mut errs = legacy(new);
    let root = View::root(new);
    if !same(root.get("series").value(), at(old, &["series"])) {
        series(&mut errs, &root);
    }
    for (field, shown) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("reason", "reason"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let value = root.get(field).value();
        if !same(value, at(old, &[field])) {
            let path = Path::new(shown);
            match field {
                "involvedObject" | "related" if value.is_object() => {
                    errs.invalid(&path, internal::shown(internal::OBJECT_REFERENCE, value), "field is immutable");
                }
                "source" => errs.invalid(&path, internal::shown(internal::EVENT_SOURCE, value), "field is immutable"),
                _ => errs.invalid(&path, value, "field is immutable"),
            }
        }
    }
    errs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::texts;

    #[test]
    fn a_row_says_what_happened_to_what_and_when() {
        let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " m\n",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
            "source": {"component": "kubelet", "host": "n"}, "count": 3,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:50Z"});
        let cells = Event.cells(&event, "2026-01-01T00:01:00Z".parse().expect("a time"));
        assert_eq!(
            cells,
            [
                json!("10s"),
                json!("Normal"),
                json!("Started"),
                json!("pod/p"),
                json!("spec.containers{c}"),
                json!("kubelet, n"),
                json!("m"),
                json!("60s"),
                json!(3),
                json!("e")
            ]
        );
    }

    #[test]
    fn an_event_lives_where_its_object_lives() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        assert_eq!(
            texts(&legacy(&event)),
            ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
        );
        let node = json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node"}});
        assert!(legacy(&node).is_empty());
    }

    #[test]
    fn new_events_say_who_did_what_and_why() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingComponent": "a b", "action": "x".repeat(129), "message": "x".repeat(1025)});
        let found = texts(&legacy(&event));
        assert!(
            found[1].starts_with("reportingController: Invalid value: \"a b\": name part must consist"),
            "{found:?}"
        );
        assert_eq!(
            [&found[..1], &found[2..]].concat(),
            [
                "involvedObject.namespace: Invalid value: \"\": does not match event.namespace",
                "reportingInstance: Required value",
                "action: Invalid value: \"\": can have at most 128 characters",
                "reason: Required value",
                "message: Invalid value: \"\": can have at most 1024 characters",
            ]
        );
    }

    #[test]
    fn the_newer_group_is_strict() {
        let old = json!({"metadata": {"namespace": "a"}, "involvedObject": {"kind": "Pod", "namespace": "a", "name": "p"},
            "reason": "R", "type": "Normal", "count": 2, "source": {"host": "h"}, "series": {"count": 1}});
        assert_eq!(
            texts(&strict(&old)),
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "eventTime: Required value",
                "count: Invalid value: \"\": needs to be unset",
                "source: Invalid value: \"\": needs to be unset",
            ]
        );
        let mut new = old.clone();
        new["involvedObject"]["name"] = json!("q");
        new["source"] = json!({});
        assert_eq!(
            texts(&strict_update(&new, &old)),
            [
                "involvedObject: Invalid value: {\"Kind\":\"Pod\",\"Namespace\":\"a\",\"Name\":\"q\",\"UID\":\"\",\"APIVersion\":\"\",\"ResourceVersion\":\"\",\"FieldPath\":\"\"}: field is immutable",
                "source: Invalid value: {\"Component\":\"\",\"Host\":\"\"}: field is immutable",
            ]
        );
    }

    #[test]
    fn selectable_labels_are_always_the_same() {
        let labels = |v: Value| Event.selectable_fields(&v).into_iter().map(|(l, _)| l.to_string()).collect::<Vec<_>>();
        assert_eq!(labels(json!({})), labels(json!({"reason": "x", "source": {"component": "c"}})));
    }
}
