//! Label selectors and field selectors: parsing, printing, matching.
//!
//! Follows `k8s.io/apimachinery/pkg/labels` and `pkg/fields`, error texts included. A selector looks labels up
//! through a function, so that it works on any representation of them ([`LabelSelector::matches`]).

mod fields;
mod labels;

pub use fields::{FieldSelector, FieldTerm, escape};
pub use labels::{LabelSelector, Operator, Requirement};
