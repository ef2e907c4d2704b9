//! Custom resources: what a definition (`apiextensions.k8s.io/v1` `CustomResourceDefinition`) makes of a kind.
//!
//! A version of a definition becomes a [`CustomKind`], which behaves as every other [`crate::kind::Kind`]. Its schema is
//! compiled to a [`Structural`], a compact form without descriptions; everything that looks at objects beside their
//! schema walks that: pruning, defaults, metadata of embedded objects, validation, rules in CEL, and (by one variant of
//! [`crate::schema::Node`]) patches, server-side apply and managed fields.
//!
//! Whether a definition is a good one is checked in [`crate::apiextensions`], when it is written. What is read here has
//! passed that, but may be older than this program: whatever does not fit is passed over, and nothing panics.
//!
//! Upstream: `pkg/apiserver/schema`, `pkg/apiserver/validation` and `pkg/registry/customresource` of
//! `k8s.io/apiextensions-apiserver`.

pub(crate) mod check;
mod columns;
mod defaulting;
mod json_path;
mod kind;
mod meta;
mod openapi;
mod pruning;
mod rules;
mod scale;
mod structural;
#[cfg(test)]
mod tests;
mod validation;

pub use kind::{CustomKind, DefinitionError, Source};
pub use scale::ScalePaths;
pub use structural::Structural;

pub(crate) use structural::{Additional, Keys, Schema, Ty};
