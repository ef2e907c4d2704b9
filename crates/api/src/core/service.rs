//! `Service`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, PROXY, STATUS, Sub, facts};

/// The kind `Service`.
pub struct Service;

impl Kind for Service {
    facts!(Facts {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Sub("proxy", "ServiceProxyOptions", None, PROXY), STATUS],
        prefix: "services/specs",
        columns: &[
            NAME,
            ("Type", "string", "", 0),
            ("Cluster-IP", "string", "", 0),
            ("External-IP", "string", "", 0),
            ("Port(s)", "string", "", 0),
            AGE,
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("", "v1")
    });
}
