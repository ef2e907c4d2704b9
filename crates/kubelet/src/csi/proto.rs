//! The messages of CSI drivers on a node, and of their registration, as far as they are spoken.
//!
//! Specification: CSI v1.11 (`csi.v1.Node`), and the kubelet's `pluginregistration.v1`. Written from names and numbers.

use std::collections::HashMap;

use prost::{Enumeration, Message, Oneof};

/// Nothing.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// Who a plugin is.
#[derive(Clone, PartialEq, Message)]
pub struct PluginInfo {
    /// `CSIPlugin`, `DRAPlugin` or `DevicePlugin`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its socket.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// Which versions it speaks.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// What became of a registration.
#[derive(Clone, PartialEq, Message)]
pub struct RegistrationStatus {
    /// Whether it worked.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// What a driver calls this node.
#[derive(Clone, PartialEq, Message)]
pub struct NodeInfo {
    /// Its name for the node.
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// The most volumes; 0 for any number.
    #[prost(int64, tag = "2")]
    pub max_volumes_per_node: i64,
    /// Where the node is.
    #[prost(message, optional, tag = "3")]
    pub accessible_topology: Option<Topology>,
}

/// A place.
#[derive(Clone, PartialEq, Message)]
pub struct Topology {
    /// Labels.
    #[prost(map = "string, string", tag = "1")]
    pub segments: HashMap<String, String>,
}

/// What a driver can do.
#[derive(Clone, PartialEq, Message)]
pub struct Capabilities {
    /// Each thing it can do.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<Capability>,
}

/// One thing a driver can do.
#[derive(Clone, PartialEq, Message)]
pub struct Capability {
    /// As a call.
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<CapabilityRpc>,
}

/// A call a driver serves.
#[derive(Clone, PartialEq, Message)]
pub struct CapabilityRpc {
    /// Which.
    #[prost(enumeration = "Rpc", tag = "1")]
    pub kind: i32,
}

/// Calls that not every driver serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Rpc {
    /// None.
    Unknown = 0,
    /// Volumes are staged once for a node.
    StageUnstage = 1,
    /// Statistics.
    GetVolumeStats = 2,
    /// Volumes grow on the node.
    ExpandVolume = 3,
    /// Conditions.
    VolumeCondition = 4,
    /// Several pods of one node may write.
    SingleNodeMultiWriter = 5,
    /// The driver gives files to a group.
    VolumeMountGroup = 6,
}

/// How a volume is used.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeCapability {
    /// As a file system or as a device.
    #[prost(oneof = "Access", tags = "1, 2")]
    pub access: Option<Access>,
    /// By whom.
    #[prost(message, optional, tag = "3")]
    pub access_mode: Option<AccessMode>,
}

/// As what a volume is used.
#[derive(Clone, PartialEq, Oneof)]
pub enum Access {
    /// As a device.
    #[prost(message, tag = "1")]
    Block(Empty),
    /// As a file system.
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

/// How a file system is mounted.
#[derive(Clone, PartialEq, Message)]
pub struct MountVolume {
    /// Its type.
    #[prost(string, tag = "1")]
    pub fs_type: String,
    /// Options.
    #[prost(string, repeated, tag = "2")]
    pub mount_flags: Vec<String>,
    /// The group its files belong to.
    #[prost(string, tag = "3")]
    pub volume_mount_group: String,
}

/// By whom a volume is used.
#[derive(Clone, PartialEq, Message)]
pub struct AccessMode {
    /// A mode's number.
    #[prost(int32, tag = "1")]
    pub mode: i32,
}

/// Prepares a volume for a node.
#[derive(Clone, PartialEq, Message)]
pub struct Stage {
    /// The driver's name for the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching told.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// How.
    #[prost(message, optional, tag = "4")]
    pub volume_capability: Option<VolumeCapability>,
    /// Secrets.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What making it told.
    #[prost(map = "string, string", tag = "6")]
    pub volume_context: HashMap<String, String>,
}

/// Undoes [`Stage`].
#[derive(Clone, PartialEq, Message)]
pub struct Unstage {
    /// The driver's name for the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where.
    #[prost(string, tag = "2")]
    pub staging_target_path: String,
}

/// Mounts a volume for a pod.
#[derive(Clone, PartialEq, Message)]
pub struct Publish {
    /// The driver's name for the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching told.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where it was staged; empty if it was not.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// Where.
    #[prost(string, tag = "4")]
    pub target_path: String,
    /// How.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Whether nothing may be written.
    #[prost(bool, tag = "6")]
    pub readonly: bool,
    /// Secrets.
    #[prost(map = "string, string", tag = "7")]
    pub secrets: HashMap<String, String>,
    /// What making it told, and of the pod what the driver wants.
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: HashMap<String, String>,
}

/// Undoes [`Publish`].
#[derive(Clone, PartialEq, Message)]
pub struct Unpublish {
    /// The driver's name for the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where.
    #[prost(string, tag = "2")]
    pub target_path: String,
}

/// Asks how full a volume is.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeStats {
    /// The driver's name for the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where it is mounted.
    #[prost(string, tag = "2")]
    pub volume_path: String,
    /// Where it was staged; empty if that is not told.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
}

/// How full a volume is.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeUsages {
    /// In each unit.
    #[prost(message, repeated, tag = "1")]
    pub usage: Vec<VolumeUsage>,
}

/// How full a volume is, in a unit.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeUsage {
    /// What may still be taken.
    #[prost(int64, tag = "1")]
    pub available: i64,
    /// All of it.
    #[prost(int64, tag = "2")]
    pub total: i64,
    /// What is taken.
    #[prost(int64, tag = "3")]
    pub used: i64,
    /// Of what.
    #[prost(enumeration = "Unit", tag = "4")]
    pub unit: i32,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Unit {
    /// Not said.
    Unknown = 0,
    /// Bytes.
    Bytes = 1,
    /// Files.
    Inodes = 2,
}

/// The number of an access mode. `precise` for drivers that know modes of one node.
pub fn mode(modes: &[String], precise: bool) -> i32 {
    let has = |mode: &str| modes.iter().any(|m| m == mode);
    if has("ReadWriteMany") {
        5
    } else if has("ReadOnlyMany") && has("ReadWriteOnce") {
        4
    } else if has("ReadOnlyMany") {
        3
    } else if has("ReadWriteOncePod") && precise {
        6
    } else if has("ReadWriteOnce") && precise {
        7
    } else {
        1
    }
}
