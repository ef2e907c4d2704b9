//! The devices of a slice. Upstream: `validateDevice`.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{binding_conditions, each, policy, qualified_name, set, shortened, taint};
use crate::field::{ErrorList, Path};
use crate::object::{View, at, same};
use crate::validate::dns_label_at;
use crate::validate::internal::{self, Fields, Go};
use crate::validate::pod_spec::affinity::node_selector;

/// Bytes a key of attributes and capacities may have before it is shortened in texts.
const MAX_KEY: usize = 63 + 1 + 32;

/// Bytes the name of a counter may have before it is shortened in texts.
const MAX_COUNTER: usize = 63;

/// The fields of an attribute's value; of lists, the second of each pair.
const VALUES: [(&str, &str); 4] = [("int", "ints"), ("bool", "bools"), ("string", "strings"), ("version", "versions")];

/// `resource.DeviceAttribute`.
const ATTRIBUTE: Fields = &[
    ("int", "IntValue", Go::Nil),
    ("bool", "BoolValue", Go::Nil),
    ("string", "StringValue", Go::Nil),
    ("version", "VersionValue", Go::Nil),
    ("ints", "IntValues", Go::Nil),
    ("bools", "BoolValues", Go::Nil),
    ("strings", "StringValues", Go::Nil),
    ("versions", "VersionValues", Go::Nil),
];

/// A device. `per_device`: each device of the slice says where it is.
pub(super) fn device(errs: &mut ErrorList, device: &View<'_>, old: &Value, per_device: bool) {
    dns_label_at(errs, &device.get("name"));
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let total = attributes.len() + capacity.len();
    if total > 32 {
        errs.invalid(device.path(), total as i64, "the total number of attributes and capacities must not exceed 32");
    }
    for (key, attribute) in attributes.entries() {
        let path = attributes.path().key(&shortened(key, MAX_KEY));
        qualified_name(errs, key, &path);
        value(errs, &View::at(path, attribute.value()));
    }
    if !(old.is_object() && same(at(old, &["capacity"]), capacity.value())) {
        let shared = device.get("allowMultipleAllocations").is_true();
        for (key, amount) in capacity.entries() {
            qualified_name(errs, key, &capacity.path().key(&shortened(key, MAX_KEY)));
            let amount = View::at(capacity.path().key(&shortened(key, MAX_KEY)), amount.value());
            let request_policy = amount.get("requestPolicy");
            if request_policy.is_set() && !shared {
                errs.forbidden(request_policy.path(), "allowMultipleAllocations must be true");
            } else if request_policy.is_set() {
                policy::shared(errs, &amount);
            }
        }
    }
    let taints = device.get("taints");
    if !(old.is_object() && same(at(old, &["taints"]), taints.value())) {
        each(errs, &taints, 16, taint);
    }
    set(
        errs,
        &device.get("consumesCounters"),
        2,
        |c| c.get("counterSet").str().to_owned(),
        |errs, consumption| {
            counters(errs, consumption, "counterSet");
        },
    );
    place(errs, device, per_device);
    binding_conditions(errs, device);
}

/// A set of counters, or what a device takes of one. `name` is the field with the name of the set.
pub(super) fn counters(errs: &mut ErrorList, v: &View<'_>, name: &str) {
    let (set, counters) = (v.get_named(name), v.get("counters"));
    if set.is_empty() {
        errs.required(set.path(), "");
    } else {
        dns_label_at(errs, &set);
    }
    if counters.is_empty() {
        errs.required(counters.path(), "");
    } else if counters.len() > 32 {
        errs.too_many(counters.path(), counters.len(), 32);
        return;
    }
    for (key, _) in counters.entries() {
        for problem in crate::names::dns_label(key, false) {
            errs.invalid(&counters.path().key(&shortened(key, MAX_COUNTER)), key, problem);
        }
    }
}

fn place(errs: &mut ErrorList, device: &View<'_>, per_device: bool) {
    let (node, selector, all) = (device.get("nodeName"), device.get("nodeSelector"), device.get("allNodes"));
    if !per_device {
        if node.is_set() || selector.is_set() || all.is_set() {
            errs.invalid(
                device.path(),
                &Value::Null,
                "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in \
                 the ResourceSlice spec",
            );
        }
        return;
    }
    let mut fields = Vec::new();
    if node.is_set() {
        if node.is_empty() {
            errs.invalid(node.path(), "", "must not be empty");
        } else {
            fields.push("`nodeName`");
            crate::validate::dns_subdomain_at(errs, &node);
        }
    }
    if selector.is_set() {
        fields.push("`nodeSelector`");
        node_selector(errs, &selector);
    }
    if all.is_true() {
        fields.push("`allNodes`");
    } else if all.is_set() {
        errs.invalid(all.path(), false, "must be either unset or set to true");
    }
    let rule = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set \
                to true in the ResourceSlice spec";
    match fields.len() {
        0 => errs.required(device.path(), rule),
        1 => {}
        _ => errs.invalid(device.path(), format!("{{{}}}", fields.join(", ")).as_str(), rule),
    }
}

fn value(errs: &mut ErrorList, attribute: &View<'_>) {
    let mut given = 0;
    for (field, list) in VALUES {
        let (one, many) = (attribute.get(field), attribute.get(list));
        given += usize::from(one.is_set()) + usize::from(many.is_set());
        if one.is_set() {
            scalar(errs, field, one.str(), one.path());
        }
        if many.is_set() && many.is_empty() {
            errs.invalid(many.path(), many.value(), "must not be empty if specified");
        }
        for item in many.list() {
            scalar(errs, field, item.str(), item.path());
        }
    }
    match given {
        0 => errs.invalid(attribute.path(), "", "exactly one value must be specified"),
        1 => {}
        _ => errs.invalid(
            attribute.path(),
            internal::shown(ATTRIBUTE, attribute.value()),
            "exactly one value must be specified",
        ),
    }
}

fn scalar(errs: &mut ErrorList, field: &str, text: &str, path: &Path) {
    static SEMVER: LazyLock<Regex> = LazyLock::new(|| {
        let (number, pre, build) = (r"(0|[1-9]\d*)", r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)", r"[0-9a-zA-Z-]+");
        Regex::new(&format!(r"^{number}\.{number}\.{number}(-{pre}(\.{pre})*)?(\+{build}(\.{build})*)?$"))
            .expect("constant pattern compiles")
    });
    if field == "version" && !SEMVER.is_match(text) {
        errs.invalid(path, text, "must be a string compatible with semver.org spec 2.0.0");
    }
    if text.len() > 64 {
        errs.too_long(path, 64);
    }
}

/// Whether a device uses what makes it costly.
pub(super) fn is_advanced(device: &Value) -> bool {
    !crate::object::list(device, &["taints"]).is_empty()
        || !crate::object::list(device, &["consumesCounters"]).is_empty()
        || at(device, &["attributes"])
            .as_object()
            .into_iter()
            .flatten()
            .any(|(_, a)| VALUES.iter().any(|(_, list)| !at(a, &[list]).is_null()))
}

#[cfg(test)]
mod tests {
    use super::super::identifier;
    use super::*;

    #[test]
    fn identifiers_are_those_of_c() {
        let check = |id: &str, bad: usize| {
            let mut errs = ErrorList::new();
            identifier(&mut errs, id, &Path::root());
            assert_eq!(errs.0.len(), bad, "{id}");
        };
        check("a_1", 0);
        check("1a", 1);
        check("", 1);
        check(&"a".repeat(33), 1);
    }
}
