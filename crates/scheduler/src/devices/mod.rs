//! Devices: who offers them, who has them, who wants them; and what was decided about claims and is not written yet.
//! Upstream: `plugins/dynamicresources/dra_manager.go`, `k8s.io/dynamic-resource-allocation`.
//!
//! - [`catalogue`]: the devices that drivers offer, by pool; what a node sees of them.
//! - [`taken`]: the devices that claims have, counted as claims come, change and go.
//! - [`plan`]: what the claims of a pod want, worked out once for all nodes; [`selectors`]: the expressions in it,
//!   in CEL.
//! - [`extended`]: the claims that the scheduler makes itself.
//! - [`allocator`]: finds devices on a node; [`constraints`] and [`capacity`]: what it asks of them.
//!
//! Invariant: a device that was decided about counts as taken from then until the API shows the claim without it.

pub mod allocator;
pub mod capacity;
pub mod catalogue;
mod cel;
pub mod constraints;
pub mod extended;
pub mod plan;
pub mod selectors;
pub mod taken;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::Key;

use crate::model::{Allocation, DeviceClass, DeviceResult, DeviceStatus, ResourceClaim};
use crate::pod::PodInfo;
use catalogue::Catalogue;
pub use cel::Cel;
use taken::Taken;

/// What was decided about a pod's claims.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// The claims, each with the devices that were found for it, unless it has some already.
    pub claims: Vec<(Arc<ResourceClaim>, Option<Allocation>)>,
    /// A claim that is to be made, with its devices.
    pub made: Option<(extended::Made, Allocation)>,
}

impl Decision {
    /// The devices that were found.
    fn found(&self) -> impl Iterator<Item = &Allocation> {
        let made = self.made.iter().map(|(_, allocation)| allocation);
        self.claims.iter().filter_map(|(_, allocation)| allocation.as_ref()).chain(made)
    }
}

/// All that is known of devices.
#[derive(Debug, Default)]
pub struct Devices {
    /// The devices that drivers offer.
    pub catalogue: Catalogue,
    /// What claims have.
    pub taken: Taken,
    /// What time it is, as the loop says: cycles have no clock.
    pub now: Timestamp,
    classes: HashMap<Arc<str>, Arc<DeviceClass>>,
    /// By the extended resources that classes say they stand for: the class.
    class_of: HashMap<String, Arc<str>>,
    classes_changed: u64,
    claims: HashMap<Key, Arc<ResourceClaim>>,
    /// By the UIDs of pods: the claim that the scheduler made.
    made_for: HashMap<String, Key>,
    /// By the UIDs of pods.
    decisions: HashMap<String, Decision>,
    /// The UIDs of claims whose devices are decided and not written.
    pending: HashSet<String>,
}

/// Whether a claim is reserved for a pod.
pub fn is_reserved_for(claim: &ResourceClaim, pod: &PodInfo) -> bool {
    claim.status.reserved_for.iter().any(|c| c.uid == pod.uid())
}

/// Whether a claim could lose its devices for a pod: nobody else uses them.
pub fn is_free_for(claim: &ResourceClaim, pod: &PodInfo) -> bool {
    claim.status.reserved_for.iter().all(|c| c.uid == pod.uid())
}

/// How far the devices of a claim are prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing has to be waited for.
    Ready,
    /// A condition does not hold yet.
    Waits,
    /// It never will.
    Failed(String),
}

