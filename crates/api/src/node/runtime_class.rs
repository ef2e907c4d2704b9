//! `RuntimeClass`. Upstream: `pkg/registry/node/runtimeclass/strategy.go`, `ValidateRuntimeClass`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, text};
use crate::table::{age, name};
use crate::validate::pod_spec::warnings::moved;
use crate::validate::pod_spec::{resources, scheduling};
use crate::validate::{immutable_field, internal, labels};

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
        let overhead = root.get("overhead");
        resources::limits_only(&mut errs, &overhead.get("podFixed"), overhead.path());
        labels::labels(&mut errs, &root.dig("scheduling.nodeSelector"));
        let tolerations = root.dig("scheduling.tolerations");
        scheduling::tolerations(&mut errs, &tolerations);
        let mut seen = std::collections::BTreeSet::new();
        for toleration in tolerations.list() {
            if !seen.insert(["key", "operator", "value", "effect"].map(|field| toleration.get(field).str())) {
                errs.duplicate(toleration.path(), internal::shown(internal::TOLERATION, toleration.value()));
            }
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = self.validate(cx, new);
        immutable_field(&mut errs, new, old, &["handler"]);
        errs
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let selector = View::root(new).dig("scheduling.nodeSelector");
        let old_names = selector.entries().into_iter().filter_map(|(label, _)| moved(label));
        old_names.map(|text| format!("{}: {text}", selector.path())).collect()
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::Changed]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["handler"])), json!(age(obj, now))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update, with_cx};

    #[test]
    fn a_class_is_checked_where_pods_are() {
        let found = problems(
            &RuntimeClass,
            &json!({"handler": "A", "overhead": {"podFixed": {"cpu": "-1", "x": "1"}}, "scheduling": {"nodeSelector": {"a": "b"},
                "tolerations": [{"key": "k", "operator": "Exists"}, {"key": "k", "operator": "Exists", "tolerationSeconds": 5}]}}),
        );
        assert!(
            found[0].starts_with("handler: Invalid value: \"A\": a lowercase RFC 1123 label must consist"),
            "{found:?}"
        );
        assert_eq!(
            found[1..],
            [
                "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "overhead.limits[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
                "overhead.limits[x]: Invalid value: \"x\": must be a standard resource for containers",
                "scheduling.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                "scheduling.tolerations[1]: Duplicate value: {\"Key\":\"k\",\"Operator\":\"Exists\",\"Value\":\"\",\"Effect\":\"\",\
                 \"TolerationSeconds\":5}",
            ]
        );
        assert_eq!(
            problems_of_update(&RuntimeClass, None, &json!({"handler": "b"}), &json!({"handler": "a"})),
            ["handler: Invalid value: \"b\": field is immutable"]
        );
    }

    #[test]
    fn old_labels_of_nodes_are_warned_of() {
        let class = json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "x", "beta.kubernetes.io/instance-type": "y"}}});
        assert_eq!(
            with_cx(None, |cx| RuntimeClass.warnings(cx, &class, None)),
            [
                "scheduling.nodeSelector: deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
                "scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ]
        );
    }
}
