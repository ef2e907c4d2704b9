//! Environments of Kubernetes: the base that all have, and one file for each place where expressions stand.

use std::sync::LazyLock;

use crate::env::{Env, EnvBuilder};
use crate::library;

pub mod admission;
pub mod authentication;
pub mod authorization;
mod device;
pub mod schema;

pub use device::{DEVICE_COST_LIMIT, Device, compile_device_selector, device_selector};

/// What one evaluation of an expression may cost, where nothing else is said (`PerCallLimit`).
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// What every expression may use (`apiserver/pkg/cel/environment/base.go`).
static BASE: LazyLock<Env> = LazyLock::new(|| {
    let libraries = [
        library::cidr::LIBRARY,
        library::comprehensions::LIBRARY,
        library::format::LIBRARY,
        library::ip::LIBRARY,
        library::jsonpatch::LIBRARY,
        library::lists::LIBRARY,
        library::optional::LIBRARY,
        library::quantity::LIBRARY,
        library::regex::LIBRARY,
        library::semver::NORMALIZING,
        library::sets::LIBRARY,
        library::strings::LIBRARY,
        library::url::LIBRARY,
    ];
    libraries.into_iter().fold(Env::builder(), EnvBuilder::library).build()
});

/// The environment that the others extend: libraries, and no variables.
pub fn base() -> Env {
    BASE.clone()
}
