//! The API server: request pipeline, verbs, watch cache, admission, authentication, authorization, discovery,
//! OpenAPI.
//!
//! A request passes, in this order: route ([`route`]), authentication ([`authn`]), audit ([`audit`]), impersonation,
//! flow control ([`flowcontrol`]), authorization ([`authz`]), verb. A changing verb runs its conflict-retry loop in [`registry`]:
//! read current, patch, decode and default, managed fields, mutating admission, prepare, validate, validating
//! admission, commit.
//!
//! Invariant: this crate alone opens the store. Invariant: handlers take `&ResourceInfo` and no type parameter.
//!
//! Start reading at [`pipeline`] for composition and at [`handler`] for the way of a request.
//!
//! Not here yet: aggregation.

pub mod admin_access;
pub mod admission;
pub mod alloc;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod cache;
mod coalesce;
mod codec;
mod config_file;
pub mod custom;
pub mod discovery;
mod endpoints;
pub mod expression;
pub mod flowcontrol;
pub mod handler;
pub mod health;
pub mod identity;
pub mod impersonation;
pub mod lookup;
mod managed;
pub mod metrics;
pub mod names;
pub mod negotiation;
pub mod openapi;
mod outbound;
pub mod pipeline;
pub mod query;
pub mod registry;
pub mod requester;
pub mod resources;
pub mod respond;
pub mod rest;
pub mod route;
pub mod security;
pub mod selector;
pub mod serve;
mod ttl_cache;
mod unread;
pub mod user;
pub mod verbs;
pub mod warning;
pub mod writer;

/// The body of requests and responses inside the pipeline.
pub type Body = axum::body::Body;
