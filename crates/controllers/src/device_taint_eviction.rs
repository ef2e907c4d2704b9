//! Pods leave devices whose `NoExecute` taints they do not tolerate, when they tolerate them no longer.
//!
//! Follows `pkg/controller/devicetainteviction` with what is on by default in v1.36: taints that drivers set in
//! ResourceSlices. (DeviceTaintRules are of a version of the API that is off by default.) The time of a pod runs from when the
//! taint was set; a pod with several such devices goes when the first of them says so.
//!
//! Differs: a toleration without an effect tolerates all of them, as its description says and as the scheduler has it;
//! upstream's controller wants `NoExecute` to be named.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{Event, Informer, Key, Meta, ObjectRef, Outcome, Queue, View, null_default, work};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::resource_claim::{BY_CLAIM, ResourceClaim, add_claim_index, is_reserved_for};
use crate::taint_eviction::disrupt;
use crate::views::{Pod, Taint, Toleration, view};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "device-taint-eviction-controller",
    service_account: "device-taint-eviction-controller",
    run: |cx| Box::pin(start(cx)),
};

/// The devices of a part of a pool that have a taint which evicts; the others, mostly all, are not kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TaintedSlice {
    metadata: Meta,
    spec: SliceSpec,
}
view!(TaintedSlice, "resource.k8s.io", "v1", "ResourceSlice", "resourceslices");

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SliceSpec {
    driver: String,
    pool: Pool,
    #[serde(deserialize_with = "tainted")]
    devices: Vec<Device>,
}

