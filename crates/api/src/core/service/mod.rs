//! `Service`. Upstream: `pkg/registry/core/service/strategy.go`, `pkg/apis/core/v1/defaults.go`.
//!
//! Addresses, families and node ports are filled in by the allocators of the API server between `prepare_*` and
//! `validate`; here is what needs no allocator: defaults, keeping what was allocated when an update leaves it out, and
//! dropping what the new type does not have.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, Name};
use crate::kinds::{AGE, Facts, NAME, PROXY, STATUS, Sub, facts};
use crate::object::{at, at_mut, default_text, default_value, items_mut, list, remove, restore, same, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, joined, labels, name, or_none};

mod validate;

/// The kind `Service`.
pub struct Service;

impl Kind for Service {
    facts!(Facts {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Sub("proxy", "ServiceProxyOptions", None, PROXY), STATUS],
        prefix: "services/specs",
        columns: &[
            NAME,
            ("Type", "string", "", 0),
            ("Cluster-IP", "string", "", 0),
            ("External-IP", "string", "", 0),
            ("Port(s)", "string", "", 0),
            AGE,
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::Changed, MetaPass::New])
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = at_mut(obj, &["spec"]) {
            default_spec(spec);
        }
        if let Some(balancer) = at_mut(obj, &["status", "loadBalancer"]) {
            for ingress in items_mut(balancer, "ingress") {
                if !text(ingress, &["ip"]).is_empty() {
                    default_value(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"loadBalancer": {}}));
        let address = text(obj, &["spec", "clusterIP"]).to_owned();
        if !address.is_empty() && list(obj, &["spec", "clusterIPs"]).is_empty() {
            set(obj, &["spec", "clusterIPs"], json!([address]));
        }
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
            return;
        }
        restore(new, old, &["status"]);
        if let Some(spec) = at_mut(new, &["spec"]) {
            let old = at(old, &["spec"]);
            keep_allocated(spec, old);
            normalize_cluster_ips(spec, old);
            drop_what_the_type_lacks(spec, old);
        }
        // What made the addresses takes its time to take them away; nobody shall see that.
        if text(new, &["spec", "type"]) != "LoadBalancer" && at(new, &["status"]).is_object() {
            set(new, &["status", "loadBalancer"], json!({}));
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        validate::service(obj)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        match cx.subresource {
            Some("status") => validate::status(new),
            _ => validate::update(new, old),
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::dns_label(name, prefix)
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        validate::warnings(new, old)
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        vec![
            ("spec.clusterIP".into(), text(obj, &["spec", "clusterIP"]).to_owned()),
            ("spec.type".into(), text(obj, &["spec", "type"]).to_owned()),
        ]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let address = match list(obj, &["spec", "clusterIPs"]).first() {
            Some(first) => first.as_str().unwrap_or_default(),
            None => text(obj, &["spec", "clusterIP"]),
        };
        vec![
            json!(name(obj)),
            json!(text(obj, &["spec", "type"])),
            json!(or_none(address)),
            json!(external_ip(obj)),
            json!(ports(obj)),
            json!(age(obj, now)),
            json!(labels(at(obj, &["spec", "selector"]))),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

fn default_spec(spec: &mut Value) {
    default_text(spec, "sessionAffinity", "None");
    if text(spec, &["sessionAffinity"]) == "None" {
        remove(spec, &["sessionAffinityConfig"]);
    }
    if text(spec, &["sessionAffinity"]) == "ClientIP"
        && at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_null()
    {
        set(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"], 10800);
    }
    default_text(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let target = at(port, &["targetPort"]);
        if target.is_null() || target == &json!(0) || target == &json!("") {
            let number = at(port, &["port"]).as_i64().unwrap_or_default();
            set(port, &["targetPort"], number);
        }
    }
    let external = has_external_traffic(spec);
    if external {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if text(spec, &["type"]) != "ExternalName" {
        default_value(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, &["type"]) == "LoadBalancer" {
        default_value(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Whether traffic from outside can arrive: the types that open ports, and external addresses.
fn has_external_traffic(spec: &Value) -> bool {
    match text(spec, &["type"]) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(spec, &["externalIPs"]).is_empty(),
        _ => false,
    }
}

/// Whether services of this type have a cluster IP (or `None`).
pub fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, &["type"]), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether the ports of the service get node ports.
pub fn needs_node_ports(spec: &Value) -> bool {
    match text(spec, &["type"]) {
        "NodePort" => true,
        "LoadBalancer" => at(spec, &["allocateLoadBalancerNodePorts"]) != &Value::Bool(false),
        _ => false,
    }
}

/// Whether the service gets a node port for health checks.
pub fn needs_health_check_node_port(spec: &Value) -> bool {
    text(spec, &["type"]) == "LoadBalancer" && text(spec, &["externalTrafficPolicy"]) == "Local"
}

fn node_port(port: &Value) -> i64 {
    at(port, &["nodePort"]).as_i64().unwrap_or_default()
}

/// What was allocated stays when the update leaves it out. Upstream: `patchAllocatedValues`.
fn keep_allocated(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(spec) {
        if text(spec, &["clusterIP"]).is_empty() {
            restore(spec, old, &["clusterIP"]);
        }
        if list(spec, &["clusterIPs"]).is_empty() && text(spec, &["clusterIP"]) == text(old, &["clusterIP"]) {
            restore(spec, old, &["clusterIPs"]);
        }
    }
    if needs_node_ports(old) && needs_node_ports(spec) {
        let used: Vec<i64> = list(spec, &["ports"]).iter().map(node_port).collect();
        let same_port = |a: &Value, b: &Value| a.get("port") == b.get("port") && a.get("protocol") == b.get("protocol");
        for port in items_mut(spec, "ports") {
            if node_port(port) != 0 {
                continue;
            }
            let before = list(old, &["ports"]).iter().find(|p| same_port(p, port)).map_or(0, node_port);
            if before != 0 && !used.contains(&before) {
                set(port, &["nodePort"], before);
            }
        }
    }
    if needs_health_check_node_port(old)
        && needs_health_check_node_port(spec)
        && at(spec, &["healthCheckNodePort"]).as_i64().unwrap_or_default() == 0
    {
        restore(spec, old, &["healthCheckNodePort"]);
    }
}

/// A client that knows only `clusterIP` changes `clusterIPs` with it. Upstream: `normalizeClusterIPs`.
fn normalize_cluster_ips(spec: &mut Value, old: &Value) {
    let address = text(spec, &["clusterIP"]).to_owned();
    let unchanged = same(at(spec, &["clusterIPs"]), at(old, &["clusterIPs"]));
    if address == text(old, &["clusterIP"]) || !unchanged {
        return;
    }
    if address.is_empty() {
        remove(spec, &["clusterIPs"]);
    } else {
        set(spec, &["clusterIPs"], json!([address]));
    }
}

/// A change of type drops what the new type does not have, if the client did not touch it.
/// Upstream: `dropTypeDependentFields`.
fn drop_what_the_type_lacks(spec: &mut Value, old: &Value) {
    let untouched = |spec: &Value, field: &str| same(at(spec, &[field]), at(old, &[field]));
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        for fields in [&["clusterIP", "clusterIPs"][..], &["ipFamilies"], &["ipFamilyPolicy"]] {
            if fields.iter().all(|field| untouched(spec, field)) {
                fields.iter().for_each(|field| drop(remove(spec, &[field])));
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(spec) {
        let before: Vec<i64> = list(old, &["ports"]).iter().map(node_port).filter(|p| *p != 0).collect();
        if list(spec, &["ports"]).iter().map(node_port).all(|p| p == 0 || before.contains(&p)) {
            for port in items_mut(spec, "ports") {
                remove(port, &["nodePort"]);
            }
        }
    }
    if needs_health_check_node_port(old)
        && !needs_health_check_node_port(spec)
        && untouched(spec, "healthCheckNodePort")
    {
        remove(spec, &["healthCheckNodePort"]);
    }
    let was_balanced = text(old, &["type"]) == "LoadBalancer";
    if was_balanced && text(spec, &["type"]) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if untouched(spec, field) {
                remove(spec, &[field]);
            }
        }
    }
    if has_external_traffic(old) && !has_external_traffic(spec) && untouched(spec, "externalTrafficPolicy") {
        remove(spec, &["externalTrafficPolicy"]);
    }
}

fn external_ip(obj: &Value) -> String {
    let external: Vec<&str> = list(obj, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match text(obj, &["spec", "type"]) {
        "ClusterIP" | "NodePort" => joined(external),
        "LoadBalancer" => {
            let mut ingress: Vec<&str> = list(obj, &["status", "loadBalancer", "ingress"])
                .iter()
                .map(|i| match text(i, &["ip"]) {
                    "" => text(i, &["hostname"]),
                    ip => ip,
                })
                .filter(|t| !t.is_empty())
                .collect();
            ingress.sort_unstable();
            ingress.dedup();
            if ingress.is_empty() && external.is_empty() {
                return "<pending>".into();
            }
            ingress.extend(external);
            ingress.join(",")
        }
        "ExternalName" => text(obj, &["spec", "externalName"]).to_owned(),
        _ => "<unknown>".into(),
    }
}

fn ports(obj: &Value) -> String {
    let texts: Vec<String> = list(obj, &["spec", "ports"])
        .iter()
        .map(|p| {
            let number = at(p, &["port"]).as_i64().unwrap_or_default();
            match node_port(p) {
                0 => format!("{number}/{}", text(p, &["protocol"])),
                node => format!("{number}:{node}/{}", text(p, &["protocol"])),
            }
        })
        .collect();
    or_none(&texts.join(",")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Features;

    fn update(new: Value, old: Value) -> Value {
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "test", features: &features };
        let mut new = json!({"spec": new});
        Service.prepare_update(&cx, &mut new, &json!({"spec": old}));
        new["spec"].take()
    }

    #[test]
    fn an_update_that_leaves_allocated_values_out_keeps_them() {
        let old = json!({"type": "NodePort", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
        let new = update(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}), old.clone());
        assert_eq!(new, old);
    }

    #[test]
    fn a_change_to_external_name_drops_the_address() {
        let old =
            json!({"type": "ClusterIP", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ipFamilies": ["IPv4"]});
        let mut asked = old.clone();
        asked["type"] = json!("ExternalName");
        assert_eq!(update(asked.clone(), old.clone()), json!({"type": "ExternalName"}));
        // The client has taken the addresses away itself.
        asked["clusterIP"].take();
        asked["clusterIPs"].take();
        let changed = update(asked, old);
        assert_eq!((&changed["ipFamilies"], &changed["ipFamilyPolicy"]), (&Value::Null, &Value::Null), "{changed}");
    }

    #[test]
    fn what_is_balanced_no_more_has_no_addresses() {
        let features = crate::kind::Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "test", features: &features };
        let old =
            json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        let check = |ty: &str, expected: Value| {
            let mut new = json!({"spec": {"type": ty}, "status": {}});
            Service.prepare_update(&cx, &mut new, &old);
            assert_eq!(new["status"]["loadBalancer"], expected, "{ty}");
        };
        check("LoadBalancer", old["status"]["loadBalancer"].clone());
        check("NodePort", json!({}));
    }

    #[test]
    fn ports_show_their_node_ports() {
        let svc = json!({"spec": {"type": "LoadBalancer", "ports": [
            {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(ports(&svc), "80:30080/TCP,53/UDP");
        assert_eq!(external_ip(&svc), "<pending>");
    }
}
