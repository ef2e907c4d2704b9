//! Finds devices on a node for the claims of a pod. Upstream:
//! `k8s.io/dynamic-resource-allocation/structured/internal/incubating/allocator_incubating.go`.
//!
//! Claim after claim, request after request, device after device is tried in the order of the catalogue, and taken back
//! when what follows finds no solution: the first solution is taken. Within a request only combinations are tried, not
//! orders. What devices look like is worked out once for a node ([`Candidate`]); every look at one costs a step of the
//! [`Budget`], so that no claim can hold up the scheduler.
//!
//! Where upstream lets requests with `adminAccess` fail for want of counters or capacity, here they ignore both, as the
//! API says that they do.

use std::cell::Cell;

use super::capacity::{self, Consumed};
use super::catalogue::{AttributeValue, Catalogue, Condition, Counters, Device, NodeAt, NodePool, Place, Slice};
use super::plan::{Alternative, Count, Wanted};
use super::selectors::{Fault, Selector};
use super::taken::Taken;
use crate::model::{
    AllocatedDevices, Allocation, Amount, DeviceConfig, DeviceResult, NodeSelector, NodeSelectorTerm, Requirement,
};

/// The most devices of a claim (`resourceapi.AllocationResultsMaxSize`).
pub const MOST_DEVICES: usize = 32;

/// Why a node cannot be judged, or will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Something is wrong with a claim or a class: no node can be judged.
    Failed(String),
    /// The node will not do, for this reason.
    OnNode(String),
    /// The search took too long.
    Exhausted,
}

/// How many looks at devices a search may take.
#[derive(Debug)]
pub struct Budget(Cell<u64>);

impl Budget {
    /// So many.
    pub fn new(looks: u64) -> Budget {
        Budget(Cell::new(looks))
    }

    /// How many are left.
    pub fn left(&self) -> u64 {
        self.0.get()
    }

    fn spend(&self) -> Result<(), Stop> {
        match self.0.get().checked_sub(1) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(Stop::Problem(Problem::Exhausted)),
        }
    }
}

/// Finds devices for all claims; `None` if there are not enough. The shares of devices that are shared have no ids yet.
///
/// # Errors
/// It cannot be said.
pub fn allocate(
    catalogue: &Catalogue,
    taken: &Taken,
    node: NodeAt<'_>,
    claims: &[&Wanted],
    budget: &Budget,
) -> Result<Option<Vec<Allocation>>, Problem> {
    let pools = catalogue.of_node(node);
    let invalid = pools.iter().any(|p| matches!(p.condition, Condition::Invalid(_)));
    let mut search = Search::new(&pools, taken, claims, budget)?;
    match search.one(At::default(), 0, false) {
        Ok(true) => {
            let found = claims.iter().enumerate().map(|(i, claim)| search.allocation(i, claim, node.name));
            Ok(Some(found.collect()))
        }
        Ok(false) if invalid => Err(Problem::OnNode("invalid resource pools were encountered".into())),
        Ok(false) | Err(Stop::TooMany) => Ok(None),
        Err(Stop::Problem(problem)) => Err(problem),
    }
}

/// Why a branch of the search ends before its time.
enum Stop {
    /// More devices than a claim may have, whichever are chosen.
    TooMany,
    /// The whole search ends.
    Problem(Problem),
}

/// A device of the node.
struct Candidate<'a> {
    device: &'a Device,
    slice: &'a Slice,
    position: usize,
    pool: usize,
    /// Whether a claim that is not of this pod has it.
    in_use: bool,
    /// Whether someone has a part of it.
    is_shared: bool,
    /// The claims that it was chosen for by now.
    chosen_for: Vec<usize>,
    /// What was chosen of it by now.
    shares: Vec<Consumed>,
}

/// What a request comes to on this node.
#[derive(Default)]
struct Row {
    count: usize,
    /// All devices, where all are wanted.
    all: Vec<usize>,
    /// What its selectors said of each candidate.
    fits: Vec<Option<bool>>,
}

/// A device that was chosen.
struct Choice {
    request: usize,
    alternative: usize,
    candidate: usize,
    /// Whether counters were taken for it.
    counted: bool,
    consumed: Consumed,
}

/// Where the search is.
#[derive(Clone, Copy, Default)]
struct At {
    claim: usize,
    request: usize,
    alternative: usize,
    /// How many devices the alternative has by now.
    device: usize,
}

