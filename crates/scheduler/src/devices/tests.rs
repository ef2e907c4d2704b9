//! Tables for the allocator, and a comparison with a search that tries everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Devices;
use super::allocator::{Budget, Problem, allocate};
use super::catalogue::tests::slice;
use super::catalogue::{AttributeValue, Device, NodeAt};
use super::plan::{Unplannable, Wanted};
use super::selectors::{Language, Program, Selectors};
use crate::model::{Allocation, DeviceClass, ResourceClaim};

/// A language for tests: `yes`, `no`, `name=NAME`, `attribute=NUMBER`, `fails`; all else is no expression.
pub(crate) struct Plain;

enum Said {
    Always(bool),
    Name(String),
    Attribute(String, i64),
    Fails,
}

impl Language for Plain {
    fn compile(&self, expression: &str) -> Result<Box<dyn Program>, String> {
        let said = match expression.split_once('=') {
            None if expression == "yes" => Said::Always(true),
            None if expression == "no" => Said::Always(false),
            None if expression == "fails" => Said::Fails,
            Some(("name", name)) => Said::Name(name.to_owned()),
            Some((attribute, number)) => {
                Said::Attribute(attribute.to_owned(), number.parse().map_err(|_| "no number".to_owned())?)
            }
            None => return Err("no expression".into()),
        };
        Ok(Box::new(said))
    }
}

impl Program for Said {
    fn matches(&self, device: &Device) -> Result<bool, String> {
        match self {
            Said::Always(answer) => Ok(*answer),
            Said::Name(name) => Ok(*device.id.device == **name),
            Said::Attribute(name, number) => {
                Ok(device.attributes.get(&format!("d/{name}")) == Some(&AttributeValue::Int(*number)))
            }
            Said::Fails => Err("no such key".into()),
        }
    }
}

/// What there is: slices, classes, claims that have devices.
#[derive(Default)]
struct Stage {
    devices: Devices,
}

impl Stage {
    fn new(slices: &[Value]) -> Stage {
        let mut stage = Stage::default();
        for (i, spec) in slices.iter().enumerate() {
            stage.devices.catalogue.set(&slice(&format!("slice-{i}"), spec.clone()));
        }
        for (name, spec) in [
            ("all", json!({})),
            ("told", json!({"config": [{"opaque": {"driver": "d", "parameters": {"of": "told"}}}]})),
            ("none", json!({"selectors": [{"cel": {"expression": "no"}}]})),
            ("broken", json!({"selectors": [{"cel": {"expression": "?"}}]})),
        ] {
            let class = json!({"metadata": {"name": name}, "spec": spec});
            let class: DeviceClass = serde_json::from_value(class).expect("a class");
            stage.devices.set_class(&Arc::new(class));
        }
        stage
    }

    fn has(mut self, results: Value) -> Stage {
        let allocation: Allocation = serde_json::from_value(json!({"devices": {"results": results}})).expect("devices");
        self.devices.taken.add(&allocation);
        self
    }

    fn plan(&self, claims: &[Value]) -> Result<Vec<Wanted>, Unplannable> {
        let selectors = Selectors::new(Box::new(Plain));
        let of = |(i, devices): (usize, &Value)| {
            let meta = json!({"name": format!("c{i}"), "namespace": "n", "uid": format!("c{i}")});
            let claim = json!({"metadata": meta, "spec": {"devices": devices}});
            let claim: ResourceClaim = serde_json::from_value(claim).expect("a claim");
            Wanted::new(&claim, &self.devices, &selectors)
        };
        claims.iter().enumerate().map(of).collect()
    }

    fn find(&self, claims: &[Value]) -> Result<Option<Vec<Allocation>>, Problem> {
        let labels = BTreeMap::from([("zone".to_owned(), "z".to_owned())]);
        let node = NodeAt { name: "n", labels: &labels };
        let plan = match self.plan(claims) {
            Ok(plan) => plan,
            Err(Unplannable::Failed(why) | Unplannable::Refused(why)) => return Err(Problem::Failed(why)),
        };
        let plan: Vec<&Wanted> = plan.iter().collect();
        allocate(&self.devices.catalogue, &self.devices.taken, node, &plan, &Budget::new(100_000))
    }

