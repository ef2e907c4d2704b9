//! For which zones and nodes an endpoint is meant: pure.
//!
//! Follows `k8s.io/endpointslice/trafficdist` (the field `trafficDistribution`) and `topologycache` (the annotation
//! `service.kubernetes.io/topology-mode: Auto`). With the field each ready endpoint is meant for its own zone or node. With
//! the annotation zones get endpoints in proportion to their processors, so that some serve a zone that is not theirs;
//! where that cannot be done without overloading one by more than a fifth, no endpoint has a hint.

use std::collections::BTreeMap;
use std::sync::Arc;

use orkd_api::quantity::Quantity;
use serde::{Deserialize, Serialize};

use super::{Endpoint, ZONE};
use crate::views::{Node, Service, condition};

/// By how much an endpoint may be asked more than its share.
const OVERLOAD: f64 = 0.2;

/// For whom an endpoint is meant.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Zones.
    #[serde(deserialize_with = "orkd_reconcile::null_default", skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<Named>,
    /// Nodes.
    #[serde(deserialize_with = "orkd_reconcile::null_default", skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<Named>,
}

/// A zone or node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Named {
    /// Its name.
    pub name: String,
}

fn named(name: &str) -> Vec<Named> {
    vec![Named { name: name.to_owned() }]
}

fn zone_hint(zone: &str) -> Option<Hints> {
    Some(Hints { for_zones: named(zone), ..Hints::default() })
}

/// How a service wants its traffic to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Anywhere.
    None,
    /// To the zone it comes from.
    SameZone,
    /// To the node it comes from, else to its zone.
    SameNode,
    /// To endpoints in proportion to the zones' processors.
    Proportional,
}

/// What a service says. The annotations come before the field.
pub fn wish(service: &Service) -> Wish {
    let annotation = |name| service.metadata.annotation(name);
    let mode = annotation("service.kubernetes.io/topology-aware-hints")
        .or_else(|| annotation("service.kubernetes.io/topology-mode"));
    if matches!(mode, Some("Auto" | "auto")) {
        return Wish::Proportional;
    }
    match service.spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => Wish::SameZone,
        Some("PreferSameNode") => Wish::SameNode,
        _ => Wish::None,
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.ready == Some(true)
}

/// Each ready endpoint for its own zone, and node if wished.
pub fn close(endpoints: &mut [&mut Endpoint], nodes: bool) {
    for endpoint in endpoints.iter_mut().filter(|e| is_ready(e)) {
        let hints = Hints {
            for_zones: endpoint.zone.as_deref().map(named).unwrap_or_default(),
            for_nodes: endpoint.node_name.as_deref().filter(|_| nodes).map(named).unwrap_or_default(),
        };
        endpoint.hints = (hints != Hints::default()).then_some(hints);
    }
}

/// The share of each zone in the processors of ready nodes; `None` where a node does not say, or there is one zone only
/// (`SetNodes`). Nodes of the control plane do not count.
pub fn shares(nodes: &[Arc<Node>]) -> Option<BTreeMap<String, f64>> {
    let mut millis: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes {
        let Some((zone, cpu)) = capacity(node) else { continue };
        if zone.is_empty() || cpu <= 0 {
            return None;
        }
        *millis.entry(zone.to_owned()).or_insert(0) += cpu;
    }
    let total: i64 = millis.values().sum();
    if total == 0 || millis.len() < 2 {
        return None;
    }
    Some(millis.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / total as f64)).collect())
}

/// A node's zone and thousandths of processors; `None` for one that does not count.
pub fn capacity(node: &Node) -> Option<(&str, i64)> {
    let excluded = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
    let ready = condition(&node.status.conditions, "Ready").is_some_and(|c| c.status == "True");
    if !ready || excluded.iter().any(|label| node.metadata.label(label).is_some()) {
        return None;
    }
    let cpu: Quantity = node.status.allocatable.cpu.parse().unwrap_or(Quantity::ZERO);
    Some((node.metadata.label(ZONE).unwrap_or(""), cpu.milli_value()))
}

/// How many endpoints a zone is to have.
struct Allocation {
    minimum: usize,
    maximum: usize,
    desired: f64,
}

fn allocations(count: usize, shares: &BTreeMap<String, f64>) -> Result<BTreeMap<&str, Allocation>, String> {
    let of = |text: &str| format!("{text} ({count} endpoints, {} zones)", shares.len());
    if shares.len() > count {
        return Err(of("Insufficient number of endpoints"));
    }
    let mut all: BTreeMap<&str, Allocation> = BTreeMap::new();
    for (zone, share) in shares {
        let desired = share * count as f64;
        let minimum = (desired * (1.0 / (1.0 + OVERLOAD))).ceil() as usize;
        all.insert(zone, Allocation { minimum, maximum: 0, desired: desired.max(minimum as f64) });
    }
    let least: usize = all.values().map(|a| a.minimum).sum();
    let Some(spare) = count.checked_sub(least) else {
        return Err(of(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold",
        ));
    };
    all.values_mut().for_each(|a| a.maximum = a.minimum + spare);
    Ok(all)
}

