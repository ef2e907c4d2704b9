//! `ValidatingWebhookConfiguration`. Upstream: `pkg/registry/admissionregistration/validatingwebhookconfiguration`.

use serde_json::Value;

use super::hooks;
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::strategy::{first_generation, next_generation};

/// The kind `ValidatingWebhookConfiguration`.
pub struct ValidatingWebhookConfiguration;

impl Kind for ValidatingWebhookConfiguration {
    facts!(Facts {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        categories: super::CATEGORY,
        columns: &[NAME, ("Webhooks", "integer", "", 0), AGE],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        hooks::default(obj, false);
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["webhooks"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        hooks::validate(obj, &Value::Null, false)
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        hooks::validate(new, old, false)
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
