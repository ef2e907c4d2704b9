//! What controllers read of volumes, claims and classes.

use std::collections::BTreeMap;

use orkd_api::quantity::Quantity;
use orkd_reconcile::{Key, LabelSelector, Meta, View, null_default};
use serde::Deserialize;
use serde_json::Value;

use super::{CLASS_BETA, PROVISIONED_BY};
use crate::views::view;

/// A persistent volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: VolumeSpec,
    /// Status.
    pub status: VolumeStatus,
}
view!(Volume, "", "v1", "PersistentVolume", "persistentvolumes", false);

/// What a volume is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// Amounts, `storage` among them.
    #[serde(deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, String>,
    /// How it may be used.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// Whose it is.
    pub claim_ref: Option<ClaimRef>,
    /// What becomes of it after its claim.
    pub persistent_volume_reclaim_policy: String,
    /// Its class.
    pub storage_class_name: String,
    /// `Filesystem` or `Block`; the former without.
    pub volume_mode: Option<String>,
    /// Its class of attributes.
    pub volume_attributes_class_name: Option<String>,
    /// Where its nodes are told.
    pub node_affinity: Option<Value>,
    /// The driver that serves it.
    pub csi: Option<CsiSource>,
    /// A folder of one node.
    pub local: Option<PathSource>,
    /// A folder of whatever node it is on.
    pub host_path: Option<PathSource>,
}

/// The claim a volume belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid; empty while the claim is only named.
    pub uid: String,
}

impl ClaimRef {
    /// The claim's key.
    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }
}

/// The driver that serves a volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiSource {
    /// Its name.
    pub driver: String,
    /// How it calls the volume.
    pub volume_handle: String,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathSource {
    /// The path.
    pub path: String,
}

/// The status of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// `Pending`, `Available`, `Bound`, `Released` or `Failed`.
    pub phase: String,
}

impl Volume {
    /// Its size; zero if it says none.
    pub fn size(&self) -> Quantity {
        storage(&self.spec.capacity)
    }

    /// Its class.
    pub fn class(&self) -> &str {
        self.metadata.annotation(CLASS_BETA).unwrap_or(&self.spec.storage_class_name)
    }

    /// `Filesystem` or `Block`.
    pub fn mode(&self) -> &str {
        self.spec.volume_mode.as_deref().unwrap_or("Filesystem")
    }

    /// Who made it; empty for a volume that nobody of the cluster made.
    pub fn provisioned_by(&self) -> &str {
        self.metadata.annotation(PROVISIONED_BY).unwrap_or("")
    }

    /// Whether it is bound to a claim, or meant for it (`IsVolumeBoundToClaim`).
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|r| {
            r.namespace == *claim.metadata.namespace
                && r.name == *claim.metadata.name
                && (r.uid.is_empty() || r.uid == claim.metadata.uid)
        })
    }
}

/// A claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: ClaimSpec,
    /// Status.
    pub status: ClaimStatus,
}
view!(Claim, "", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");

/// What is claimed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// How it shall be usable.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// Which volumes.
    pub selector: Option<LabelSelector>,
    /// Amounts.
    pub resources: Resources,
    /// The volume; empty while there is none.
    pub volume_name: String,
    /// The class; `None` for the default.
    pub storage_class_name: Option<String>,
    /// `Filesystem` or `Block`; the former without.
    pub volume_mode: Option<String>,
    /// The class of attributes.
    pub volume_attributes_class_name: Option<String>,
}

/// Amounts that are asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `storage` and its amount.
    #[serde(deserialize_with = "null_default")]
    pub requests: BTreeMap<String, String>,
}

/// The status of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimStatus {
    /// `Pending`, `Bound` or `Lost`.
    pub phase: String,
    /// Amounts it has.
    #[serde(deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, String>,
    /// How it is usable.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// The class of attributes it has.
    pub current_volume_attributes_class_name: Option<String>,
}

impl Claim {
    /// The size that is asked for.
    pub fn size(&self) -> Quantity {
        storage(&self.spec.resources.requests)
    }

    /// Its class; empty for none.
    pub fn class(&self) -> &str {
        let spec = || self.spec.storage_class_name.as_deref().unwrap_or("");
        self.metadata.annotation(CLASS_BETA).unwrap_or_else(spec)
    }

    /// Whether a class is named, be it the empty one.
    pub fn has_class(&self) -> bool {
        self.metadata.annotation(CLASS_BETA).is_some() || self.spec.storage_class_name.is_some()
    }

    /// `Filesystem` or `Block`.
    pub fn mode(&self) -> &str {
        self.spec.volume_mode.as_deref().unwrap_or("Filesystem")
    }

    /// Whether it goes with a pod of this name (one that another of the name is to replace).
    pub fn is_stale_for(&self, pod: &str) -> bool {
        self.metadata.owner_references.iter().any(|o| o.kind == "Pod" && o.name == pod)
    }

    /// The class of attributes; empty for none.
    pub fn attributes_class(&self) -> &str {
        self.spec.volume_attributes_class_name.as_deref().unwrap_or("")
    }
}

/// The amount of `storage`.
pub fn storage(amounts: &BTreeMap<String, String>) -> Quantity {
    amounts.get("storage").and_then(|q| q.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// A class of volumes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageClass {
    /// Metadata.
    pub metadata: Meta,
    /// Who makes volumes.
    pub provisioner: String,
    /// What the maker is told.
    #[serde(deserialize_with = "null_default")]
    pub parameters: BTreeMap<String, String>,
    /// What becomes of volumes after their claim; `Delete` without.
    pub reclaim_policy: Option<String>,
    /// How they are mounted.
    #[serde(deserialize_with = "null_default")]
    pub mount_options: Vec<String>,
    /// Whether claims may grow.
    #[serde(deserialize_with = "null_default")]
    pub allow_volume_expansion: bool,
    /// `Immediate` or `WaitForFirstConsumer`.
    pub volume_binding_mode: Option<String>,
    /// Where volumes may be.
    #[serde(deserialize_with = "null_default")]
    pub allowed_topologies: Vec<Value>,
}
view!(StorageClass, "storage.k8s.io", "v1", "StorageClass", "storageclasses", false);

impl StorageClass {
    /// Whether binding waits for the first pod.
    pub fn waits(&self) -> bool {
        self.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
    }

    /// Whether claims without a class get this one.
    pub fn is_default(&self) -> bool {
        let names = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        names.iter().any(|name| self.metadata.annotation(name) == Some("true"))
    }
}

/// The class of claims that name none: of several defaults the newest (`GetDefaultClass`).
pub fn default_class(classes: &[std::sync::Arc<StorageClass>]) -> Option<String> {
    let defaults = classes.iter().filter(|c| c.is_default());
    let order = |c: &StorageClass| (c.metadata.creation_timestamp, std::cmp::Reverse(c.metadata.name.clone()));
    defaults.max_by_key(|c| order(c)).map(|c| c.metadata.name.to_string())
}