/// Gives endpoints to zones in proportion to their shares. What stands stays as long as it serves: `current` says which zone
/// an endpoint is meant for now. An error says why it cannot be done.
pub fn proportional(
    endpoints: &mut [&mut Endpoint],
    current: impl Fn(&Endpoint) -> Option<String>,
    shares: Option<&BTreeMap<String, f64>>,
) -> Result<(), String> {
    let Some(shares) = shares else {
        let text = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
        return Err(text.into());
    };
    let mut ready: Vec<&mut &mut Endpoint> = endpoints.iter_mut().filter(|e| is_ready(e)).collect();
    let allocations = allocations(ready.len(), shares)?;
    let standing: Option<Vec<String>> = ready.iter().map(|e| current(e)).collect();
    if let Some(zones) = standing.filter(|zones| still_serves(zones, &allocations)) {
        for (endpoint, zone) in ready.iter_mut().zip(&zones) {
            endpoint.hints = zone_hint(zone);
        }
        return Ok(());
    }
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in &mut ready {
        let Some(zone) = endpoint.zone.clone().filter(|z| !z.is_empty()) else {
            return Err("One or more endpoints do not have a zone specified".into());
        };
        endpoint.hints = zone_hint(&zone);
        *held.entry(zone).or_insert(0) += 1;
    }
    let (mut giving, mut receiving) = exchange(&allocations, &held);
    for endpoint in &mut ready {
        let Some(left) = endpoint.zone.as_deref().and_then(|z| giving.get_mut(z)).filter(|left| **left > 0) else {
            continue;
        };
        let Some((zone, wanted)) = receiving.iter_mut().find(|(_, wanted)| **wanted > 0) else { break };
        endpoint.hints = zone_hint(zone);
        *left -= 1;
        *wanted -= 1;
    }
    Ok(())
}

/// Whether no zone has more than it may (`getHintsByZone`).
fn still_serves(zones: &[String], allocations: &BTreeMap<&str, Allocation>) -> bool {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    zones.iter().for_each(|zone| *counts.entry(zone).or_insert(0) += 1);
    counts.iter().all(|(zone, count)| allocations.get(zone).is_some_and(|a| *count <= a.maximum))
}

