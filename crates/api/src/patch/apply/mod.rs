//! Server-side apply and the ownership of fields.
//!
//! Every write goes through [`update`] or [`apply`], which answer the object with its `metadata.managedFields`
//! brought up to date. [`crate::patch`] says when to call what.
//!
//! Follows `structured-merge-diff` (`merge/update.go`) and the chain of managers in
//! `apimachinery/pkg/util/managedfields/internal`. Sets of fields are walked beside the schema ([`Node`]), never
//! beside Go types.
//!
//! Fields that are owned in another version of the kind are looked at in that version ([`versions`]), as far as the caller
//! can turn objects into it ([`Cx::versions`]).

pub mod compare;
mod conflict;
pub mod field_set;
mod fields_v1;
pub mod managed;
pub mod merge;
mod mutate;
mod owners;
pub mod path;
pub mod scale;
pub mod set;
pub mod validate;
pub mod versions;
mod walk;

pub use self::mutate::mutate;

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

use self::conflict::Conflict;
use self::managed::{Managed, Manager, ManagerId, Operation};
use self::path::equal;
use self::set::Set;
use self::versions::{Change, Differences, Versions};
use super::{go, plain_error};
use crate::Map;
use crate::schema::Node;
use crate::status::Status;

/// The annotation in which client-side `kubectl apply` keeps what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Bytes that the annotations of an object may have.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// The manager of what an object had before its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// One write, as far as the ownership of fields is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Cx<'a> {
    /// The schema of the object.
    pub node: Node<'a>,
    /// The version in which the client writes, such as `apps/v1`.
    pub api_version: &'a str,
    /// The kind of the object.
    pub kind: &'a str,
    /// Who writes: `fieldManager` of the request, else [`super::manager_from_user_agent`].
    pub manager: &'a str,
    /// The subresource written through, such as `status`.
    pub subresource: Option<&'a str>,
    /// Fields that the server resets on this way in ([`crate::kind::Kind::reset_fields`]): nobody comes to own
    /// them by this write.
    pub reset_fields: &'a [&'a [&'a str]],
    /// The other versions of the kind. Without them, what is owned in another version stays as it is.
    pub versions: Option<&'a dyn Versions>,
    /// The time.
    pub now: Timestamp,
}

impl Cx<'_> {
    fn id(&self, manager: &str, operation: Operation) -> ManagerId {
        ManagerId::new(manager, operation, self.api_version, self.subresource.unwrap_or_default())
    }

    fn time(&self) -> Option<String> {
        Some(self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    fn ignored(&self) -> Set {
        Set::of_fields(self.reset_fields.iter().copied())
    }
}

/// Fields that nobody owns, because the server alone sets them or the address of the object does.
static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    let metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut set = Set::of_fields([&["apiVersion"][..], &["kind"], &["metadata"]]);
    for name in metadata {
        set = set.union(Set::of_fields([&["metadata", name][..]]));
    }
    set
});

