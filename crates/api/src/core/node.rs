//! `Node`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, PROXY, STATUS, Sub, facts};

/// The kind `Node`.
pub struct Node;

impl Kind for Node {
    facts!(Facts {
        kind: "Node",
        plural: "nodes",
        short_names: &["no"],
        subresources: &[Sub("proxy", "NodeProxyOptions", None, PROXY), STATUS],
        prefix: "minions",
        columns: &[
            NAME,
            ("Status", "string", "", 0),
            ("Roles", "string", "", 0),
            AGE,
            ("Version", "string", "", 0),
            ("Internal-IP", "string", "", 1),
            ("External-IP", "string", "", 1),
            ("OS-Image", "string", "", 1),
            ("Kernel-Version", "string", "", 1),
            ("Container-Runtime", "string", "", 1)
        ],
        ..Facts::cluster("", "v1")
    });
}
