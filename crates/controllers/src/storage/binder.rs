//! The binder of volumes and claims (`pkg/controller/volume/persistentvolume`).
//!
//! Claims and volumes have a queue each and one worker in common, so that two claims are never promised one volume;
//! whatever the caches say, a write is made only if the live object agrees. Binding is four writes (the volume's claim,
//! the volume's phase, the claim's volume, the claim's phase); a crash after any of them is continued by the next round.

use std::sync::Arc;
use std::time::Duration;

use orkd_base::BoxError;
use orkd_reconcile::{Api, Informer, Key, ObjectRef, Outcome, Queue, Recorder, Resource, work};
use serde_json::{Value, json};

use super::claim::{self, Step, Told};
use super::views::{Claim, StorageClass, Volume, default_class};
use super::volume;
use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER, PROVISIONER_BETA};
use crate::views::Pod;
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "persistentvolume-controller",
    service_account: "persistent-volume-binder",
    run: |cx| Box::pin(start(cx)),
};

/// Volumes by class.
const BY_CLASS: &str = "class";
/// Volumes by the key of their claim.
const BY_CLAIM: &str = "claim";
/// Claims by the name of their volume.
const BY_VOLUME: &str = "volume";
/// Claims that wait, by class.
const WAITING: &str = "waiting";
/// Unscheduled pods by the keys of their claims.
const UNSCHEDULED: &str = "unscheduled-by-claim";

/// How soon a claim that waits for others is told so again.
const AGAIN: Duration = Duration::from_secs(15);

/// What is reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    Claim(Key),
    Volume(Key),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Claim(key) => write!(f, "claim {key}"),
            Item::Volume(key) => write!(f, "volume {key}"),
        }
    }
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let claims: Informer<Claim> = cx.informers.informer();
    let volumes: Informer<Volume> = cx.informers.informer();
    let classes: Informer<StorageClass> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    volumes.add_index(BY_CLASS, |v| vec![v.class().to_owned()]);
    volumes.add_index(BY_CLAIM, |v| v.spec.claim_ref.as_ref().map(|r| r.key().to_string()).into_iter().collect());
    claims.add_index(BY_VOLUME, |c| vec![c.spec.volume_name.clone()]);
    claims.add_index(WAITING, |c| match c.metadata.annotation(BIND_COMPLETED) {
        None => vec![c.class().to_owned()],
        Some(_) => Vec::new(),
    });
    pods.add_index(UNSCHEDULED, |p| {
        let waits = p.spec.node_name.is_empty() && !p.metadata.is_deleting();
        let claims = p.spec.volumes.iter().filter(|_| waits).map(|v| v.claim_of(&p.metadata).to_string());
        claims.collect()
    });
    let queue: Queue<Item> = cx.queue(SPEC.name);
    {
        let (queue, volumes) = (queue.clone(), volumes.clone());
        claims.subscribe(move |event| {
            let claim = event.object();
            queue.add(Item::Claim(event.key()));
            for volume in volumes.by_index(BY_CLAIM, &event.key().to_string()) {
                queue.add(Item::Volume(volume.metadata.key()));
            }
            if !claim.spec.volume_name.is_empty() {
                queue.add(Item::Volume(Key::new("", &claim.spec.volume_name)));
            }
        });
    }
    {
        let (queue, claims) = (queue.clone(), claims.clone());
        volumes.subscribe(move |event| {
            let volume = event.object();
            queue.add(Item::Volume(event.key()));
            if let Some(of) = &volume.spec.claim_ref {
                queue.add(Item::Claim(of.key()));
            }
            for claim in claims.by_index(BY_VOLUME, &volume.metadata.name) {
                queue.add(Item::Claim(claim.metadata.key()));
            }
            if !event.is_deleted() && volume.spec.claim_ref.is_none() && volume.status.phase == "Available" {
                for claim in claims.by_index(WAITING, volume.class()) {
                    queue.add(Item::Claim(claim.metadata.key()));
                }
            }
        });
    }
    {
        let (queue, claims) = (queue.clone(), claims.clone());
        classes.subscribe(move |event| {
            // Also those without a class: this may be the default.
            for name in [&*event.key().name, ""] {
                for claim in claims.by_index(WAITING, name) {
                    queue.add(Item::Claim(claim.metadata.key()));
                }
            }
        });
    }
    claims.synced().await;
    volumes.synced().await;
    classes.synced().await;
    pods.synced().await;
    let binder = Binder { claims, volumes, classes, pods, api: cx.api, recorder: cx.recorder };
    let binder = &binder;
    work(queue, 1, cx.stop, |item| async move {
        match item {
            Item::Claim(key) => binder.claim(&key).await,
            Item::Volume(key) => binder.volume(&key).await,
        }
    })
    .await;
    Ok(())
}

