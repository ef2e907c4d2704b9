//! Devices of claims: drivers prepare them before a pod's containers, and take them back after it.
//!
//! Follows upstream `pkg/kubelet/cm/dra`. A driver registers by a socket ([`crate::csi::run`] looks for it). What was
//! asked of drivers is noted in a file before they are asked, so that a kubelet that starts anew takes it back; what they
//! answered is noted too, and containers get it by the names that the runtime knows (CDI). A claim is prepared for its
//! first pod on the node and taken back after its last.
//!
//! Missing, against upstream: health of devices.

pub mod claims;
mod ledger;
pub mod proto;
pub mod slices;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::csi::Plugin;
use crate::objects::Objects;
use crate::pod;
use claims::Wanted;
use ledger::{Entry, Ledger};

/// How long a driver may take (`defaultClientCallTimeout`).
const CALL: Duration = Duration::from_secs(45);

/// What a driver's services are called when it registers, and its calls, the newest first.
const SERVICES: [(&str, [&str; 2]); 2] = [
    (
        "v1.DRAPlugin",
        [
            "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
            "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
        ],
    ),
    (
        "v1beta1.DRAPlugin",
        [
            "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
            "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
        ],
    ),
];

/// A driver that has registered.
#[derive(Clone)]
struct Driver {
    plugin: Plugin,
    /// The socket it registered by.
    socket: PathBuf,
    prepare: &'static str,
    unprepare: &'static str,
}

/// The drivers of this node. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drivers(Arc<Known>);

#[derive(Default)]
struct Known {
    all: RwLock<All>,
    changed: Notify,
}

struct All {
    /// Of each name those that run, the newest last, as while one replaces another.
    here: HashMap<String, Vec<Driver>>,
    /// When the slices of those that are not are to go.
    away: BTreeMap<String, Instant>,
}

impl Default for All {
    fn default() -> Self {
        // When a kubelet starts, all are away.
        All { here: HashMap::new(), away: BTreeMap::from([(slices::ALL.to_owned(), Instant::now())]) }
    }
}

impl Drivers {
    /// Takes a driver in that has registered by a socket and serves at an endpoint.
    ///
    /// # Errors
    /// It speaks nothing that is spoken here; the text is upstream's.
    pub fn add(&self, name: &str, socket: &Path, endpoint: &Path, services: &[String]) -> Result<(), String> {
        let known = SERVICES.iter().find(|(service, _)| services.iter().any(|s| s == service));
        let Some((_, [prepare, unprepare])) = known else {
            let ours = SERVICES.map(|(service, _)| service);
            return Err(format!(
                "invalid supported gRPC versions of DRA driver plugin {name} at endpoint {}: none of services supported \
                 by the plugin ({services:?}) are supported by the kubelet ({ours:?})",
                endpoint.display()
            ));
        };
        let driver = Driver { plugin: Plugin::at(endpoint), socket: socket.to_owned(), prepare, unprepare };
        let mut all = self.0.all.write();
        all.away.remove(name);
        let of_name = all.here.entry(name.to_owned()).or_default();
        of_name.retain(|d| d.socket != socket);
        of_name.push(driver);
        tracing::info!(driver = name, "driver of devices registered");
        Ok(())
    }

    /// Forgets who registered by a socket.
    pub fn remove(&self, socket: &Path) {
        let All { here, away } = &mut *self.0.all.write();
        here.retain(|name, drivers| {
            drivers.retain(|d| d.socket != socket);
            if drivers.is_empty() {
                away.insert(name.clone(), Instant::now() + slices::AWAY);
            }
            !drivers.is_empty()
        });
        self.0.changed.notify_one();
    }

    /// Waits until the next removal of slices may be due earlier.
    fn changed(&self) -> impl Future<Output = ()> {
        self.0.changed.notified()
    }

    /// When slices are to be removed next.
    fn next_due(&self) -> Option<Instant> {
        self.0.all.read().away.values().min().copied()
    }

    /// The drivers whose slices are to be removed by now, and since when.
    fn overdue(&self, now: Instant) -> Vec<(String, Instant)> {
        let all = self.0.all.read();
        all.away.iter().filter(|(_, due)| **due <= now).map(|(name, due)| (name.clone(), *due)).collect()
    }

    /// Notes that the slices of a driver that was due are removed, or when that is tried again. What happened meanwhile
    /// counts.
    fn settle(&self, name: &str, due: Instant, again: Option<Instant>) {
        let mut all = self.0.all.write();
        if all.away.get(name) == Some(&due) {
            match again {
                Some(at) => drop(all.away.insert(name.to_owned(), at)),
                None => drop(all.away.remove(name)),
            }
        }
    }

    fn get(&self, name: &str) -> Result<Driver, String> {
        let found = self.0.all.read().here.get(name).and_then(|all| all.last().cloned());
        found.ok_or_else(|| format!("DRA driver {name} is not registered"))
    }
}

/// Prepares devices and takes them back.
pub struct Manager {
    objects: Arc<dyn Objects>,
    drivers: Drivers,
    ledger: Mutex<Ledger>,
}

impl Manager {
    /// With a note of what is prepared below the kubelet's folder; a hollow node has none.
    pub fn new(root: Option<&Path>, objects: Arc<dyn Objects>, drivers: Drivers) -> Manager {
        Manager { objects, drivers, ledger: Mutex::new(Ledger::open(root)) }
    }

