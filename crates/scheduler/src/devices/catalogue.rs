//! The devices that drivers offer, by pool. Upstream: `GatherPools` in
//! `k8s.io/dynamic-resource-allocation/structured/internal/incubating/pools_incubating.go`.
//!
//! A pool is all slices of one driver and pool name that have the newest generation. What is true of it on every node
//! (whether it is whole, whether it contradicts itself, its counters) is worked out when one of its slices changes;
//! what a node sees of it when the node is looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use orkd_api::quantity::Quantity;

use crate::model::{self, Capacity, NodeSelector, ResourceSlice};
use crate::selector::NodeTerms;

/// A node, as devices see it.
#[derive(Clone, Copy, Debug)]
pub struct NodeAt<'a> {
    /// Name.
    pub name: &'a str,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Names a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId {
    /// The driver.
    pub driver: Arc<str>,
    /// The pool.
    pub pool: Arc<str>,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.driver, self.pool)
    }
}

/// Names a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// The driver.
    pub driver: Arc<str>,
    /// The pool.
    pub pool: Arc<str>,
    /// The device.
    pub device: Arc<str>,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// Where devices can be used.
#[derive(Clone, Debug)]
pub enum Place {
    /// On one node.
    Node(Arc<str>),
    /// On some nodes.
    Nodes(NodeTerms, NodeSelector),
    /// On all nodes.
    Everywhere,
    /// Each device says so itself.
    Each,
    /// Something newer than this code: nowhere.
    Nowhere,
}

impl Place {
    fn new(node: Option<&String>, selector: Option<&NodeSelector>, all: bool) -> Place {
        match (node.filter(|n| !n.is_empty()), all, selector) {
            (Some(node), _, _) => Place::Node(node.as_str().into()),
            (None, true, _) => Place::Everywhere,
            (None, false, Some(selector)) => Place::Nodes(NodeTerms::new(selector), selector.clone()),
            (None, false, None) => Place::Nowhere,
        }
    }

    /// Whether a node is there (`NodeMatches`).
    pub fn includes(&self, node: NodeAt<'_>) -> bool {
        match self {
            Place::Node(name) => **name == *node.name,
            Place::Nodes(terms, _) => terms.matches(node.name, node.labels),
            Place::Everywhere => true,
            Place::Each | Place::Nowhere => false,
        }
    }
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// A number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    String(String),
    /// A semantic version.
    Version(String),
}

impl AttributeValue {
    fn new(said: &model::Attribute) -> Option<AttributeValue> {
        let model::Attribute { int, bool, string, version } = said;
        let string = string.clone().map(AttributeValue::String);
        let version = version.clone().map(AttributeValue::Version);
        string.or(int.map(AttributeValue::Int)).or(bool.map(AttributeValue::Bool)).or(version)
    }
}

/// A name with its domain: that of the driver, if it has none.
pub fn full_name(name: &str, driver: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{driver}/{name}") }
}

/// By full names; one that was given with its domain wins over one without.
fn by_full_name<T, U>(
    said: &BTreeMap<String, T>,
    driver: &str,
    of: impl Fn(&str, &T) -> Option<U>,
) -> BTreeMap<String, U> {
    let (with, without): (Vec<_>, Vec<_>) = said.iter().partition(|(name, _)| name.contains('/'));
    without.into_iter().chain(with).filter_map(|(name, v)| Some((full_name(name, driver), of(name, v)?))).collect()
}

/// A device that is offered.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// Where it can be used, if its slice does not say.
    pub place: Option<Place>,
    /// What it is, by full names.
    pub attributes: BTreeMap<String, AttributeValue>,
    /// How much it has, by full names; with the names as the driver wrote them.
    pub capacity: BTreeMap<String, (String, Capacity)>,
    /// All the rest.
    pub said: model::Device,
}

impl Device {
    /// A device of a pool, as a slice says; `each` if it says itself where it is.
    pub fn new(pool: &PoolId, mut said: model::Device, each: bool) -> Device {
        let driver = &*pool.driver;
        let attributes = by_full_name(&said.attributes, driver, |_, a| AttributeValue::new(a));
        let capacity = by_full_name(&said.capacity, driver, |name, c| Some((name.to_owned(), c.clone())));
        said.attributes.clear();
        said.capacity.clear();
        let place = each.then(|| Place::new(said.node_name.as_ref(), said.node_selector.as_ref(), said.all_nodes));
        let id = DeviceId { driver: pool.driver.clone(), pool: pool.pool.clone(), device: said.name.as_str().into() };
        Device { id, place, attributes, capacity, said }
    }
}

/// A slice.
#[derive(Debug)]
pub struct Slice {
    /// Given once: another version of the slice has another.
    pub number: u64,
    generation: i64,
    count: i64,
    /// Where its devices can be used.
    pub place: Place,
    /// Its devices.
    pub devices: Vec<Device>,
    counters: Vec<model::CounterSet>,
}

