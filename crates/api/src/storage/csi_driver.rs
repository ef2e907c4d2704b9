//! `CSIDriver`. Upstream: `pkg/registry/storage/csidriver/strategy.go`, `ValidateCSIDriver`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, at_mut, default_value, list, same, text};
use crate::strategy::{first_generation, next_generation};
use crate::table::{age, name, or_none};

/// The kind `CSIDriver`.
pub struct CSIDriver;

impl Kind for CSIDriver {
    facts!(Facts {
        kind: "CSIDriver",
        plural: "csidrivers",
        columns: &[
            NAME,
            ("AttachRequired", "boolean", "", 0),
            ("PodInfoOnMount", "boolean", "", 0),
            ("StorageCapacity", "boolean", "", 0),
            ("TokenRequests", "string", "", 0),
            ("RequiresRepublish", "boolean", "", 0),
            ("Modes", "string", "", 0),
            AGE
        ],
        ..Facts::cluster("storage.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "spec", json!({}));
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        for (field, on) in [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
            ("seLinuxMount", false),
        ] {
            default_value(spec, field, on);
        }
        default_value(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(spec, &["volumeLifecycleModes"]).is_empty() {
            crate::object::set(spec, &["volumeLifecycleModes"], json!(["Persistent"]));
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["spec"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        spec(&mut errs, obj);
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        spec(&mut errs, new);
        for (field, shown) in [("attachRequired", ATTACH), ("volumeLifecycleModes", "volumeLifecycleModes")] {
            let value = at(new, &["spec", field]);
            if !same(value, at(old, &["spec", field])) {
                errs.invalid(&Path::new("spec").child(shown), value, "field is immutable");
            }
        }
        errs
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let flag = |field: &str| at(obj, &["spec", field]).as_bool().unwrap_or_default();
        let tokens: Vec<&str> = list(obj, &["spec", "tokenRequests"]).iter().map(|t| text(t, &["audience"])).collect();
        let modes: Vec<&str> = list(obj, &["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
        vec![
            json!(name(obj)),
            json!(at(obj, &["spec", "attachRequired"]).as_bool().unwrap_or(true)),
            json!(flag("podInfoOnMount")),
            json!(flag("storageCapacity")),
            json!(if tokens.is_empty() { "<unset>".to_owned() } else { tokens.join(",") }),
            json!(flag("requiresRepublish")),
            json!(or_none(&modes.join(","))),
            json!(age(obj, now)),
        ]
    }
}

/// What upstream's messages call `attachRequired`.
const ATTACH: &str = "attachedRequired";

fn spec(errs: &mut ErrorList, obj: &Value) {
    let spec = View::root(obj).get("spec");
    for (field, shown) in
        [("attachRequired", ATTACH), ("podInfoOnMount", "podInfoOnMount"), ("storageCapacity", "storageCapacity")]
    {
        if !spec.get(field).is_set() {
            errs.required(&spec.path().child(shown), "");
        }
    }
    let policy = spec.get("fsGroupPolicy");
    if policy.is_set() && !matches!(policy.str(), "File" | "None" | "ReadWriteOnceWithFSType") {
        errs.not_supported(policy.path(), policy.str(), &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    let mut audiences = std::collections::BTreeSet::new();
    for token in spec.items("tokenRequests") {
        let audience = token.get("audience");
        if !audiences.insert(audience.str()) {
            errs.duplicate(audience.path(), audience.str());
            continue;
        }
        let life = token.get("expirationSeconds");
        match life.int() {
            Some(n) if n < 600 => errs.invalid(life.path(), n, "may not specify a duration less than 10 minutes"),
            Some(n) if n > 1 << 32 => {
                errs.invalid(life.path(), n, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
    for mode in spec.items("volumeLifecycleModes") {
        if !matches!(mode.str(), "Ephemeral" | "Persistent") {
            errs.not_supported(spec.get("volumeLifecycleModes").path(), mode.str(), &["Persistent", "Ephemeral"]);
        }
    }
    let mount = spec.get("seLinuxMount");
    if !mount.is_set() {
        errs.required(mount.path(), "");
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if let Some(n) = period.int().filter(|n| *n < 10) {
        errs.invalid(period.path(), n, "must be greater than or equal to 10 seconds");
    }
    let in_secrets = spec.get("serviceAccountTokenInSecrets");
    if let (Some(value), true) = (in_secrets.bool(), spec.get("tokenRequests").is_empty()) {
        errs.invalid(
            in_secrets.path(),
            value,
            "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    fn driver(spec: Value) -> Value {
        let mut obj = json!({"metadata": {"name": "d.io"}, "spec": spec});
        CSIDriver.default(&mut obj);
        obj
    }

    #[test]
    fn specs() {
        assert_eq!(problems(&CSIDriver, &driver(json!({}))), [""; 0]);
        assert_eq!(
            problems(
                &CSIDriver,
                &driver(
                    json!({"fsGroupPolicy": "x", "volumeLifecycleModes": ["x"], "nodeAllocatableUpdatePeriodSeconds": 9,
                    "tokenRequests": [{"audience": "a", "expirationSeconds": 599}, {"audience": "a"},
                        {"audience": "", "expirationSeconds": 4294967297i64}]})
                )
            ),
            [
                "spec.fsGroupPolicy: Unsupported value: \"x\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.tokenRequests[2].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than \
                 2^32 seconds",
                "spec.volumeLifecycleModes: Unsupported value: \"x\": supported values: \"Persistent\", \"Ephemeral\"",
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
            ]
        );
        assert_eq!(
            problems(&CSIDriver, &driver(json!({"serviceAccountTokenInSecrets": false}))),
            ["spec.serviceAccountTokenInSecrets: Invalid value: false: serviceAccountTokenInSecrets is set but no \
                 tokenRequests are specified"]
        );
        let new = driver(json!({"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]}));
        assert_eq!(
            problems_of_update(&CSIDriver, None, &new, &driver(json!({}))),
            [
                "spec.attachedRequired: Invalid value: false: field is immutable",
                "spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable",
            ]
        );
    }
}
