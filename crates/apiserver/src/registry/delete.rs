//! Delete: preconditions, graceful deletion, finalizers, propagation, removal.
//!
//! Upstream: `registry/generic/registry.Store.Delete`, `registry/rest/delete.go` (`BeforeDelete`), and for
//! namespaces `pkg/registry/core/namespace/storage`.

use orkd_api::kind::Dependents;
use orkd_api::status::{Details, Status};
use orkd_store::Revision;
use serde_json::{Value, json};

use super::options::{DeleteOptions, Propagation};
use super::{Current, HookContext, Owners, Request, Target, Written, finalizers, meta_text, metadata, stamp, strategy};
use crate::admission::Operation;
use crate::writer::Writer;

/// The finalizer that makes the garbage collector leave dependents alone.
pub const ORPHAN: &str = "orphan";
/// The finalizer that makes the garbage collector delete dependents first.
pub const FOREGROUND: &str = "foregroundDeletion";

const ATTEMPTS: usize = 64;

/// What a delete came to.
pub struct Deleted {
    /// The object as it was, or as it is while it ends.
    pub object: Value,
    /// Whether it is gone.
    pub gone: bool,
}

/// Deletes an object.
pub async fn delete(cx: &Request<'_>, target: &Target<'_>, options: &DeleteOptions) -> Result<Deleted, Status> {
    let option_value = options.to_value();
    let by_default = match target.resource.kind.dependents() {
        Dependents::Delete => None,
        Dependents::Orphan(warning) => {
            let unsaid = options.orphan_dependents.is_none() && options.propagation.is_none();
            warning.filter(|_| unsaid).into_iter().for_each(|text| cx.warnings.add(text));
            Some(DeleteOptions { orphans_by_default: true, ..options.clone() })
        }
    };
    let options = by_default.as_ref().unwrap_or(options);
    let mut current = super::cached(target).await?;
    let mut is_live = false;
    for _ in 0..ATTEMPTS {
        let Some(standing) = current.clone() else {
            if !is_live {
                current = super::live(cx.server, target).await?;
                is_live = true;
                if current.is_some() {
                    continue;
                }
            }
            return Err(target.not_found());
        };
        match attempt(cx, target, options, &option_value, standing).await {
            Ok(Ok(deleted)) => return Ok(deleted),
            Ok(Err(standing)) => {
                current = match standing {
                    Some(standing) => Some(standing),
                    None => super::live(cx.server, target).await?,
                };
                is_live = true;
            }
            Err(status) if !is_live => {
                let live = super::live(cx.server, target).await?;
                if live.as_ref().map(|c| c.revision) == current.as_ref().map(|c| c.revision) {
                    return Err(status);
                }
                current = live;
                is_live = true;
            }
            Err(status) => return Err(status),
        }
    }
    Err(target.conflict(super::MODIFIED))
}

type Tried = Result<Result<Deleted, Option<Current>>, Status>;

async fn attempt(
    cx: &Request<'_>,
    target: &Target<'_>,
    options: &DeleteOptions,
    option_value: &Value,
    standing: Current,
) -> Tried {
    let Current { object: old, revision } = standing;
    let mut null = Value::Null;
    let named = Target { name: if options.of_collection { "" } else { target.name }, ..target.clone() };
    strategy::mutate(cx, &named, Operation::Delete, &mut null, Some(&old), option_value, options.dry_run).await?;
    strategy::check(cx, &named, Operation::Delete, &Value::Null, Some(&old), option_value, options.dry_run).await?;
    check_preconditions(target, options, &old)?;
    let mut new = old.clone();
    if old["metadata"]["deletionTimestamp"].is_null() && target.resource.kind.begin_removal(&mut new, cx.now) {
        return write(cx, target, new, revision, options.dry_run).await;
    }
    if is_namespace(target) {
        if old["metadata"]["deletionTimestamp"].is_null() {
            if let Some(meta) = metadata(&mut new) {
                meta.insert("deletionTimestamp".into(), cx.stamp().into());
            }
            update_gc_finalizers(&mut new, options);
            if let Some(map) = new.as_object_mut() {
                let status = map.entry("status").or_insert_with(|| json!({}));
                if let Some(status) = status.as_object_mut() {
                    status.insert("phase".into(), "Terminating".into());
                }
            }
            return write(cx, target, new, revision, options.dry_run).await;
        }
        if old["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
            return Ok(Ok(Deleted { object: old, gone: false }));
        }
    }
    let before = before_delete(cx, target, &mut new, options);
    if before == Before::Pending && !gc_needs_update(&old, options) {
        return Ok(Ok(Deleted { object: old, gone: false }));
    }
    update_gc_finalizers(&mut new, options);
    let pending_finalizers = !finalizers(&new).is_empty();
    match before {
        Before::Pending => return Ok(Ok(Deleted { object: old, gone: false })),
        Before::Graceful(seconds) if seconds > 0 || pending_finalizers => {
            return write(cx, target, new, revision, options.dry_run).await;
        }
        Before::Now if pending_finalizers => {
            mark_deleting(cx, &mut new);
            return write(cx, target, new, revision, options.dry_run).await;
        }
        Before::Graceful(_) | Before::Now => {}
    }
    if options.dry_run {
        return Ok(Ok(Deleted { object: new, gone: true }));
    }
    match super::remove(cx, target, revision).await? {
        Ok(removed) => {
            super::set_version(&mut new, Some(removed.0));
            after(cx, target, &old).await;
            Ok(Ok(Deleted { object: old, gone: true }))
        }
        Err(standing) => Ok(Err(standing)),
    }
}

