//! What must hold of several devices of a claim together. Upstream: `matchAttributeConstraint` and
//! `distinctAttributeConstraint` in `k8s.io/dynamic-resource-allocation/structured`.

use super::catalogue::{AttributeValue, Device};

/// How the devices' values of an attribute are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All the same.
    Match,
    /// All different.
    Distinct,
}

/// A constraint of a claim.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// The requests it is about; all, if none.
    pub requests: Vec<String>,
    /// The attribute, by its full name.
    pub attribute: String,
    /// How its values are to be.
    pub rule: Rule,
}

impl Constraint {
    /// Whether it is about a request, or an alternative of it (`request/alternative`).
    pub fn concerns(&self, request: &str, reference: &str) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|r| r == request || r == reference)
    }

    /// Whether a device may be added to others with these values. It must have the attribute, even if it is the first.
    pub fn allows(&self, others: &[&AttributeValue], device: &Device) -> bool {
        let Some(value) = device.attributes.get(&self.attribute) else { return false };
        match self.rule {
            Rule::Match => others.iter().all(|o| *o == value),
            Rule::Distinct => others.iter().all(|o| *o != value),
        }
    }
}