/// How many endpoints each zone gives to others, and how many it gets (`getGivingAndReceivingZones`).
fn exchange(
    allocations: &BTreeMap<&str, Allocation>,
    held: &BTreeMap<String, usize>,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut over, mut under): (BTreeMap<&str, f64>, BTreeMap<&str, f64>) = Default::default();
    for (zone, allocation) in allocations {
        let has = held.get(*zone).copied().unwrap_or(0) as f64;
        if has > allocation.desired {
            over.insert(zone, has - allocation.desired);
        } else if has < allocation.desired {
            under.insert(zone, allocation.desired - has);
        }
    }
    fn most<'z>(zones: &BTreeMap<&'z str, f64>) -> Option<(&'z str, f64)> {
        zones.iter().map(|(zone, n)| (*zone, *n)).filter(|(_, n)| *n > 0.0).max_by(|a, b| a.1.total_cmp(&b.1))
    }
    let (mut giving, mut receiving): (BTreeMap<String, usize>, BTreeMap<String, usize>) = Default::default();
    while let (Some((from, gives)), Some((to, gets))) = (most(&over), most(&under)) {
        if gives < 1.0 && gets < 1.0 || gives < 0.5 || gets < 0.5 {
            break;
        }
        for (zones, zone, moved) in [(&mut over, from, &mut giving), (&mut under, to, &mut receiving)] {
            zones.entry(zone).and_modify(|n| *n -= 1.0);
            *moved.entry(zone.to_owned()).or_insert(0) += 1;
        }
    }
    (giving, receiving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Endpoints by their zones, each on a node of its own; `-` for none, lower case for one that is not ready.
    fn endpoints(zones: &str) -> Vec<Endpoint> {
        let endpoint = |(n, zone): (usize, char)| {
            let mut json = json!({"addresses": [format!("10.0.0.{n}")], "nodeName": format!("n{n}"),
                "conditions": {"ready": !zone.is_lowercase()}});
            if zone != '-' {
                json["zone"] = zone.to_uppercase().to_string().into();
            }
            serde_json::from_value(json).expect("an endpoint")
        };
        zones.chars().enumerate().map(endpoint).collect()
    }

    /// For which zone each is meant, `.` for none.
    fn shown(endpoints: &[Endpoint]) -> String {
        let zone = |e: &Endpoint| e.hints.as_ref().and_then(|h| h.for_zones.first()).map(|z| z.name.clone());
        endpoints.iter().map(|e| zone(e).unwrap_or_else(|| ".".into())).collect()
    }

    fn node(zone: &str, cpu: &str, change: impl FnOnce(&mut Value)) -> Arc<Node> {
        let mut json = json!({"metadata": {"name": "n", "labels": {ZONE: zone}}, "status": {
            "allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]}});
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a node"))
    }

    #[test]
    fn services_say_what_they_wish() {
        let check = |annotations: Value, distribution: Value, expected: Wish| {
            let json = json!({"metadata": {"name": "s", "annotations": annotations},
                "spec": {"trafficDistribution": distribution}});
            let service: Service = serde_json::from_value(json).expect("a service");
            assert_eq!(wish(&service), expected);
        };
        const MODE: &str = "service.kubernetes.io/topology-mode";
        const OLD: &str = "service.kubernetes.io/topology-aware-hints";
        check(json!({}), Value::Null, Wish::None);
        check(json!({}), json!("PreferClose"), Wish::SameZone);
        check(json!({}), json!("PreferSameZone"), Wish::SameZone);
        check(json!({}), json!("PreferSameNode"), Wish::SameNode);
        check(json!({}), json!("Anything"), Wish::None);
        check(json!({MODE: "Auto"}), json!("PreferClose"), Wish::Proportional);
        check(json!({MODE: "Auto", OLD: "Disabled"}), Value::Null, Wish::None);
        check(json!({MODE: "Disabled", OLD: "auto"}), Value::Null, Wish::Proportional);
    }

    #[test]
    fn ready_endpoints_are_meant_for_where_they_are() {
        let mut all = endpoints("AbB-");
        close(&mut all.iter_mut().collect::<Vec<_>>(), false);
        assert_eq!(shown(&all), "A.B.");
        assert!(all.iter().all(|e| e.hints.as_ref().is_none_or(|h| h.for_nodes.is_empty())));
        close(&mut all.iter_mut().collect::<Vec<_>>(), true);
        let nodes = |e: &Endpoint| e.hints.as_ref().map(|h| h.for_nodes.iter().map(|n| n.name.clone()).collect());
        let nodes: Vec<Option<Vec<String>>> = all.iter().map(nodes).collect();
        assert_eq!(nodes, [Some(vec!["n0".into()]), None, Some(vec!["n2".into()]), Some(vec!["n3".into()])]);
    }

    #[test]
    fn zones_count_by_their_processors() {
        let same = |_: &mut Value| ();
        let found = shares(&[node("A", "1", same), node("B", "2500m", same), node("A", "500m", same)]);
        assert_eq!(found, Some(BTreeMap::from([("A".into(), 0.375), ("B".into(), 0.625)])));
        assert_eq!(shares(&[node("A", "1", same), node("A", "1", same)]), None);
        assert_eq!(shares(&[node("A", "1", same), node("", "1", same), node("B", "1", same)]), None);
        assert_eq!(shares(&[node("A", "1", same), node("B", "0", same)]), None);
        let main = |n: &mut Value| n["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "".into();
        let ill = |n: &mut Value| n["status"]["conditions"][0]["status"] = "False".into();
        let left = shares(&[node("A", "1", same), node("B", "1", same), node("", "4", main), node("C", "4", ill)]);
        assert_eq!(left.map(|s| s.into_keys().collect::<Vec<_>>()), Some(vec!["A".into(), "B".into()]));
    }

    #[test]
    fn zones_get_endpoints_by_their_share() {
        // Shares in percent, the zones of endpoints, the hints there were, the hints there are.
        let check = |shares: &[u8], zones: &str, before: &str, expected: Result<&str, &str>| {
            let of = |(n, share): (usize, &u8)| (char::from(b'A' + n as u8).to_string(), f64::from(*share) / 100.0);
            let shares: BTreeMap<String, f64> = shares.iter().enumerate().map(of).collect();
            let mut all = endpoints(zones);
            let current = |e: &Endpoint| {
                let at = e.node_name.as_deref().and_then(|n| n[1..].parse::<usize>().ok());
                at.and_then(|at| before.chars().nth(at)).map(String::from)
            };
            let done = proportional(&mut all.iter_mut().collect::<Vec<_>>(), current, Some(&shares));
            assert_eq!(done.map(|()| shown(&all)), expected.map(str::to_owned).map_err(str::to_owned), "{zones}");
        };
        check(&[50, 50], "AB", "", Ok("AB"));
        check(&[50, 50], "AAAA", "", Ok("BBAA"));
        check(&[50, 50], "AAABBbB", "", Ok("AAABB.B"));
        check(&[75, 25], "AABB", "", Ok("AAAB"));
        // What stands stays while no zone has too much.
        check(&[50, 50], "AAAA", "AABB", Ok("AABB"));
        check(&[50, 50], "AAAA", "AAAB", Ok("BBAA"));
        check(&[50, 50], "ABCC", "", Ok("ABCC"));
        check(&[50, 50], "A", "", Err("Insufficient number of endpoints (1 endpoints, 2 zones)"));
        check(&[50, 50], "A-", "", Err("One or more endpoints do not have a zone specified"));
        let overload = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold \
                        (2 endpoints, 2 zones)";
        check(&[80, 20], "AB", "", Err(overload));
        check(&[50, 50], "AAABB", "", Err(&overload.replace("(2 ", "(5 ")));
        let none = proportional(&mut [], |_| None, None).expect_err("nothing is known of nodes");
        assert!(none.starts_with("Insufficient Node information: "));
    }
}
