//! How much of a ResourceQuota an object uses: what admission charges and what the controller counts.
//!
//! Follows `pkg/quota/v1/evaluator` and `k8s.io/apiserver/pkg/quota/v1`. Everything here is pure; the time is an
//! argument.

mod pods;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::quantity::Quantity;
use crate::selector::{Operator, Requirement};

pub use pods::{is_best_effort, is_charged, is_terminating, pod_limits, pod_requests};

/// Amounts by the name of a resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// Between the name of a storage class and what is counted of it.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// Behind the name of a device class.
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// How many devices a request for all of them is taken for (`AllocationResultsMaxSize`).
const ALL_DEVICES: i64 = 32;

/// Amounts from a map in an object; what is no amount is left out.
pub fn amounts(value: &Value) -> Amounts {
    let parse = |(k, v): (&String, &Value)| {
        let text = v.as_str().map(str::to_owned).unwrap_or_else(|| v.to_string());
        Some((k.clone(), text.parse::<Quantity>().ok()?))
    };
    value.as_object().into_iter().flatten().filter_map(parse).collect()
}

/// The amounts as a map of texts.
pub fn to_value(amounts: &Amounts) -> Value {
    amounts.iter().map(|(k, v)| (k.clone(), Value::from(v.to_string()))).collect::<crate::Map>().into()
}

/// Adds amounts.
pub fn add(into: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        let sum = into.get(name).map_or(*amount, |old| *old + *amount);
        into.insert(name.clone(), sum);
    }
}

/// Keeps the greater amounts.
pub fn at_least(into: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        let most = into.get(name).map_or(*amount, |old| (*old).max(*amount));
        into.insert(name.clone(), most);
    }
}

/// Those of the amounts that are named.
pub fn mask<'n>(amounts: &Amounts, names: impl IntoIterator<Item = &'n String>) -> Amounts {
    names.into_iter().filter_map(|n| Some((n.clone(), *amounts.get(n)?))).collect()
}

/// One condition on the objects that a quota covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `Terminating`, `BestEffort`, `PriorityClass`, ...
    pub name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values of `In` and `NotIn`.
    pub values: Vec<String>,
}

impl Scope {
    /// One element of `matchExpressions` or of `matchScopes`.
    pub fn parse(value: &Value) -> Scope {
        let text = |f: &str| value[f].as_str().unwrap_or_default().to_owned();
        let values = value["values"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned));
        Scope { name: text("scopeName"), operator: text("operator"), values: values.collect() }
    }

    /// Whether the one value that counts for the scope fits; `None` where the object has none.
    fn accepts(&self, value: Option<&str>) -> bool {
        let operator = match self.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return false,
        };
        Requirement::new(&self.name, operator, self.values.clone()).is_ok_and(|r| r.accepts(value))
    }
}

/// The scopes of a quota's `spec`.
pub fn scopes(spec: &Value) -> Vec<Scope> {
    let plain = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let exists = |name: &str| Scope { name: name.to_owned(), operator: "Exists".into(), values: Vec::new() };
    let mut all: Vec<Scope> = plain.map(exists).collect();
    all.extend(spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten().map(Scope::parse));
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Pods,
    Services,
    Claims,
    DeviceClaims,
    Objects,
}

/// What a quota counts of the objects of one resource.
#[derive(Clone, Debug)]
pub struct Evaluator {
    sort: Sort,
    /// `count/pods`, `count/deployments.apps`.
    count: String,
    /// The older name of the count, such as `configmaps`.
    alias: Option<String>,
}

impl Evaluator {
    /// The evaluator of a resource. Any resource has one: its objects can be counted.
    pub fn of(group: &str, resource: &str) -> Self {
        let sort = match (group, resource) {
            ("", "pods") => Sort::Pods,
            ("", "services") => Sort::Services,
            ("", "persistentvolumeclaims") => Sort::Claims,
            ("resource.k8s.io", "resourceclaims") => Sort::DeviceClaims,
            _ => Sort::Objects,
        };
        let aliased = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
        let alias = (group.is_empty() && aliased.contains(&resource)).then(|| resource.to_owned());
        Evaluator { sort, count: count_name(group, resource), alias }
    }

    /// Whether a request may change what is used. `update`: an update; otherwise a creation.
    pub fn handles(&self, update: bool, subresource: &str, old: Option<&Value>, new: &Value) -> bool {
        match (self.sort, subresource) {
            (Sort::Pods, "") if update => old.is_some_and(|old| is_terminating(old) != is_terminating(new)),
            (Sort::Pods, "") => true,
            (Sort::Pods, "resize") => update,
            (Sort::Claims, "") => true,
            (Sort::Claims, "status") => update && old.is_some_and(|old| claim_changed(old, new)),
            (Sort::Services | Sort::DeviceClaims, "") => true,
            (Sort::Objects, "") => !update,
            _ => false,
        }
    }

