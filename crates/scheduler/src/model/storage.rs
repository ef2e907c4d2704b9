//! What is read of claims, volumes and the kinds of `storage.k8s.io`.

use std::collections::BTreeMap;

use orkd_reconcile::{LabelSelector, Meta, View, null_default};
use serde::Deserialize;

use super::NodeSelector;

macro_rules! resource {
    ($name:ident, $kind:literal, $group:literal, $plural:literal, $namespaced:literal) => {
        impl View for $name {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = "v1";
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    };
}

/// A claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: ClaimSpec,
    /// Status.
    pub status: ClaimStatus,
}
resource!(Claim, "PersistentVolumeClaim", "", "persistentvolumeclaims", true);

/// `spec` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// The volume.
    pub volume_name: String,
    /// The class.
    pub storage_class_name: Option<String>,
    /// Access modes.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// Which volumes will do.
    pub selector: Option<LabelSelector>,
    /// `Filesystem` (default) or `Block`.
    pub volume_mode: Option<String>,
    /// How much.
    #[serde(deserialize_with = "null_default")]
    pub resources: super::Resources,
    /// The class of attributes.
    pub volume_attributes_class_name: Option<String>,
}

/// `status` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimStatus {
    /// Phase.
    pub phase: String,
}

/// A volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: PersistentVolumeSpec,
    /// Status.
    pub status: ClaimStatus,
}
resource!(PersistentVolume, "PersistentVolume", "", "persistentvolumes", false);

/// `spec` of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PersistentVolumeSpec {
    /// How much.
    #[serde(deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, String>,
    /// The class.
    pub storage_class_name: String,
    /// Access modes.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// `Filesystem` (default) or `Block`.
    pub volume_mode: Option<String>,
    /// Whose it is.
    pub claim_ref: Option<ClaimRef>,
    /// Where it can be reached from.
    #[serde(deserialize_with = "null_default")]
    pub node_affinity: VolumeNodeAffinity,
    /// A volume of a CSI driver.
    pub csi: Option<CsiVolume>,
    /// The class of attributes.
    pub volume_attributes_class_name: Option<String>,
}

/// `claimRef` of a volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// `nodeAffinity` of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeNodeAffinity {
    /// Nodes it can be reached from.
    pub required: Option<NodeSelector>,
}

/// `csi` of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiVolume {
    /// The driver.
    pub driver: String,
    /// The volume.
    pub volume_handle: String,
}

/// A storage class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageClass {
    /// Metadata.
    pub metadata: Meta,
    /// Who makes volumes.
    pub provisioner: String,
    /// `Immediate` or `WaitForFirstConsumer`.
    pub volume_binding_mode: Option<String>,
    /// Where volumes can be made.
    #[serde(deserialize_with = "null_default")]
    pub allowed_topologies: Vec<TopologyTerm>,
}
resource!(StorageClass, "StorageClass", "storage.k8s.io", "storageclasses", false);

/// One of `allowedTopologies`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyTerm {
    /// Requirements on labels.
    #[serde(deserialize_with = "null_default")]
    pub match_label_expressions: Vec<TopologyRequirement>,
}

/// A requirement of a topology term.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TopologyRequirement {
    /// Key.
    pub key: String,
    /// Values, one of which it must be.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<String>,
}

/// What CSI drivers say of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiNode {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(deserialize_with = "null_default")]
    pub spec: CsiNodeSpec,
}
resource!(CsiNode, "CSINode", "storage.k8s.io", "csinodes", false);

/// `spec` of a CSI node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiNodeSpec {
    /// Drivers.
    #[serde(deserialize_with = "null_default")]
    pub drivers: Vec<CsiNodeDriver>,
}

/// A driver on a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiNodeDriver {
    /// The driver.
    pub name: String,
    /// Its limits.
    #[serde(deserialize_with = "null_default")]
    pub allocatable: CsiAllocatable,
}

/// `allocatable` of a driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiAllocatable {
    /// How many volumes may be used.
    pub count: Option<i64>,
}

/// A CSI driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiDriver {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(deserialize_with = "null_default")]
    pub spec: CsiDriverSpec,
}
resource!(CsiDriver, "CSIDriver", "storage.k8s.io", "csidrivers", false);

/// `spec` of a CSI driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiDriverSpec {
    /// Whether free capacity counts.
    #[serde(deserialize_with = "null_default")]
    pub storage_capacity: bool,
}

/// Free capacity of a class in a part of the cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiCapacity {
    /// Metadata.
    pub metadata: Meta,
    /// The class.
    pub storage_class_name: String,
    /// Which nodes; none without.
    pub node_topology: Option<LabelSelector>,
    /// How much in all.
    pub capacity: Option<String>,
    /// How much in one volume.
    pub maximum_volume_size: Option<String>,
}
resource!(CsiCapacity, "CSIStorageCapacity", "storage.k8s.io", "csistoragecapacities", true);

/// A volume that is, or is to be, attached to a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeAttachment {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(deserialize_with = "null_default")]
    pub spec: VolumeAttachmentSpec,
}
resource!(VolumeAttachment, "VolumeAttachment", "storage.k8s.io", "volumeattachments", false);

/// `spec` of an attachment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeAttachmentSpec {
    /// The CSI driver.
    pub attacher: String,
    /// The node.
    pub node_name: String,
    /// What is attached.
    pub source: AttachmentSource,
}

/// `source` of an attachment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSource {
    /// A volume; none for one that is written in a pod.
    pub persistent_volume_name: Option<String>,
}
