//! The registry: reads and writes of any kind on the store, in one order for all.
//!
//! Create: [`create`]. Update, patch and apply: [`update`], [`patch`]. Delete: [`delete`]. What happens between
//! "the new object is known" and "it is committed" is in [`strategy`]; [`rewrite`] goes past all of that. Upstream: `registry/generic/registry.Store`,
//! `registry/rest`, `endpoints/handlers`.
//!
//! Invariant: a commit is conditional on the revision the decision was made on; a lost race starts over with the
//! record that stands. Invariant: where nothing changes, nothing is written.

pub mod create;
pub mod delete;
pub mod hook;
pub mod options;
pub mod patch;
pub mod rewrite;
pub mod scale;
pub mod strategy;
pub mod update;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orkd_api::kind::{Cx, Scope};
use orkd_api::status::Status;
use orkd_store::{Condition, Error, Op, Outcome, Record, Revision, Txn};
use serde_json::Value;

use crate::cache::WatchCache;
use crate::codec;
use crate::pipeline::ApiServer;
use crate::resources::Resource;
use crate::route::RequestInfo;
use crate::user::UserInfo;
use crate::warning::Warnings;

pub use hook::{Finish, Hook, HookContext};

/// What is addressed.
#[derive(Clone)]
pub struct Target<'a> {
    /// The resource.
    pub resource: Arc<Resource>,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-wide.
    pub namespace: &'a str,
    /// Name; empty for a collection.
    pub name: &'a str,
}

/// The circumstances of a change.
pub struct Request<'a> {
    /// The server.
    pub server: &'a ApiServer,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The time.
    pub now: jiff::Timestamp,
    /// Texts for `Warning` headers.
    pub warnings: Warnings,
    /// What a client asked for. What it comes to beside that has to be allowed, too.
    pub info: Option<&'a RequestInfo>,
}

impl<'a> Request<'a> {
    /// A request of now.
    pub fn new(server: &'a ApiServer, user: &'a UserInfo) -> Self {
        Request { server, user, now: jiff::Timestamp::now(), warnings: Warnings::default(), info: None }
    }

    /// The view of it that kinds get.
    pub fn cx<'b>(&'b self, subresource: &'b str) -> Cx<'b> {
        Cx {
            now: self.now,
            subresource: (!subresource.is_empty()).then_some(subresource),
            user: &self.user.name,
            features: self.server.features(),
        }
    }

    /// The time as objects show it.
    pub fn stamp(&self) -> String {
        stamp(self.now)
    }
}

/// A time as objects show it: RFC 3339, whole seconds.
pub fn stamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Target<'_> {
    /// The cache of the resource; 405 for one that is not stored.
    pub fn cache(&self) -> Result<&Arc<WatchCache>, Status> {
        self.resource.cache.as_ref().ok_or_else(|| {
            let info = self.resource.info();
            Status::method_not_supported(&info.group, &info.plural, "this operation")
        })
    }

    /// The storage key below the resource's prefix.
    pub fn key(&self) -> String {
        key(self.namespace, self.name)
    }

    /// The storage key.
    pub fn storage_key(&self) -> Result<String, Status> {
        Ok(storage_key(self.cache()?, &self.key()))
    }

    /// 404 about this object.
    pub fn not_found(&self) -> Status {
        let info = self.resource.info();
        Status::not_found(&info.group, &info.plural, self.name)
    }

    /// 409 about this object.
    pub fn conflict(&self, cause: &str) -> Status {
        let info = self.resource.info();
        Status::conflict(&info.group, &info.plural, self.name, cause)
    }

    /// Whether the objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.resource.info().scope == Scope::Namespaced
    }
}

/// `NAMESPACE/NAME` or `NAME`.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The key in the store.
pub fn storage_key(cache: &WatchCache, key: &str) -> String {
    format!("/registry/{}/{key}", cache.prefix)
}

