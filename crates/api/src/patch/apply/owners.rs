//! `metadata.managedFields` changed as the list it is: what a write does not touch is neither decoded nor copied.
//!
//! The plain way is [`Managed`], which knows everybody's fields as sets. An update concerns few fields: those are looked up
//! in the entries and taken out, and one entry gets them. Whatever is not plain (an entry that is not well-formed, two of
//! one manager, a schema that has become coarser, too many updaters) goes the plain way; both give the same list.

use serde_json::Value;

use super::fields_v1::{has_below, subtract, unite};
use super::managed::{MAX_UPDATERS, Managed, ManagerId, Operation, seconds};
use super::versions::{Change, Differences};
use super::walk::{Shape, child, shape};
use super::{Cx, STRIPPED};
use crate::Map;
use crate::schema::{Node, NodeKind};

/// Gives what differs to the manager and takes it from all others. An object that nobody manages gets managers when it is
/// created only.
pub(super) fn record(change: Change<'_>, mut list: Vec<Value>, is_create: bool) -> Vec<Value> {
    let cx = change.cx;
    if !is_plain(cx, &list) {
        let mut managed = Managed::decode(&Value::Array(list)).unwrap_or_default();
        if !managed.is_empty() || is_create {
            super::record_update(cx.manager, change, &mut managed);
        }
        return match managed.encode() {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
    }
    let Differences { taken, removed } = change.own;
    for entry in list.iter_mut().filter(|entry| text(entry, "apiVersion") == cx.api_version) {
        if let Some(fields) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) {
            [&removed, &taken].into_iter().for_each(|set| subtract(fields, set));
        }
    }
    list.retain(|entry| fields(entry).is_some_and(has_below));
    let taken = taken.without(&STRIPPED);
    if !taken.is_empty() {
        let id = cx.id(cx.manager, Operation::Update);
        match list.iter_mut().find(|entry| is_of(entry, &id)) {
            Some(entry) => {
                if let Some(time) = cx.time() {
                    entry["time"] = time.into();
                }
                if let Some(fields) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) {
                    unite(fields, taken);
                }
            }
            None => list.push(id.entry(cx.api_version.to_owned(), cx.time(), taken.into_value())),
        }
    }
    sort(&mut list);
    list
}

fn text<'v>(entry: &'v Value, name: &str) -> &'v str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn fields(entry: &Value) -> Option<&Map> {
    entry.get("fieldsV1").and_then(Value::as_object)
}

fn is_of(entry: &Value, id: &ManagerId) -> bool {
    text(entry, "operation") == id.operation.as_str()
        && text(entry, "manager") == id.manager
        && text(entry, "subresource") == id.subresource
        && (id.operation == Operation::Apply || text(entry, "apiVersion") == id.api_version)
}

/// The entries that name their fields as in another version, of those that can be looked into.
pub(super) fn other_versions<'l>(cx: &Cx<'_>, list: &'l Value) -> impl Iterator<Item = &'l Value> {
    let list = list.as_array().filter(|_| cx.versions.is_some());
    list.into_iter().flatten().filter(|entry| text(entry, "apiVersion") != cx.api_version)
}

/// Whether the list is what [`Managed::encode`] writes, and will be after one more updater.
fn is_plain(cx: &Cx<'_>, list: &[Value]) -> bool {
    let same = |a: &Value, b: &Value| {
        let is_apply = text(a, "operation") == "Apply";
        ["operation", "manager", "subresource"].iter().all(|name| text(a, name) == text(b, name))
            && (is_apply || text(a, "apiVersion") == text(b, "apiVersion"))
    };
    let well_formed = |entry: &Value| {
        matches!(text(entry, "operation"), "Apply" | "Update")
            && !text(entry, "apiVersion").is_empty()
            && text(entry, "fieldsType") == "FieldsV1"
            && fields(entry).is_some_and(has_below)
    };
    let updaters = list.iter().filter(|entry| text(entry, "operation") == "Update").count();
    updaters < MAX_UPDATERS
        && list.iter().enumerate().all(|(i, entry)| well_formed(entry) && !list[..i].iter().any(|e| same(e, entry)))
        && !list.iter().any(|entry| match text(entry, "apiVersion") == cx.api_version {
            true => fields(entry).is_some_and(|f| is_finer(Some(cx.node), f)),
            false => cx.versions.is_some(),
        })
}