    /// The devices of each claim, as `request=device`; or why there are none.
    #[track_caller]
    fn check(&self, claims: &[Value], expected: &str) {
        let told = match self.find(claims) {
            Ok(None) => "-".to_owned(),
            Err(problem) => match problem {
                Problem::Failed(why) | Problem::OnNode(why) => why,
                Problem::Exhausted => "exhausted".into(),
            },
            Ok(Some(found)) => {
                let of = |a: &Allocation| {
                    let results = a.devices.results.iter().map(|r| format!("{}={}", r.request, r.device));
                    results.collect::<Vec<_>>().join(" ")
                };
                found.iter().map(of).collect::<Vec<_>>().join("; ")
            }
        };
        assert_eq!(told, expected, "{claims:?}");
    }
}

fn pool(name: &str, devices: Value) -> Value {
    json!({"driver": "d", "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}, "nodeName": "n",
        "devices": devices})
}

fn named(names: &[&str]) -> Value {
    names.iter().map(|n| json!({"name": n})).collect()
}

/// A request for devices of the class `all`, with something more said.
fn request(name: &str, more: Value) -> Value {
    json!({"name": name, "exactly": wanted(more)})
}

fn wanted(more: Value) -> Value {
    let mut wanted = json!({"deviceClassName": "all", "allocationMode": "ExactCount", "count": 1});
    wanted.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    if wanted["allocationMode"] == "All" {
        wanted.as_object_mut().expect("an object").remove("count");
    }
    wanted
}

fn claim(requests: &[Value]) -> Value {
    json!({"requests": requests})
}

fn one(more: Value) -> Value {
    claim(&[request("r", more)])
}

fn selecting(expression: &str) -> Value {
    json!({"selectors": [{"cel": {"expression": expression}}]})
}

#[test]
fn devices_are_given_once() {
    let stage = Stage::new(&[pool("p", named(&["a", "b", "c"]))]);
    stage.check(&[one(json!({}))], "r=a");
    stage.check(&[one(json!({"count": 2}))], "r=a r=b");
    stage.check(&[one(json!({"count": 2})), one(json!({}))], "r=a r=b; r=c");
    stage.check(&[one(json!({"count": 2})), one(json!({"count": 2}))], "-");
    let stage = stage.has(json!([{"driver": "d", "pool": "p", "device": "a"}]));
    stage.check(&[one(json!({}))], "r=b");
    stage.check(&[one(json!({"count": 3}))], "-");
    stage.check(&[], "");
}

#[test]
fn what_was_chosen_is_changed_when_the_rest_asks_for_it() {
    let stage = Stage::new(&[pool("p", named(&["a", "b"]))]);
    stage.check(&[claim(&[request("any", json!({})), request("a", selecting("name=a"))])], "any=b a=a");
    stage.check(&[one(json!({})), one(selecting("name=a"))], "r=b; r=a");
}

#[test]
fn selectors_of_class_and_request_hold_together() {
    let stage = Stage::new(&[pool("p", json!([{"name": "a"}, {"name": "b", "attributes": {"size": {"int": 2}}}]))]);
    stage.check(&[one(selecting("size=2"))], "r=b");
    stage.check(&[one(selecting("size=3"))], "-");
    stage.check(&[one(json!({"deviceClassName": "none"}))], "-");
    stage.check(
        &[one(json!({"deviceClassName": "broken"}))],
        "class broken: selector #0: CEL compile error: no expression",
    );
    stage.check(&[one(selecting("?"))], "claim n/c0: selector #0: CEL compile error: no expression");
    stage.check(&[one(selecting("fails"))], "claim n/c0: selector #0 on device d/p/a: CEL runtime error: no such key");
    stage.check(&[one(json!({"deviceClassName": "gone"}))], "request r: device class gone does not exist");
    stage.check(&[one(json!({"allocationMode": "Some"}))], "claim n/c0, request r: unsupported count mode Some");
}

