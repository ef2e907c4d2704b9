//! `metadata.managedFields`: who owns which fields.
//!
//! Follows `apimachinery/pkg/util/managedfields/internal` (`managedfields.go`, `capmanagers.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::path::PathElement;
use super::set::Set;
use crate::Map;
use crate::field::quote;
use crate::patch::go;
use crate::schema::Node;

use super::walk::{Shape, shape};

/// Updaters kept apart; the oldest beyond them are put together under [`ANCIENT`].
pub const MAX_UPDATERS: usize = 10;
/// The manager of what [`MAX_UPDATERS`] put together.
pub const ANCIENT: &str = "ancient-changes";

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells managers apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    /// The name that the client gave.
    pub manager: String,
    /// Apply or update.
    pub operation: Operation,
    /// The version written; empty for appliers, who are the same in every version.
    pub api_version: String,
    /// The subresource written through; empty for the object itself.
    pub subresource: String,
}

impl ManagerId {
    /// A manager. An empty name is `unknown`.
    pub fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        ManagerId {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation,
            api_version: if operation == Operation::Apply { "" } else { api_version }.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// The entry of the list.
    pub(super) fn entry(self, api_version: String, time: Option<String>, fields: Value) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, text: String| {
            if !text.is_empty() {
                out.insert(name.to_owned(), Value::String(text));
            }
        };
        put("manager", self.manager);
        put("operation", self.operation.as_str().to_owned());
        put("apiVersion", api_version);
        put("time", time.unwrap_or_default());
        put("fieldsType", "FieldsV1".to_owned());
        put("subresource", self.subresource);
        out.insert("fieldsV1".to_owned(), fields);
        Value::Object(out)
    }

    /// Upstream's identifier, by which managers are sorted in messages.
    pub(super) fn identifier(&self) -> String {
        let mut out = String::from("{");
        let fields = [
            ("manager", self.manager.as_str()),
            ("operation", self.operation.as_str()),
            ("apiVersion", &self.api_version),
            ("subresource", &self.subresource),
        ];
        for (name, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
            if out.len() > 1 {
                out.push(',');
            }
            go::write_json_string(&mut out, name);
            out.push(':');
            go::write_json_string(&mut out, text);
        }
        out.push('}');
        out
    }
}

/// As in conflict messages: `"kubectl-client-side-apply" using apps/v1`.
impl std::fmt::Display for ManagerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&quote(&self.manager))?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {}", quote(&self.subresource))?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// What one manager owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    /// The version in which the fields are named.
    pub api_version: String,
    /// The fields.
    pub fields: Set,
    /// When the fields changed last, as written.
    pub time: Option<String>,
}

impl Manager {
    fn seconds(&self) -> i64 {
        seconds(self.time.as_deref())
    }

    /// Follows a schema that has become coarser: whoever owns something below what is one value by now owns the value.
    /// (Upstream's `reconcileManagedFieldsWithSchemaChanges`.)
    pub(super) fn follow(&mut self, node: Node<'_>) {
        if let Some(fields) = coarser(Some(node), &self.fields) {
            self.fields = fields;
        }
    }
}

/// By when entries are sorted.
pub(super) fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|t| t.parse::<Timestamp>().ok()).map_or(0, |t| t.as_second())
}

/// The managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managed(BTreeMap<ManagerId, Manager>);

impl Managed {
    /// No managers.
    pub const fn new() -> Self {
        Managed(BTreeMap::new())
    }

    /// Whether nobody manages anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The managers.
    pub fn iter(&self) -> impl Iterator<Item = (&ManagerId, &Manager)> {
        self.0.iter()
    }

    /// One manager.
    pub fn get(&self, id: &ManagerId) -> Option<&Manager> {
        self.0.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &ManagerId) -> Option<&mut Manager> {
        self.0.get_mut(id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&ManagerId, &mut Manager)> {
        self.0.iter_mut()
    }

    pub(super) fn remove(&mut self, id: &ManagerId) -> Option<Manager> {
        self.0.remove(id)
    }

    /// Adds or replaces a manager.
    pub(super) fn put(&mut self, id: ManagerId, manager: Manager) {
        self.0.insert(id, manager);
    }

    /// Forgets who owns nothing.
    pub(super) fn drop_empty(&mut self) {
        self.retain(|manager| !manager.fields.is_empty());
    }

    /// Keeps those managers of which `keep` says so, as it leaves them.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut Manager) -> bool) {
        self.0.retain(|_, manager| keep(manager));
    }

