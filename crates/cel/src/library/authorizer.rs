//! What the requester may do (`apiserver/pkg/cel/library/authz.go`). The functions are declared; who evaluates them
//! binds a value of its own type to `authorizer`, and there is none yet.

use super::Library;
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;
use crate::value::Value;

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.authz", declare);

/// The type of `authorizer`.
pub fn ty() -> Type {
    Type::opaque("kubernetes.authorization.Authorizer")
}

/// The type of `authorizer.requestResource`.
pub fn resource_check() -> Type {
    Type::opaque("kubernetes.authorization.ResourceCheck")
}

fn path_check() -> Type {
    Type::opaque("kubernetes.authorization.PathCheck")
}

fn group_check() -> Type {
    Type::opaque("kubernetes.authorization.GroupCheck")
}

fn decision() -> Type {
    Type::opaque("kubernetes.authorization.Decision")
}

fn declare(f: &mut Functions) {
    use Type::{Bool, String};
    let unbound = |_: &[Value<'_>]| Err(EvalError::new("no authorizer is bound"));
    f.member("path", "authorizer_path", [ty(), String], path_check(), unbound);
    f.member("check", "pathcheck_check", [path_check(), String], decision(), unbound);
    f.member("group", "authorizer_group", [ty(), String], group_check(), unbound);
    f.member("serviceAccount", "authorizer_serviceaccount", [ty(), String, String], ty(), unbound);
    f.member("resource", "groupcheck_resource", [group_check(), String], resource_check(), unbound);
    let steps = [
        ("subresource", "resourcecheck_subresource"),
        ("namespace", "resourcecheck_namespace"),
        ("name", "resourcecheck_name"),
        ("fieldSelector", "authorizer_fieldselector"),
        ("labelSelector", "authorizer_labelselector"),
    ];
    for (name, id) in steps {
        f.member(name, id, [resource_check(), String], resource_check(), unbound);
    }
    f.member("check", "resourcecheck_check", [resource_check(), String], decision(), unbound);
    f.member("errored", "decision_errored", [decision()], Bool, unbound);
    f.member("error", "decision_error", [decision()], String, unbound);
    f.member("allowed", "decision_allowed", [decision()], Bool, unbound);
    f.member("reason", "decision_reason", [decision()], String, unbound);
}