#[test]
fn all_is_all_and_at_least_one() {
    let stage = Stage::new(&[pool("p", named(&["a", "b"])), pool("q", named(&["c"]))]);
    let all = |more: Value| {
        let mut all = json!({"allocationMode": "All"});
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        one(all)
    };
    stage.check(&[all(json!({}))], "r=a r=b r=c");
    stage.check(&[all(selecting("no"))], "-");
    stage.check(&[all(json!({})), one(json!({}))], "-");
    let stage = stage.has(json!([{"driver": "d", "pool": "p", "device": "a"}]));
    stage.check(&[all(json!({}))], "-");
    stage.check(&[all(json!({"adminAccess": true}))], "r=a r=b r=c");
    stage.check(&[all(selecting("name=c"))], "r=c");
    let mut changing = pool("x", named(&["a"]));
    changing["pool"]["resourceSliceCount"] = json!(2);
    let stage = Stage::new(&[changing, pool("y", named(&["b"]))]);
    stage.check(
        &[all(json!({}))],
        "claim n/c0, request r: asks for all devices, but resource pool d/x is currently being updated",
    );
    stage.check(&[one(json!({}))], "r=b");
    let stage = Stage::new(&[pool("x", named(&["a", "a"]))]);
    stage.check(&[one(json!({}))], "invalid resource pools were encountered");
}

