//! Leader election by a Lease (`k8s.io/client-go/tools/leaderelection`).
//!
//! Whether another holder is gone is judged by how long its record has not changed before our eyes, never by
//! comparing clocks of machines.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use orkd_base::{CancellationToken, Clock};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Api, ApiError, Meta, Resource, Target, View, micro_time};

/// What to be elected for and as whom.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are; different for every process.
    pub identity: String,
    /// How long a silent holder is respected.
    pub lease: Duration,
    /// How long the holder goes on without a renewal before it gives up; shorter than `lease`.
    pub renew_deadline: Duration,
    /// How often it is tried and renewed.
    pub retry: Duration,
}

impl LeaderElection {
    /// Upstream's defaults (15, 10 and 2 seconds) for a Lease in `kube-system`.
    pub fn new(name: &str, identity: &str) -> Self {
        LeaderElection {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// The lease was lost; what ran has been stopped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("leader election lost: lease {0} could not be renewed")]
pub struct LostLease(pub String);

/// The parts of a Lease.
#[derive(Clone, Debug, Deserialize)]
pub struct Lease {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    #[serde(default)]
    pub spec: LeaseSpec,
}

/// Who holds a Lease.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// The holder; empty for none.
    #[serde(deserialize_with = "crate::null_default")]
    pub holder_identity: String,
    /// How long the holder is respected, in seconds.
    pub lease_duration_seconds: Option<i64>,
    /// When it was taken.
    pub acquire_time: Option<Timestamp>,
    /// When it was renewed.
    pub renew_time: Option<Timestamp>,
    /// How often it changed hands.
    pub lease_transitions: Option<i64>,
}

impl View for Lease {
    const GROUP: &'static str = "coordination.k8s.io";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Lease";
    const PLURAL: &'static str = "leases";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Holds a Lease while work is done.
pub struct LeaderElector {
    api: Api,
    config: LeaderElection,
    clock: Clock,
    /// The last record seen and since when it has been the same.
    observed: Option<(LeaseSpec, Instant)>,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq)]
enum Step {
    Create,
    Renew,
    TakeOver,
    /// Another holder is respected for so long.
    Wait(Duration),
}

impl LeaderElector {
    /// An elector.
    pub fn new(api: Api, config: LeaderElection, clock: Clock) -> Self {
        LeaderElector { api, config, clock, observed: None }
    }

    /// Waits for the Lease, runs `lead` while it is held, and gives the Lease back when `stop` or the work ends.
    /// When the Lease is lost the work's token is cancelled and its end awaited.
    pub async fn run<F, Fut>(mut self, stop: CancellationToken, lead: F) -> Result<(), LostLease>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let mut told = String::new();
        loop {
            let wait = match self.try_hold().await {
                Ok(None) => break,
                Ok(Some(wait)) => wait.min(self.config.retry * 2),
                Err(err) => {
                    let error = orkd_base::chain(&err).to_string();
                    // Once for each reason: it is tried every few seconds.
                    if error != told {
                        tracing::warn!(lease = self.config.name, error, "cannot be elected yet");
                        told = error;
                    }
                    self.config.retry
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait.max(Duration::from_millis(100))) => {}
            }
        }
        tracing::info!(lease = self.config.name, identity = self.config.identity, "became the leader");
        let token = stop.child_token();
        let work = lead(token.clone());
        tokio::pin!(work);
        let lost = tokio::select! {
            biased;
            () = &mut work => None,
            lost = self.keep(&stop) => {
                token.cancel();
                work.await;
                lost
            }
        };
        match lost {
            Some(lost) => Err(lost),
            None => {
                self.release().await;
                Ok(())
            }
        }
    }

    /// Renews until `stop` (`None`) or until the Lease is lost.
    async fn keep(&mut self, stop: &CancellationToken) -> Option<LostLease> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(self.config.retry) => {}
            }
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_hold()).await {
                Ok(Ok(None)) => renewed = Instant::now(),
                Ok(Ok(Some(_))) => return Some(LostLease(self.config.name.clone())),
                Ok(Err(_)) if Instant::now() < deadline => {}
                _ => return Some(LostLease(self.config.name.clone())),
            }
        }
    }

    /// One try: `None` when the Lease is ours, else how long to wait.
    async fn try_hold(&mut self) -> Result<Option<Duration>, ApiError> {
        let target = self.target();
        // Read raw and replaced whole: upstream's roles of those who elect may get and update, and not patch.
        let (lease, raw) = match self.api.get::<Value>(&target).await {
            Ok(raw) => (Some(decode(&target, &raw)?), raw),
            Err(err) if err.is_not_found() => (None, Value::Null),
            Err(err) => return Err(err),
        };
        if let Some(lease) = &lease
            && self.observed.as_ref().is_none_or(|(spec, _)| *spec != lease.spec)
        {
            self.observed = Some((lease.spec.clone(), Instant::now()));
        }
        let unchanged = self.observed.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let step = decide(lease.as_ref().map(|l| &l.spec), &self.config.identity, unchanged);
        let now = self.clock.now();
        let written = match (step, &lease) {
            (Step::Wait(wait), _) => return Ok(Some(wait)),
            (Step::Create, _) | (_, None) => {
                let body = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"namespace": self.config.namespace, "name": self.config.name},
                    "spec": self.spec(now, now, 0),
                });
                let collection = Resource::of::<Lease>().collection(&self.config.namespace);
                self.api.create::<Lease>(&collection, &body).await
            }
            (step, Some(lease)) => {
                let transitions = lease.spec.lease_transitions.unwrap_or(0);
                let spec = if step == Step::Renew {
                    self.spec(lease.spec.acquire_time.unwrap_or(now), now, transitions)
                } else {
                    self.spec(now, now, transitions + 1)
                };
                // The version in it makes it a comparison: of two who take over, one gets a conflict.
                self.api.update::<Lease>(&target, &with_spec(raw, spec)).await
            }
        };
        match written {
            Ok(lease) => {
                self.observed = Some((lease.spec, Instant::now()));
                Ok(None)
            }
            Err(err) if err.is_conflict() || err.is_already_exists() => Ok(Some(self.config.retry)),
            Err(err) => Err(err),
        }
    }

    /// Gives the Lease up, so that the next holder need not wait.
    async fn release(&mut self) {
        let now = micro_time(self.clock.now());
        let target = self.target();
        let spec = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now});
        let give_up = self.api.modify(&target, "", |lease| {
            let ours = lease["spec"]["holderIdentity"] == self.config.identity.as_str();
            if ours {
                *lease = with_spec(lease.take(), spec.clone());
            }
            ours
        });
        // Whoever waits finds out by itself if this fails.
        let _ = tokio::time::timeout(self.config.retry, give_up).await;
    }

    fn spec(&self, acquired: Timestamp, renewed: Timestamp, transitions: i64) -> Value {
        json!({
            "holderIdentity": self.config.identity,
            "leaseDurationSeconds": self.config.lease.as_secs(),
            "acquireTime": micro_time(acquired),
            "renewTime": micro_time(renewed),
            "leaseTransitions": transitions,
        })
    }

    fn target(&self) -> Target {
        Resource::of::<Lease>().at(&self.config.namespace, &self.config.name)
    }
}

