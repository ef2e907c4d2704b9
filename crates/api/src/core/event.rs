//! `Event`.

use crate::kind::Kind;
use crate::kinds::{Facts, facts};

/// The kind `Event`.
pub struct Event;

impl Kind for Event {
    facts!(Facts {
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        prefix: "events",
        columns: &[
            ("Last Seen", "string", "", 0),
            ("Type", "string", "", 0),
            ("Reason", "string", "", 0),
            ("Object", "string", "", 0),
            ("Subobject", "string", "", 1),
            ("Source", "string", "", 1),
            ("Message", "string", "", 0),
            ("First Seen", "string", "", 1),
            ("Count", "string", "", 1),
            ("Name", "string", "name", 1)
        ],
        ..Facts::namespaced("", "v1")
    });
}
