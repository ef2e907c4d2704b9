//! `Node`. Upstream: `pkg/registry/core/node/strategy.go`, `ValidateNode`, `ValidateNodeUpdate`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, Name};
use crate::kinds::{AGE, Facts, NAME, PROXY, STATUS, Sub, facts};
use crate::object::{View, at, list, restore, same, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name, or_none, or_unknown};
use crate::validate::{labels, taint_effect};

/// The kind `Node`.
pub struct Node;

impl Kind for Node {
    facts!(Facts {
        kind: "Node",
        plural: "nodes",
        short_names: &["no"],
        subresources: &[Sub("proxy", "NodeProxyOptions", None, PROXY), STATUS],
        prefix: "minions",
        columns: &[
            NAME,
            ("Status", "string", "", 0),
            ("Roles", "string", "", 0),
            AGE,
            ("Version", "string", "", 0),
            ("Internal-IP", "string", "", 1),
            ("External-IP", "string", "", 1),
            ("OS-Image", "string", "", 1),
            ("Kernel-Version", "string", "", 1),
            ("Container-Runtime", "string", "", 1)
        ],
        ..Facts::cluster("", "v1")
    });

    /// What can be allocated is the capacity, unless the node says otherwise.
    fn default(&self, obj: &mut Value) {
        if !at(obj, &["status", "capacity"]).is_null() && at(obj, &["status", "allocatable"]).is_null() {
            let capacity = at(obj, &["status", "capacity"]).clone();
            set(obj, &["status", "allocatable"], capacity);
        }
        // `podCIDR` is the first of `podCIDRs`; either makes the other.
        let single = text(obj, &["spec", "podCIDR"]).to_owned();
        match list(obj, &["spec", "podCIDRs"]).first().and_then(Value::as_str).map(str::to_owned) {
            None if !single.is_empty() => set(obj, &["spec", "podCIDRs"], json!([single])),
            Some(first) if single.is_empty() => set(obj, &["spec", "podCIDR"], first),
            _ => {}
        }
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        restore(new, old, if cx.subresource == Some("status") { &["spec"] } else { &["status"] });
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        taints(&mut errs, &spec);
        pod_cidrs(&mut errs, &spec);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(new);
        let mut seen = BTreeSet::new();
        for address in root.get("status").items("addresses") {
            let key = (address.get("type").str(), address.get("address").str());
            if !seen.insert(key) {
                errs.duplicate(address.path(), address.value());
            }
        }
        if cx.subresource == Some("status") {
            return errs;
        }
        let spec = root.get("spec");
        let old_spec = at(old, &["spec"]);
        let old_cidrs = list(old_spec, &["podCIDRs"]);
        if !old_cidrs.is_empty() && !same(at(new, &["spec", "podCIDRs"]), at(old_spec, &["podCIDRs"])) {
            errs.forbidden(
                spec.get("podCIDRs").path(),
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
        let provider = text(old_spec, &["providerID"]);
        if !provider.is_empty() && provider != spec.get("providerID").str() {
            errs.forbidden(
                spec.get("providerID").path(),
                "node updates may not change providerID except from \"\" to valid",
            );
        }
        taints(&mut errs, &spec);
        pod_cidrs(&mut errs, &spec);
        let munged = |spec: &Value| {
            let mut spec = spec.clone();
            for field in ["podCIDR", "podCIDRs", "providerID", "taints", "unschedulable", "configSource", "externalID"]
            {
                crate::object::remove(&mut spec, &[field]);
            }
            spec
        };
        if !same(&munged(spec.value()), &munged(old_spec)) {
            errs.forbidden(spec.path(), "node updates may only change labels, taints, or capacity");
        }
        errs
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        let unschedulable = at(obj, &["spec", "unschedulable"]) == &Value::Bool(true);
        vec![("spec.unschedulable".into(), unschedulable.to_string())]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let info = |field: &str| text(obj, &["status", "nodeInfo", field]);
        let address = |ty: &str| {
            let found = list(obj, &["status", "addresses"]).iter().find(|a| a["type"] == ty);
            or_none(found.map_or("", |a| text(a, &["address"])))
        };
        vec![
            json!(name(obj)),
            json!(status(obj)),
            json!(roles(obj)),
            json!(age(obj, now)),
            json!(info("kubeletVersion")),
            json!(address("InternalIP")),
            json!(address("ExternalIP")),
            json!(or_unknown(info("osImage"))),
            json!(or_unknown(info("kernelVersion"))),
            json!(or_unknown(info("containerRuntimeVersion"))),
        ]
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if !at(new, &["spec", "configSource"]).is_null()
            && !old.is_some_and(|old| same(at(new, &["spec", "configSource"]), at(old, &["spec", "configSource"])))
        {
            warnings.push("spec.configSource: the feature is no longer supported".into());
        }
        if !text(new, &["spec", "externalID"]).is_empty()
            && old.is_none_or(|old| text(old, &["spec", "externalID"]) != text(new, &["spec", "externalID"]))
        {
            warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
        }
        warnings
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

fn status(obj: &Value) -> String {
    let ready = list(obj, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut text = match ready {
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(obj, &["spec", "unschedulable"]) == &Value::Bool(true) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(obj: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in at(obj, &["metadata", "labels"]).as_object().into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            if !role.is_empty() {
                roles.insert(role);
            }
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|v| !v.is_empty()));
        }
    }
    or_none(&roles.into_iter().collect::<Vec<_>>().join(",")).to_owned()
}

fn taints(errs: &mut ErrorList, spec: &View<'_>) {
    let mut seen: BTreeMap<(&str, &str), ()> = BTreeMap::new();
    for taint in spec.items("taints") {
        let key = taint.get("key");
        labels::name(errs, key.str(), key.path());
        let value = taint.get("value");
        let problems = crate::names::label_value(value.str());
        if !problems.is_empty() {
            errs.invalid(value.path(), value.str(), problems.join(";"));
        }
        taint_effect(errs, &taint.get("effect"), false);
        if seen.insert((key.str(), taint.get("effect").str()), ()).is_some() {
            errs.duplicate(taint.path(), taint.value());
        }
    }
}

fn pod_cidrs(errs: &mut ErrorList, spec: &View<'_>) {
    let cidrs = spec.get("podCIDRs");
    for cidr in cidrs.list() {
        crate::validate::cidr(errs, cidr.str(), cidr.path());
    }
    let v6 = cidrs.strs().iter().filter(|c| c.contains(':')).count();
    if cidrs.len() > 1 && (cidrs.len() > 2 || v6 != 1) {
        errs.invalid(cidrs.path(), cidrs.value(), "may specify no more than one CIDR for each IP family");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_roles_are_worded_as_upstreams() {
        let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/a": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(status(&node), "Ready,SchedulingDisabled");
        assert_eq!(roles(&node), "a,control-plane");
        assert_eq!((status(&json!({})), roles(&json!({}))), ("Unknown".into(), "<none>".into()));
    }
}
