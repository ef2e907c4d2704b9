//! The API group `node.k8s.io`.

use crate::kind::Kind;
pub mod runtime_class;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(runtime_class::RuntimeClass)]
}