struct Search<'a> {
    claims: &'a [&'a Wanted],
    taken: &'a Taken,
    budget: &'a Budget,
    pools: &'a [NodePool<'a>],
    candidates: Vec<Candidate<'a>>,
    /// By claim, request and alternative.
    rows: Vec<Vec<Vec<Row>>>,
    /// By claim: what was chosen.
    chosen: Vec<Vec<Choice>>,
    /// By pool: the counters that are left; worked out when first needed.
    left: Vec<Option<Counters>>,
}

impl<'a> Search<'a> {
    fn new(
        pools: &'a [NodePool<'a>],
        taken: &'a Taken,
        claims: &'a [&'a Wanted],
        budget: &'a Budget,
    ) -> Result<Search<'a>, Problem> {
        let mut candidates = Vec::new();
        for (pool, seen) in pools.iter().enumerate() {
            candidates.extend(seen.devices.iter().map(|(slice, position)| {
                let device = &slice.devices[*position];
                let (in_use, is_shared) = (taken.is_taken(&device.id), taken.is_shared(&device.id));
                let (chosen_for, shares) = (Vec::new(), Vec::new());
                Candidate { device, slice, position: *position, pool, in_use, is_shared, chosen_for, shares }
            }));
        }
        let mut search = Search {
            claims,
            taken,
            budget,
            pools,
            candidates,
            rows: Vec::new(),
            chosen: claims.iter().map(|_| Vec::new()).collect(),
            left: pools.iter().map(|_| None).collect(),
        };
        search.rows = claims
            .iter()
            .map(|c| c.requests.iter().map(|r| r.alternatives.iter().map(|_| Row::default()).collect()).collect())
            .collect();
        search.count()?;
        Ok(search)
    }

    /// How many devices each request wants.
    fn count(&mut self) -> Result<(), Problem> {
        for (c, claim) in self.claims.iter().enumerate() {
            let mut least_of_claim = 0usize;
            for (r, request) in claim.requests.iter().enumerate() {
                let mut least = usize::MAX;
                for (a, alternative) in request.alternatives.iter().enumerate() {
                    let at = At { claim: c, request: r, alternative: a, device: 0 };
                    let count = match alternative.count {
                        Count::Exactly(count) => count,
                        Count::All => self.all(at, claim, alternative)?,
                    };
                    self.row(at).count = count;
                    least = least.min(count);
                }
                least_of_claim = least_of_claim.saturating_add(least);
            }
            if least_of_claim > MOST_DEVICES {
                let key = &claim.key;
                return Err(Problem::Failed(format!(
                    "claim {key}: number of requested devices {least_of_claim} exceeds the claim limit of {MOST_DEVICES}"
                )));
            }
        }
        Ok(())
    }

    /// Finds all the devices of a request that wants all.
    fn all(&mut self, at: At, claim: &Wanted, alternative: &Alternative) -> Result<usize, Problem> {
        for pool in self.pools {
            let state = match &pool.condition {
                Condition::Whole => continue,
                Condition::Incomplete => "being updated",
                Condition::Invalid(_) => "invalid",
            };
            return Err(Problem::OnNode(format!(
                "claim {}, request {}: asks for all devices, but resource pool {} is currently {state}",
                claim.key, alternative.reference, pool.id
            )));
        }
        let mut all = Vec::new();
        for i in 0..self.candidates.len() {
            self.budget.spend().map_err(|_| Problem::Exhausted)?;
            if self.is_selectable(at, i)? && self.has_enough(alternative, i).is_some() {
                all.push(i);
            }
        }
        let count = all.len();
        self.row(at).all = all;
        Ok(count)
    }

    fn row(&mut self, at: At) -> &mut Row {
        &mut self.rows[at.claim][at.request][at.alternative]
    }

    /// Finds devices for what is wanted from `at` on, beginning with the candidate `from`. `settled` says that this very
    /// alternative is to be tried, not one after the other (`allocateOne`).
    fn one(&mut self, at: At, from: usize, settled: bool) -> Result<bool, Stop> {
        self.budget.spend()?;
        let claims = self.claims;
        let Some(claim) = claims.get(at.claim) else { return Ok(true) };
        let Some(request) = claim.requests.get(at.request) else {
            return self.one(At { claim: at.claim + 1, ..At::default() }, 0, false);
        };
        if request.is_list && !settled {
            return self.first_available(at, request.alternatives.len());
        }
        let alternative = &request.alternatives[at.alternative];
        let row = self.row(at);
        let count = row.count;
        let all = alternative.count == Count::All;
        if all && count == 0 {
            return Ok(false);
        }
        if at.device >= count {
            return self.one(At { claim: at.claim, request: at.request + 1, ..At::default() }, 0, false);
        }
        if self.chosen[at.claim].len() + count - at.device > MOST_DEVICES {
            return Err(Stop::TooMany);
        }
        let next = At { device: at.device + 1, ..at };
        if all {
            let candidate = self.row(at).all[at.device];
            if !self.choose(at, alternative, candidate, true)? {
                return Ok(false);
            }
            let done = self.one(next, 0, settled);
            if !matches!(done, Ok(true)) {
                self.take_back(at.claim);
            }
            return done;
        }
        for candidate in from..self.candidates.len() {
            self.budget.spend()?;
            if self.is_in_use(at, alternative, candidate)
                || !self.is_selectable(at, candidate).map_err(Stop::Problem)?
                || !self.choose(at, alternative, candidate, false)?
            {
                continue;
            }
            let done = self.one(next, candidate + 1, settled);
            if matches!(done, Ok(true)) {
                return done;
            }
            self.take_back(at.claim);
            done?;
        }
        Ok(false)
    }

    /// Tries the alternatives of a request.
    fn first_available(&mut self, at: At, alternatives: usize) -> Result<bool, Stop> {
        let mut too_many = true;
        for alternative in 0..alternatives {
            match self.one(At { alternative, ..at }, 0, true) {
                Err(Stop::TooMany) => {}
                Ok(false) => too_many = false,
                other => return other,
            }
        }
        if too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    fn is_in_use(&self, at: At, alternative: &Alternative, candidate: usize) -> bool {
        let candidate = &self.candidates[candidate];
        match alternative.admin {
            true => candidate.chosen_for.contains(&at.claim),
            false => candidate.in_use || !candidate.chosen_for.is_empty(),
        }
    }

    /// Whether a device is what a class and a request select (`isSelectable`).
    fn is_selectable(&mut self, at: At, candidate: usize) -> Result<bool, Problem> {
        let known = self.rows[at.claim][at.request][at.alternative].fits.get(candidate).copied().flatten();
        if let Some(known) = known {
            return Ok(known);
        }
        let claim = &self.claims[at.claim];
        let alternative = &claim.requests[at.request].alternatives[at.alternative];
        let whose = [format!("class {}", alternative.class.metadata.name), format!("claim {}", claim.key)];
        let mut fits = true;
        for (selectors, whose) in alternative.selectors.iter().zip(whose) {
            fits = fits && self.all_hold(selectors, &whose, candidate)?;
        }
        let candidates = self.candidates.len();
        let row = self.row(at);
        row.fits.resize(candidates, None);
        row.fits[candidate] = Some(fits);
        Ok(fits)
    }

    fn all_hold(&self, selectors: &[std::sync::Arc<Selector>], whose: &str, candidate: usize) -> Result<bool, Problem> {
        let candidate = &self.candidates[candidate];
        for (i, selector) in selectors.iter().enumerate() {
            match selector.matches(candidate.slice, candidate.position) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(Fault::Compile(why)) => {
                    return Err(Problem::Failed(format!("{whose}: selector #{i}: CEL compile error: {why}")));
                }
                Err(Fault::Runtime(why)) => {
                    let device = &candidate.device.id;
                    return Err(Problem::Failed(format!(
                        "{whose}: selector #{i} on device {device}: CEL runtime error: {why}"
                    )));
                }
            }
        }
        Ok(true)
    }

    /// What a request takes of a device; `None` if it does not have that much, beside what others have of it.
    fn has_enough(&self, alternative: &Alternative, candidate: usize) -> Option<Consumed> {
        let Candidate { device, is_shared, shares, .. } = &self.candidates[candidate];
        if alternative.capacity.is_empty() && !device.said.allow_multiple_allocations {
            return Some(Consumed::new());
        }
        let consumed = capacity::consumed(device, &alternative.capacity)?;
        let others = |name: &str| {
            let mut sum = orkd_api::quantity::Quantity::ZERO;
            if alternative.admin {
                return sum;
            }
            if *is_shared {
                sum = sum + self.taken.consumed(&device.id, name);
            }
            shares.iter().filter_map(|s| s.get(name)).fold(sum, |sum, amount| sum + *amount)
        };
        capacity::suffices(device, &consumed, others).then_some(consumed)
    }

    /// Takes a device, if it can be had (`allocateDevice`). `must`: it is one of all.
    fn choose(&mut self, at: At, alternative: &Alternative, candidate: usize, must: bool) -> Result<bool, Stop> {
        let device = self.candidates[candidate].device;
        let shareable = device.said.allow_multiple_allocations;
        if self.is_in_use(at, alternative, candidate) || is_tainted(device, alternative) {
            return Ok(false);
        }
        let Some(mut consumed) = self.has_enough(alternative, candidate) else { return Ok(false) };
        if !self.are_kept(at, alternative, device) {
            if must {
                let (claim, request) = (&self.claims[at.claim].key, &alternative.reference);
                return Err(Stop::Problem(Problem::Failed(format!(
                    "claim {claim}, request {request}: cannot add device {} because a claim constraint would not be \
                     satisfied",
                    device.id
                ))));
            }
            return Ok(false);
        }
        let partly = shareable && {
            let candidate = &self.candidates[candidate];
            candidate.is_shared || !candidate.shares.is_empty()
        };
        let counted = !alternative.admin && !partly && !device.said.consumes_counters.is_empty();
        if counted && !self.count_down(candidate) {
            return Ok(false);
        }
        let entry = &mut self.candidates[candidate];
        if !shareable {
            entry.chosen_for.push(at.claim);
            consumed.clear();
        } else if alternative.admin {
            consumed.clear();
        } else {
            entry.shares.push(consumed.clone());
        }
        let (request, alternative) = (at.request, at.alternative);
        self.chosen[at.claim].push(Choice { request, alternative, candidate, counted, consumed });
        Ok(true)
    }

    /// Gives back the device of a claim that was taken last.
    fn take_back(&mut self, claim: usize) {
        let Some(choice) = self.chosen[claim].pop() else { return };
        let alternative = &self.claims[claim].requests[choice.request].alternatives[choice.alternative];
        let candidate = &mut self.candidates[choice.candidate];
        if !candidate.device.said.allow_multiple_allocations {
            candidate.chosen_for.pop();
        } else if !alternative.admin {
            candidate.shares.pop();
        }
        let (device, pool) = (candidate.device, candidate.pool);
        if choice.counted
            && let Some(left) = &mut self.left[pool]
        {
            for (name, amount) in counters(device) {
                if let Some(left) = left.get_mut(&name) {
                    *left = *left + amount;
                }
            }
        }
    }

    /// Whether the constraints of a claim hold with one more device.
    fn are_kept(&self, at: At, alternative: &Alternative, device: &Device) -> bool {
        let claim = &self.claims[at.claim];
        let about = &claim.requests[at.request].name;
        claim.constraints.iter().filter(|c| c.concerns(about, &alternative.reference)).all(|constraint| {
            let others: Vec<&AttributeValue> = (self.chosen[at.claim].iter())
                .filter(|choice| {
                    let request = &claim.requests[choice.request];
                    constraint.concerns(&request.name, &request.alternatives[choice.alternative].reference)
                })
                .filter_map(|choice| self.candidates[choice.candidate].device.attributes.get(&constraint.attribute))
                .collect();
            constraint.allows(&others, device)
        })
    }

    /// Takes what a device needs of its pool's counters, if there is enough.
    fn count_down(&mut self, candidate: usize) -> bool {
        let Candidate { device, pool, .. } = self.candidates[candidate];
        let (taken, seen) = (self.taken, &self.pools[pool]);
        let left = self.left[pool].get_or_insert_with(|| {
            let mut left = seen.counters.clone();
            let has = |d: &&Device| taken.is_taken(&d.id) || taken.is_shared(&d.id);
            for device in seen.all.iter().flat_map(|s| &s.devices).filter(has) {
                for (name, amount) in counters(device) {
                    if let Some(left) = left.get_mut(&name) {
                        *left = *left - amount;
                    }
                }
            }
            left
        });
        if !counters(device).all(|(name, amount)| left.get(&name).is_some_and(|left| *left >= amount)) {
            return false;
        }
        for (name, amount) in counters(device) {
            if let Some(left) = left.get_mut(&name) {
                *left = *left - amount;
            }
        }
        true
    }

    /// What was chosen for a claim, as its status tells it.
    fn allocation(&self, at: usize, claim: &Wanted, node: &str) -> Allocation {
        let choices = &self.chosen[at];
        let of = |choice: &Choice| &claim.requests[choice.request].alternatives[choice.alternative];
        let results = choices.iter().map(|choice| {
            let device = self.candidates[choice.candidate].device;
            let alternative = of(choice);
            let as_said = |name: &String| device.capacity.get(name).map_or(name, |(said, _)| said).clone();
            DeviceResult {
                request: alternative.reference.clone(),
                driver: device.id.driver.to_string(),
                pool: device.id.pool.to_string(),
                device: device.id.device.to_string(),
                admin_access: alternative.admin.then_some(true),
                tolerations: alternative.tolerations.clone(),
                binding_conditions: device.said.binding_conditions.clone(),
                binding_failure_conditions: device.said.binding_failure_conditions.clone(),
                share_id: device.said.allow_multiple_allocations.then(String::new),
                consumed_capacity: choice.consumed.iter().map(|(name, q)| (as_said(name), Amount(*q))).collect(),
            }
        });
        // A request that wants nothing of a claim has no choice to tell its alternative by.
        let picked: Vec<Option<&Alternative>> =
            (0..claim.requests.len()).map(|r| choices.iter().find(|c| c.request == r).map(of)).collect();
        let picked: Vec<&Alternative> = (picked.into_iter().zip(&claim.requests))
            .filter_map(|(picked, request)| picked.or_else(|| request.alternatives.first()))
            .collect();
        Allocation {
            devices: AllocatedDevices { results: results.collect(), config: config(claim, &picked) },
            node_selector: self.node_selector(choices, node),
            allocation_timestamp: None,
        }
    }

    /// Where the devices of a claim can be used together (`createNodeSelector`); everywhere: `None`.
    fn node_selector(&self, choices: &[Choice], node: &str) -> Option<NodeSelector> {
        let mut term = NodeSelectorTerm::default();
        for choice in choices {
            let Candidate { device, slice, .. } = &self.candidates[choice.candidate];
            let place = device.place.as_ref().unwrap_or(&slice.place);
            if matches!(place, Place::Node(_)) || device.said.binds_to_node {
                let name =
                    Requirement { key: "metadata.name".into(), operator: "In".into(), values: vec![node.to_owned()] };
                term = NodeSelectorTerm { match_fields: vec![name], ..NodeSelectorTerm::default() };
                break;
            }
            if let Place::Nodes(_, selector) = place {
                for other in selector.node_selector_terms.iter().take(1) {
                    extend(&mut term.match_fields, &other.match_fields);
                    extend(&mut term.match_expressions, &other.match_expressions);
                }
            }
        }
        let limits = !term.match_fields.is_empty() || !term.match_expressions.is_empty();
        limits.then(|| NodeSelector { node_selector_terms: vec![term] })
    }
}