impl Slice {
    fn is_for(&self, node: NodeAt<'_>) -> bool {
        match &self.place {
            Place::Each if self.counters.is_empty() => {
                self.devices.iter().any(|d| d.place.as_ref().is_some_and(|p| p.includes(node)))
            }
            Place::Node(_) => self.place.includes(node),
            // Counters are needed wherever the pool is used.
            _ => !self.counters.is_empty() || self.place.includes(node),
        }
    }
}

/// How much there is, by the names of set and counter.
pub type Counters = BTreeMap<(String, String), Quantity>;

/// Whether a pool can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can.
    Whole,
    /// Slices are missing: it is being changed.
    Incomplete,
    /// It contradicts itself.
    Invalid(String),
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    id: PoolId,
    /// All slices, by name.
    slices: BTreeMap<Arc<str>, Arc<Slice>>,
    /// Those of the newest generation, by name.
    current: Vec<Arc<Slice>>,
    condition: Condition,
    counters: Counters,
    /// Whether a device name is there twice: that matters on nodes that see both.
    repeats: bool,
    /// Whether some device has to be waited for.
    waits: bool,
}

impl Pool {
    fn work_out(&mut self) {
        let newest = self.slices.values().map(|s| s.generation).max().unwrap_or(0);
        self.current = self.slices.values().filter(|s| s.generation == newest).cloned().collect();
        let count = self.current.first().map_or(0, |s| s.count);
        self.counters.clear();
        let devices = || self.current.iter().flat_map(|s| &s.devices);
        self.waits = devices().any(|d| !d.said.binding_conditions.is_empty());
        let mut names = HashSet::new();
        self.repeats = !devices().all(|d| names.insert(&d.id.device));
        self.condition = if self.current.len() as i64 != count {
            Condition::Incomplete
        } else {
            match counters_of(&self.current) {
                Ok(counters) => {
                    self.counters = counters;
                    Condition::Whole
                }
                Err(why) => Condition::Invalid(why),
            }
        };
    }
}

/// The counters of a pool.
fn counters_of(slices: &[Arc<Slice>]) -> Result<Counters, String> {
    let mut sets: HashMap<&str, &model::CounterSet> = HashMap::new();
    for set in slices.iter().flat_map(|s| &s.counters) {
        if sets.insert(&set.name, set).is_some() {
            return Err(format!("duplicate counter set name {}", set.name));
        }
    }
    for takes in slices.iter().flat_map(|s| &s.devices).flat_map(|d| &d.said.consumes_counters) {
        let Some(set) = sets.get(takes.counter_set.as_str()) else {
            return Err(format!("counter set {} not found", takes.counter_set));
        };
        if let Some(name) = takes.counters.keys().find(|name| !set.counters.contains_key(*name)) {
            return Err(format!("counter {name} not found in counter set {}", set.name));
        }
    }
    let all = sets.values().flat_map(|set| set.counters.iter().map(move |(name, c)| (set, name, c)));
    Ok(all.map(|(set, name, c)| ((set.name.clone(), name.clone()), c.value.0)).collect())
}

/// What a node sees of a pool.
pub struct NodePool<'a> {
    /// The pool's name.
    pub id: &'a PoolId,
    /// Whether it can be used.
    pub condition: Condition,
    /// All there is to be taken.
    pub counters: &'a Counters,
    /// The slices with devices, and the positions of those that the node has.
    pub devices: Vec<(&'a Slice, usize)>,
    /// All devices of the pool, the node's and others.
    pub all: &'a [Arc<Slice>],
}

/// All pools.
#[derive(Debug, Default)]
pub struct Catalogue {
    pools: BTreeMap<PoolId, Pool>,
    pool_of: HashMap<Arc<str>, PoolId>,
    /// How many slices of which pools are for one node only.
    on_node: HashMap<Arc<str>, BTreeMap<PoolId, usize>>,
    /// How many slices of which pools are not.
    shared: BTreeMap<PoolId, usize>,
    numbers: u64,
}

