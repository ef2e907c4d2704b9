//! `IPAddress`.

use crate::kind::Kind;
use crate::kinds::{Facts, NAME, facts};

/// The kind `IPAddress`.
pub struct IPAddress;

impl Kind for IPAddress {
    facts!(Facts {
        kind: "IPAddress",
        plural: "ipaddresses",
        short_names: &["ip"],
        columns: &[NAME, ("ParentRef", "string", "", 0)],
        ..Facts::cluster("networking.k8s.io", "v1")
    });
}