fn tainted<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Device>, D::Error> {
    let mut devices: Vec<Device> = null_default(d)?;
    for device in &mut devices {
        device.taints.retain(|taint| taint.effect == NO_EXECUTE);
    }
    devices.retain(|device| !device.taints.is_empty());
    devices.shrink_to_fit();
    Ok(devices)
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Pool {
    name: String,
    generation: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Device {
    name: String,
    #[serde(deserialize_with = "null_default")]
    taints: Vec<Taint>,
}

/// A device that a claim was given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    driver: String,
    pool: String,
    device: String,
    #[serde(deserialize_with = "null_default")]
    tolerations: Vec<Toleration>,
}

/// Slices and claims by the pools of their devices.
const BY_POOL: &str = "pool";

/// The name of a pool among those of all drivers.
fn pool_of(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

impl TaintedSlice {
    fn pool(&self) -> String {
        pool_of(&self.spec.driver, &self.spec.pool.name)
    }

    fn taints(&self) -> impl Iterator<Item = (&str, &Taint)> {
        self.spec.devices.iter().flat_map(|d| d.taints.iter().map(move |t| (d.name.as_str(), t)))
    }
}

const NO_EXECUTE: &str = "NoExecute";

/// The devices that a claim was given.
fn given(claim: &ResourceClaim) -> Vec<Given> {
    let results = claim.status.allocation.as_ref().and_then(|a| a["devices"]["results"].as_array());
    let parse = |result: &Value| Given::deserialize(result).ok();
    results.into_iter().flatten().filter_map(parse).collect()
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let pods: Informer<Pod> = cx.informers.informer();
    let claims: Informer<ResourceClaim> = cx.informers.informer();
    let slices: Informer<TaintedSlice> = cx.informers.informer();
    add_claim_index(&pods);
    claims.add_index(BY_POOL, |claim| {
        let pools: HashSet<String> = given(claim).iter().map(|g| pool_of(&g.driver, &g.pool)).collect();
        pools.into_iter().collect()
    });
    slices.add_index(BY_POOL, |slice| vec![slice.pool()]);
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        pods.subscribe(move |event| {
            let pod = event.object();
            let of_interest = !pod.spec.resource_claims.is_empty() && !pod.spec.node_name.is_empty();
            let changed = event.old().is_none_or(|old| {
                old.spec.node_name != pod.spec.node_name
                    || old.status.resource_claim_statuses != pod.status.resource_claim_statuses
            });
            if of_interest && (changed || event.is_deleted()) {
                queue.add(event.key());
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        claims.subscribe(move |event| {
            let claim = event.object();
            let changed = event.old().is_none_or(|old| {
                old.status.allocation.is_some() != claim.status.allocation.is_some()
                    || old.status.reserved_for != claim.status.reserved_for
            });
            if changed || event.is_deleted() {
                users(&pods, claim, &queue);
            }
        });
    }
    {
        let (queue, pods, claims) = (queue.clone(), pods.clone(), claims.clone());
        slices.subscribe(move |event| {
            if event.is_deleted() || matters(event) {
                for claim in claims.by_index(BY_POOL, &event.object().pool()) {
                    users(&pods, &claim, &queue);
                }
            }
        });
    }
    slices.synced().await;
    claims.synced().await;
    pods.synced().await;
    // Pods that are to go when their time is up.
    let doomed: Mutex<HashSet<Key>> = Mutex::default();
    let (cx_ref, pods, claims, slices, doomed) = (&cx, &pods, &claims, &slices, &doomed);
    work(queue, 8, cx.stop.clone(), |key| async move {
        let Some(pod) = pods.get(&key).filter(|p| !p.metadata.is_deleting()) else {
            doomed.lock().remove(&key);
            return Ok(Outcome::Done);
        };
        let now = cx_ref.clock.now();
        let used = crate::resource_claim::names(&pod).filter_map(|name| claims.get_named(&key.namespace, name));
        let used = used.filter(|claim| is_reserved_for(claim, &pod));
        let ends = used.filter_map(|c| ends(&given(&c), now, |pool| slices.by_index(BY_POOL, pool))).min();
        let about = ObjectRef::of(&*pod);
        match ends {
            None => {
                if doomed.lock().remove(&key) {
                    cx_ref.recorder.normal(&about, "DeviceTaintManagerEviction", "Cancelling deletion");
                }
            }
            Some(end) if end > now => {
                doomed.lock().insert(key);
                let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
                return Ok(Outcome::RequeueAfter(left));
            }
            Some(_) => {
                cx_ref.recorder.normal(&about, "DeviceTaintManagerEviction", "Marking for deletion");
                let message = "Device Taint manager: deleting due to NoExecute taint";
                disrupt(cx_ref, &pod, "DeletionByDeviceTaintManager", message).await?;
                doomed.lock().remove(&key);
            }
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// Whether a change of a slice may let somebody go or stay.
fn matters(event: &Event<TaintedSlice>) -> bool {
    let slice = event.object();
    match event.old() {
        None => true,
        Some(old) => {
            old.spec.pool.generation != slice.spec.pool.generation
                || old.pool() != slice.pool()
                || old.spec.devices != slice.spec.devices
        }
    }
}

/// The pods that name a claim are looked at.
fn users(pods: &Informer<Pod>, claim: &ResourceClaim, queue: &Queue<Key>) {
    for pod in pods.by_index(BY_CLAIM, &claim.metadata.key().to_string()) {
        queue.add(pod.metadata.key());
    }
}

/// When the pods of a claim that was given some devices have to go. `None` for never. Of the slices of a pool those of the
/// newest generation count (`claimEvictionTime`).
fn ends<S: AsRef<TaintedSlice>>(
    devices: &[Given],
    now: Timestamp,
    slices_of: impl Fn(&str) -> Vec<S>,
) -> Option<Timestamp> {
    let mut end: Option<Timestamp> = None;
    for given in devices {
        let slices = slices_of(&pool_of(&given.driver, &given.pool));
        let newest = slices.iter().map(|s| s.as_ref().spec.pool.generation).max();
        let current = slices.iter().map(AsRef::as_ref).filter(|s| Some(s.spec.pool.generation) == newest);
        for (_, taint) in current.flat_map(TaintedSlice::taints).filter(|(device, _)| *device == given.device) {
            let tolerated = tolerated(&given.tolerations, taint);
            let Tolerated::For(seconds) = tolerated else { continue };
            let since = taint.time_added.unwrap_or(now);
            let at = since.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
            end = Some(end.map_or(at, |e| e.min(at)));
        }
    }
    end
}

/// For how long a taint of a device is tolerated.
#[derive(Debug, PartialEq)]
enum Tolerated {
    ForEver,
    /// For so many seconds; none where nothing tolerates it.
    For(i64),
}

/// One toleration without an end is enough; of several that have one the shortest counts.
fn tolerated(tolerations: &[Toleration], taint: &Taint) -> Tolerated {
    let mut shortest = None;
    for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
        match toleration.toleration_seconds {
            None => return Tolerated::ForEver,
            Some(seconds) => shortest = Some(shortest.unwrap_or(i64::MAX).min(seconds.max(0))),
        }
    }
    Tolerated::For(shortest.unwrap_or(0))
}

/// Whether a toleration tolerates a taint of a device (`resourceclaim.ToleratesTaint`); unlike one of nodes it may compare
/// the values of any key.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && (toleration.key.is_empty() || toleration.key == taint.key)
        && match toleration.operator.as_str() {
            "" | "Equal" => toleration.value == taint.value,
            "Exists" => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// A slice of the pool `p` with a device `a` that is tainted since second 1000, unless by effect it is not.
    fn slice(generation: i64, effect: &str) -> Arc<TaintedSlice> {
        let taints = match effect {
            "" => json!(null),
            effect => json!([{"key": "broken", "value": "yes", "effect": effect, "timeAdded": "1970-01-01T00:16:40Z"}]),
        };
        let spec = json!({"driver": "d", "pool": {"name": "p", "generation": generation},
            "devices": [{"name": "a", "taints": taints}, {"name": "b"}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).expect("a slice"))
    }

    /// Whether and when the users of a device have to go, with tolerations.
    #[track_caller]
    fn check(slices: &[Arc<TaintedSlice>], device: &str, tolerations: Value, expected: Option<i64>) {
        let results =
            json!([{"request": "r", "driver": "d", "pool": "p", "device": device, "tolerations": tolerations}]);
        let claim = json!({"metadata": {"name": "c"}, "status": {"allocation": {"devices": {"results": results}}}});
        let claim: ResourceClaim = serde_json::from_value(claim).expect("a claim");
        let of = |pool: &str| if pool == "d/p" { slices.to_vec() } else { Vec::new() };
        assert_eq!(ends(&given(&claim), at(5000), of), expected.map(at), "{device} {tolerations}");
    }

    #[test]
    fn pods_go_when_they_do_not_tolerate_what_their_devices_have() {
        let tainted = [slice(1, "NoExecute")];
        check(&tainted, "a", Value::Null, Some(1000));
        check(&tainted, "b", Value::Null, None);
        check(&[slice(1, "NoSchedule")], "a", Value::Null, None);
        check(&[slice(1, "None")], "a", Value::Null, None);
        check(&[slice(1, "")], "a", Value::Null, None);
        check(&[], "a", Value::Null, None);
    }

    #[test]
    fn tolerations_put_it_off() {
        let tainted = [slice(1, "NoExecute")];
        let exists =
            |seconds: Value| json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        check(&tainted, "a", json!([exists(Value::Null)]), None);
        check(&tainted, "a", json!([{"operator": "Exists"}]), None);
        check(&tainted, "a", json!([exists(json!(60))]), Some(1060));
        check(&tainted, "a", json!([exists(json!(-5))]), Some(1000));
        check(&tainted, "a", json!([exists(json!(60)), exists(json!(30))]), Some(1030));
        check(&tainted, "a", json!([exists(json!(60)), exists(Value::Null)]), None);
        check(&tainted, "a", json!([{"key": "broken", "value": "yes"}]), None);
        check(&tainted, "a", json!([{"key": "broken", "value": "no"}]), Some(1000));
        check(&tainted, "a", json!([{"key": "other", "operator": "Exists"}]), Some(1000));
        check(&tainted, "a", json!([{"operator": "Exists", "effect": "NoSchedule"}]), Some(1000));
    }

    #[test]
    fn slices_of_older_generations_do_not_count() {
        check(&[slice(1, "NoExecute"), slice(2, "")], "a", Value::Null, None);
        check(&[slice(1, ""), slice(2, "NoExecute")], "a", Value::Null, Some(1000));
    }

    #[test]
    fn only_what_may_let_somebody_go_or_stay_is_looked_at() {
        let change = |old, new| matters(&Event::Updated { old, new });
        assert!(!change(slice(1, ""), slice(1, "")));
        assert!(!change(slice(1, ""), slice(1, "NoSchedule")));
        assert!(change(slice(1, ""), slice(1, "NoExecute")));
        assert!(change(slice(1, "NoExecute"), slice(1, "")));
        assert!(change(slice(1, "NoExecute"), slice(2, "NoExecute")));
    }
}