/// The cause of a conflict of versions (`OptimisticLockErrorMsg`).
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// An object as it stands, in the form its door serves, and the revision of its record.
#[derive(Clone)]
pub struct Current {
    /// The object, resourceVersion included.
    pub object: Value,
    /// The revision of the record.
    pub revision: Revision,
}

/// How a failure of the store is told to clients. Internals go to the log.
pub fn store_error(error: &Error) -> Status {
    match error {
        Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        Error::TooLarge(_) => Status::too_large("Request is too large: the object exceeds what the store takes"),
        Error::Sealing(why) => {
            tracing::error!(why, "an object cannot be encrypted");
            Status::internal(why.clone())
        }
        Error::Unavailable(_) | Error::Closed => {
            tracing::warn!(%error, "the store failed");
            Status::server_timeout("the store is not available", 1)
        }
        _ => {
            tracing::error!(%error, "the store failed");
            Status::internal("the store failed")
        }
    }
}

async fn from_record(target: &Target<'_>, record: &Record) -> Result<Current, Status> {
    let unreadable = || Status::internal("a stored object cannot be read");
    let value = target.cache()?.taken_in(&record.value).ok_or_else(unreadable)?;
    let mut object = codec::decode_stored(target.resource.stored_kind(), &value).ok_or_else(unreadable)?;
    if !object.is_object() {
        return Err(unreadable());
    }
    set_version(&mut object, Some(record.mod_revision.0));
    target.resource.to_served(&mut object).await?;
    Ok(Current { object, revision: record.mod_revision })
}

/// The object as the cache has it.
pub async fn cached(target: &Target<'_>) -> Result<Option<Current>, Status> {
    let Some(entry) = target.cache()?.get(&target.key()) else { return Ok(None) };
    let resource = &target.resource;
    resource.prepare([&entry]).await?;
    let entry = resource.served(&entry).ok_or_else(|| Status::internal("a stored object cannot be converted"))?;
    Ok(Some(Current { object: entry.decode(), revision: Revision(entry.revision) }))
}

/// The object as the store has it, linearizable.
pub async fn live(server: &ApiServer, target: &Target<'_>) -> Result<Option<Current>, Status> {
    let record = server.store().get(&target.storage_key()?).await.map_err(|e| store_error(&e))?;
    match record {
        Some(record) => from_record(target, &record).await.map(Some),
        None => Ok(None),
    }
}

/// The object, linearizable; 404 without one.
pub async fn get(server: &ApiServer, target: &Target<'_>) -> Result<Value, Status> {
    live(server, target).await?.map(|c| c.object).ok_or_else(|| target.not_found())
}

/// Sets or removes the resourceVersion.
pub fn set_version(object: &mut Value, revision: Option<u64>) {
    let Some(meta) = metadata(object) else { return };
    match revision {
        Some(n) => meta.insert("resourceVersion".into(), n.to_string().into()),
        None => meta.remove("resourceVersion"),
    };
}

/// The metadata of an object, made where it is missing.
pub fn metadata(object: &mut Value) -> Option<&mut orkd_api::Map> {
    let meta = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(orkd_api::Map::new()));
    if meta.is_null() {
        *meta = Value::Object(orkd_api::Map::new());
    }
    meta.as_object_mut()
}

/// A text of the metadata; empty where it is missing.
pub fn meta_text<'v>(object: &'v Value, field: &str) -> &'v str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The finalizers.
pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

/// The form in which an object is stored: the stored version of its kind, and no resourceVersion, which the object loses.
async fn stored_bytes(target: &Target<'_>, object: &mut Value) -> Result<Bytes, Status> {
    set_version(object, None);
    let kind = target.resource.stored_kind();
    if target.resource.is_stored_as_served() {
        return Ok(codec::encode_stored(kind, object));
    }
    let mut object = object.clone();
    target.resource.to_storage(&mut object).await?;
    Ok(codec::encode_stored(kind, &object))
}