/// Whether a pod with the claim may be bound (`isClaimReadyForBinding`).
pub fn readiness(claim: &ResourceClaim) -> Readiness {
    let Some(allocation) = &claim.status.allocation else { return Readiness::Waits };
    let of = |r: &DeviceResult| {
        let is_it = |d: &&DeviceStatus| d.device == r.device && d.driver == r.driver && d.pool == r.pool;
        claim.status.devices.iter().find(is_it)
    };
    for result in allocation.devices.results.iter().filter(|r| !r.binding_conditions.is_empty()) {
        let Some(status) = of(result) else { return Readiness::Waits };
        let holds = |ty: &String| status.conditions.iter().find(|c| c.ty == *ty && c.status == "True");
        if let Some(failed) = result.binding_failure_conditions.iter().find_map(holds) {
            return Readiness::Failed(format!(
                "claim {} binding failed: reason={}, message={:?}",
                claim.metadata.name, failed.reason, failed.message
            ));
        }
        if !result.binding_conditions.iter().all(|ty| holds(ty).is_some()) {
            return Readiness::Waits;
        }
    }
    Readiness::Ready
}

/// Whether a claim's devices have been waited for too long (`isClaimTimeout`).
pub fn is_overdue(claim: &ResourceClaim, timeout: Duration, now: Timestamp) -> bool {
    let Some(allocation) = &claim.status.allocation else { return false };
    let waits = allocation.devices.results.iter().any(|r| !r.binding_conditions.is_empty());
    let since = allocation.allocation_timestamp.filter(|_| waits);
    since.is_some_and(|since| now.duration_since(since) > timeout.try_into().unwrap_or(jiff::SignedDuration::MAX))
}

impl Devices {
    /// Takes over a claim, as the API shows it or as an answer to a write says; what is older than what is known is not
    /// taken. Returns what was known before, if something changed.
    pub fn set_claim(&mut self, claim: &Arc<ResourceClaim>) -> Option<Option<Arc<ResourceClaim>>> {
        let key = claim.metadata.key();
        let before = self.claims.get(&key);
        if before.is_some_and(|b| b.metadata.uid == claim.metadata.uid && b.metadata.rv() >= claim.metadata.rv()) {
            return None;
        }
        let before = before.cloned();
        if let Some(allocation) = before.as_ref().and_then(|b| b.status.allocation.as_ref()) {
            self.taken.remove(allocation);
        }
        if let Some(allocation) = &claim.status.allocation {
            self.taken.add(allocation);
        }
        if extended::is_made(claim)
            && let Some(owner) = claim.metadata.controller()
        {
            self.made_for.insert(owner.uid.clone(), key.clone());
        }
        self.claims.insert(key, claim.clone());
        Some(before)
    }

    /// Takes over what a write answered, unless the claim is gone since.
    pub fn written(&mut self, claim: &Arc<ResourceClaim>) -> Option<Option<Arc<ResourceClaim>>> {
        let known = self.claims.get(&claim.metadata.key());
        // One that was made for a pod whose decision stands is only not seen yet.
        let is_new = || claim.metadata.controller().is_some_and(|owner| self.decisions.contains_key(&owner.uid));
        let is_there = known.map_or_else(is_new, |k| k.metadata.uid == claim.metadata.uid);
        if is_there { self.set_claim(claim) } else { None }
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, claim: &ResourceClaim) {
        let key = claim.metadata.key();
        if self.claims.get(&key).is_none_or(|known| known.metadata.uid != claim.metadata.uid) {
            return;
        }
        if let Some(owner) = claim.metadata.controller()
            && self.made_for.get(&owner.uid) == Some(&key)
        {
            self.made_for.remove(&owner.uid);
        }
        if let Some(allocation) = self.claims.remove(&key).and_then(|known| known.status.allocation.clone()) {
            self.taken.remove(&allocation);
        }
    }

    /// Takes over a class.
    pub fn set_class(&mut self, class: &Arc<DeviceClass>) {
        self.classes.insert(class.metadata.name.clone(), class.clone());
        self.work_out_resources();
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
        self.work_out_resources();
    }

    /// Of classes for one resource the youngest counts, then the first by name.
    fn work_out_resources(&mut self) {
        let mut said: Vec<(&String, &Arc<DeviceClass>)> =
            self.classes.values().filter_map(|c| Some((c.spec.extended_resource_name.as_ref()?, c))).collect();
        said.sort_by_key(|(_, c)| (c.metadata.creation_timestamp, std::cmp::Reverse(c.metadata.name.clone())));
        self.class_of = said.into_iter().map(|(resource, c)| (resource.clone(), c.metadata.name.clone())).collect();
        self.classes_changed += 1;
    }