#[test]
fn a_claim_has_32_devices_at_most() {
    let names: Vec<String> = (0..40).map(|i| format!("{i:02}")).collect();
    let stage = Stage::new(&[pool("p", named(&names.iter().map(String::as_str).collect::<Vec<_>>()))]);
    stage.check(
        &[one(json!({"count": 33}))],
        "claim n/c0: number of requested devices 33 exceeds the claim limit of 32",
    );
    let list = |counts: &[i64]| -> Value {
        counts
            .iter()
            .enumerate()
            .map(|(i, n)| {
                let mut alternative = wanted(json!({"count": n}));
                alternative["name"] = json!(format!("a{i}"));
                alternative
            })
            .collect()
    };
    let claim =
        json!({"requests": [{"name": "x", "firstAvailable": list(&[20, 2])}, request("y", json!({"count": 30}))]});
    let found = stage.find(&[claim]).expect("it can be said").expect("the second alternative leaves room");
    assert_eq!(found[0].devices.results.len(), 32);
    assert_eq!(found[0].devices.results[0].request, "x/a1");
    // Two claims have 32 each.
    let found = stage.find(&[one(json!({"count": 20})), one(json!({"count": 20}))]).expect("it can be said");
    assert!(found.is_some());
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    let stage =
        Stage::new(&[pool("p", json!([{"name": "small"}, {"name": "big", "attributes": {"size": {"int": 2}}}]))]);
    let list = json!({"requests": [{"name": "r", "firstAvailable": [
        {"name": "big", "deviceClassName": "all", "allocationMode": "ExactCount", "count": 1,
            "selectors": [{"cel": {"expression": "size=2"}}]},
        {"name": "any", "deviceClassName": "told", "allocationMode": "ExactCount", "count": 1}]}],
        "config": [{"requests": ["r/any"], "opaque": {"driver": "d", "parameters": {"for": "any"}}},
            {"requests": ["r/big"], "opaque": {"driver": "d", "parameters": {"for": "big"}}},
            {"requests": ["r"], "opaque": {"driver": "d", "parameters": {"for": "r"}}}]});
    stage.check(std::slice::from_ref(&list), "r/big=big");
    stage.check(&[list.clone(), list.clone()], "r/big=big; r/any=small");
    let told = |found: &Allocation| -> Vec<String> {
        let of = |c: &crate::model::DeviceConfig| format!("{} {:?} {}", c.source, c.requests, c.opaque["parameters"]);
        found.devices.config.iter().map(of).collect()
    };
    let found = stage.find(&[list.clone(), list]).expect("it can be said").expect("there are two");
    assert_eq!(told(&found[0]), [r#"FromClaim ["r/big"] {"for":"big"}"#, r#"FromClaim ["r"] {"for":"r"}"#]);
    let any =
        [r#"FromClass [] {"of":"told"}"#, r#"FromClaim ["r/any"] {"for":"any"}"#, r#"FromClaim ["r"] {"for":"r"}"#];
    assert_eq!(told(&found[1]), any);
}

#[test]
fn classes_tell_for_their_requests_only() {
    let stage = Stage::new(&[pool("p", named(&["a", "b", "c"]))]);
    let told = json!({"deviceClassName": "told"});
    let requests = [request("x", told.clone()), request("y", json!({})), request("z", told)];
    let found = stage.find(&[claim(&requests)]).expect("it can be said").expect("there are three");
    assert_eq!(found[0].devices.config.len(), 1);
    assert_eq!(found[0].devices.config[0].requests, ["x", "z"]);
}

#[test]
fn attributes_are_the_same_or_all_different() {
    let device = |name: &str, numa: Value| json!({"name": name, "attributes": {"numa": numa}});
    let stage = Stage::new(&[pool(
        "p",
        json!([{"name": "x"}, device("a", json!({"int": 0})), device("b", json!({"int": 1})), device("c", json!({"int": 1})),
            device("e", json!({"string": "1"}))]),
    )]);
    let constrained = |count: i64, constraint: Value| {
        json!({"requests": [request("r", json!({"count": count}))],
        "constraints": [constraint]})
    };
    stage.check(&[constrained(2, json!({"matchAttribute": "d/numa"}))], "r=b r=c");
    stage.check(&[constrained(1, json!({"matchAttribute": "d/numa"}))], "r=a");
    stage.check(&[constrained(3, json!({"matchAttribute": "d/numa"}))], "-");
    stage.check(&[constrained(2, json!({"matchAttribute": "e/numa"}))], "-");
    stage.check(&[constrained(3, json!({"distinctAttribute": "d/numa"}))], "r=a r=b r=e");
    stage.check(&[constrained(4, json!({"distinctAttribute": "d/numa"}))], "-");
    let two = |constraint: Value| {
        json!({"requests": [request("x", json!({})), request("y", json!({"count": 2}))],
        "constraints": [constraint]})
    };
    stage.check(&[two(json!({"matchAttribute": "d/numa", "requests": ["y"]}))], "x=x y=b y=c");
    stage.check(&[two(json!({"matchAttribute": "d/numa"}))], "-");
    let all = json!({"requests": [request("r", json!({"allocationMode": "All"}))],
        "constraints": [{"matchAttribute": "d/numa"}]});
    stage.check(
        &[all],
        "claim n/c0, request r: cannot add device d/p/x because a claim constraint would not be satisfied",
    );
}

#[test]
fn who_watches_over_devices_takes_none() {
    let stage = Stage::new(&[pool("p", named(&["a", "b"]))]).has(json!([{"driver": "d", "pool": "p", "device": "a"}]));
    stage.check(&[one(json!({"adminAccess": true}))], "r=a");
    stage.check(&[one(json!({"adminAccess": true, "count": 3}))], "-");
    let watched = stage.find(&[one(json!({"adminAccess": true}))]).expect("it can be said").expect("it is there");
    assert_eq!(watched[0].devices.results[0].admin_access, Some(true));
}

#[test]
fn taints_are_to_be_tolerated() {
    let tainted =
        |effect: &str| json!({"name": effect.to_lowercase(), "taints": [{"key": "k", "value": "v", "effect": effect}]});
    let stage = Stage::new(&[pool("p", json!([tainted("NoSchedule"), tainted("NoExecute"), tainted("None")]))]);
    stage.check(&[one(json!({}))], "r=none");
    stage.check(&[one(json!({"count": 2}))], "-");
    let tolerant = |toleration: Value| one(json!({"count": 2, "tolerations": [toleration]}));
    stage.check(&[tolerant(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}))], "r=noexecute r=none");
    stage.check(&[tolerant(json!({"key": "k", "operator": "Equal", "value": "v"}))], "r=noschedule r=noexecute");
    stage.check(&[tolerant(json!({"key": "k", "operator": "Equal", "value": "w"}))], "-");
    stage.check(&[tolerant(json!({"operator": "Exists"}))], "r=noschedule r=noexecute");
}

#[test]
fn parts_of_a_device_share_its_counters() {
    let part = |name: &str, memory: &str| {
        json!({"name": name, "consumesCounters": [
        {"counterSet": "gpu", "counters": {"memory": {"value": memory}}}]})
    };
    let place =
        json!({"driver": "d", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 2}, "nodeName": "n"});
    let with = |field: &str, value: Value| {
        let mut spec = place.clone();
        spec[field] = value;
        spec
    };
    let slices = [
        with("sharedCounters", json!([{"name": "gpu", "counters": {"memory": {"value": "40Gi"}}}])),
        with("devices", json!([part("whole", "40Gi"), part("half-1", "20Gi"), part("half-2", "20Gi")])),
    ];
    let stage = Stage::new(&slices);
    stage.check(&[one(json!({}))], "r=whole");
    stage.check(&[one(json!({"count": 2}))], "r=half-1 r=half-2");
    stage.check(&[one(json!({"count": 3}))], "-");
    stage.check(&[one(json!({})), one(selecting("name=whole"))], "-");
    let stage = stage.has(json!([{"driver": "d", "pool": "p", "device": "half-1"}]));
    stage.check(&[one(json!({}))], "r=half-2");
    stage.check(&[one(json!({"count": 2}))], "-");
    stage.check(&[one(json!({"adminAccess": true, "allocationMode": "All"}))], "r=whole r=half-1 r=half-2");
}