static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// Writes the new object's `metadata.managedFields` after a create (`live` is `None`), an update or a patch that is
/// no apply.
///
/// Fields that differ between the two objects are the writer's from now on and nobody else's. A client may edit
/// the managed fields themselves; a list of one empty entry, or an empty list, clears them. An object that nobody
/// manages stays so until its first apply.
pub fn update(cx: &Cx<'_>, live: Option<&Value>, new: &mut Value) {
    let written = take_managed(new);
    let live_list = managed_of(live.unwrap_or(&NOTHING));
    let is_subresource = cx.subresource.is_some();
    let is_untouched = written.is_some() && written.as_ref() == live_list;
    // The client's list counts if it is well-formed and not empty; clients that do not know managed fields leave
    // them out. A subresource never writes them.
    let managed = match &written {
        _ if is_subresource => None,
        Some(list) if is_reset(list) => Some(Managed::new()),
        // What has not been touched need not be looked at twice.
        Some(_) if is_untouched => None,
        Some(list) => Managed::decode(list).ok().filter(|m| !m.is_empty()),
        None => None,
    };
    let comparison = compare::compare(cx.node, live.unwrap_or(&NOTHING), new).without(&cx.ignored());
    let is_create = live.is_none_or(|l| l.get("metadata").and_then(|m| m.get("uid")).is_none_or(is_zero));
    let live = live.unwrap_or(&NOTHING);
    if let Some(mut managed) = managed {
        if !managed.is_empty() || is_create {
            record_update(cx.manager, Change::new(cx, live, new, comparison), &mut managed);
        }
        return put_managed(new, managed.encode());
    }
    let list = match written {
        Some(list) if is_untouched => Some(list),
        _ => live_list.cloned(),
    };
    let of_one_version = |list: &Value| owners::other_versions(cx, list).next().is_none();
    if comparison.is_same() && list.as_ref().is_some_and(of_one_version) {
        return put_managed(new, list);
    }
    let list = match list {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if list.is_empty() && !is_create {
        return;
    }
    let list = owners::record(Change::new(cx, live, new, comparison), list, is_create);
    put_managed(new, (!list.is_empty()).then_some(Value::Array(list)));
}

fn is_zero(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// Gives what differs to the manager and takes it from all others.
fn record_update(manager: &str, mut change: Change<'_>, managed: &mut Managed) {
    let cx = change.cx;
    versions::reconcile(cx, change.old, managed);
    if !change.own.is_empty() {
        for (_, owner) in managed.iter_mut() {
            if let Some(Differences { taken, removed }) = change.of(&owner.api_version) {
                owner.fields = owner.fields.difference(taken).difference(removed);
            }
        }
        managed.drop_empty();
        let taken = change.own.taken.difference(&STRIPPED);
        if !taken.is_empty() {
            let id = cx.id(manager, Operation::Update);
            let previous = managed.remove(&id).map(|m| m.fields).unwrap_or_default();
            let fields = taken.union(previous);
            managed.put(id, Manager { api_version: cx.api_version.to_owned(), fields, time: cx.time() });
        }
    }
    managed.cap();
}

/// Applies a configuration: the merged object with its managed fields.
///
/// The result has neither defaults nor what the server sets; a create (`live` is `None`) begins with nothing.
/// Errors: 400 for a configuration of another kind or with managed fields, 409 for conflicts unless `force`, 500
/// where upstream answers 500 (a configuration that does not fit the schema).
pub fn apply(cx: &Cx<'_>, live: Option<&Value>, applied: &Value, force: bool) -> Result<Value, Status> {
    let text = |name: &str| applied.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != cx.api_version || text("kind") != cx.kind {
        let gvk = group_version_kind(text("apiVersion"), text("kind"));
        return Err(Status::bad_request(format!("invalid object type: {gvk}")));
    }
    if applied.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let live = live.unwrap_or(&NOTHING);
    let mut managed = Managed::of(live).map_err(|e| plain_error(format!("failed to decode managed fields: {e}")))?;
    if managed.is_empty() {
        let comparison = compare::compare(cx.node, &NOTHING, live).without(&cx.ignored());
        record_update(BEFORE_FIRST_APPLY, Change::new(cx, &NOTHING, live, comparison), &mut managed);
    }
    validate::validate(cx.node, applied).map_err(|e| {
        let metadata =
            |name: &str| applied.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default();
        plain_error(format!(
            "failed to create typed patch object ({}/{}; {}): {e}",
            metadata("namespace"),
            metadata("name"),
            group_version_kind(cx.api_version, cx.kind)
        ))
    })?;

    let is_kubectl = cx.manager == "kubectl";
    let outcome = match merge_and_own(cx, live, applied, managed.clone(), force) {
        Err(Failure::Conflicts(conflicts)) if is_kubectl => {
            // What the client-side apply of the same configuration set may be taken over from it.
            let allowed = last_applied_fields(cx, live).ok_or_else(|| conflict::status(conflicts.clone()))?;
            let rest: Vec<Conflict> = conflicts
                .into_iter()
                .map(|c| Conflict { fields: c.fields.difference(&allowed), ..c })
                .filter(|c| !c.fields.is_empty())
                .collect();
            if !rest.is_empty() {
                return Err(conflict::status(rest));
            }
            merge_and_own(cx, live, applied, managed, true)
        }
        outcome => outcome,
    };
    let (mut object, managed) = outcome.map_err(|failure| match failure {
        Failure::Conflicts(conflicts) => conflict::status(conflicts),
        Failure::Status(status) => status,
    })?;
    if is_kubectl {
        refresh_last_applied(&mut object, applied);
    }
    put_managed(&mut object, managed.encode());
    Ok(object)
}

/// `apps/v1, Kind=Deployment` as upstream prints it; the group of core is empty: `/v1, Kind=Pod`.
fn group_version_kind(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') || api_version.is_empty() { "" } else { "/" };
    let api_version = if api_version.is_empty() { "/" } else { api_version };
    format!("{slash}{api_version}, Kind={kind}")
}

enum Failure {
    Conflicts(Vec<Conflict>),
    Status(Status),
}

/// The merge itself: the new object without managed fields, and who manages it.
fn merge_and_own(
    cx: &Cx<'_>,
    live: &Value,
    applied: &Value,
    mut managed: Managed,
    force: bool,
) -> Result<(Value, Managed), Failure> {
    let former = managed.clone();
    let node = Some(cx.node);
    let ignored = cx.ignored();
    let id = cx.id(cx.manager, Operation::Apply);

    versions::reconcile(cx, live, &mut managed);
    let mut object = without_managed(live);
    merge::merge(node, &mut object, applied)
        .map_err(|e| Failure::Status(plain_error(format!("failed to merge config: {e}"))))?;

    let fields = field_set::field_set(node, applied).recursive_difference(&ignored);
    let last = managed.remove(&id);
    let time = last.as_ref().and_then(|l| l.time.clone());
    managed.put(id.clone(), Manager { api_version: cx.api_version.to_owned(), fields, time });
    if let Some(last) = last.filter(|l| !l.fields.is_empty()) {
        versions::prune(cx, &mut object, &managed, &last);
    }

    let comparison = compare::compare(cx.node, live, &object).without(&ignored);
    let mut change = Change::new(cx, live, &object, comparison);
    let mut conflicts = Vec::new();
    for (other_id, other) in managed.iter_mut().filter(|(i, _)| **i != id) {
        let Some(Differences { taken, removed }) = change.of(&other.api_version) else { continue };
        let fields = other.fields.intersection(taken);
        if !fields.is_empty() {
            if !force {
                conflicts.push(Conflict { id: other_id.clone(), fields });
                continue;
            }
            other.fields = other.fields.difference(taken);
        }
        other.fields = other.fields.difference(removed);
    }
    if !conflicts.is_empty() {
        return Err(Failure::Conflicts(conflicts));
    }
    if let Some(own) = managed.get_mut(&id) {
        own.fields = own.fields.difference(&STRIPPED);
    }
    managed.drop_empty();

    // An apply that changes nothing leaves the times alone, so that nothing is written.
    let same = match (live, &object) {
        (Value::Object(live), Value::Object(object)) => same_object(live, object),
        _ => live == &object,
    };
    if (!same || managed != former)
        && let Some(own) = managed.get_mut(&id)
    {
        own.time = cx.time();
    }
    Ok((object, managed))
}

/// The fields that client-side apply set and that still are as it set them. `None` where it did not.
fn last_applied_fields(cx: &Cx<'_>, live: &Value) -> Option<Set> {
    let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last.get("apiVersion")?.as_str()? != cx.api_version || validate::validate(cx.node, &last).is_err() {
        return None;
    }
    let difference = compare::compare(cx.node, &last, live);
    let changed = difference.modified.union(difference.added).union(difference.removed);
    Some(field_set::field_set(Some(cx.node), &last).difference(&changed))
}

/// Keeps the annotation of client-side apply in step, so that one may go back to it.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotations) =
        object.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut)
    else {
        return;
    };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) =
        applied.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_owned(), Value::String(format!("{}\n", go::json(&applied))));
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(LAST_APPLIED);
    }
}

