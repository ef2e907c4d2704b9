//! `ResourceClaim`: devices wanted for pods, and what was found for it.
//!
//! Upstream: `pkg/registry/resource/resourceclaim/strategy.go`, `ValidateResourceClaim`.

use serde_json::{Value, json};

use super::{allocation, request, shown};
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, list, restore, same, set};
use crate::strategy::{reset_meta_for_status, reset_spec_or_status};
use crate::table::{age, name};

/// The kind `ResourceClaim`.
pub struct ResourceClaim;

impl Kind for ResourceClaim {
    facts!(Facts {
        kind: "ResourceClaim",
        plural: "resourceclaims",
        subresources: &[STATUS],
        columns: &[NAME, ("State", "string", "", 0), AGE],
        ..Facts::namespaced(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = at_mut(obj, &["spec"]) {
            request::default(spec);
        }
        if let Some(devices) = at_mut(obj, &["status", "allocation", "devices"]) {
            for result in crate::object::items_mut(devices, "results") {
                for toleration in crate::object::items_mut(result, "tolerations") {
                    crate::object::default_text(toleration, "operator", "Equal");
                }
            }
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
            reset_meta_for_status(new, old);
        } else {
            restore(new, old, &["status"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        request::claim_spec(&mut errs, &View::root(obj).get("spec"));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        if cx.subresource == Some("status") {
            allocation::status(&mut errs, new, old);
        } else {
            let spec = View::root(new).get("spec");
            if !same(spec.value(), at(old, &["spec"])) {
                errs.invalid(spec.path(), shown::spec(spec.value()), "field is immutable");
            }
        }
        errs
    }

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        if subresource == Some("status") { &[MetaPass::Changed] } else { &[MetaPass::New, MetaPass::Changed] }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(state(obj)), json!(age(obj, now))]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

/// The state as kubectl shows it.
fn state(obj: &Value) -> String {
    let deleted = crate::meta::deletion_timestamp(obj).is_some();
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if at(obj, &["status", "allocation"]).is_null() {
        if !deleted {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if !list(obj, &["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    }
    states.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    fn claim(devices: Value) -> Value {
        let mut obj = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"devices": devices}});
        ResourceClaim.default(&mut obj);
        obj
    }

    #[test]
    fn defaults() {
        let obj = claim(json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c",
            "tolerations": [{"key": "k"}]}}, {"name": "b", "firstAvailable": [{"name": "x", "allocationMode": "All"}]}]}));
        let requests = &obj["spec"]["devices"]["requests"];
        assert_eq!(requests[0]["exactly"]["allocationMode"], "ExactCount");
        assert_eq!(requests[0]["exactly"]["count"], 1);
        assert_eq!(requests[0]["exactly"]["tolerations"][0]["operator"], "Equal");
        assert_eq!(requests[1]["firstAvailable"][0]["count"], Value::Null);
    }

    #[test]
    fn specs() {
        let check = |devices: Value, expected: &[&str]| assert_eq!(problems(&ResourceClaim, &claim(devices)), expected);
        let exactly = json!({"deviceClassName": "c"});
        check(json!({"requests": [{"name": "a", "exactly": exactly}]}), &[]);
        check(
            json!({"requests": [{"name": "a"}, {"name": "a", "exactly": {}}]}),
            &[
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].exactly.deviceClassName: Required value",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
            ],
        );
        check(
            json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "x",
            "selectors": [{}, {"cel": {"expression": "true"}}], "tolerations": [{"operator": "Exists", "value": "v"}]}}]}),
            &[
                "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
                "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"x\": supported values: \"All\", \"ExactCount\"",
                "spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: \"v\": must be empty for operator `Exists`",
            ],
        );
        check(
            json!({"requests": [{"name": "a", "exactly": exactly}],
            "constraints": [{"requests": ["b"], "matchAttribute": "x"}],
            "config": [{"opaque": {"driver": "d.io", "parameters": [1]}}, {}]}),
            &[
                "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim or \
             the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"x\": a fully qualified name must be a domain and \
             a name separated by a slash",
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
                "spec.devices.config[1].opaque: Required value",
            ],
        );
        let many: Vec<Value> = (0..33).map(|i| json!({"name": format!("r{i}"), "exactly": exactly})).collect();
        check(json!({"requests": many}), &["spec.devices.requests: Too many: 33: must have at most 32 items"]);
    }

    #[test]
    fn a_spec_stays_and_a_status_fits_it() {
        let old = claim(json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}));
        let mut new = old.clone();
        new["spec"]["devices"]["requests"][0]["name"] = json!("b");
        assert_eq!(
            problems_of_update(&ResourceClaim, None, &new, &old),
            [
                r#"spec: Invalid value: {"Devices":{"Requests":[{"Name":"b","Exactly":{"DeviceClassName":"c","Selectors":null,"#
                    .to_owned()
                    + r#""AllocationMode":"ExactCount","Count":1,"AdminAccess":null,"Tolerations":null,"Capacity":null},"#
                    + r#""FirstAvailable":null}],"Constraints":null,"Config":null}}: field is immutable"#
            ]
        );
        let status = |status: Value| {
            let mut new = old.clone();
            new["status"] = status;
            problems_of_update(&ResourceClaim, Some("status"), &new, &old)
        };
        assert_eq!(
            status(json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]})),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        let result = json!({"request": "a", "driver": "d.io", "pool": "p", "device": "dev"});
        assert_eq!(status(json!({"allocation": {"devices": {"results": [result]}}})), [""; 0]);
        assert_eq!(
            status(json!({"allocation": {"devices": {"results": [result]}},
                "devices": [{"driver": "d.io", "pool": "p", "device": "other"}, {"driver": "d.io", "pool": "p", "device": "dev"},
                    {"driver": "d.io", "pool": "p", "device": "dev"}]})),
            [
                r#"status.devices[0]: Invalid value: {"Driver":"d.io","Pool":"p","Device":"other","ShareID":""}: must be an allocated device in the claim"#,
                r#"status.devices[2]: Duplicate value: {"Driver":"d.io","Pool":"p","Device":"dev","ShareID":""}"#,
            ]
        );
    }

    #[test]
    fn states() {
        let check = |obj: Value, expected: &str| assert_eq!(state(&obj), expected);
        check(json!({}), "pending");
        check(json!({"metadata": {"deletionTimestamp": "t"}}), "deleted");
        check(json!({"status": {"allocation": {}, "reservedFor": [{}]}}), "allocated,reserved");
        check(json!({"metadata": {"deletionTimestamp": "t"}, "status": {"allocation": {}}}), "deleted,allocated");
    }
}
