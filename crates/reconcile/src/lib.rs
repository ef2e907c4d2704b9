//! What every loop is built of: shared informers, a de-duplicating rate-limited work queue, the controller
//! harness (observe, plan, act), an event recorder and leader election. Everything goes through
//! [`Client`], in process or over HTTPS alike.
//!
//! Invariant: a loop gets keys, not events; `plan` is pure; a restart and the first run are the same path.
//!
//! Invariant: objects are cached as trimmed views ([`View`]) of what loops read, never as whole typed objects;
//! loops write by patch, apply, create and delete, they never PUT a view back.
//!
//! # Overview
//!
//! A view is a struct of the fields that are read:
//!
//! ```
//! use orkd_reconcile::{Meta, View};
//! use serde::Deserialize;
//!
//! #[derive(Debug, Deserialize)]
//! #[serde(rename_all = "camelCase")]
//! struct Pod {
//!     metadata: Meta,
//!     #[serde(default)]
//!     spec: PodSpec,
//! }
//! #[derive(Debug, Default, Deserialize)]
//! #[serde(rename_all = "camelCase", default)]
//! struct PodSpec {
//!     node_name: String,
//! }
//! impl View for Pod {
//!     const GROUP: &'static str = "";
//!     const VERSION: &'static str = "v1";
//!     const KIND: &'static str = "Pod";
//!     const PLURAL: &'static str = "pods";
//!     fn meta(&self) -> &Meta {
//!         &self.metadata
//!     }
//! }
//! ```
//!
//! An [`Informers`] factory gives one shared [`Informer`] for each view and [`Options`]; indexes and handlers are
//! added to it, a [`Queue`] takes keys, [`work`] (or a [`Controller`] in [`run`]) empties it:
//!
//! ```no_run
//! # use orkd_reconcile::*;
//! # use orkd_base::{BoxError, Supervisor};
//! # #[derive(Debug, serde::Deserialize)] struct Pod { metadata: Meta, spec: PodSpec }
//! # #[derive(Debug, serde::Deserialize)] struct PodSpec { node_name: String }
//! # impl View for Pod { const GROUP: &'static str = ""; const VERSION: &'static str = "v1";
//! #   const KIND: &'static str = "Pod"; const PLURAL: &'static str = "pods";
//! #   fn meta(&self) -> &Meta { &self.metadata } }
//! # async fn example(client: kube::Client, supervisor: Supervisor) -> Result<(), BoxError> {
//! let informers = Informers::new(client.clone(), supervisor.clone());
//! let pods: Informer<Pod> = informers.informer();
//! // Of one node alone: informers.informer_with::<Pod>(Options::fields("spec.nodeName=n1"));
//! pods.add_index("node", |pod| vec![pod.spec.node_name.clone()]);
//!
//! let queue: Queue<Key> = Queue::new("example");
//! let sender = queue.clone();
//! pods.subscribe(move |event| sender.add(event.key()));   // short, synchronous, called in order
//! pods.synced().await;
//!
//! for pod in pods.by_index("node", "n1") {
//!     println!("{}", pod.meta().key());
//! }
//!
//! // Writes: JSON through an `Api` with the loop's own identity and user agent.
//! let api = Api::new(client, "example");
//! let target = Resource::of::<Pod>().at("default", "web-0");
//! let patched: Pod = api.patch(&target.sub("status"), &Patch::Merge(serde_json::json!({"status": {}}))).await?;
//! match api.delete(&target, &DeleteOptions::default().uid("...")).await {
//!     Err(err) if err.is_not_found() || err.is_conflict() => {}
//!     other => other?,
//! }
//! # Ok(()) }
//! ```
//!
//! Events go through a [`Recorder`] (`recorder.event(&ObjectRef::of(&pod), EventType::Normal, "Killing", "...")`),
//! which never blocks; a [`LeaderElector`] runs a future while it holds a Lease.
//! What may be served by anybody, and not answer, is asked through [`Gates`].
//!
//! Where to start reading: [`Informer`], then [`Queue`], then [`Controller`].

mod api;
mod client;
mod controller;
mod error;
mod gate;
mod informer;
mod lease;
mod meta;
mod queue;
mod recorder;
mod resource;
mod selector;
mod series;
mod shared;
mod store;
mod time;
mod watch;

pub use api::{Api, DeleteOptions, List, ListMeta, ListOptions, Patch, Propagation, user_agent};
pub use client::{Body, Client};
pub use controller::{Controller, Outcome, run, totals, work};
pub use error::{ApiError, Status, StatusCause, StatusDetails};
pub use gate::{Gates, PATIENCE};
pub use informer::{Event, Informer, Informers, Options};
pub use lease::{LeaderElection, LeaderElector, Lease, LeaseSpec, LostLease};
pub use meta::{Key, Meta, OwnerRef, View, null_default};
pub use queue::{Queue, QueueKey, RateLimit};
pub use recorder::{EventType, ObjectRef, Recorder};
pub use resource::{Resource, Target};
pub use selector::{LabelSelector, Requirement};
pub use shared::{Common, Pool, Shared, shared_text};
pub use time::{micro_time, time};
