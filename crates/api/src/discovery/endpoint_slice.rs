//! `EndpointSlice`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, facts};

/// The kind `EndpointSlice`.
pub struct EndpointSlice;

impl Kind for EndpointSlice {
    facts!(Facts {
        kind: "EndpointSlice",
        plural: "endpointslices",
        columns: &[
            NAME,
            ("AddressType", "string", "", 0),
            ("Ports", "string", "", 0),
            ("Endpoints", "string", "", 0),
            AGE
        ],
        ..Facts::namespaced("discovery.k8s.io", "v1")
    });
}