struct Binder {
    claims: Informer<Claim>,
    volumes: Informer<Volume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    api: Api,
    recorder: Recorder,
}

impl Binder {
    async fn claim(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Done) };
        let mut named = None;
        if !claim.spec.volume_name.is_empty() {
            let name = &claim.spec.volume_name;
            named = self.volumes.get(&Key::new("", name));
            if named.is_none() && claim.status.phase == "Bound" {
                // Before it is called lost: the cache may lag.
                named = live(self.api.get::<Volume>(&Resource::of::<Volume>().at("", name)).await)?.map(Arc::new);
            }
        }
        let waits = claim.metadata.annotation(BIND_COMPLETED).is_none();
        let mut candidates = Vec::new();
        let mut pods = Vec::new();
        if waits && claim.spec.volume_name.is_empty() {
            candidates = self.volumes.by_index(BY_CLASS, claim.class());
            candidates.extend(self.volumes.by_index(BY_CLAIM, &key.to_string()));
            pods =
                self.pods.by_index(UNSCHEDULED, &key.to_string()).iter().map(|p| p.metadata.name.to_string()).collect();
            pods.sort();
        }
        let observed = claim::Observed {
            class: self.classes.get(&Key::new("", claim.class())),
            default_class: if claim.has_class() { None } else { default_class(&self.classes.list()) },
            named,
            candidates,
            pods,
            claim,
        };
        let claim = &*observed.claim;
        let about = ObjectRef::of(claim);
        let tell = |(kind, reason, text): &Told| self.recorder.event(&about, *kind, reason, text.clone());
        match claim::plan(&observed) {
            Step::Assign(class) => {
                self.change_claim(claim, "", |live| {
                    let free = live["spec"]["storageClassName"].is_null();
                    if free {
                        live["spec"]["storageClassName"] = class.as_str().into();
                    }
                    free
                })
                .await?;
            }
            Step::Bind(volume) => return self.bind(claim, &volume).await,
            Step::Wait(event) => {
                if let Some(event) = &event {
                    tell(event);
                }
                self.phase_of_claim(claim, "Pending", None).await?;
                // What is waited for is told again, as upstream's resync does; the recorder counts.
                return Ok(event.map_or(Outcome::Done, |_| Outcome::RequeueAfter(AGAIN)));
            }
            Step::Ask(provisioner, event) => {
                let set = |live: &mut Value| {
                    let annotations = &mut live["metadata"]["annotations"];
                    if !annotations.is_object() {
                        *annotations = json!({});
                    }
                    let done =
                        [PROVISIONER, PROVISIONER_BETA].iter().all(|name| annotations[*name] == provisioner.as_str());
                    for name in [PROVISIONER, PROVISIONER_BETA] {
                        annotations[name] = provisioner.as_str().into();
                    }
                    !done
                };
                if [PROVISIONER, PROVISIONER_BETA].iter().any(|n| claim.metadata.annotation(n) != Some(&provisioner)) {
                    self.change_claim(claim, "", set).await?;
                }
                self.phase_of_claim(claim, "Pending", None).await?;
                tell(&event);
                return Ok(Outcome::RequeueAfter(AGAIN));
            }
            Step::Lose(event) => {
                if claim.status.phase != "Lost" {
                    self.phase_of_claim(claim, "Lost", None).await?;
                    tell(&event);
                }
            }
        }
        Ok(Outcome::Done)
    }

    /// Makes a claim and a volume one (`bind`).
    async fn bind(&self, claim: &Claim, volume: &Volume) -> Result<Outcome, BoxError> {
        let (meta, name) = (&claim.metadata, &*volume.metadata.name);
        let whole = volume.spec.claim_ref.as_ref().is_some_and(|r| r.uid == meta.uid);
        if !whole {
            let mut taken = false;
            let target = Resource::of::<Volume>().at("", name);
            let wrote = self.api.modify(&target, "", |live| {
                taken = !bind_volume(live, claim);
                !taken && live["metadata"]["uid"] == volume.metadata.uid.as_str()
            });
            if gone(wrote.await)? || taken {
                return Ok(Outcome::Requeue);
            }
        }
        self.phase_of_volume(volume, "Bound", "").await?;
        if claim.spec.volume_name != name || meta.annotation(BIND_COMPLETED).is_none() {
            let mut other = false;
            self.change_claim(claim, "", |live| {
                let named = live["spec"]["volumeName"].as_str().unwrap_or("").to_owned();
                other = !named.is_empty() && named != name;
                if other {
                    return false;
                }
                let annotations = &mut live["metadata"]["annotations"];
                if !annotations.is_object() {
                    *annotations = json!({});
                }
                annotations[BIND_COMPLETED] = "yes".into();
                if named.is_empty() {
                    annotations[BOUND_BY_CONTROLLER] = "yes".into();
                    live["spec"]["volumeName"] = name.into();
                }
                true
            })
            .await?;
            if other {
                return Ok(Outcome::Requeue);
            }
        }
        self.phase_of_claim(claim, "Bound", Some(volume)).await?;
        Ok(Outcome::Done)
    }

    async fn change_claim(
        &self,
        claim: &Claim,
        subresource: &str,
        mut change: impl FnMut(&mut Value) -> bool + Send,
    ) -> Result<(), BoxError> {
        let meta = &claim.metadata;
        let target = Resource::of::<Claim>().at(&meta.namespace, &meta.name);
        let changed =
            self.api.modify(&target, subresource, |live| live["metadata"]["uid"] == meta.uid.as_str() && change(live));
        gone(changed.await)?;
        Ok(())
    }

    /// Writes a claim's phase, and what the volume gives it (`updateClaimStatus`).
    async fn phase_of_claim(&self, claim: &Claim, phase: &str, volume: Option<&Volume>) -> Result<(), BoxError> {
        let same = claim.status.phase == phase;
        let modes = volume.map_or(&[][..], |v| &v.spec.access_modes);
        if same && claim.status.access_modes == modes {
            return Ok(());
        }
        self.change_claim(claim, "status", |live| {
            let status = &mut live["status"];
            let before = status.clone();
            let becomes = status["phase"] != phase;
            status["phase"] = phase.into();
            match volume {
                Some(volume) => {
                    status["accessModes"] = json!(volume.spec.access_modes);
                    // Later the claim may have another size than the volume: its file system grows after it.
                    if becomes {
                        status["capacity"] = json!(volume.spec.capacity);
                        if let Some(class) = &volume.spec.volume_attributes_class_name {
                            status["currentVolumeAttributesClassName"] = class.as_str().into();
                        }
                    }
                }
                None => {
                    if let Some(status) = status.as_object_mut() {
                        status.remove("accessModes");
                        status.remove("capacity");
                    }
                }
            }
            *status != before
        })
        .await
    }

    async fn phase_of_volume(&self, volume: &Volume, phase: &str, message: &str) -> Result<bool, BoxError> {
        if volume.status.phase == phase {
            return Ok(false);
        }
        let target = Resource::of::<Volume>().at("", &volume.metadata.name);
        let changed = self.api.modify(&target, "status", |live| {
            if live["metadata"]["uid"] != volume.metadata.uid.as_str() || live["status"]["phase"] == phase {
                return false;
            }
            live["status"]["phase"] = phase.into();
            match message {
                "" => {
                    if let Some(status) = live["status"].as_object_mut() {
                        status.remove("message");
                    }
                }
                message => live["status"]["message"] = message.into(),
            }
            true
        });
        Ok(live(changed.await)?.unwrap_or(false))
    }

    async fn volume(&self, key: &Key) -> Result<Outcome, BoxError> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Outcome::Done) };
        let mut claim = None;
        if let Some(of) = volume.spec.claim_ref.as_ref().filter(|r| !r.uid.is_empty()) {
            claim = self.claims.get(&of.key());
            if claim.as_ref().is_none_or(|c| c.metadata.uid != of.uid) && volume.status.phase != "Released" {
                // Before it is given up with its data: the cache may lag.
                let target = Resource::of::<Claim>().at(&of.namespace, &of.name);
                claim = live(self.api.get::<Claim>(&target).await)?.map(Arc::new);
            }
        }
        let observed = volume::Observed { volume, claim };
        let volume = &*observed.volume;
        let plan = volume::plan(&observed);
        if plan.unbind {
            let ours = volume::is_our_choice(volume);
            let target = Resource::of::<Volume>().at("", &volume.metadata.name);
            let unbound = self.api.modify(&target, "", |live| {
                let same =
                    volume.spec.claim_ref.as_ref().is_some_and(|r| live["spec"]["claimRef"]["uid"] == r.uid.as_str());
                if same {
                    forget_claim(live, ours);
                }
                same
            });
            gone(unbound.await)?;
        }
        let mut changed = false;
        if let Some((phase, message)) = &plan.phase {
            changed = self.phase_of_volume(volume, phase, message).await?;
        }
        let fails = plan.phase.as_ref().is_some_and(|(phase, _)| *phase == "Failed");
        if let Some((kind, reason, text)) = &plan.event
            && (changed || !fails)
        {
            self.recorder.event(&ObjectRef::of(volume), *kind, reason, text.clone());
        }
        if let (Some((kind, reason, text)), Some(claim)) = (&plan.claim_event, &observed.claim) {
            self.recorder.event(&ObjectRef::of(&**claim), *kind, reason, text.clone());
        }
        match &plan.wake {
            // One worker serves both queues: what a volume makes necessary is done at once.
            Some(key) => self.claim(key).await,
            None => Ok(Outcome::Done),
        }
    }
}

