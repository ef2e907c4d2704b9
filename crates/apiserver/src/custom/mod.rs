//! Custom resources: what definitions (`apiextensions.k8s.io/v1` `CustomResourceDefinition`) say is served.
//!
//! [`definitions`] follows the definitions in this process: it gives them their names, makes their kinds and caches, swaps
//! the snapshot of what is served, and says so in their status. [`emptying`] removes the objects of a definition that is
//! being deleted. [`versions`] turns objects from one version into another, alone or with the help of a webhook, with
//! which it speaks by [`review`].
//!
//! How the objects of a version look is the business of [`orkd_api::custom`]; what a status says, that of
//! [`orkd_api::apiextensions::conditions`]. The verbs know nothing of any of this: they see a
//! [`Resource`](crate::resources::Resource) like every other.

pub mod definitions;
mod emptying;
pub mod review;
pub mod versions;

pub use versions::Versions;

/// The group of definitions.
const GROUP: &str = "apiextensions.k8s.io";
/// Their plural.
const DEFINITIONS: &str = "customresourcedefinitions";
