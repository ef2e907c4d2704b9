//! Which orkd this is.

/// `0.1.0`, the package's own version.
pub const ORKD: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes v1.36.2)");
