//! `Node`. Upstream: `pkg/registry/core/node/strategy.go`, `ValidateNode`, `ValidateNodeUpdate`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::field::{ErrorList, Path, Shown};
use crate::kind::{Cells, Cx, Kind, MetaPass, Name};
use crate::kinds::{AGE, Facts, NAME, PROXY, STATUS, Sub, facts};
use crate::object::{View, at, list, remove, restore, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name, or_none, or_unknown};
use crate::validate::pod_spec::resources::amount_of;
use crate::validate::{internal, ip, labels, taint_effect};

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

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::Changed])
    }

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

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        remove(obj, &["spec", "configSource"]);
        remove(obj, &["status", "config"]);
    }

    /// A configuration that nothing reads any more can stay, but does not come.
    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        let (other, config): (&[&str], &[&str]) = match cx.subresource {
            Some("status") => (&["spec"], &["status", "config"]),
            _ => (&["status"], &["spec", "configSource"]),
        };
        restore(new, old, other);
        if at(old, config).is_null() {
            remove(new, config);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        taints(&mut errs, &spec);
        resources(&mut errs, obj);
        pod_cidrs(&mut errs, &spec);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        // Through the node itself upstream checks it as a new one first.
        let mut errs = if cx.subresource.is_none() { self.validate(cx, new) } else { ErrorList::new() };
        let root = View::root(new);
        resources(&mut errs, new);
        let mut seen = BTreeSet::new();
        for address in root.get("status").items("addresses") {
            let key = (address.get("type").str(), address.get("address").str());
            if !seen.insert(key) {
                errs.duplicate(address.path(), internal::shown(internal::NODE_ADDRESS, address.value()));
            }
        }
        let spec = root.get("spec");
        let old_spec = at(old, &["spec"]);
        let (cidrs, old_cidrs) = (spec.get("podCIDRs"), list(old_spec, &["podCIDRs"]));
        if !old_cidrs.is_empty() {
            // One problem for a list of another length, else one for each that changed.
            let changed = match list(new, &["spec", "podCIDRs"]) {
                now if now.len() == old_cidrs.len() => now.iter().zip(old_cidrs).filter(|(a, b)| a != b).count(),
                _ => 1,
            };
            for _ in 0..changed {
                errs.forbidden(cidrs.path(), "node updates may not change podCIDR except from \"\" to valid");
            }
        }
        let provider = text(old_spec, &["providerID"]);
        if !provider.is_empty() && provider != spec.get("providerID").str() {
            errs.forbidden(
                spec.get("providerID").path(),
                "node updates may not change providerID except from \"\" to valid",
            );
        }
        if spec.get("configSource").is_set() {
            config_source(&mut errs, &spec.get("configSource"), true);
        }
        for field in ["assigned", "active", "lastKnownGood"] {
            let v = root.dig("status.config").get(field);
            if v.is_set() {
                config_source(&mut errs, &v, false);
            }
        }
        taints(&mut errs, &spec);
        if text(old_spec, &["externalID"]) != spec.get("externalID").str() {
            errs.forbidden(spec.get("externalID").path(), "may not be updated");
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

    fn warnings(&self, cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cx.subresource == Some("status") {
            return warnings;
        }
        if !at(new, &["spec", "configSource"]).is_null() {
            warnings.push("spec.configSource: the feature is removed".into());
        }
        warnings.extend(View::root(new).get("spec").items("podCIDRs").iter().flat_map(ip::cidr_warnings));
        if !text(new, &["spec", "externalID"]).is_empty() {
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

/// What a node has and what of it pods can have, under the path upstream gives them.
fn resources(errs: &mut ErrorList, obj: &Value) {
    for list in ["capacity", "allocatable"] {
        for (name, amount) in View::root(obj).dig("status").get(list).entries() {
            let path = Path::new("status").child(list).child(name);
            amount_of(errs, name, &View::at(path, amount.value()));
        }
    }
}

/// A configuration that nothing reads any more, as asked for or as in use.
/// Upstream: `validateNodeConfigSourceSpec`, `validateNodeConfigSourceStatus`.
fn config_source(errs: &mut ErrorList, v: &View<'_>, in_spec: bool) {
    let map = v.get("configMap");
    if map.is_set() {
        for part in ["uid", "resourceVersion"].map(|field| map.get(field)) {
            let field = part.path().text().rsplit('.').next().unwrap_or_default().to_owned();
            match part.is_empty() {
                false if in_spec => errs.forbidden(part.path(), format!("{field} must not be set in spec")),
                true if !in_spec => errs.required(part.path(), format!("{field} must be set in status")),
                _ => {}
            }
        }
        for field in ["namespace", "name", "kubeletConfigKey"] {
            let part = map.get(field);
            let problems = match field {
                _ if part.is_empty() => {
                    errs.required(part.path(), format!("{field} must be set"));
                    continue;
                }
                "namespace" => crate::names::dns_label(part.str(), false),
                "name" => crate::names::dns_subdomain(part.str(), false),
                _ => crate::validate::config_map_key_problems(part.str()),
            };
            for problem in problems {
                errs.invalid(part.path(), part.str(), problem);
            }
        }
    } else {
        errs.invalid(v.path(), Shown::raw("{\"ConfigMap\":null}"), "exactly one reference subfield must be non-nil");
    }
}

/// Upstream's path is that of the metadata.
fn taints(errs: &mut ErrorList, spec: &View<'_>) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    let path = Path::new("metadata").child("taints");
    for taint in View::at(path, spec.get("taints").value()).list() {
        let key = taint.get("key");
        labels::name(errs, key.str(), key.path());
        let value = taint.get("value");
        let problems = crate::names::label_value(value.str());
        if !problems.is_empty() {
            errs.invalid(value.path(), value.str(), problems.join(";"));
        }
        taint_effect(errs, &taint.get("effect"), false);
        if !seen.insert((key.str(), taint.get("effect").str())) {
            let shown = internal::shown(internal::TAINT, taint.value());
            errs.duplicate_because(taint.path(), shown, "taints must be unique by key and effect pair");
        }
    }
}

fn pod_cidrs(errs: &mut ErrorList, spec: &View<'_>) {
    let cidrs = spec.get("podCIDRs");
    for cidr in cidrs.list() {
        crate::validate::cidr(errs, cidr.str(), cidr.path());
    }
    if cidrs.len() < 2 {
        return;
    }
    if cidrs.len() > 2 || !ip::is_dual_stack(cidrs.strs()) {
        errs.invalid(cidrs.path(), cidrs.value(), "may specify no more than one CIDR for each IP family");
    }
    let mut seen = BTreeSet::new();
    for cidr in cidrs.list() {
        if !seen.insert(cidr.str()) {
            errs.duplicate(cidr.path(), cidr.str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_ranges_are_unique() {
        use crate::validate::testing::{problems, problems_of_update};
        let taint = json!({"key": "a", "effect": "NoExecute"});
        let node = json!({"spec": {"taints": [taint, taint], "podCIDRs": ["10.0.0.0/24", "10.0.0.0/24"]},
            "status": {"capacity": {"pods": "1500m"}}});
        assert_eq!(
            problems(&Node, &node),
            [
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoExecute\",\"TimeAdded\":null}: \
                 taints must be unique by key and effect pair",
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.0.0/24\"]: may specify no more than one CIDR for each IP \
                 family",
                "spec.podCIDRs[1]: Duplicate value: \"10.0.0.0/24\"",
            ]
        );
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "p"}});
        let new = json!({"spec": {"podCIDRs": ["10.0.1.0/24"], "providerID": "q", "externalID": "x", "configSource": {}},
            "status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "Hostname", "address": "n"}]}});
        assert_eq!(
            problems_of_update(&Node, None, &new, &old),
            [
                "status.addresses[1]: Duplicate value: {\"Type\":\"Hostname\",\"Address\":\"n\"}",
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
                "spec.configSource: Invalid value: {\"ConfigMap\":null}: exactly one reference subfield must be non-nil",
                "spec.externalID: Forbidden: may not be updated",
            ]
        );
    }

    #[test]
    fn status_and_roles_are_worded_as_upstreams() {
        let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/a": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(status(&node), "Ready,SchedulingDisabled");
        assert_eq!(roles(&node), "a,control-plane");
        assert_eq!((status(&json!({})), roles(&json!({}))), ("Unknown".into(), "<none>".into()));
    }
}