/// Whether the client asks for the managed fields to be cleared.
fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => entry.values().all(is_zero),
        _ => false,
    }
}

fn take_managed(object: &mut Value) -> Option<Value> {
    let list = object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")?;
    (!list.is_null()).then_some(list)
}

fn put_managed(object: &mut Value, list: Option<Value>) {
    if let (Some(list), Some(Value::Object(metadata))) = (list, object.get_mut("metadata")) {
        metadata.insert("managedFields".to_owned(), list);
    }
}

/// A copy of an object without its managed fields.
fn without_managed(object: &Value) -> Value {
    let Value::Object(object) = object else { return object.clone() };
    let copy = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Object(metadata) if key == "metadata" => Value::Object(
                metadata.iter().filter(|(k, _)| *k != "managedFields").map(|(k, v)| (k.clone(), v.clone())).collect(),
            ),
            value => value.clone(),
        };
        (key.clone(), value)
    };
    Value::Object(object.iter().map(copy).collect())
}

/// Whether two objects are the same, managed fields aside.
fn same_object(a: &Map, b: &Map) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((ak, av), (bk, bv))| {
            ak == bk
                && match (av, bv) {
                    (Value::Object(a), Value::Object(b)) if ak == "metadata" => {
                        let rest = |m: &'_ Map| m.iter().filter(|(k, _)| *k != "managedFields").count();
                        rest(a) == rest(b)
                            && a.iter()
                                .filter(|(k, _)| *k != "managedFields")
                                .all(|(k, v)| b.get(k).is_some_and(|w| equal(v, w)))
                    }
                    (a, b) => equal(a, b),
                }
        })
}

