//! Ranges of cluster IPs: a ServiceCIDR is made ready, and stays until no address is left without a range.
//!
//! Follows `pkg/controller/servicecidrs`. A finalizer keeps a deleted range; it is taken off when other ranges hold all of
//! it, or none of its addresses is in use that no other range holds, and not before ten seconds have passed, in which
//! those who hand out addresses learn of the deletion.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, Meta, Options, Outcome, Patch, Queue, Resource, View, null_default, time, work};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use crate::views::{Condition, view};
use crate::{ControllerSpec, Cx};

/// Name, and field manager of what is applied.
const NAME: &str = "service-cidr-controller";

/// How the list of controllers names it.
pub const SPEC: ControllerSpec =
    ControllerSpec { name: NAME, service_account: "service-cidrs-controller", run: |cx| Box::pin(start(cx)) };

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
/// How long a deleted range stays at least (`deletionGracePeriod`).
const GRACE: Duration = Duration::from_secs(10);

/// A range of cluster IPs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    metadata: Meta,
    spec: Spec,
    status: Status,
}
view!(ServiceCidr, "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", false);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(deserialize_with = "nets")]
    cidrs: Vec<IpNet>,
}

fn nets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts: Option<Vec<String>> = Option::deserialize(deserializer)?;
    Ok(texts.into_iter().flatten().filter_map(|t| t.parse().ok()).collect())
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
}

/// An address that is in use; its name says which.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Address {
    metadata: Meta,
}
view!(Address, "networking.k8s.io", "v1", "IPAddress", "ipaddresses", false);

/// Addresses of Services, not those that others keep for themselves.
const MANAGED: &str = "ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io";

