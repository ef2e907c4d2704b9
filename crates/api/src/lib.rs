//! The Kubernetes API as data and pure functions: kinds, schema tables, codecs, defaults, validation,
//! patches and table printing.
//!
//! An object is a [`Value`] whose field order, types and list semantics come from [`schema`]; a kind
//! ([`kind::Kind`]) is one file that adds what the schema cannot say. Start reading at [`kind`].
//!
//! Invariant: no async, no IO, no clock. The time is a parameter ([`kind::Cx::now`]).
//!
//! Invariant: an object is never turned into a typed struct and back on its way to the store; unknown
//! fields of newer clients would be lost. Typed copies are made for reading only.

pub mod codec;
pub mod custom;
pub mod field;
pub mod gates;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod object;
pub mod patch;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod status;
mod strategy;
pub mod table;
pub mod time;
pub mod validate;

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod metrics;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod scheduling;
pub mod storage;

/// Rules for names, and amounts of resources; expressions know both.
pub use orkd_cel::{names, quantity};

/// An API object or a part of one. Maps are kept sorted by key in memory; [`schema`] gives the order in
/// which struct fields are written.
pub use serde_json::Value;

/// The map of a [`Value::Object`].
pub type Map = serde_json::Map<String, Value>;