    /// Reads `metadata.managedFields` of an object; an object without them has no managers.
    pub fn of(object: &Value) -> Result<Managed, String> {
        match object.get("metadata").and_then(|m| m.get("managedFields")) {
            Some(list) => Managed::decode(list),
            None => Ok(Managed::new()),
        }
    }

    /// Reads the value of `metadata.managedFields`.
    pub fn decode(list: &Value) -> Result<Managed, String> {
        let entries = match list {
            Value::Array(entries) => entries,
            Value::Null => return Ok(Managed::new()),
            other => return Err(format!("managedFields is no list: {}", go::v(other))),
        };
        let mut managed = Managed::new();
        for (i, entry) in entries.iter().enumerate() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => return Err(format!("invalid fieldsType {} in managed fields entry {i}", quote(other))),
            }
            let id = ManagerId {
                manager: text("manager").to_owned(),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.to_owned() },
                subresource: text("subresource").to_owned(),
            };
            let fields = match entry.get("fieldsV1") {
                Some(Value::Null) | None => Set::new(),
                Some(fields) => Set::from_value(fields)
                    .map_err(|e| format!("error decoding manager from managedFields[{i}]: {e}"))?,
            };
            let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
            managed.put(id, Manager { api_version: api_version.to_owned(), fields, time });
        }
        Ok(managed)
    }

    /// The value of `metadata.managedFields`, in upstream's order; nothing for no managers.
    pub fn encode(self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        let mut all: Vec<(ManagerId, Manager)> = self.0.into_iter().collect();
        all.sort_by_cached_key(|(id, m)| {
            (id.operation, m.seconds(), id.manager.clone(), m.api_version.clone(), id.subresource.clone())
        });
        let entry = |(id, m): (ManagerId, Manager)| id.entry(m.api_version, m.time, m.fields.into_value());
        Some(Value::Array(all.into_iter().map(entry).collect()))
    }

    /// Puts the oldest updaters together, version by version, until [`MAX_UPDATERS`] are left.
    pub(super) fn cap(&mut self) {
        let is_updater = |id: &ManagerId| id.operation == Operation::Update;
        if self.0.keys().filter(|id| is_updater(id)).count() <= MAX_UPDATERS {
            return;
        }
        let updaters = self.0.iter().filter(|(id, _)| is_updater(id));
        let mut updaters: Vec<(i64, String, ManagerId)> =
            updaters.map(|(id, m)| (m.seconds(), id.identifier(), id.clone())).collect();
        let mut count = updaters.len();
        updaters.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (_, _, id) in updaters {
            if count <= MAX_UPDATERS {
                return;
            }
            let Some(version) = self.get(&id).map(|m| m.api_version.clone()) else { continue };
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, id);
                continue;
            };
            let bucket = ManagerId::new(ANCIENT, Operation::Update, &version, "");
            if !self.0.contains_key(&bucket)
                && let Some(oldest) = self.remove(first)
            {
                self.put(bucket.clone(), oldest);
            }
            if id == bucket {
                continue;
            }
            let Some(merged) = self.remove(&id) else { continue };
            count -= 1;
            if let Some(bucket) = self.get_mut(&bucket) {
                bucket.fields = std::mem::take(&mut bucket.fields).union(merged.fields);
                bucket.time = merged.time;
            }
        }
    }
}

