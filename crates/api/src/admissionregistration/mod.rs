//! The API group `admissionregistration.k8s.io`: who may change and refuse objects on their way in.
//!
//! Upstream: `pkg/apis/admissionregistration/{v1/defaults.go,validation}`. Expressions in CEL are compiled; the
//! fields of objects that mutations make are checked when the kind is known.

use crate::kind::Kind;

mod hooks;
pub mod mutating_policy;
pub mod mutating_policy_binding;
pub mod mutating_webhook;
mod policy;
mod rules;
pub mod validating_policy;
pub mod validating_policy_binding;
pub mod validating_webhook;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(mutating_policy::MutatingAdmissionPolicy),
        Box::new(mutating_policy_binding::MutatingAdmissionPolicyBinding),
        Box::new(mutating_webhook::MutatingWebhookConfiguration),
        Box::new(validating_policy::ValidatingAdmissionPolicy),
        Box::new(validating_policy_binding::ValidatingAdmissionPolicyBinding),
        Box::new(validating_webhook::ValidatingWebhookConfiguration),
    ]
}

const GROUP: &str = "admissionregistration.k8s.io";
const CATEGORY: &[&str] = &["api-extensions"];
