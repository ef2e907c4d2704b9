//! `Pod`.

use crate::kind::Kind;
use crate::kinds::{AGE, CONNECT, CREATE_ONLY, Facts, NAME, PROXY, READ_WRITE, STATUS, Sub, facts};

/// The kind `Pod`.
pub struct Pod;

impl Kind for Pod {
    facts!(Facts {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Sub("attach", "PodAttachOptions", None, CONNECT),
            Sub("binding", "Binding", None, CREATE_ONLY),
            Sub("ephemeralcontainers", "", None, READ_WRITE),
            Sub("eviction", "Eviction", Some(("policy", "v1")), CREATE_ONLY),
            Sub("exec", "PodExecOptions", None, CONNECT),
            Sub("log", "", None, &["get"]),
            Sub("portforward", "PodPortForwardOptions", None, CONNECT),
            Sub("proxy", "PodProxyOptions", None, PROXY),
            Sub("resize", "", None, READ_WRITE),
            STATUS
        ],
        columns: &[
            NAME,
            ("Ready", "string", "", 0),
            ("Status", "string", "", 0),
            ("Restarts", "string", "", 0),
            AGE,
            ("IP", "string", "", 1),
            ("Node", "string", "", 1),
            ("Nominated Node", "string", "", 1),
            ("Readiness Gates", "string", "", 1)
        ],
        ..Facts::namespaced("", "v1")
    });
}