async fn write(cx: &Request<'_>, target: &Target<'_>, new: Value, revision: Revision, dry_run: bool) -> Tried {
    if dry_run {
        return Ok(Ok(Deleted { object: new, gone: false }));
    }
    match super::write(cx, target, new, revision, Owners::Kept).await? {
        Written::Done(object) => Ok(Ok(Deleted { object, gone: false })),
        Written::Lost(standing) => Ok(Err(standing)),
    }
}

async fn after(cx: &Request<'_>, target: &Target<'_>, old: &Value) {
    if let Some(hook) = &target.resource.hook {
        let writer = Writer::new(cx.server.clone(), cx.user.clone());
        hook.after_delete(&HookContext { writer: &writer, dry_run: false, subresource: "" }, old).await;
    }
}

fn is_namespace(target: &Target<'_>) -> bool {
    let info = target.resource.info();
    info.group.is_empty() && info.plural == "namespaces"
}

fn check_preconditions(target: &Target<'_>, options: &DeleteOptions, object: &Value) -> Result<(), Status> {
    let info = target.resource.info();
    let conflict = |cause: String| Err(Status::conflict(&info.group, &info.kind, target.name, &cause));
    if let Some(uid) = &options.uid {
        let standing = meta_text(object, "uid");
        if uid != standing {
            return conflict(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({standing}). The object might have \
                 been deleted and then recreated"
            ));
        }
    }
    if let Some(version) = &options.resource_version {
        let standing = meta_text(object, "resourceVersion");
        if version != standing {
            return conflict(format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record \
                 ({standing}). The object might have been modified"
            ));
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq, Debug)]
enum Before {
    /// The object knows no grace, or its time is over.
    Now,
    /// The object is to end within so many seconds; it has been marked.
    Graceful(i64),
    /// It is ending already, and nothing changes.
    Pending,
}

/// `rest.BeforeDelete`: marks an object that may take its time.
fn before_delete(cx: &Request<'_>, target: &Target<'_>, object: &mut Value, options: &DeleteOptions) -> Before {
    // Negative grace means one second.
    let asked = options.grace_period.map(|g| if g < 0 { 1 } else { g });
    let kind = &*target.resource.kind;
    let deletion = object["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let period = object["metadata"]["deletionGracePeriodSeconds"].as_i64().map(|g| if g < 0 { 1 } else { g });
    if kind.graceful_delete(object, asked).is_none() {
        return Before::Now;
    }
    if let Some(deletion) = deletion {
        let Some(period) = period.filter(|p| *p != 0) else { return Before::Now };
        let Some(asked) = asked.filter(|a| *a < period) else { return Before::Pending };
        let earlier = jiff::SignedDuration::from_secs(period - asked);
        let moved = deletion.checked_sub(earlier).unwrap_or(deletion);
        if let Some(meta) = metadata(object) {
            meta.insert("deletionTimestamp".into(), stamp(moved).into());
            meta.insert("deletionGracePeriodSeconds".into(), asked.into());
        }
        return Before::Graceful(asked);
    }
    let Some(period) = kind.graceful_delete(object, asked) else { return Before::Now };
    let ends = cx.now.checked_add(jiff::SignedDuration::from_secs(period)).unwrap_or(cx.now);
    if let Some(meta) = metadata(object) {
        meta.insert("deletionTimestamp".into(), stamp(ends).into());
        meta.insert("deletionGracePeriodSeconds".into(), period.into());
        bump_generation(meta);
    }
    Before::Graceful(period)
}

fn bump_generation(meta: &mut orkd_api::Map) {
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        meta.insert("generation".into(), (generation + 1).into());
    }
}