fn decode(target: &Target, raw: &Value) -> Result<Lease, ApiError> {
    Lease::deserialize(raw)
        .map_err(|e| ApiError::Decode { op: format!("GET {}", target.as_str()), source: Box::new(e) })
}

/// The Lease with these fields of its spec; the others stay.
fn with_spec(mut lease: Value, spec: Value) -> Value {
    match (lease.get_mut("spec").and_then(Value::as_object_mut), spec) {
        (Some(fields), Value::Object(new)) => fields.extend(new),
        (_, spec) => lease["spec"] = spec,
    }
    lease
}

fn decide(lease: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> Step {
    let Some(lease) = lease else { return Step::Create };
    if lease.holder_identity == identity {
        return Step::Renew;
    }
    let respected = Duration::from_secs(lease.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0));
    if lease.holder_identity.is_empty() || unchanged >= respected {
        Step::TakeOver
    } else {
        Step::Wait(respected - unchanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(holder: Option<&str>, unchanged: u64, expected: Step) {
        let lease = holder.map(|holder| LeaseSpec {
            holder_identity: holder.into(),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        });
        assert_eq!(decide(lease.as_ref(), "me", Duration::from_secs(unchanged)), expected, "{holder:?} {unchanged}");
    }

    #[test]
    fn a_silent_holder_is_respected_for_its_time() {
        check(None, 0, Step::Create);
        check(Some("me"), 100, Step::Renew);
        check(Some(""), 0, Step::TakeOver);
        check(Some("other"), 14, Step::Wait(Duration::from_secs(1)));
        check(Some("other"), 15, Step::TakeOver);
    }
}
