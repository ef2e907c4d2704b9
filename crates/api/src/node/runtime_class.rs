//! `RuntimeClass`. Upstream: `pkg/registry/node/runtimeclass/strategy.go`, `ValidateRuntimeClass`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, text};
use crate::table::{age, name};
use crate::validate::{immutable_field, labels};

/// The kind `RuntimeClass`.
pub struct RuntimeClass;

impl Kind for RuntimeClass {
    facts!(Facts {
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        columns: &[NAME, ("Handler", "string", "", 0), AGE],
        ..Facts::cluster("node.k8s.io", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        crate::validate::dns_label_at(&mut errs, &root.get("handler"));
        for (_, amount) in root.dig("overhead.podFixed").entries() {
            crate::validate::pod_spec::resources::amount(&mut errs, &amount);
        }
        labels::labels(&mut errs, &root.dig("scheduling.nodeSelector"));
        crate::validate::pod_spec::scheduling::tolerations(&mut errs, &root.dig("scheduling.tolerations"));
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        immutable_field(&mut errs, new, old, &["handler"]);
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["handler"])), json!(age(obj, now))]
    }
}