    /// Whether a change of an object may free something, so that quotas are to be counted again
    /// (`DefaultUpdateFilter`).
    pub fn frees(&self, old: &Value, new: &Value, now: Timestamp) -> bool {
        match self.sort {
            Sort::Pods => {
                let allocated = |pod: &Value| -> Vec<Value> {
                    let all = pod["status"]["containerStatuses"].as_array();
                    all.into_iter().flatten().map(|c| c["allocatedResources"].clone()).collect()
                };
                is_charged(old, now) && !is_charged(new, now)
                    || is_terminating(old) != is_terminating(new)
                    || allocated(old) != allocated(new)
            }
            Sort::Services => {
                let sort = |s: &Value| match s["spec"]["type"].as_str() {
                    Some(t @ ("NodePort" | "LoadBalancer")) => t.to_owned(),
                    _ => String::new(),
                };
                sort(old) != sort(new) || old["spec"]["ports"] != new["spec"]["ports"]
            }
            Sort::Claims => claim_changed(old, new) || old["spec"]["resources"] != new["spec"]["resources"],
            Sort::DeviceClaims => old["spec"] != new["spec"],
            Sort::Objects => false,
        }
    }

    /// Those of the names of a quota that this resource uses.
    pub fn matching<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> BTreeSet<String> {
        names.into_iter().filter(|n| self.uses(n)).cloned().collect()
    }

    fn uses(&self, name: &str) -> bool {
        if name == self.count || self.alias.as_deref() == Some(name) {
            return true;
        }
        match self.sort {
            Sort::Pods => pods::uses(name),
            Sort::Services => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
            Sort::Claims => {
                let of_class = name.split_once(STORAGE_CLASS).map(|(_, what)| what);
                matches!(of_class.unwrap_or(name), "persistentvolumeclaims" | "requests.storage")
            }
            Sort::DeviceClaims => name.ends_with(DEVICE_CLASS),
            Sort::Objects => false,
        }
    }

    /// What an object uses.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        let mut used = Amounts::from([(self.count.clone(), Quantity::from_int(1))]);
        match self.sort {
            Sort::Pods => add(&mut used, &pods::usage(object, now)),
            Sort::Services => service_usage(object, &mut used),
            Sort::Claims => claim_usage(object, &mut used),
            Sort::DeviceClaims => device_usage(object, &mut used),
            Sort::Objects => {}
        }
        if let Some(alias) = &self.alias {
            used.insert(alias.clone(), Quantity::from_int(1));
        }
        used
    }

    /// Whether an object states what a quota on `required` needs stated; upstream's text if not.
    pub fn constraints(&self, required: &BTreeSet<String>, object: &Value) -> Result<(), String> {
        if self.sort == Sort::Pods { pods::constraints(required, object) } else { Ok(()) }
    }

    /// Whether an object is of a scope.
    pub fn in_scope(&self, scope: &Scope, object: &Value) -> bool {
        match self.sort {
            Sort::Pods => pods::in_scope(scope, object),
            Sort::Claims if scope.name == "VolumeAttributesClass" => {
                let names = attribute_classes(object);
                match scope.operator.as_str() {
                    "Exists" => !names.is_empty(),
                    _ if names.is_empty() => scope.accepts(None),
                    _ => names.iter().any(|n| scope.accepts(Some(n))),
                }
            }
            _ => false,
        }
    }

    /// Whether objects are only counted, so that their metadata is enough.
    pub fn only_counts(&self) -> bool {
        self.sort == Sort::Objects
    }

    /// Whether scopes apply to the resource at all.
    pub fn has_scopes(&self) -> bool {
        matches!(self.sort, Sort::Pods | Sort::Claims)
    }

    /// Whether a quota covers an object: some of its names are used, and the object is of all its scopes.
    pub fn covers(&self, quota: &Value, object: &Value) -> bool {
        let hard = amounts(&quota["status"]["hard"]);
        hard.keys().any(|n| self.uses(n)) && scopes(&quota["spec"]).iter().all(|s| self.in_scope(s, object))
    }
}

/// `count/pods`, `count/deployments.apps`.
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// The resource that `count/RESOURCE.GROUP` counts: group and plural.
pub fn counted(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("count/")?;
    Some(name.split_once('.').map_or(("", name), |(resource, group)| (group, resource)))
}

fn service_usage(service: &Value, used: &mut Amounts) {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (all, balancer) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            (ports.iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0).count(), 1)
        }
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let ports = i64::try_from(all).unwrap_or(i64::MAX);
    for (name, count) in [("services", 1), ("services.nodeports", ports), ("services.loadbalancers", balancer)] {
        used.insert(name.into(), Quantity::from_int(count));
    }
}