    /// Has the devices of a pod prepared. Idempotent: what is prepared is not asked for again.
    ///
    /// # Errors
    /// Why they are not; it may be tried again.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let failed = |why: String| format!("prepare dynamic resources: {why}");
        let (namespace, uid) = (pod::namespace(pod), pod::uid(pod));
        let wanted = claims::wanted(pod).map_err(failed)?;
        if self.ledger.lock().is_ready(namespace, wanted.iter().map(|w| w.claim.as_str()), uid) {
            return Ok(());
        }
        // First everything is looked at: a pod that can have nothing leaves nothing to take back.
        let mut found = Vec::new();
        for claim in &wanted {
            found.push(self.look(pod, claim).await.map_err(failed)?);
        }
        let mut batches: BTreeMap<String, Vec<proto::Claim>> = BTreeMap::new();
        for entry in found {
            let (drivers, claim) = (entry.drivers.clone(), entry.claim());
            if self.ledger.lock().use_by(entry, uid).map_err(failed)? {
                continue;
            }
            for driver in drivers {
                batches.entry(driver).or_default().push(claim.clone());
            }
        }
        for (name, claims) in &batches {
            self.prepare_at(name, claims).await.map_err(failed)?;
        }
        let prepared = batches.into_values().flatten();
        self.ledger.lock().finish(prepared).map_err(failed)
    }

    /// What is to be noted of a claim that a pod may use.
    async fn look(&self, pod: &Pod, wanted: &Wanted) -> Result<Entry, String> {
        let (namespace, name) = (pod::namespace(pod), &wanted.claim);
        let fetched = self.objects.resource_claim(namespace, name).await;
        let fetched =
            fetched.and_then(|c| c.ok_or_else(|| format!("resourceclaims.resource.k8s.io {name:?} not found")));
        let claim = fetched.map_err(|why| format!("fetch ResourceClaim {name}: {why}"))?;
        let drivers = claim.drivers_for(pod, wanted)?;
        for driver in &drivers {
            self.drivers.get(driver)?;
        }
        Ok(Entry::new(namespace, name, &claim.metadata.uid, drivers))
    }

    async fn prepare_at(&self, name: &str, claims: &[proto::Claim]) -> Result<(), String> {
        const CALLED: &str = "NodePrepareResources";
        let driver = self.drivers.get(name)?;
        let answer: proto::Prepared = ask(&driver.plugin, driver.prepare, CALLED, claims).await?;
        let results = answer.claims.iter().map(|(uid, claim)| (uid.as_str(), claim.error.as_str()));
        check(CALLED, claims, results)?;
        let mut ledger = self.ledger.lock();
        for (uid, claim) in answer.claims {
            ledger.note(&uid, name, claim.devices);
        }
        Ok(())
    }

    /// Takes back what a pod used and no other uses. Idempotent.
    ///
    /// # Errors
    /// Why a driver did not; it has to be tried again.
    pub async fn unprepare(&self, uid: &str) -> Result<(), String> {
        let failed = |why: String| format!("unprepare dynamic resources: {why}");
        let last = self.ledger.lock().leave(uid).map_err(failed)?;
        let mut batches: BTreeMap<String, Vec<proto::Claim>> = BTreeMap::new();
        for entry in &last {
            for driver in &entry.drivers {
                batches.entry(driver.clone()).or_default().push(entry.claim());
            }
        }
        for (name, claims) in batches {
            const CALLED: &str = "NodeUnprepareResources";
            let driver = self.drivers.get(&name).map_err(failed)?;
            let answer: proto::Unprepared =
                ask(&driver.plugin, driver.unprepare, CALLED, &claims).await.map_err(failed)?;
            let results = answer.claims.iter().map(|(uid, claim)| (uid.as_str(), claim.error.as_str()));
            check(CALLED, &claims, results).map_err(failed)?;
        }
        if last.is_empty() { Ok(()) } else { self.ledger.lock().remove(&last, uid).map_err(failed) }
    }

    /// The devices of a container, as the runtime calls them.
    pub fn devices_of(&self, pod: &Pod, container: &Container) -> Vec<String> {
        let ledger = self.ledger.lock();
        let mut all: Vec<String> = Vec::new();
        for (claim, request) in claims::requests(pod, container) {
            for device in ledger.devices(pod::namespace(pod), &claim, &request) {
                if !all.contains(device) {
                    all.push(device.clone());
                }
            }
        }
        all
    }
}

/// One call of a driver about some claims.
async fn ask<T>(plugin: &Plugin, method: &'static str, called: &str, claims: &[proto::Claim]) -> Result<T, String>
where
    T: prost::Message + Default + 'static,
{
    let call = plugin.call(method, proto::Claims { claims: claims.to_vec() });
    let late = || "rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned();
    let answer = tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| Err(late()));
    answer.map_err(|why| format!("{called}: {why}"))
}

/// Whether a driver did what it was asked for, for each claim and no other.
fn check<'a>(
    called: &str,
    claims: &[proto::Claim],
    results: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    let mut done = 0;
    for (uid, error) in results {
        let Some(claim) = claims.iter().find(|c| c.uid == uid) else {
            return Err(format!("{called} returned result for unknown claim UID {uid}"));
        };
        if !error.is_empty() {
            return Err(format!("{called} failed for ResourceClaim {}: {error}", claim.name));
        }
        done += 1;
    }
    match claims.len() - done {
        0 => Ok(()),
        left => Err(format!("{called} skipped {left} ResourceClaims")),
    }
}

#[cfg(test)]
mod tests;
