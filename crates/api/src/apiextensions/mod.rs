//! The API group `apiextensions.k8s.io`: definitions of custom resources.

use crate::kind::Kind;
pub mod conditions;
pub mod custom_resource_definition;
mod defaults;
mod expressions;
pub(crate) mod field_path;
mod rules;
mod shown;
mod structural;
mod validate;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(custom_resource_definition::CustomResourceDefinition)]
}