impl Catalogue {
    /// Takes over a slice.
    pub fn set(&mut self, said: &ResourceSlice) {
        let name = said.metadata.name.clone();
        self.remove(&name);
        let spec = &said.spec;
        let id = PoolId { driver: spec.driver.as_str().into(), pool: spec.pool.name.as_str().into() };
        let each = spec.per_device_node_selection;
        let place = match each {
            true => Place::Each,
            false => Place::new(spec.node_name.as_ref(), spec.node_selector.as_ref(), spec.all_nodes),
        };
        self.numbers += 1;
        let slice = Slice {
            number: self.numbers,
            generation: spec.pool.generation,
            count: spec.pool.resource_slice_count,
            devices: spec.devices.iter().map(|d| Device::new(&id, d.clone(), each)).collect(),
            counters: spec.shared_counters.clone(),
            place,
        };
        *self.place_of(&slice.place).entry(id.clone()).or_default() += 1;
        self.pool_of.insert(name.clone(), id.clone());
        let pool = self.pools.entry(id.clone()).or_insert_with(|| Pool {
            id,
            slices: BTreeMap::new(),
            current: Vec::new(),
            condition: Condition::Incomplete,
            counters: Counters::new(),
            repeats: false,
            waits: false,
        });
        pool.slices.insert(name, Arc::new(slice));
        pool.work_out();
    }

    /// Forgets a slice.
    pub fn remove(&mut self, name: &str) {
        let Some(id) = self.pool_of.remove(name) else { return };
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let slice = pool.slices.remove(name);
        if pool.slices.is_empty() {
            self.pools.remove(&id);
        } else {
            pool.work_out();
        }
        let Some(slice) = slice else { return };
        let there = self.place_of(&slice.place);
        if let Some(count) = there.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                there.remove(&id);
            }
        }
        if let Place::Node(node) = &slice.place
            && self.on_node.get(node).is_some_and(BTreeMap::is_empty)
        {
            self.on_node.remove(node);
        }
    }

    fn place_of(&mut self, place: &Place) -> &mut BTreeMap<PoolId, usize> {
        match place {
            Place::Node(node) => self.on_node.entry(node.clone()).or_default(),
            _ => &mut self.shared,
        }
    }

    /// What a node sees: pools without devices that have to be waited for come first, then by name.
    pub fn of_node(&self, node: NodeAt<'_>) -> Vec<NodePool<'_>> {
        let own = self.on_node.get(node.name);
        let ids = own.into_iter().flat_map(BTreeMap::keys);
        let ids = ids.chain(self.shared.keys().filter(|id| own.is_none_or(|own| !own.contains_key(*id))));
        let mut pools: Vec<&Pool> = ids.filter_map(|id| self.pools.get(id)).collect();
        pools.sort_by_key(|p| (p.waits, &p.id));
        pools.into_iter().filter_map(|pool| see(pool, node)).collect()
    }
}