/// What is to be done about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Put the finalizer on.
    Protect,
    /// Say that it is ready.
    Ready,
    /// Say why it does not go.
    Block,
    /// Let it go, but later.
    Wait(Duration),
    /// Take the finalizer off.
    Release,
    Nothing,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let ranges: Informer<ServiceCidr> = cx.informers.informer();
    let addresses: Informer<Address> = cx.informers.informer_with(Options::labels(MANAGED));
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let (queue, ranges) = (queue.clone(), ranges.clone());
        ranges.clone().subscribe(move |event| {
            queue.add(event.key());
            // A range that waits to go may go when another holds its addresses.
            if event.old().is_none() {
                wake(&queue, &ranges);
            }
        });
    }
    {
        let (queue, ranges) = (queue.clone(), ranges.clone());
        addresses.subscribe(move |event| {
            if event.old().is_none() || event.is_deleted() {
                wake(&queue, &ranges);
            }
        });
    }
    ranges.synced().await;
    addresses.synced().await;
    let (api, ranges, addresses, clock) = (&cx.api, &ranges, &addresses, &cx.clock);
    work(queue, 1, cx.stop, |key| async move {
        let Some(range) = ranges.get(&key) else { return Ok(Outcome::Done) };
        let in_use = || addresses.list().iter().filter_map(|a| a.metadata.name.parse().ok()).collect::<Vec<_>>();
        let now = clock.now();
        let step = plan(&range, &ranges.list(), in_use, now);
        let target = Resource::of::<ServiceCidr>().at("", &key.name);
        let condition = |status: &str, reason: &str, message: &str| {
            let condition = json!({"type": READY, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": time(now)});
            let body = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": &*key.name}, "status": {"conditions": [condition]}});
            (target.sub("status"), Patch::Apply { manager: NAME.into(), force: true, body })
        };
        let finalizers = |field: &str| {
            (target.clone(), Patch::Strategic(json!({"metadata": {field: [FINALIZER]}})))
        };
        let (target, patch) = match step {
            Step::Nothing => return Ok(Outcome::Done),
            Step::Wait(left) => return Ok(Outcome::RequeueAfter(left)),
            Step::Protect => finalizers("finalizers"),
            Step::Release => finalizers("$deleteFromPrimitiveList/finalizers"),
            Step::Ready => condition("True", "", "Kubernetes Service CIDR is ready"),
            Step::Block => condition(
                "False",
                "Terminating",
                "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
            ),
        };
        match api.patch::<IgnoredAny>(&target, &patch).await {
            Err(err) if err.is_not_found() => {}
            other => other.map(drop)?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// Looks again at the ranges that wait to go.
fn wake(queue: &Queue<Key>, ranges: &Informer<ServiceCidr>) {
    let waiting = ranges.list().into_iter().filter(|r| r.metadata.is_deleting());
    waiting.for_each(|r| queue.add(r.metadata.key()));
}

fn plan(range: &ServiceCidr, all: &[Arc<ServiceCidr>], in_use: impl FnOnce() -> Vec<IpAddr>, now: Timestamp) -> Step {
    let protected = range.metadata.finalizers.iter().any(|f| f == FINALIZER);
    let said = range.status.conditions.iter().find(|c| c.kind == READY).map(|c| c.status.as_str());
    let Some(deleted) = range.metadata.deletion_timestamp else {
        return match said {
            _ if !protected => Step::Protect,
            Some("True") => Step::Nothing,
            _ => Step::Ready,
        };
    };
    if !protected {
        return Step::Nothing;
    }
    if !is_free(range, all, in_use) {
        return if said == Some("False") { Step::Nothing } else { Step::Block };
    }
    let left = GRACE.saturating_sub(Duration::try_from(now.duration_since(deleted)).unwrap_or_default());
    if left.is_zero() { Step::Release } else { Step::Wait(left) }
}

/// Whether nothing is left without a range when this one goes (`canDeleteCIDR`).
fn is_free(range: &ServiceCidr, all: &[Arc<ServiceCidr>], in_use: impl FnOnce() -> Vec<IpAddr>) -> bool {
    let others = || all.iter().filter(|r| r.metadata.name != range.metadata.name).flat_map(|r| &r.spec.cidrs);
    let is_held = |net: &IpNet| others().any(|other| other.contains(net));
    if range.spec.cidrs.iter().all(is_held) {
        return true;
    }
    let mine = |ip: &IpAddr| range.spec.cidrs.iter().any(|net| net.contains(ip));
    !in_use().iter().any(|ip| mine(ip) && !others().any(|other| other.contains(ip)))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn range(name: &str, cidrs: &[&str], more: Value) -> ServiceCidr {
        let mut json = json!({"metadata": {"name": name, "finalizers": [FINALIZER]}, "spec": {"cidrs": cidrs}});
        for (key, value) in more.as_object().into_iter().flatten() {
            match key.as_str() {
                "status" => json["status"] = value.clone(),
                key => json["metadata"][key] = value.clone(),
            }
        }
        serde_json::from_str(&json.to_string()).expect("a range")
    }

    #[test]
    fn ranges_become_ready_and_go() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let check = |range: &ServiceCidr, others: &[ServiceCidr], in_use: &[&str], want: Step| {
            let all: Vec<_> = others.iter().chain([range]).cloned().map(Arc::new).collect();
            let in_use = || in_use.iter().map(|ip| ip.parse().expect("an address")).collect();
            assert_eq!(plan(range, &all, in_use, at("2026-01-01T00:00:30Z")), want, "{range:?}");
        };
        let says = |status: &str| json!([{"type": "Ready", "status": status}]);
        let a = |more: Value| range("a", &["10.1.0.0/24"], more);
        check(&a(json!({"finalizers": []})), &[], &[], Step::Protect);
        check(&a(json!({})), &[], &[], Step::Ready);
        check(&a(json!({"status": {"conditions": says("True")}})), &[], &[], Step::Nothing);
        let young = a(json!({"deletionTimestamp": "2026-01-01T00:00:24Z"}));
        check(&young, &[], &[], Step::Wait(Duration::from_secs(4)));
        let old = a(json!({"deletionTimestamp": "2026-01-01T00:00:20Z"}));
        check(&old, &[], &["10.2.0.1", "fd00::1"], Step::Release);
        check(&old, &[], &["10.1.0.7"], Step::Block);
        let blocked = json!({"deletionTimestamp": "2026-01-01T00:00:20Z", "status": {"conditions": says("False")}});
        check(&a(blocked), &[], &["10.1.0.7"], Step::Nothing);
        let (wide, narrow) = (range("w", &["10.0.0.0/8"], json!({})), range("n", &["10.1.0.0/30"], json!({})));
        check(&old, &[wide], &["10.1.0.7"], Step::Release);
        check(&old, std::slice::from_ref(&narrow), &["10.1.0.7"], Step::Block);
        check(&old, &[narrow], &["10.1.0.2"], Step::Release);
        check(&a(json!({"finalizers": ["x/y"], "deletionTimestamp": "2026-01-01T00:00:20Z"})), &[], &[], Step::Nothing);
    }
}
