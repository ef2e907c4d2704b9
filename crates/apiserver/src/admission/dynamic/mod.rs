//! Dynamic admission: the policies and webhooks that objects of `admissionregistration.k8s.io` configure.
//!
//! Pure are [`asked`] (a request as rules see it), [`rules`] (whether it is meant), [`input`] (what expressions see),
//! [`evaluate`] (expressions and their budgets), [`policy`] (policies and bindings, compiled). [`hooks`] keeps what is
//! compiled up to date with the watch cache; [`round`] holds what one request needs of the world: its namespace,
//! parameters, other versions of its object, answers of the authorizer; [`reinvocation`] who is asked a second time. The
//! plugins come last.
//!
//! A program is compiled when its object is written (its generation, that is: a changed status compiles nothing). Where
//! nothing is configured, a request costs a look at the feeds.

pub mod asked;
pub mod evaluate;
pub mod hooks;
pub mod input;
pub mod policy;
pub mod reinvocation;
pub mod round;
pub mod rules;

pub mod mutating_policy;
pub mod validating_policy;
pub mod webhook;

use super::Request;

/// Reviews of who may what, whose interception could break the cluster (`pkg/kubeapiserver/admission/exclusion`), and the
/// policies themselves (`policy/generic.Plugin.Dispatch`): no policy sees them.
fn is_beyond_policies(request: &Request<'_>) -> bool {
    match (request.resource.group.as_ref(), request.resource.plural.as_ref()) {
        ("authentication.k8s.io", "selfsubjectreviews" | "tokenreviews") => request.subresource.is_empty(),
        ("authorization.k8s.io", _) => true,
        ("admissionregistration.k8s.io", resource) => resource.contains("admissionpolic"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operation;
    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[test]
    fn policies_do_not_see_themselves_nor_reviews() {
        let user = UserInfo::new("u", &[]);
        let check = |resource: &str, expected: bool| {
            let kind = kind(resource);
            assert_eq!(is_beyond_policies(&request(&*kind, Operation::Create, "", "x", &user, None)), expected);
        };
        for beyond in [
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "subjectaccessreviews",
            "tokenreviews",
        ] {
            check(beyond, true);
        }
        for seen in ["validatingwebhookconfigurations", "pods", "certificatesigningrequests"] {
            check(seen, false);
        }
    }
}