/// The class a claim names, in the annotation of old or in the field.
fn storage_class(claim: &Value) -> &str {
    let old = claim["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class");
    old.or_else(|| claim["spec"].get("storageClassName")).and_then(Value::as_str).unwrap_or_default()
}

fn claim_usage(claim: &Value, used: &mut Amounts) {
    let class = storage_class(claim);
    let mut put = |what: &str, amount: Quantity| {
        used.insert(what.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{STORAGE_CLASS}{what}"), amount);
        }
    };
    put("persistentvolumeclaims", Quantity::from_int(1));
    let of = |map: &Value| amounts(map).get("storage").copied();
    if let Some(wanted) = of(&claim["spec"]["resources"]["requests"]) {
        let allocated = of(&claim["status"]["allocatedResources"]);
        let most = allocated.map_or(wanted, |a| if a > wanted { a } else { wanted });
        put("requests.storage", most.round_up());
    }
}

fn attribute_classes(claim: &Value) -> BTreeSet<String> {
    let status = &claim["status"];
    let named = [
        &claim["spec"]["volumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    named.into_iter().filter_map(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

fn claim_changed(old: &Value, new: &Value) -> bool {
    old["status"]["allocatedResources"] != new["status"]["allocatedResources"]
        || attribute_classes(old) != attribute_classes(new)
}

fn device_usage(claim: &Value, used: &mut Amounts) {
    let devices = |request: &Value| {
        let count = match request["allocationMode"].as_str() {
            Some("All") => ALL_DEVICES,
            _ => request["count"].as_i64().unwrap_or(1),
        };
        let class = request["deviceClassName"].as_str().unwrap_or_default();
        (!class.is_empty()).then(|| (format!("{class}{DEVICE_CLASS}"), Quantity::from_int(count)))
    };
    for request in claim["spec"]["devices"]["requests"].as_array().into_iter().flatten() {
        let alternatives = request["firstAvailable"].as_array().map(Vec::as_slice).unwrap_or_default();
        let exactly = request.get("exactly").filter(|e| e.is_object()).unwrap_or(request);
        if alternatives.is_empty() {
            if exactly["adminAccess"] != true {
                add(used, &devices(exactly).into_iter().collect());
            }
            continue;
        }
        let mut most = Amounts::new();
        for alternative in alternatives {
            at_least(&mut most, &devices(alternative).into_iter().collect());
        }
        add(used, &most);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(group: &str, resource: &str, object: Value, expected: &[(&str, &str)]) {
        let used = Evaluator::of(group, resource).usage(&object, Timestamp::UNIX_EPOCH);
        let used: Vec<(String, String)> = used.into_iter().map(|(k, v)| (k, v.to_string())).collect();
        let used: Vec<(&str, &str)> = used.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(used, expected, "{object}");
    }

    #[test]
    fn services_use_ports_and_balancers() {
        let service = |spec: Value| json!({"spec": spec});
        let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
        let expected = |ports: &'static str, balancers: &'static str| {
            [
                ("count/services", "1"),
                ("services", "1"),
                ("services.nodeports", ports),
                ("services.loadbalancers", balancers),
            ]
        };
        check("", "services", service(json!({"ports": ports})), &expected("0", "0"));
        check("", "services", service(json!({"type": "NodePort", "ports": ports})), &expected("2", "0"));
        check("", "services", service(json!({"type": "LoadBalancer", "ports": ports})), &expected("2", "1"));
        let own = json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false});
        check("", "services", service(own), &expected("1", "1"));
    }

    #[test]
    fn claims_use_storage_of_their_class() {
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"allocatedResources": {"storage": "2Gi"}}});
        check(
            "",
            "persistentvolumeclaims",
            claim,
            &[
                ("count/persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/requests.storage", "2Gi"),
                ("persistentvolumeclaims", "1"),
                ("requests.storage", "2Gi"),
            ],
        );
    }

    #[test]
    fn any_object_is_counted() {
        check("", "configmaps", json!({}), &[("configmaps", "1"), ("count/configmaps", "1")]);
        check("apps", "deployments", json!({}), &[("count/deployments.apps", "1")]);
        assert_eq!(counted("count/deployments.apps"), Some(("apps", "deployments")));
        assert_eq!(counted("count/widgets.example.com"), Some(("example.com", "widgets")));
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2}},
            {"name": "b", "firstAvailable": [{"deviceClassName": "gpu"}, {"deviceClassName": "gpu", "count": 3}]}]}}});
        check(
            "resource.k8s.io",
            "resourceclaims",
            claim,
            &[("count/resourceclaims.resource.k8s.io", "1"), ("gpu.deviceclass.resource.k8s.io/devices", "5")],
        );
    }
}