/// Puts the managed fields back that stood `before` mutating admission, if admission left them malformed. The text
/// of the `Warning` header for that.
///
/// Upstream: `managedFieldsValidatingAdmissionController`.
pub fn after_admission(before: Option<&Value>, object: &mut Value) -> Option<String> {
    let after = object.get("metadata").and_then(|m| m.get("managedFields"));
    if after == before {
        return None;
    }
    let error = Managed::decode(after?).err()?;
    let _ = take_managed(object);
    put_managed(object, before.cloned());
    Some(format!(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated \
         mutating admission controller; please fix your requests: {error}"
    ))
}

/// Gives the new object the old one's managed fields where the two objects differ in nothing but the times in
/// those (and the resource version), so that such a write is none.
///
/// Upstream: `IgnoreManagedFieldsTimestampsTransformer`; runs on the object as it would be stored.
pub fn keep_times(old: &Value, new: &mut Value) {
    if differ_in_times_only(old, new) {
        put_managed(new, managed_of(old).cloned());
    }
}

fn managed_of(object: &Value) -> Option<&Value> {
    object.get("metadata").and_then(|m| m.get("managedFields"))
}

fn differ_in_times_only(old: &Value, new: &Value) -> bool {
    let (Some(old_list), Some(new_list)) = (managed_of(old), managed_of(new)) else { return false };
    if old_list == new_list {
        return false;
    }
    let (Value::Array(old_entries), Value::Array(new_entries)) = (old_list, new_list) else { return false };
    let same_entry = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let rest = |m: &Map| m.len() - usize::from(m.contains_key("time"));
            rest(a) == rest(b) && a.iter().filter(|(k, _)| *k != "time").all(|(k, v)| b.get(k) == Some(v))
        }
        _ => a == b,
    };
    // The order of entries depends on their times.
    fn sorted(entries: &[Value]) -> Vec<&Value> {
        let mut entries: Vec<&Value> = entries.iter().collect();
        let key = |entry: &Value| {
            ["operation", "manager", "apiVersion", "subresource"]
                .map(|f| entry.get(f).and_then(Value::as_str))
                .map(|text| text.unwrap_or_default().to_owned())
        };
        entries.sort_by_cached_key(|entry| key(entry));
        entries
    }
    let same_entries = old_entries.len() == new_entries.len()
        && sorted(old_entries).into_iter().zip(sorted(new_entries)).all(|(old, new)| same_entry(old, new));
    if !same_entries {
        return false;
    }
    let (Value::Object(old_map), Value::Object(new_map)) = (old, new) else { return false };
    old_map.len() == new_map.len()
        && old_map.iter().all(|(key, a)| match (a, new_map.get(key)) {
            (Value::Object(a), Some(Value::Object(b))) if key == "metadata" => {
                let ignored = |k: &str| k == "managedFields" || k == "resourceVersion";
                let rest = |m: &Map| m.keys().filter(|k| !ignored(k)).count();
                rest(a) == rest(b) && a.iter().filter(|(k, _)| !ignored(k)).all(|(k, v)| b.get(k) == Some(v))
            }
            (a, Some(b)) => a == b,
            (_, None) => false,
        })
}

#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;
