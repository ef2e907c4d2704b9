//! Expressions of the structured authentication configuration (`apiserver/pkg/authentication/cel/compile.go`): about the
//! claims of a token, and about the user made of them.

use std::sync::LazyLock;

use super::base;
use crate::env::Env;
use crate::types::{Shape, Type};

static CLAIMS: LazyLock<Env> =
    LazyLock::new(|| base().extend().variable("claims", Type::map(Type::String, Type::Dyn)).build());

static USER: LazyLock<Env> = LazyLock::new(|| {
    let text = |name: &str| (name.to_owned(), Shape::from(Type::String));
    let texts = || Type::list(Type::String);
    let fields = [
        text("username"),
        text("uid"),
        ("groups".to_owned(), texts().into()),
        ("extra".to_owned(), Type::map(Type::String, texts()).into()),
    ];
    base().extend().variable("user", Shape::object("kubernetes.UserInfo", fields)).build()
});

/// What maps and checks claims: the variable `claims`, a map of anything.
pub fn claims() -> Env {
    CLAIMS.clone()
}

/// What checks a user: the variable `user`.
pub fn user() -> Env {
    USER.clone()
}