/// Marks an object without grace that waits for its finalizers.
fn mark_deleting(cx: &Request<'_>, object: &mut Value) {
    let now = cx.stamp();
    let Some(meta) = metadata(object) else { return };
    if meta.get("deletionGracePeriodSeconds").is_none_or(Value::is_null) {
        bump_generation(meta);
    }
    let later = meta.get("deletionTimestamp").and_then(Value::as_str).is_none_or(|t| t > now.as_str());
    if later {
        meta.insert("deletionTimestamp".into(), now.into());
    }
    meta.insert("deletionGracePeriodSeconds".into(), 0.into());
}

/// The finalizers of the garbage collector that an object shall have, by the options and, where they do not say,
/// by what it has.
fn gc_finalizers(object: &Value, options: &DeleteOptions) -> Vec<String> {
    let old = finalizers(object);
    let has = |name: &str| old.iter().any(|f| f == name);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(Propagation::Orphan)) => (true, false),
        (None, Some(Propagation::Foreground)) => (false, true),
        (None, Some(Propagation::Background)) => (false, false),
        // What stands first decides, as upstream's loop over the finalizers does.
        (None, None) => match old.iter().find(|f| *f == ORPHAN || *f == FOREGROUND) {
            Some(first) => (first == ORPHAN && has(ORPHAN), first == FOREGROUND),
            None => (options.orphans_by_default, false),
        },
    };
    let mut new: Vec<String> = old.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        new.push(ORPHAN.into());
    }
    if foreground {
        new.push(FOREGROUND.into());
    }
    new
}

fn gc_needs_update(object: &Value, options: &DeleteOptions) -> bool {
    let (mut old, mut new) = (finalizers(object), gc_finalizers(object, options));
    old.sort_unstable();
    new.sort_unstable();
    old != new
}

fn update_gc_finalizers(object: &mut Value, options: &DeleteOptions) {
    if !gc_needs_update(object, options) {
        return;
    }
    let new = gc_finalizers(object, options);
    if let Some(meta) = metadata(object) {
        if new.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), json!(new));
        }
    }
}

/// Whether an update takes the last finalizer of an object that is being deleted.
pub(super) fn ends_with_update(target: &Target<'_>, new: &Value, old: &Value) -> bool {
    if !finalizers(new).is_empty() || old["metadata"]["deletionTimestamp"].is_null() {
        return false;
    }
    if is_namespace(target) && new["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
        return false;
    }
    old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// Removes an object whose last finalizer an update took. The object as the update would have left it.
pub(super) async fn after_last_finalizer(
    cx: &Request<'_>,
    target: &Target<'_>,
    new: &Value,
    old: &Value,
    revision: Revision,
    dry_run: bool,
) -> Result<Result<Value, Option<Current>>, Status> {
    if dry_run {
        return Ok(Ok(new.clone()));
    }
    match super::remove(cx, target, revision).await? {
        Ok(_) => {
            after(cx, target, old).await;
            Ok(Ok(new.clone()))
        }
        Err(standing) => Ok(Err(standing)),
    }
}

/// What a delete answers.
pub fn answer(target: &Target<'_>, deleted: Deleted) -> Value {
    let info = target.resource.info();
    let returns = orkd_api::kinds::returns_deleted(info);
    if !deleted.gone || returns {
        return deleted.object;
    }
    let details = Details {
        name: target.name.into(),
        group: info.group.to_string(),
        kind: info.plural.to_string(),
        uid: meta_text(&deleted.object, "uid").into(),
        ..Details::default()
    };
    let failure = Status { details: Some(details), ..Status::new(200, "", "") };
    let mut value = failure.to_value();
    value["status"] = json!("Success");
    if let Some(map) = value.as_object_mut() {
        map.remove("message");
        map.remove("code");
    }
    value
}
