//! Removes the objects of a definition that is being deleted, then lets the definition go.
//!
//! Upstream: `apiextensions-apiserver/pkg/controller/finalizer`. The conditions, and their order, are upstream's.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use orkd_api::apiextensions::conditions::{self, Condition};
use orkd_api::kind::Scope;
use orkd_api::status::Status;
use serde_json::Value;

use super::{DEFINITIONS, GROUP};
use crate::alloc::cluster_ip::system_user;
use crate::cache::{Bucket, Entry, WatchCache};
use crate::pipeline::ApiServer;
use crate::registry::options::DeleteOptions;
use crate::registry::{Request, Target, delete};
use crate::resources::Resource;
use crate::writer::Writer;

/// How many objects are deleted at a time.
const AT_ONCE: usize = 16;
/// How long objects with finalizers of their own are waited for before that is said.
const PATIENCE: Duration = Duration::from_secs(60);

/// Removes the objects of `name`, which `resource` serves (`None`: it never served any), then its finalizer.
pub(super) async fn run(server: ApiServer, name: String, resource: Option<Arc<Resource>>) -> Result<(), Status> {
    let writer = Writer::new(server.clone(), system_user()).manager("kube-apiserver");
    tell(&writer, &name, Condition::removal_in_progress()).await?;
    let end = match &resource {
        Some(resource) => empty(&server, resource).await,
        None => Ok(Condition::never_established()),
    };
    match end {
        Ok(condition) => tell(&writer, &name, condition).await?,
        Err((condition, why)) => {
            tell(&writer, &name, condition).await?;
            return Err(why);
        }
    }
    let release = |definition: &mut Value| {
        if let Some(list) = definition["metadata"]["finalizers"].as_array_mut() {
            list.retain(|f| f != conditions::FINALIZER);
        }
        Ok(())
    };
    writer.update_with(GROUP, DEFINITIONS, "", "", &name, release).await.map(|_| ())
}

async fn tell(writer: &Writer, name: &str, condition: Condition) -> Result<(), Status> {
    let change = |definition: &mut Value| {
        conditions::put(definition, &condition, Timestamp::now());
        Ok(())
    };
    writer.update_with(GROUP, DEFINITIONS, "status", "", name, change).await.map(|_| ())
}

async fn empty(server: &ApiServer, resource: &Arc<Resource>) -> Result<Condition, (Condition, Status)> {
    let fails = |reason, what: &str, why: Status| {
        let message = format!("{what}: {}", why.message);
        (Condition::new("Terminating", "True", reason, message), why)
    };
    let failed = |what, why| fails("InstanceDeletionFailed", what, why);
    let Some(cache) = &resource.cache else { return Ok(Condition::removal_completed()) };
    server.caches().fresh().await.map_err(|e| failed("could not list instances", crate::registry::store_error(&e)))?;
    delete_all(server, resource, cache).await.map_err(|why| failed("could not issue all deletes", why))?;
    if tokio::time::timeout(PATIENCE, none_left(cache)).await.is_err() {
        let why = Status::new(500, "", "timed out waiting for the condition");
        return Err(fails("InstanceDeletionCheck", "could not confirm zero CustomResources remaining", why));
    }
    Ok(Condition::removal_completed())
}

async fn delete_all(server: &ApiServer, resource: &Arc<Resource>, cache: &WatchCache) -> Result<(), Status> {
    let user = system_user();
    let namespaced = resource.info().scope == Scope::Namespaced;
    let (user, options) = (&user, &DeleteOptions::default());
    let entries: Vec<Arc<Entry>> = cache.snapshot().map.values().cloned().collect();
    let failures: Vec<Status> = stream::iter(entries)
        .map(|entry| async move {
            let target = Target {
                resource: resource.clone(),
                subresource: "",
                namespace: if namespaced { entry.namespace() } else { "" },
                name: entry.name(),
            };
            match delete::delete(&Request::new(server, user), &target, options).await {
                Err(status) if status.code != 404 => Some(status),
                _ => None,
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|failure| async move { failure })
        .collect()
        .await;
    match failures.into_iter().next() {
        Some(status) => Err(status),
        None => Ok(()),
    }
}

/// Waits until there is no object any more.
async fn none_left(cache: &Arc<WatchCache>) {
    let (_, mut watcher) = cache.snapshot_and_watch(Bucket::All);
    while !cache.is_empty() {
        if watcher.next().await.is_err() {
            watcher = cache.snapshot_and_watch(Bucket::All).1;
            // A cache that is closed tells nothing any more.
            tokio::task::yield_now().await;
        }
    }
}