/// What a node sees of a pool; `None` if nothing.
fn see<'a>(pool: &'a Pool, node: NodeAt<'_>) -> Option<NodePool<'a>> {
    let mut seen = false;
    let mut devices = Vec::new();
    for slice in pool.current.iter().filter(|s| s.is_for(node)) {
        seen = true;
        if pool.condition == Condition::Whole {
            let has = |d: &Device| d.place.as_ref().is_none_or(|p| p.includes(node));
            devices.extend(slice.devices.iter().enumerate().filter(|(_, d)| has(d)).map(|(i, _)| (&**slice, i)));
        }
    }
    if !seen {
        return None;
    }
    let mut condition = pool.condition.clone();
    if pool.repeats {
        let mut names = HashSet::new();
        let twice = devices.iter().map(|(slice, i)| &slice.devices[*i].id.device).find(|name| !names.insert(*name));
        if let Some(name) = twice {
            condition = Condition::Invalid(format!("duplicate device name {name}"));
            devices = Vec::new();
        }
    }
    Some(NodePool { id: &pool.id, condition, counters: &pool.counters, devices, all: &pool.current })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn slice(name: &str, spec: Value) -> ResourceSlice {
        serde_json::from_value(json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": spec}))
            .expect("a slice")
    }

    /// A slice of pool `pool` with devices of these names.
    pub(crate) fn plain(
        name: &str,
        pool: &str,
        generation: i64,
        count: i64,
        devices: &[&str],
        place: Value,
    ) -> ResourceSlice {
        let devices: Vec<Value> = devices.iter().map(|d| json!({"name": d})).collect();
        let mut spec = json!({"driver": "d", "pool": {"name": pool, "generation": generation,
            "resourceSliceCount": count}, "devices": devices});
        spec.as_object_mut().expect("an object").extend(place.as_object().expect("an object").clone());
        slice(name, spec)
    }

    fn seen(slices: &[ResourceSlice], node: &str, labels: &[(&str, &str)]) -> Vec<String> {
        let mut catalogue = Catalogue::default();
        // What was there and changed leaves no trace.
        for slice in slices.iter().chain(slices) {
            catalogue.set(slice);
        }
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let pools = catalogue.of_node(NodeAt { name: node, labels: &labels });
        let told = pools.iter().map(|p| {
            let devices: Vec<&str> = p.devices.iter().map(|(s, i)| &*s.devices[*i].id.device).collect();
            format!("{} {:?} {}", p.id, p.condition, devices.join(" ")).trim_end().to_owned()
        });
        let told = told.collect();
        slices.iter().for_each(|s| catalogue.remove(&s.metadata.name));
        assert!(catalogue.pools.is_empty() && catalogue.on_node.is_empty() && catalogue.shared.is_empty());
        told
    }

    fn here() -> Value {
        json!({"nodeName": "n"})
    }

    #[test]
    fn a_node_sees_what_is_for_it() {
        let slices = [
            plain("a", "own", 1, 1, &["x", "y"], here()),
            plain("b", "other", 1, 1, &["x"], json!({"nodeName": "m"})),
            plain("c", "all", 1, 1, &["x"], json!({"allNodes": true})),
            plain(
                "e",
                "zone",
                1,
                1,
                &["x"],
                json!({"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["z"]}]}]}}),
            ),
            plain("f", "later", 1, 1, &["x"], json!({})),
        ];
        assert_eq!(seen(&slices, "n", &[("zone", "z")]), ["d/all Whole x", "d/own Whole x y", "d/zone Whole x"]);
        assert_eq!(seen(&slices, "m", &[]), ["d/all Whole x", "d/other Whole x"]);
    }

    #[test]
    fn each_device_may_say_where_it_is() {
        let spec = json!({"driver": "d", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "perDeviceNodeSelection": true, "devices": [{"name": "x", "nodeName": "n"}, {"name": "y", "allNodes": true},
            {"name": "z", "nodeName": "m"}]});
        assert_eq!(seen(&[slice("a", spec.clone())], "n", &[]), ["d/p Whole x y"]);
        assert_eq!(seen(&[slice("a", spec)], "k", &[]), ["d/p Whole y"]);
    }

    #[test]
    fn only_the_newest_generation_counts_and_only_when_it_is_whole() {
        let old = plain("a", "p", 1, 1, &["x"], here());
        assert_eq!(seen(&[old.clone(), plain("b", "p", 2, 1, &["y"], here())], "n", &[]), ["d/p Whole y"]);
        assert_eq!(seen(&[old.clone(), plain("b", "p", 2, 2, &["y"], here())], "n", &[]), ["d/p Incomplete"]);
        // The other half is another node's: the pool is whole all the same.
        let halves = [plain("b", "p", 2, 2, &["y"], here()), plain("c", "p", 2, 2, &["z"], json!({"nodeName": "m"}))];
        assert_eq!(seen(&halves, "n", &[]), ["d/p Whole y"]);
        // What is new is not for this node: what was here is gone.
        let moved = [old, plain("c", "p", 2, 1, &["z"], json!({"nodeName": "m"}))];
        assert!(seen(&moved, "n", &[]).is_empty());
    }

    #[test]
    fn pools_that_contradict_themselves_are_not_used() {
        let twice = [plain("a", "p", 1, 2, &["x"], here()), plain("b", "p", 1, 2, &["x"], here())];
        assert_eq!(seen(&twice, "n", &[]), ["d/p Invalid(\"duplicate device name x\")"]);
        let apart = [plain("a", "p", 1, 2, &["x"], here()), plain("b", "p", 1, 2, &["x"], json!({"nodeName": "m"}))];
        assert_eq!(seen(&apart, "n", &[]), ["d/p Whole x"]);
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
        let counters = |name: &str| {
            slice(
                "c",
                json!({"driver": "d", "pool": pool, "nodeName": "n",
                "sharedCounters": [{"name": name, "counters": {"memory": {"value": "8Gi"}}}]}),
            )
        };
        let takes = |set: &str, counter: &str| {
            slice(
                "d",
                json!({"driver": "d", "pool": pool, "nodeName": "n", "devices": [
                {"name": "x", "consumesCounters": [{"counterSet": set, "counters": {counter: {"value": "1Gi"}}}]}]}),
            )
        };
        assert_eq!(seen(&[counters("s"), takes("s", "memory")], "n", &[]), ["d/p Whole x"]);
        assert_eq!(
            seen(&[counters("s"), takes("t", "memory")], "n", &[]),
            ["d/p Invalid(\"counter set t not found\")"]
        );
        assert_eq!(
            seen(&[counters("s"), takes("s", "cores")], "n", &[]),
            ["d/p Invalid(\"counter cores not found in counter set s\")"]
        );
    }

    #[test]
    fn pools_that_have_to_be_waited_for_come_last() {
        let waits = slice(
            "a",
            json!({"driver": "d", "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1},
            "nodeName": "n", "devices": [{"name": "x", "bindingConditions": ["Ready"],
            "bindingFailureConditions": ["Failed"]}]}),
        );
        assert_eq!(seen(&[waits, plain("b", "b", 1, 1, &["x"], here())], "n", &[]), ["d/b Whole x", "d/a Whole x"]);
    }
}
