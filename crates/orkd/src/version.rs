//! Which orkd this is.

/// The Kubernetes version whose API is served.
pub const KUBERNETES: &str = "v1.36.2";

/// `0.1.0`, the package's own version.
pub const ORKD: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes v1.36.2)");

/// What `/version` says as `gitVersion`.
pub fn git_version() -> String {
    format!("{KUBERNETES}+orkd-{ORKD}")
}