/// Whether something is owned below what the schema takes for one value ([`super::managed::Manager::follow`]).
fn is_finer(node: Option<Node<'_>>, fields: &Map) -> bool {
    let shape_here = shape(node);
    fields.iter().any(|(key, below)| {
        let Value::Object(below) = below else { return true };
        if !has_below(below) {
            return false;
        }
        let node = match (shape_here, key.strip_prefix("f:")) {
            (Shape::Object(node), Some(name)) => child(node, name),
            (Shape::List(node, _), _) => node.items(),
            _ => None,
        };
        let Some(node) = node.filter(|node| node.kind() != NodeKind::Any) else { return false };
        matches!(shape(Some(node)), Shape::Leaf) || is_finer(Some(node), below)
    })
}

/// Upstream's order.
fn sort(list: &mut [Value]) {
    if list.len() < 2 {
        return;
    }
    let rank = |entry: &Value| {
        let own = |name: &str| text(entry, name).to_owned();
        (own("operation"), seconds(Some(text(entry, "time"))), own("manager"), own("apiVersion"), own("subresource"))
    };
    list.sort_by_cached_key(rank);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::apply::compare::Comparison;
    use crate::patch::apply::set::tests::any_set;
    use crate::patch::testing::node;

    fn cx(manager: &str) -> Cx<'_> {
        Cx {
            node: node("core/v1.Pod"),
            api_version: "v1",
            kind: "Pod",
            manager,
            subresource: None,
            reset_fields: &[],
            versions: None,
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// What the plain way makes of it.
    fn plainly(cx: &Cx<'_>, list: &[Value], comparison: Comparison) -> Vec<Value> {
        let mut managed = Managed::decode(&Value::Array(list.to_vec())).expect("well-formed");
        let change = Change::new(cx, &Value::Null, &Value::Null, comparison);
        crate::patch::apply::record_update(cx.manager, change, &mut managed);
        match managed.encode() {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        }
    }

    fn entry(manager: &str, operation: &str, version: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": version, "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn what_is_not_plain_goes_the_plain_way() {
        let good = entry("a", "Update", "v1", json!({"f:spec": {"f:hostname": {}}}));
        let change = |field: &str, value: Value| {
            let mut entry = good.clone();
            entry[field] = value;
            entry
        };
        let is_plain = |list: &[Value]| is_plain(&cx("m"), list);
        assert!(is_plain(&[]) && is_plain(&[good.clone(), change("manager", json!("b"))]));
        let finer = json!({"f:spec": {"f:nodeSelector": {"f:x": {}}}});
        for odd in [
            change("operation", json!("Steal")),
            change("apiVersion", json!("")),
            change("fieldsType", json!("FieldsV2")),
            change("fieldsV1", json!({})),
            change("fieldsV1", json!({".": {}})),
            change("fieldsV1", Value::Null),
            change("fieldsV1", json!({"f:spec": 1})),
            change("fieldsV1", finer.clone()),
            json!(7),
        ] {
            assert!(!is_plain(std::slice::from_ref(&odd)), "{odd}");
        }
        // What another version names is not looked into.
        assert!(is_plain(&[entry("a", "Update", "v2", finer)]));
        assert!(!is_plain(&[good.clone(), good.clone()]), "one manager twice");
        let many: Vec<Value> = (0..MAX_UPDATERS).map(|i| change("manager", json!(format!("m{i}")))).collect();
        assert!(!is_plain(&many) && is_plain(&many[1..]));
    }

    proptest! {
        #[test]
        fn both_ways_give_the_same(
            owned in prop::collection::vec((any_set(), 0..4usize), 0..4),
            removed in any_set(), modified in any_set(), added in any_set(),
            manager in "[a-d]",
        ) {
            let entries = owned.into_iter().enumerate().filter(|(_, (set, _))| !set.is_empty());
            let list: Vec<Value> = entries.map(|(i, (set, kind))| {
                let (operation, version) = [("Update", "v1"), ("Apply", "v1"), ("Update", "v2"), ("Apply", "v2")][kind];
                entry(["a", "b", "c", "d"][i], operation, version, set.into_value())
            }).collect();
            let comparison = Comparison { removed, modified, added };
            let cx = cx(&manager);
            let expected = plainly(&cx, &list, comparison.clone());
            let change = Change::new(&cx, &Value::Null, &Value::Null, comparison);
            prop_assert_eq!(record(change, list, false), expected);
        }
    }
}
