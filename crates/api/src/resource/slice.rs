//! `ResourceSlice`: devices a driver offers.
//!
//! Upstream: `pkg/registry/resource/resourceslice/strategy.go`, `ValidateResourceSlice`.

use serde_json::{Value, json};

use super::{devices, driver, pool_name, set};
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, Name};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, items_mut, list, remove, text};
use crate::strategy::{first_generation, next_generation};
use crate::table::{age, name};
use crate::validate::immutable_field;
use crate::validate::pod_spec::affinity::node_selector;

/// The kind `ResourceSlice`.
pub struct ResourceSlice;

impl Kind for ResourceSlice {
    facts!(Facts {
        kind: "ResourceSlice",
        plural: "resourceslices",
        columns: &[NAME, ("Node", "string", "", 0), ("Driver", "string", "", 0), ("Pool", "string", "", 0), AGE],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn prepare_create(&self, cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
        drop_disabled(cx, obj, &Value::Null);
        date_taints(cx, obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        drop_disabled(cx, new, old);
        date_taints(cx, new);
        next_generation(new, old, &["spec"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        validate(obj, &Value::Null)
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, old)
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        ["nodeName", "driver"].map(|f| (format!("spec.{f}").into(), text(obj, &["spec", f]).to_owned())).into()
    }

    fn field_label<'l>(&self, label: &'l str) -> Result<&'l str, String> {
        match label {
            "metadata.name" | "spec.nodeName" | "spec.driver" => Ok(label),
            _ => Err(format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {label}")),
        }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![
            json!(name(obj)),
            json!(at(obj, &["spec", "nodeName"]).as_str().unwrap_or("<unset>")),
            json!(text(obj, &["spec", "driver"])),
            json!(text(obj, &["spec", "pool", "name"])),
            json!(age(obj, now)),
        ]
    }
}

/// Taints carry the time they were added.
fn date_taints(cx: &Cx<'_>, obj: &mut Value) {
    let now = crate::time::format_time(cx.now);
    let Some(spec) = crate::object::at_mut(obj, &["spec"]) else { return };
    for device in items_mut(spec, "devices") {
        for taint in items_mut(device, "taints") {
            crate::object::default_value(taint, "timeAdded", now.as_str());
        }
    }
}

/// Fields of features that are off, unless the old object has them.
fn drop_disabled(cx: &Cx<'_>, obj: &mut Value, old: &Value) {
    const LISTS: [&str; 4] = ["ints", "bools", "strings", "versions"];
    const MAPPINGS: &str = "nodeAllocatableResourceMappings";
    let used = |has: &dyn Fn(&Value) -> bool| list(old, &["spec", "devices"]).iter().any(has);
    let lists = cx.features.enabled("DRAListTypeAttributes", false)
        || used(&|d| {
            at(d, &["attributes"])
                .as_object()
                .into_iter()
                .flatten()
                .any(|(_, a)| LISTS.iter().any(|f| !at(a, &[f]).is_null()))
        });
    let mappings =
        cx.features.enabled("DRANodeAllocatableResources", false) || used(&|d| !at(d, &[MAPPINGS]).is_null());
    let Some(spec) = crate::object::at_mut(obj, &["spec"]) else { return };
    for device in items_mut(spec, "devices") {
        if !mappings {
            remove(device, &[MAPPINGS]);
        }
        if !lists && let Some(attributes) = device.get_mut("attributes").and_then(Value::as_object_mut) {
            for attribute in attributes.values_mut() {
                for field in LISTS {
                    remove(attribute, &[field]);
                }
            }
        }
    }
}

fn validate(obj: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    driver(&mut errs, &spec.get("driver"));
    pool(&mut errs, &spec.get("pool"));
    if old.is_object() {
        for path in [&["spec", "pool", "name"][..], &["spec", "driver"], &["spec", "nodeName"]] {
            immutable_field(&mut errs, obj, old, path);
        }
    }
    place(&mut errs, &spec);
    let (offered, shared) = (spec.get("devices"), spec.get("sharedCounters"));
    if offered.is_set() && shared.is_set() {
        errs.invalid(spec.path(), "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let all = list(obj, &["spec", "devices"]);
    let max = if all.iter().any(devices::is_advanced) { 64 } else { 128 };
    let per_device = spec.get("perDeviceNodeSelection").is_true();
    let key = |v: &View<'_>| v.get("name").str().to_owned();
    set(&mut errs, &offered, max, key, |errs, device| {
        let before = list(old, &["spec", "devices"]).iter().find(|d| text(d, &["name"]) == device.get("name").str());
        devices::device(errs, device, before.unwrap_or(&Value::Null), per_device);
    });
    set(&mut errs, &shared, 8, key, |errs, counter_set| devices::counters(errs, counter_set, "name"));
    errs
}

fn pool(errs: &mut ErrorList, pool: &View<'_>) {
    pool_name(errs, &pool.get("name"));
    let (count, generation) = (pool.get("resourceSliceCount"), pool.get("generation"));
    let n = count.int().unwrap_or_default();
    if n <= 0 {
        errs.invalid(count.path(), n, "must be greater than zero");
    }
    if let Some(n) = generation.int().filter(|n| *n < 0) {
        errs.invalid(generation.path(), n, "must be greater than or equal to zero");
    }
}

/// Where the devices are: one of four ways to say it.
fn place(errs: &mut ErrorList, spec: &View<'_>) {
    let mut fields = Vec::new();
    let (node, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    if node.is_set() {
        if node.is_empty() {
            errs.invalid(node.path(), "", "must be either unset or set to a non-empty string");
        } else {
            fields.push("`nodeName`");
            crate::validate::dns_subdomain_at(errs, &node);
        }
    }
    if selector.is_set() {
        fields.push("`nodeSelector`");
        node_selector(errs, &selector);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            errs.invalid(terms.path(), super::shown::terms(terms.value()), "must have exactly one node selector term");
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        let v = spec.get(field);
        if v.is_true() {
            fields.push(shown);
        } else if v.is_set() {
            errs.invalid(v.path(), false, "must be either unset or set to true");
        }
    }
    let rule = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match fields.len() {
        0 => errs.required(spec.path(), rule),
        1 => {}
        _ => errs.invalid(
            spec.path(),
            format!("{{{}}}", fields.join(", ")).as_str(),
            format!("{rule}, but multiple fields are set"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update, with_cx};

    fn slice(fields: Value) -> Value {
        let mut spec = json!({"driver": "d.io", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}});
        for (k, v) in fields.as_object().into_iter().flatten() {
            spec[k] = v.clone();
        }
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    fn check(fields: Value, expected: &[&str]) {
        assert_eq!(problems(&ResourceSlice, &slice(fields)), expected);
    }

    #[test]
    fn a_slice_is_in_one_place() {
        check(json!({"nodeName": "n"}), &[]);
        check(
            json!({}),
            &[
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
            ],
        );
        check(
            json!({"nodeName": "n", "allNodes": true}),
            &[
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
            ],
        );
        check(
            json!({"nodeName": "n", "allNodes": false, "pool": {"name": "", "resourceSliceCount": 0}}),
            &[
                "spec.pool.name: Required value",
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.allNodes: Invalid value: false: must be either unset or set to true",
            ],
        );
    }

    #[test]
    fn devices() {
        let of = |devices: Value| json!({"nodeName": "n", "devices": devices});
        check(
            of(
                json!([{"name": "a", "attributes": {"x": {"int": 1}, "d.io/y": {"version": "1.2.3"}}, "capacity": {"m": {"value": "1Gi"}}}]),
            ),
            &[],
        );
        check(
            of(
                json!([{"name": "a", "attributes": {"x": {}, "y": {"version": "1.2"}}}, {"name": "a", "nodeName": "n"}]),
            ),
            &[
                "spec.devices[0].attributes[x]: Invalid value: \"\": exactly one value must be specified",
                "spec.devices[0].attributes[y].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0",
                "spec.devices[1]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
                "spec.devices[1]: Duplicate value: \"a\"",
            ],
        );
        check(
            of(json!([{"name": "a", "attributes": {"1x": {"int": 1}}, "capacity": {"/y": {"value": "1"}},
                    "consumesCounters": [{"counterSet": "s", "counters": {"A_": {"value": "1"}}}]}])),
            &[
                "spec.devices[0].attributes[1x]: Invalid value: \"1x\": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
                "spec.devices[0].capacity[/y]: Invalid value: \"\": the domain must not be empty",
                "spec.devices[0].consumesCounters[0].counters[A_]: Invalid value: \"A_\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        );
        check(
            of(
                json!([{"name": "a", "taints": [{"key": "k", "effect": "x"}], "bindingConditions": ["c"], "consumesCounters": [{}]}]),
            ),
            &[
                "spec.devices[0].taints[0].effect: Unsupported value: \"x\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
                "spec.devices[0].consumesCounters[0].counterSet: Required value",
                "spec.devices[0].consumesCounters[0].counters: Required value",
                "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
            ],
        );
    }

    #[test]
    fn shared_capacity() {
        let of = |policy: Value| {
            json!({"nodeName": "n", "devices": [{"name": "a", "allowMultipleAllocations": true,
            "capacity": {"m": {"value": "10", "requestPolicy": policy}}}]})
        };
        const AT: &str = "spec.devices[0].capacity[m].requestPolicy";
        let check = |policy: Value, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|e| format!("{AT}{e}")).collect();
            assert_eq!(problems(&ResourceSlice, &slice(of(policy))), expected);
        };
        check(json!({"default": "2", "validValues": ["1", "2"]}), &[]);
        check(json!({"validValues": ["1"]}), &[".default: Required value: required when validValues is defined"]);
        check(
            json!({"default": "3", "validValues": ["20", "1"]}),
            &[
                ".validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                ".validValues[0]: Invalid value: \"20\": option is larger than capacity value: 10",
                ".validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ],
        );
        check(
            json!({"default": "4", "validRange": {"min": "1", "max": "7", "step": "2"}}),
            &[".validRange.step: Invalid value: \"4\": value is not a multiple of a given step (2) from (1)"],
        );
        check(
            json!({"default": "1", "validRange": {"min": "2", "max": "4"}}),
            &[".validRange.min: Invalid value: \"1\": default is less than min: 2"],
        );
        check(
            json!({"default": "6", "validRange": {"min": "2", "max": "4"}}),
            &[".validRange.max: Invalid value: \"6\": default is more than max: 4"],
        );
    }

    #[test]
    fn what_is_off_is_dropped_and_taints_are_dated() {
        let mut obj = slice(json!({"devices": [{"name": "a", "nodeAllocatableResourceMappings": {"cpu": {}},
            "attributes": {"x": {"ints": [1]}}, "taints": [{"key": "k", "effect": "None"}]}]}));
        with_cx(None, |cx| ResourceSlice.prepare_create(cx, &mut obj));
        assert_eq!(obj["metadata"]["generation"], 1);
        assert_eq!(
            obj["spec"]["devices"][0],
            json!({"name": "a", "attributes": {"x": {}}, "taints": [{"key": "k", "effect": "None", "timeAdded": "1970-01-01T00:00:00Z"}]})
        );
        let old = obj.clone();
        obj["spec"]["driver"] = json!("other");
        obj["spec"]["nodeName"] = json!("n");
        let found = problems_of_update(&ResourceSlice, None, &obj, &old);
        assert!(found.contains(&"spec.driver: Invalid value: \"other\": field is immutable".to_owned()), "{found:?}");
    }
}
