//! `ServiceCIDR`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};

/// The kind `ServiceCIDR`.
pub struct ServiceCIDR;

impl Kind for ServiceCIDR {
    facts!(Facts {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        subresources: &[STATUS],
        columns: &[NAME, ("CIDRs", "string", "", 0), AGE],
        ..Facts::cluster("networking.k8s.io", "v1")
    });
}
