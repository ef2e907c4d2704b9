//! `MutatingWebhookConfiguration`. Upstream: `pkg/registry/admissionregistration/mutatingwebhookconfiguration`.

use serde_json::Value;

use super::hooks;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::strategy::{first_generation, next_generation};

/// The kind `MutatingWebhookConfiguration`.
pub struct MutatingWebhookConfiguration;

impl Kind for MutatingWebhookConfiguration {
    facts!(Facts {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        categories: super::CATEGORY,
        columns: &[NAME, ("Webhooks", "integer", "", 0), AGE],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        hooks::default(obj, true);
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["webhooks"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        hooks::validate(obj, &Value::Null, true)
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        hooks::validate(new, old, true)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        hooks::cells(obj, now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    fn configuration(hook: Value) -> Value {
        let mut obj = json!({"metadata": {"name": "x"}, "webhooks": [hook]});
        MutatingWebhookConfiguration.default(&mut obj);
        obj
    }

    fn good() -> Value {
        json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]})
    }

    #[test]
    fn defaults() {
        let obj = configuration(good());
        let hook = &obj["webhooks"][0];
        assert_eq!(hook["reinvocationPolicy"], "Never");
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(problems(&MutatingWebhookConfiguration, &obj), [""; 0]);
    }

    #[test]
    fn webhooks() {
        let check = |field: &str, value: Value, expected: &[&str]| {
            let mut hook = good();
            *hook.pointer_mut(field).unwrap_or(&mut Value::Null) = value.clone();
            if hook.pointer(field).is_none() {
                hook[field.trim_start_matches('/')] = value;
            }
            let expected: Vec<String> = expected.iter().map(|e| format!("webhooks[0].{e}")).collect();
            assert_eq!(problems(&MutatingWebhookConfiguration, &configuration(hook)), expected);
        };
        check(
            "/name",
            json!("a.b"),
            &["name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"],
        );
        check(
            "/sideEffects",
            json!("Some"),
            &["sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""],
        );
        check(
            "/admissionReviewVersions",
            json!([]),
            &["admissionReviewVersions: Required value: must specify one of v1, v1beta1"],
        );
        check(
            "/timeoutSeconds",
            json!(31),
            &["timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"],
        );
        check(
            "/reinvocationPolicy",
            json!("x"),
            &["reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\""],
        );
        check(
            "/rules/0/operations",
            json!(["*", "CREATE", "x"]),
            &[
                "rules[0].operations: Invalid value: [\"*\",\"CREATE\",\"x\"]: if '*' is present, must not specify other operations",
                "rules[0].operations[2]: Unsupported value: \"x\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
            ],
        );
        check(
            "/rules/0/resources",
            json!(["pods/*", "pods/log", "*", "nodes"]),
            &[
                "rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                "rules[0].resources: Invalid value: [\"pods/*\",\"pods/log\",\"*\",\"nodes\"]: if '*' is present, must not specify other resources without subresources",
            ],
        );
        check(
            "/matchConditions",
            json!([{"name": "a", "expression": "true"}, {"name": "a", "expression": " "}]),
            &["matchConditions[1].expression: Required value", "matchConditions[1].name: Duplicate value: \"a\""],
        );
    }

    #[test]
    fn what_was_tolerated_stays_tolerated() {
        let mut hook = good();
        hook["sideEffects"] = json!("Some");
        let old = configuration(hook);
        assert_eq!(problems(&MutatingWebhookConfiguration, &old).len(), 1);
        assert_eq!(problems_of_update(&MutatingWebhookConfiguration, None, &old, &old), [""; 0]);
    }
}
