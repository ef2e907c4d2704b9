//! What the informers say, as one stream of messages.

use std::sync::Arc;

use orkd_reconcile::{Event as Change, Informer, Informers, Options, View};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::model::{
    Claim, CsiCapacity, CsiDriver, CsiNode, DeviceClass, DisruptionBudget, Labelled, Namespace, Node, PersistentVolume,
    ReplicaSet, ReplicationController, ResourceClaim, ResourceSlice, Service, StatefulSet, StorageClass,
    VolumeAttachment,
};
use crate::pod::PodInfo;

/// A message to the scheduler's loop.
pub enum Message {
    /// A pod.
    Pod(Change<PodInfo>),
    /// A node.
    Node(Change<Node>),
    /// A claim.
    Claim(Change<Claim>),
    /// A volume.
    Volume(Change<PersistentVolume>),
    /// A storage class.
    StorageClass(Change<StorageClass>),
    /// What CSI drivers say of a node.
    CsiNode(Change<CsiNode>),
    /// A CSI driver.
    CsiDriver(Change<CsiDriver>),
    /// Free capacity.
    CsiCapacity(Change<CsiCapacity>),
    /// Devices that a driver offers.
    Slice(Change<ResourceSlice>),
    /// A class of devices.
    DeviceClass(Change<DeviceClass>),
    /// A claim of devices.
    DeviceClaim(Change<ResourceClaim>),
    /// What a write to a claim of devices answered.
    DeviceClaimWritten(Arc<ResourceClaim>),
    /// A volume that is, or is to be, attached to a node.
    Attachment(Change<VolumeAttachment>),
    /// A namespace.
    Namespace(Change<Namespace>),
    /// A service.
    Service(Change<Service>),
    /// A controller of pods: its kind, its key, and its selector unless it is gone.
    Owner(&'static str, orkd_reconcile::Key, Option<orkd_reconcile::LabelSelector>),
    /// A disruption budget.
    Budget(Change<DisruptionBudget>),
    /// A binding ended.
    Bound(Bound),
    /// The victims of a pod were removed, by its UID; or not all of them.
    Preempted(String, bool),
}

/// How a binding ended.
pub struct Bound {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// Its node.
    pub node: String,
    /// When its cycle began.
    pub start: Instant,
    /// Whether its status says which node it was on its way to.
    pub is_expected: bool,
    /// Why it failed, unless it did not.
    pub error: Option<String>,
}

/// Everything the scheduler follows.
pub struct Feed {
    /// Pods that have not ended.
    pub pods: Informer<PodInfo>,
    /// Claims.
    pub claims: Informer<Claim>,
    /// Volumes.
    pub volumes: Informer<PersistentVolume>,
    /// Changes whenever a pod, a claim or a volume does.
    pub changed: watch::Receiver<u64>,
    /// Claims of devices.
    pub device_claims: Informer<ResourceClaim>,
    /// Changes whenever one of them does.
    pub device_claims_changed: watch::Receiver<u64>,
    /// For messages of the scheduler's own tasks.
    pub messages: mpsc::UnboundedSender<Message>,
    /// The messages.
    pub inbox: mpsc::UnboundedReceiver<Message>,
}

impl Feed {
    /// Begins to follow; the informers may not be whole yet.
    pub fn new(informers: &Informers) -> Feed {
        let (messages, inbox) = mpsc::unbounded_channel();
        let sender = watch::Sender::new(0);
        let changed = sender.subscribe();
        let notify = Arc::new(sender);
        // The loop has ended where nobody listens any more.
        fn follow<T: View>(
            informer: &Informer<T>,
            to: &mpsc::UnboundedSender<Message>,
            message: impl Fn(Change<T>) -> Message + Send + 'static,
        ) {
            let to = to.clone();
            informer.subscribe(move |change| drop(to.send(message(change.clone()))));
        }
        fn owners<T: Labelled>(informers: &Informers, to: &mpsc::UnboundedSender<Message>) {
            follow(&informers.informer::<T>(), to, |change| {
                let selector = if change.is_deleted() { None } else { change.object().selector() };
                Message::Owner(T::KIND, change.key(), selector)
            });
        }
        let to = &messages;
        // What may be read through them must be there before pods are: they come last.
        follow(&informers.informer(), to, Message::Namespace);
        follow(&informers.informer(), to, Message::StorageClass);
        follow(&informers.informer(), to, Message::CsiNode);
        follow(&informers.informer(), to, Message::CsiDriver);
        follow(&informers.informer(), to, Message::CsiCapacity);
        follow(&informers.informer(), to, Message::Attachment);
        follow(&informers.informer(), to, Message::Service);
        owners::<ReplicationController>(informers, to);
        owners::<ReplicaSet>(informers, to);
        owners::<StatefulSet>(informers, to);
        follow(&informers.informer(), to, Message::Budget);
        follow(&informers.informer(), to, Message::DeviceClass);
        follow(&informers.informer(), to, Message::Slice);
        let device_claims: Informer<ResourceClaim> = informers.informer();
        let claim_sender = watch::Sender::new(0);
        let device_claims_changed = claim_sender.subscribe();
        follow(&device_claims, to, move |change| {
            claim_sender.send_modify(|n| *n += 1);
            Message::DeviceClaim(change)
        });
        let volumes: Informer<PersistentVolume> = informers.informer();
        let claims: Informer<Claim> = informers.informer();
        // Pods that have ended hold nothing: they are not read at all.
        let pods: Informer<PodInfo> =
            informers.informer_with(Options::fields("status.phase!=Succeeded,status.phase!=Failed"));
        let touch = |notify: &Arc<watch::Sender<u64>>| {
            let notify = notify.clone();
            move || notify.send_modify(|n| *n += 1)
        };
        let touched = touch(&notify);
        follow(&volumes, to, move |change| {
            touched();
            Message::Volume(change)
        });
        let touched = touch(&notify);
        follow(&claims, to, move |change| {
            touched();
            Message::Claim(change)
        });
        follow(&informers.informer::<Node>(), to, Message::Node);
        let touched = touch(&notify);
        follow(&pods, to, move |change| {
            if change.is_deleted() {
                touched();
            }
            Message::Pod(change)
        });
        Feed { pods, claims, volumes, changed, device_claims, device_claims_changed, messages, inbox }
    }
}