#[test]
fn a_device_that_may_be_shared_is_as_long_as_it_has_enough() {
    let stage = Stage::new(&[pool(
        "p",
        json!([{"name": "nic", "allowMultipleAllocations": true, "capacity": {
        "bandwidth": {"value": "10G", "requestPolicy": {"default": "1G", "validRange": {"min": "1G", "step": "1G"}}}}}]),
    )]);
    let takes = |amount: &str| one(json!({"capacity": {"requests": {"bandwidth": amount}}}));
    stage.check(&[one(json!({})), takes("8G"), takes("500M")], "r=nic; r=nic; r=nic");
    stage.check(&[takes("8G"), takes("2500M")], "-");
    stage.check(&[takes("11G")], "-");
    stage.check(&[one(json!({"capacity": {"requests": {"latency": "1"}}}))], "-");
    let found = stage.find(&[takes("1500M")]).expect("it can be said").expect("it is there");
    let result = &found[0].devices.results[0];
    assert_eq!(result.consumed_capacity["bandwidth"].0.to_string(), "2G");
    assert!(result.share_id.is_some());
    let stage = stage.has(json!([{"driver": "d", "pool": "p", "device": "nic", "shareID": "s",
        "consumedCapacity": {"bandwidth": "7G"}}]));
    stage.check(&[takes("3G")], "r=nic");
    stage.check(&[takes("4G")], "-");
    // A device as a whole has its capacity as well.
    let stage = Stage::new(&[pool(
        "p",
        json!([{"name": "a", "capacity": {"memory": {"value": "4Gi"}}},
        {"name": "b", "capacity": {"memory": {"value": "8Gi"}}}]),
    )]);
    stage.check(&[one(json!({"capacity": {"requests": {"memory": "5Gi"}}}))], "r=b");
}

#[test]
fn an_allocation_says_where_it_can_be_used() {
    let at = |place: Value| {
        let mut spec = pool("p", json!([{"name": "a"}]));
        spec.as_object_mut().expect("an object").remove("nodeName");
        spec.as_object_mut().expect("an object").extend(place.as_object().expect("an object").clone());
        let found = Stage::new(&[spec]).find(&[one(json!({}))]).expect("it can be said").expect("it is there");
        serde_json::to_value(&found[0].node_selector).expect("json")
    };
    let here = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
    assert_eq!(at(json!({"nodeName": "n"})), here);
    assert_eq!(at(json!({"allNodes": true})), Value::Null);
    let zone = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "zone", "operator": "In", "values": ["z"]}]}]});
    assert_eq!(at(json!({"nodeSelector": zone})), zone);
    let each = json!({"perDeviceNodeSelection": true, "devices": [{"name": "a", "nodeSelector": zone}]});
    assert_eq!(at(each), zone);
    let bound = json!({"allNodes": true, "devices": [{"name": "a", "bindsToNode": true}]});
    assert_eq!(at(bound), here);
}

#[test]
fn a_search_ends() {
    let names: Vec<String> = (0..30).map(|i| format!("{i:02}")).collect();
    let devices: Value = names.iter().map(|n| json!({"name": n, "attributes": {"x": {"int": 1}}})).collect();
    let stage = Stage::new(&[pool("p", devices)]);
    // Any fifteen will do for the first, none for the second.
    let claim = json!({"requests": [request("x", json!({"count": 15})), request("y", selecting("x=2"))]});
    stage.check(&[claim], "exhausted");
}

// A comparison with a search that tries everything.

#[derive(Clone, Debug)]
struct SomeDevice {
    numa: Option<i64>,
    tainted: bool,
    /// Can be shared, with so much of `memory`.
    shared: Option<u8>,
    counters: u8,
}

#[derive(Clone, Debug)]
struct SomeWanted {
    count: Option<usize>,
    numa: Option<i64>,
    tolerates: bool,
    memory: u8,
}

#[derive(Clone, Debug)]
struct SomeClaim {
    /// Requests with their alternatives.
    requests: Vec<Vec<SomeWanted>>,
    /// 0: none, 1: the same, 2: all different.
    rule: u8,
}

