//! `Lease`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `Lease`.
pub struct Lease;

impl Kind for Lease {
    facts!(Facts {
        kind: "Lease",
        plural: "leases",
        columns: &[NAME, ("Holder", "string", "", 0), AGE],
        ..Facts::namespaced("coordination.k8s.io", "v1")
    });
}