fn extend(all: &mut Vec<Requirement>, more: &[Requirement]) {
    for requirement in more {
        let same = |r: &Requirement| {
            r.key == requirement.key
                && r.operator == requirement.operator
                && r.values.iter().all(|v| requirement.values.contains(v))
                && requirement.values.iter().all(|v| r.values.contains(v))
        };
        if !all.iter().any(same) {
            all.push(requirement.clone());
        }
    }
}

/// What a device takes of its pool's counters.
fn counters(device: &Device) -> impl Iterator<Item = ((String, String), orkd_api::quantity::Quantity)> + '_ {
    let of = &device.said.consumes_counters;
    of.iter().flat_map(|set| set.counters.iter().map(|(name, c)| ((set.counter_set.clone(), name.clone()), c.value.0)))
}

/// Whether a taint keeps a request from a device (`taintPreventsAllocation`). Effects that are not known do not.
fn is_tainted(device: &Device, alternative: &Alternative) -> bool {
    let counts = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let mut taints = device.said.taints.iter().filter(|t| counts(&t.effect));
    taints.any(|taint| !alternative.tolerations.iter().any(|t| t.tolerates(taint)))
}

/// What drivers are told: what the classes say, each class once with the requests that it is for, then what the claim
/// says about requests and the alternatives that were picked.
fn config(claim: &Wanted, picked: &[&Alternative]) -> Vec<DeviceConfig> {
    let mut all: Vec<DeviceConfig> = Vec::new();
    let mut classes: Vec<&str> = Vec::new();
    for alternative in picked {
        let class = &alternative.class;
        if classes.contains(&&*class.metadata.name) {
            continue;
        }
        classes.push(&class.metadata.name);
        let of_class = picked.iter().filter(|a| a.class.metadata.name == class.metadata.name);
        let requests: Vec<String> = of_class.map(|a| a.reference.clone()).collect();
        let requests = if requests.len() == claim.requests.len() { Vec::new() } else { requests };
        all.extend(class.spec.config.iter().map(|said| DeviceConfig {
            source: "FromClass".into(),
            requests: requests.clone(),
            opaque: said.opaque.clone(),
        }));
    }
    let concerns = |said: &&DeviceConfig| {
        let is_about = |(request, picked): (&super::plan::Request, &&Alternative)| {
            said.requests.iter().any(|r| *r == request.name || *r == picked.reference)
        };
        said.requests.is_empty() || claim.requests.iter().zip(picked).any(is_about)
    };
    all.extend(
        claim.config.iter().filter(concerns).map(|said| DeviceConfig { source: "FromClaim".into(), ..said.clone() }),
    );
    all
}