/// Writes a claim into a volume, if it is free or meant for it. Returns whether the volume is the claim's now.
fn bind_volume(volume: &mut Value, claim: &Claim) -> bool {
    let meta = &claim.metadata;
    let of = &volume["spec"]["claimRef"];
    let text = |field: &str| of[field].as_str().unwrap_or("");
    let meant = text("namespace") == &*meta.namespace && text("name") == &*meta.name;
    let chosen = of.is_null();
    if !chosen && !(meant && (text("uid").is_empty() || text("uid") == meta.uid)) {
        return false;
    }
    volume["spec"]["claimRef"] = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": &*meta.namespace, "name": &*meta.name,
        "uid": meta.uid, "resourceVersion": meta.resource_version,
    });
    if chosen {
        let annotations = &mut volume["metadata"]["annotations"];
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations[BOUND_BY_CONTROLLER] = "yes".into();
    }
    true
}

/// Takes the claim out of a volume: wholly if it was our choice, else only its uid (`unbindVolume`).
fn forget_claim(volume: &mut Value, ours: bool) {
    if !ours {
        volume["spec"]["claimRef"]["uid"] = "".into();
        return;
    }
    if let Some(spec) = volume["spec"].as_object_mut() {
        spec.remove("claimRef");
    }
    if let Some(annotations) = volume["metadata"]["annotations"].as_object_mut() {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
}

/// What is there, or nothing.
fn live<T>(result: Result<T, orkd_reconcile::ApiError>) -> Result<Option<T>, BoxError> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(err) if err.is_not_found() => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// Whether the object of a change is gone.
fn gone(result: Result<bool, orkd_reconcile::ApiError>) -> Result<bool, BoxError> {
    Ok(live(result)?.is_none())
}