/// The set with nothing below atomic values; `None` where it has nothing there already.
fn coarser(node: Option<Node<'_>>, fields: &Set) -> Option<Set> {
    let child = |element: &PathElement| match (shape(node), element) {
        (Shape::Object(node), PathElement::Field(name)) => node.child(name),
        (Shape::List(node, _), _) => node.items(),
        _ => None,
    };
    let mut out: Option<Set> = None;
    for (i, entry) in fields.entries().iter().enumerate() {
        // What the schema does not know, or knows to be of any kind, is left alone.
        let below = child(&entry.element).filter(|n| n.kind() != crate::schema::NodeKind::Any);
        let changed = match (below, shape(below)) {
            (Some(_), Shape::Leaf) if !entry.below.is_empty() => Some((true, Set::new())),
            (Some(_), _) => coarser(below, &entry.below).map(|set| (entry.member, set)),
            (None, _) => None,
        };
        if changed.is_some() && out.is_none() {
            let mut head = Set::new();
            for entry in &fields.entries()[..i] {
                head.push(|| entry.element.clone(), entry.member, entry.below.clone());
            }
            out = Some(head);
        }
        if let Some(out) = &mut out {
            let (member, below) = changed.unwrap_or_else(|| (entry.member, entry.below.clone()));
            out.push(|| entry.element.clone(), member, below);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::testing::{any_json, node};

    fn entry(manager: &str, operation: &str, time: &str) -> Value {
        json!({
            "manager": manager, "operation": operation, "apiVersion": "v1", "time": time,
            "fieldsType": "FieldsV1", "fieldsV1": {format!("f:{manager}"): {}},
        })
    }

    #[test]
    fn entries_are_sorted_by_operation_time_and_name() {
        let sorted = json!([
            entry("z", "Apply", "2026-01-03T00:00:00Z"),
            entry("b", "Update", "2026-01-01T00:00:00Z"),
            entry("a", "Update", "2026-01-02T00:00:00Z"),
            entry("c", "Update", "2026-01-02T00:00:00Z"),
        ]);
        let mut shuffled = sorted.clone();
        shuffled.as_array_mut().expect("a list").reverse();
        assert_eq!(Managed::decode(&shuffled).expect("well-formed").encode(), Some(sorted));
    }

    #[test]
    fn malformed_entries_are_refused() {
        let mut bad = entry("a", "Update", "");
        for (field, value, want) in [
            ("fieldsType", json!("FieldsV2"), "invalid fieldsType \"FieldsV2\" in managed fields entry 0"),
            ("fieldsType", json!(""), "missing fieldsType in managed fields entry 0"),
            ("apiVersion", json!(""), "apiVersion must not be empty"),
            ("operation", json!("Steal"), "operation must be `Apply` or `Update`"),
        ] {
            bad[field] = value;
            assert_eq!(Managed::decode(&json!([bad])), Err(want.to_owned()));
        }
    }

    #[test]
    fn the_oldest_updaters_are_put_together() {
        let list: Vec<Value> =
            (0..13).map(|i| entry(&format!("m{i:02}"), "Update", &format!("2026-01-{:02}T00:00:00Z", i + 1))).collect();
        let mut managed = Managed::decode(&Value::Array(list)).expect("well-formed");
        managed.cap();
        let got = managed.encode().expect("managers");
        let names: Vec<&str> = got.as_array().expect("a list").iter().filter_map(|e| e["manager"].as_str()).collect();
        let want = ["ancient-changes", "m04", "m05", "m06", "m07", "m08", "m09", "m10", "m11", "m12"];
        assert_eq!(names, want);
        assert_eq!(got[0]["time"], "2026-01-04T00:00:00Z");
        assert_eq!(got[0]["fieldsV1"], json!({"f:m00": {}, "f:m01": {}, "f:m02": {}, "f:m03": {}}));
    }

    #[test]
    fn fields_below_atomic_values_are_theirs() {
        let mut managed = Managed::decode(&json!([{
            "manager": "a", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {
                "f:hostname": {}, "f:nodeSelector": {"f:x": {}, "f:y": {}}, "f:unknown": {"f:z": {}},
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {"i:0": {}}, "f:image": {}}},
            }},
        }]))
        .expect("well-formed");
        managed.iter_mut().for_each(|(_, manager)| manager.follow(node("core/v1.Pod")));
        assert_eq!(
            managed.iter().next().map(|(_, m)| m.fields.to_value()),
            Some(json!({"f:spec": {
                "f:hostname": {}, "f:nodeSelector": {}, "f:unknown": {"f:z": {}},
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:image": {}}},
            }}))
        );
    }

    proptest! {
        #[test]
        fn decoding_never_panics(value in any_json()) {
            let _ = Managed::decode(&value);
            let _ = Managed::decode(&json!([value]));
        }
    }
}