/// The largest record written (etcd's default request limit, which clients know).
const MAX_RECORD: usize = 1_572_864;

/// What becomes of the managed fields of an object that is too large with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owners {
    /// They are part of what is asked for.
    Kept,
    /// The object is stored without them: that nobody owns its fields is no reason to refuse it.
    Dropped,
}

impl Owners {
    fn of(options: &options::WriteOptions) -> Owners {
        if options.applies { Owners::Kept } else { Owners::Dropped }
    }
}

/// What a conditional write came to.
enum Written {
    /// Committed; the object with its new resourceVersion.
    Done(Value),
    /// Another writer was faster; what stands now.
    Lost(Option<Current>),
}

/// Writes an object if the record is still at `expected` (0: absent), and waits until the cache shows it.
async fn write(
    cx: &Request<'_>,
    target: &Target<'_>,
    mut object: Value,
    expected: Revision,
    owners: Owners,
) -> Result<Written, Status> {
    let mut value = stored_bytes(target, &mut object).await?;
    if value.len() > MAX_RECORD
        && owners == Owners::Dropped
        && metadata(&mut object).is_some_and(|meta| meta.remove("managedFields").is_some())
    {
        value = stored_bytes(target, &mut object).await?;
    }
    match put(cx, target, value, expected).await? {
        Ok(revision) => {
            set_version(&mut object, Some(revision.0));
            Ok(Written::Done(object))
        }
        Err(record) => lost(target, record).await,
    }
}

/// Writes a record if it is still at `expected` (0: absent), and waits until the cache shows it: its new revision, or what
/// stands instead.
async fn put(
    cx: &Request<'_>,
    target: &Target<'_>,
    value: Bytes,
    expected: Revision,
) -> Result<Result<Revision, Option<Record>>, Status> {
    if value.len() > MAX_RECORD {
        return Err(Status::new(500, "", "etcdserver: request is too large"));
    }
    let key = target.storage_key()?;
    let txn = Txn {
        conditions: vec![Condition { key: key.clone(), mod_revision: expected }],
        ops: vec![Op::Put { key, value, ttl_seconds: target.resource.kind.ttl_seconds() }],
    };
    match cx.server.store().commit(txn).await.map_err(|e| store_error(&e))? {
        Outcome::Committed(revision) => {
            settle(cx.server, revision).await;
            Ok(Ok(revision))
        }
        Outcome::Failed(records) => Ok(Err(records.into_iter().next().flatten())),
    }
}

/// Removes a record if it is still at `expected`. The revision of the removal.
async fn remove(
    cx: &Request<'_>,
    target: &Target<'_>,
    expected: Revision,
) -> Result<Result<Revision, Option<Current>>, Status> {
    let key = target.storage_key()?;
    let txn =
        Txn { conditions: vec![Condition { key: key.clone(), mod_revision: expected }], ops: vec![Op::Delete { key }] };
    match cx.server.store().commit(txn).await.map_err(|e| store_error(&e))? {
        Outcome::Committed(revision) => {
            settle(cx.server, revision).await;
            Ok(Ok(revision))
        }
        Outcome::Failed(records) => match lost(target, records.into_iter().next().flatten()).await? {
            Written::Lost(current) => Ok(Err(current)),
            Written::Done(_) => Ok(Err(None)),
        },
    }
}

async fn lost(target: &Target<'_>, record: Option<Record>) -> Result<Written, Status> {
    Ok(Written::Lost(match record {
        Some(record) => Some(from_record(target, &record).await?),
        None => None,
    }))
}

/// Waits until the cache shows a commit of ours, so that whoever gets our answer reads it back. Bounded: a cache
/// that is behind delays, it does not fail, what is committed.
async fn settle(server: &ApiServer, revision: Revision) {
    if !server.caches().progress().reach(revision.0, Duration::from_secs(1)).await {
        tracing::warn!(revision = revision.0, "the cache is behind");
    }
}