fn some_device() -> impl Strategy<Value = SomeDevice> {
    (prop::option::of(0..2i64), prop::bool::weighted(0.2), prop::option::weighted(0.3, 1..4u8), 0..3u8)
        .prop_map(|(numa, tainted, shared, counters)| SomeDevice { numa, tainted, shared, counters })
}

fn some_wanted() -> impl Strategy<Value = SomeWanted> {
    (prop::option::weighted(0.85, 1..3usize), prop::option::weighted(0.3, 0..2i64), prop::bool::weighted(0.3), 0..3u8)
        .prop_map(|(count, numa, tolerates, memory)| SomeWanted { count, numa, tolerates, memory })
}

fn some_claim() -> impl Strategy<Value = SomeClaim> {
    (prop::collection::vec(prop::collection::vec(some_wanted(), 1..3), 1..3), 0..3u8).prop_map(|(requests, rule)| {
        // All devices and a constraint together are refused as a mistake.
        let any_all = requests.iter().flatten().any(|w| w.count.is_none());
        SomeClaim { rule: if any_all { 0 } else { rule }, requests }
    })
}

const COUNTERS: i64 = 3;

fn device_json((i, d): (usize, &SomeDevice)) -> Value {
    let mut json = json!({"name": format!("x{i}")});
    if let Some(numa) = d.numa {
        json["attributes"] = json!({"numa": {"int": numa}});
    }
    if d.tainted {
        json["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    }
    if let Some(memory) = d.shared {
        json["allowMultipleAllocations"] = json!(true);
        json["capacity"] = json!({"memory": {"value": memory.to_string(), "requestPolicy": {"default": "1"}}});
    } else {
        json["capacity"] = json!({"memory": {"value": "2"}});
    }
    if d.counters > 0 {
        json["consumesCounters"] = json!([{"counterSet": "s", "counters": {"c": {"value": d.counters.to_string()}}}]);
    }
    json
}

fn wanted_json(w: &SomeWanted) -> Value {
    let mut json = match w.count {
        Some(count) => wanted(json!({"count": count})),
        None => wanted(json!({"allocationMode": "All"})),
    };
    if let Some(numa) = w.numa {
        json["selectors"] = json!([{"cel": {"expression": format!("numa={numa}")}}]);
    }
    if w.tolerates {
        json["tolerations"] = json!([{"operator": "Exists"}]);
    }
    if w.memory > 0 {
        json["capacity"] = json!({"requests": {"memory": w.memory.to_string()}});
    }
    json
}

fn claim_json(claim: &SomeClaim) -> Value {
    let request = |(i, alternatives): (usize, &Vec<SomeWanted>)| match &alternatives[..] {
        [only] => json!({"name": format!("r{i}"), "exactly": wanted_json(only)}),
        several => {
            let named = |(a, w): (usize, &SomeWanted)| {
                let mut json = wanted_json(w);
                json["name"] = json!(format!("a{a}"));
                json
            };
            json!({"name": format!("r{i}"), "firstAvailable": several.iter().enumerate().map(named).collect::<Value>()})
        }
    };
    let requests: Value = claim.requests.iter().enumerate().map(request).collect();
    match claim.rule {
        1 => json!({"requests": requests, "constraints": [{"matchAttribute": "d/numa"}]}),
        2 => json!({"requests": requests, "constraints": [{"distinctAttribute": "d/numa"}]}),
        _ => json!({"requests": requests}),
    }
}

/// What is taken: claim, request, alternative, device.
type Picks = Vec<(usize, usize, usize, usize)>;

struct Everything<'a> {
    devices: &'a [SomeDevice],
    in_use: Option<usize>,
    claims: &'a [SomeClaim],
}

impl Everything<'_> {
    fn memory(&self, w: &SomeWanted, device: usize) -> i64 {
        let default = if self.devices[device].shared.is_some() { 1 } else { 2 };
        if w.memory > 0 { i64::from(w.memory) } else { default }
    }

    /// Whether a device alone could be had by a request.
    fn fits(&self, w: &SomeWanted, device: usize) -> bool {
        let d = &self.devices[device];
        let has = d.shared.map_or(2, i64::from);
        w.numa.is_none_or(|n| d.numa == Some(n)) && self.memory(w, device) <= has
    }

    /// Whether picks can be had together.
    fn holds(&self, picks: &Picks) -> bool {
        let of = |(c, r, a, _): &(usize, usize, usize, usize)| &self.claims[*c].requests[*r][*a];
        let mut counters = 0;
        for (i, d) in self.devices.iter().enumerate() {
            let users: Vec<_> = picks.iter().filter(|p| p.3 == i).collect();
            let taken = usize::from(self.in_use == Some(i));
            match d.shared {
                None if users.len() + taken > 1 => return false,
                Some(memory) => {
                    let sum: i64 = users.iter().map(|p| self.memory(of(p), i)).sum();
                    if sum > i64::from(memory) || taken > 0 && !users.is_empty() {
                        return false;
                    }
                }
                None => {}
            }
            if !users.is_empty() && taken == 0 {
                counters += i64::from(d.counters);
            }
            counters += taken as i64 * i64::from(d.counters);
        }
        let takes_counters = picks.iter().any(|p| self.devices[p.3].counters > 0);
        if takes_counters && counters > COUNTERS {
            return false;
        }
        if picks.iter().any(|p| self.devices[p.3].tainted && !of(p).tolerates || !self.fits(of(p), p.3)) {
            return false;
        }
        self.claims.iter().enumerate().all(|(c, claim)| {
            let values: Vec<Option<i64>> = picks.iter().filter(|p| p.0 == c).map(|p| self.devices[p.3].numa).collect();
            let known = values.iter().all(Option::is_some);
            match claim.rule {
                1 => known && values.windows(2).all(|w| w[0] == w[1]),
                2 => known && (1..values.len()).all(|i| !values[..i].contains(&values[i])),
                _ => true,
            }
        })
    }

    /// Tries every choice of alternatives and every set of devices.
    fn is_possible(&self, claim: usize, request: usize, picks: &mut Picks) -> bool {
        let Some(said) = self.claims.get(claim) else { return self.holds(picks) };
        let Some(alternatives) = said.requests.get(request) else { return self.is_possible(claim + 1, 0, picks) };
        for (a, w) in alternatives.iter().enumerate() {
            let fitting: Vec<usize> = (0..self.devices.len()).filter(|d| self.fits(w, *d)).collect();
            for set in 0..1u32 << self.devices.len() {
                let chosen: Vec<usize> = (0..self.devices.len()).filter(|d| set >> d & 1 == 1).collect();
                let right = match w.count {
                    Some(count) => chosen.len() == count,
                    None => chosen == fitting && !chosen.is_empty(),
                };
                if !right {
                    continue;
                }
                let before = picks.len();
                picks.extend(chosen.iter().map(|d| (claim, request, a, *d)));
                if self.is_possible(claim, request + 1, picks) {
                    return true;
                }
                picks.truncate(before);
            }
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The allocator finds devices exactly where there are some, and what it finds can be had.
    #[test]
    fn nothing_is_missed_and_nothing_is_given_twice(
        devices in prop::collection::vec(some_device(), 1..5),
        claims in prop::collection::vec(some_claim(), 1..3),
        in_use in prop::option::weighted(0.3, 0..4usize),
    ) {
        let in_use = in_use.filter(|i| *i < devices.len());
        let place = json!({"driver": "d", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 2},
            "nodeName": "n"});
        let (mut counters, mut offered) = (place.clone(), place);
        counters["sharedCounters"] = json!([{"name": "s", "counters": {"c": {"value": COUNTERS.to_string()}}}]);
        offered["devices"] = devices.iter().enumerate().map(device_json).collect();
        let mut stage = Stage::new(&[counters, offered]);
        if let Some(i) = in_use {
            stage = stage.has(json!([{"driver": "d", "pool": "p", "device": format!("x{i}")}]));
        }
        let bodies: Vec<Value> = claims.iter().map(claim_json).collect();
        let found = stage.find(&bodies).expect("it can be said");
        let everything = Everything { devices: &devices, in_use, claims: &claims };
        let possible = everything.is_possible(0, 0, &mut Picks::new());
        prop_assert_eq!(found.is_some(), possible);
        if let Some(found) = found {
            let number = |text: &str| text[1..].parse::<usize>().expect("a number");
            let picks: Picks = found.iter().enumerate().flat_map(|(c, allocation)| {
                allocation.devices.results.iter().map(move |r| {
                    let (request, alternative) = r.request.split_once('/').unwrap_or((&r.request, "a0"));
                    (c, number(request), number(alternative), number(&r.device))
                })
            }).collect();
            prop_assert!(everything.holds(&picks));
        }
    }
}
