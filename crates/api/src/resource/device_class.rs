//! `DeviceClass`: a name for devices of a sort.
//!
//! Upstream: `pkg/registry/resource/deviceclass/strategy.go`, `ValidateDeviceClass`.

use serde_json::Value;

use super::{configuration, each, selectors};
use crate::field::ErrorList;
use crate::kind::{Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, same};
use crate::strategy::{first_generation, next_generation};

/// The kind `DeviceClass`.
pub struct DeviceClass;

impl Kind for DeviceClass {
    facts!(Facts {
        kind: "DeviceClass",
        plural: "deviceclasses",
        columns: &[NAME, AGE],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::Changed]
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["spec"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        validate(obj, &Value::Null)
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, old)
    }
}

fn validate(obj: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let stored = |field: &str| old.is_object() && same(at(old, &["spec", field]), spec.get_named(field).value());
    selectors(&mut errs, &spec.get("selectors"), stored("selectors"));
    let known = stored("config");
    each(&mut errs, &spec.get("config"), 32, |errs, config| configuration(errs, config, known));
    let extended = spec.get("extendedResourceName");
    if extended.is_set() && !crate::validate::pod_spec::resources::is_extended(extended.str()) {
        errs.invalid(extended.path(), extended.str(), "must be a valid extended resource name");
    }
    errs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::problems;

    #[test]
    fn specs() {
        let check =
            |spec: Value, expected: &[&str]| assert_eq!(problems(&DeviceClass, &json!({"spec": spec})), expected);
        check(json!({"selectors": [{"cel": {"expression": "true"}}], "extendedResourceName": "example.com/gpu"}), &[]);
        check(
            json!({"selectors": [{}], "config": [{}], "extendedResourceName": "cpu"}),
            &[
                "spec.selectors[0].cel: Required value",
                "spec.config[0].opaque: Required value",
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ],
        );
    }

    #[test]
    fn selectors() {
        let check = |expression: &str, expected: &[&str]| {
            let spec = json!({"selectors": [{"cel": {"expression": expression}}]});
            assert_eq!(problems(&DeviceClass, &json!({"spec": spec})), expected);
        };
        check("device.driver == 'gpu.example.com' && device.attributes['gpu.example.com'].memory > 5", &[]);
        check(
            "device.nope",
            &[
                "spec.selectors[0].cel.expression: Invalid value: \"device.nope\": compilation failed: ERROR: <input>:1:7: \
             undefined field 'nope'\n | device.nope\n | ......^",
            ],
        );
        check(
            "1",
            &[
                "spec.selectors[0].cel.expression: Invalid value: \"1\": must evaluate to bool or the unknown type, not int",
            ],
        );
        check(
            "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a + b < c + d))))",
            &["spec.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"],
        );
    }
}
