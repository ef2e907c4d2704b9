//! Keeps what a namespace uses within its quotas (`k8s.io/apiserver/pkg/admission/plugin/resourcequota`).
//!
//! What a request uses is written into the status of the quotas that cover it before the object is stored, by compare
//! and set, so that two writers, of one server or of several, never take the same rest. The requests of one namespace
//! are decided in batches by one task at a time: one write of a quota serves all that came meanwhile. What was charged
//! for an object that was not stored after all, the resource quota controller finds.

mod check;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use orkd_api::quota::Evaluator;
use orkd_api::status::Status;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Operation, Plugin, Request, items};
use crate::alloc::cluster_ip::system_user;
use crate::lookup::Lookup;
use crate::pipeline::WeakServer;
use crate::writer::Writer;
use check::{Asked, Limited, Quota};

/// How long a request waits for its decision.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the quotas that another writer changed are decided anew.
const RETRIES: usize = 3;

/// The plugin.
pub struct ResourceQuota(Arc<Inner>);

struct Inner {
    objects: Lookup,
    server: OnceLock<WeakServer>,
    limited: Vec<Limited>,
    lanes: Mutex<HashMap<String, Vec<Waiter>>>,
}

/// A request that waits.
struct Waiter {
    asked: Asked,
    decided: Option<Result<(), Status>>,
    answer: oneshot::Sender<Result<(), Status>>,
}

impl ResourceQuota {
    /// Reads quotas here; `config` is a `ResourceQuotaConfiguration` or null.
    pub fn new(objects: Lookup, config: &Value) -> Self {
        let limited = items(&config["limitedResources"]).iter().map(Limited::parse).collect();
        ResourceQuota(Arc::new(Inner { objects, server: OnceLock::new(), limited, lanes: Mutex::default() }))
    }
}

/// What is not counted: what is not stored, and events.
fn is_ignored(request: &Request<'_>) -> bool {
    let (group, resource) = (request.resource.group.as_ref(), request.resource.plural.as_ref());
    matches!((group, resource), ("", "bindings" | "events" | "componentstatuses"))
        || matches!(group, "authentication.k8s.io" | "authorization.k8s.io")
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn bind(&self, server: &WeakServer) {
        // Bound once, see `NamespaceAutoProvision`.
        let _ = self.0.server.set(server.clone());
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        let update = match request.operation {
            Operation::Create => false,
            Operation::Update => true,
            _ => return Ok(()),
        };
        let namespaces = request.resource.group.is_empty() && request.resource.plural == "namespaces";
        if request.namespace.is_empty() || namespaces || is_ignored(request) {
            return Ok(());
        }
        let evaluator = Evaluator::of(&request.resource.group, &request.resource.plural);
        if !evaluator.handles(update, request.subresource, request.old, object) {
            return Ok(());
        }
        let inner = &self.0;
        if inner.limited.is_empty() && inner.objects.list("", "resourcequotas", Some(request.namespace)).is_empty() {
            return Ok(());
        }
        let (answer, decision) = oneshot::channel();
        let asked = Asked::new(request, evaluator, object);
        inner.submit(request.namespace, Waiter { asked, decided: None, answer });
        match tokio::time::timeout(TIMEOUT, decision).await {
            Ok(Ok(decision)) => decision,
            _ => Err(Status::internal("resource quota evaluation timed out")),
        }
    }
}

impl Inner {
    /// Gives a request to the task of its namespace, which is started where there is none.
    fn submit(self: &Arc<Self>, namespace: &str, waiter: Waiter) {
        let mut lanes = self.lanes.lock();
        match lanes.get_mut(namespace) {
            Some(waiting) => waiting.push(waiter),
            None => {
                lanes.insert(namespace.to_owned(), vec![waiter]);
                let lane = Lane { inner: self.clone(), namespace: namespace.to_owned() };
                tokio::spawn(lane.run());
            }
        }
    }

    /// Decides about a batch.
    async fn decide(&self, namespace: &str, waiters: &mut [Waiter]) {
        let mut quotas = self.quotas(namespace);
        let mut retries = RETRIES;
        loop {
            let before: Vec<_> = quotas.iter().map(|q| q.used.clone()).collect();
            for waiter in waiters.iter_mut().filter(|w| w.decided.is_none()) {
                match check::check(&quotas, &waiter.asked, &self.limited) {
                    Err(status) => waiter.decided = Some(Err(status)),
                    Ok(None) => waiter.decided = Some(Ok(())),
                    Ok(Some(_)) if waiter.asked.dry_run => waiter.decided = Some(Ok(())),
                    Ok(Some(used)) => quotas.iter_mut().zip(used).for_each(|(quota, used)| quota.used = used),
                }
            }
            let mut failed = Vec::new();
            let mut last = None;
            for (quota, _) in quotas.iter().zip(&before).filter(|(quota, before)| quota.used != **before) {
                if let Err(status) = self.write(namespace, quota).await {
                    failed.push(quota.name.clone());
                    last = Some(status);
                }
            }
            let Some(last) = last else { return settle(waiters, &Ok(())) };
            if retries == 0 {
                return settle(waiters, &Err(last));
            }
            retries -= 1;
            if let Err(status) = self.objects.fresh().await {
                return settle(waiters, &Err(status));
            }
            quotas = self.quotas(namespace);
            quotas.retain(|q| failed.contains(&q.name));
        }
    }

    fn quotas(&self, namespace: &str) -> Vec<Quota> {
        self.objects.list("", "resourcequotas", Some(namespace)).into_iter().map(Quota::new).collect()
    }

    /// Writes what a quota now uses, if it is still the one that was read.
    async fn write(&self, namespace: &str, quota: &Quota) -> Result<(), Status> {
        let Some(server) = self.server.get().and_then(WeakServer::upgrade) else {
            return Err(Status::unavailable("the server is ending"));
        };
        let writer = Writer::new(server, system_user()).manager("kube-apiserver");
        let object = quota.to_object();
        writer.update("", "resourcequotas", "status", namespace, &quota.name, object).await.map(|_| ())
    }
}

/// Decides what is left undecided.
fn settle(waiters: &mut [Waiter], rest: &Result<(), Status>) {
    for waiter in waiters.iter_mut().filter(|w| w.decided.is_none()) {
        waiter.decided = Some(rest.clone());
    }
}

/// The task of one namespace. When it ends, however it ends, the next request starts another.
struct Lane {
    inner: Arc<Inner>,
    namespace: String,
}

impl Lane {
    async fn run(self) {
        loop {
            let mut batch = {
                let mut lanes = self.inner.lanes.lock();
                match lanes.get_mut(&self.namespace) {
                    Some(waiting) if !waiting.is_empty() => std::mem::take(waiting),
                    _ => {
                        lanes.remove(&self.namespace);
                        return;
                    }
                }
            };
            self.inner.decide(&self.namespace, &mut batch).await;
            for waiter in batch {
                // Whoever gave up waiting needs no answer.
                let _ = waiter.answer.send(waiter.decided.unwrap_or(Ok(())));
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.inner.lanes.lock().remove(&self.namespace);
        }
    }
}