    /// Changes whenever a class does.
    pub fn classes_changed(&self) -> u64 {
        self.classes_changed
    }

    /// The class that stands for an extended resource (`GetDeviceClass`).
    pub fn class_for(&self, resource: &str) -> Option<&Arc<DeviceClass>> {
        match self.class_of.get(resource) {
            Some(name) => self.classes.get(name),
            None => self.classes.get(resource.strip_prefix(extended::CLASS_PREFIX)?),
        }
    }

    /// The claim that was made for a pod.
    pub fn made_for(&self, pod: &PodInfo) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(self.made_for.get(pod.uid())?)
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<DeviceClass>> {
        self.classes.get(name)
    }

    /// The claims of a pod (`foreachPodResourceClaim`), those left out that are not needed.
    ///
    /// # Errors
    /// Why they will not do.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Vec<Arc<ResourceClaim>>, String> {
        let mut claims = Vec::new();
        for wanted in &pod.template.resource_claims {
            let (name, is_own) = match (&wanted.resource_claim_name, &wanted.resource_claim_template_name) {
                (Some(name), _) => (Some(name), false),
                (None, Some(_)) => match pod.claim_statuses.iter().find(|s| s.name == wanted.name) {
                    Some(status) => (status.resource_claim_name.as_ref(), true),
                    None => return Err(format!("pod \"{}\": ResourceClaim not created yet", pod.key())),
                },
                (None, None) => {
                    let (pod, claim) = (pod.key(), &wanted.name);
                    return Err(format!(
                        "pod \"{pod}\", spec.resourceClaim {claim:?}: none of the supported fields are set"
                    ));
                }
            };
            let Some(name) = name else { continue };
            let key = Key { namespace: pod.meta.namespace.clone(), name: name.as_str().into() };
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("could not find ResourceClaim \"{key}\""));
            };
            if claim.metadata.is_deleting() {
                return Err(format!("resourceclaim {name:?} is being deleted"));
            }
            if is_own && !claim.metadata.is_controlled_by(pod.uid()) {
                let pod = pod.key();
                return Err(format!("ResourceClaim {key} was not created for pod {pod} (pod is not owner)"));
            }
            claims.push(claim.clone());
        }
        Ok(claims)
    }

    /// Whether devices were found for a claim and that is not written yet.
    pub fn is_pending(&self, claim: &ResourceClaim) -> bool {
        self.pending.contains(&claim.metadata.uid)
    }

    /// Holds what was decided for a pod until it is written.
    pub fn assume(&mut self, pod: &PodInfo, decision: Decision) {
        self.forget(pod.uid());
        decision.found().for_each(|allocation| self.taken.add(allocation));
        let pending = decision.claims.iter().filter(|(_, allocation)| allocation.is_some());
        self.pending.extend(pending.map(|(claim, _)| claim.metadata.uid.clone()));
        self.decisions.insert(pod.uid().to_owned(), decision);
    }

    /// What was decided for a pod.
    pub fn decision(&self, uid: &str) -> Option<&Decision> {
        self.decisions.get(uid)
    }

    /// Forgets what was decided: it was written, and what was written is known; or it will not be.
    pub fn forget(&mut self, uid: &str) -> Option<Decision> {
        let decision = self.decisions.remove(uid)?;
        decision.found().for_each(|allocation| self.taken.remove(allocation));
        for (claim, _) in decision.claims.iter().filter(|(_, allocation)| allocation.is_some()) {
            self.pending.remove(&claim.metadata.uid);
        }
        Some(decision)
    }

    /// What is known of a claim now.
    pub fn claim(&self, key: &Key) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(key)
    }
}
