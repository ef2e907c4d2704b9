//! What is read of slices, classes and claims of devices (`resource.k8s.io/v1`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use orkd_api::quantity::Quantity;
use orkd_reconcile::{Meta, View, null_default};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::NodeSelector;

macro_rules! resource {
    ($name:ident, $plural:literal, $namespaced:literal) => {
        impl View for $name {
            const GROUP: &'static str = "resource.k8s.io";
            const VERSION: &'static str = "v1";
            const KIND: &'static str = stringify!($name);
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    };
}

/// A quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(pub Quantity);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Amount, D::Error> {
        let text = match Value::deserialize(d)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            other => return Err(D::Error::custom(format!("{other} is no quantity"))),
        };
        text.parse().map(Amount).map_err(D::Error::custom)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

/// Amounts by name.
pub type Amounts = BTreeMap<String, Amount>;

/// Devices that a driver offers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSlice {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: SliceSpec,
}
resource!(ResourceSlice, "resourceslices", false);

/// `spec` of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceSpec {
    /// The driver.
    pub driver: String,
    /// The pool that the slice is a part of.
    pub pool: Pool,
    /// The node that has the devices.
    pub node_name: Option<String>,
    /// The nodes that have the devices.
    pub node_selector: Option<NodeSelector>,
    /// Whether all nodes have them.
    #[serde(deserialize_with = "null_default")]
    pub all_nodes: bool,
    /// Whether each device says where it is.
    #[serde(deserialize_with = "null_default")]
    pub per_device_node_selection: bool,
    /// The devices.
    #[serde(deserialize_with = "null_default")]
    pub devices: Vec<Device>,
    /// What the pool's devices draw on.
    #[serde(deserialize_with = "null_default")]
    pub shared_counters: Vec<CounterSet>,
}

/// `pool` of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// Only slices of the newest count.
    pub generation: i64,
    /// How many slices there are of this generation.
    pub resource_slice_count: i64,
}

/// A device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Name, unique in the pool.
    pub name: String,
    /// What it is.
    #[serde(deserialize_with = "null_default")]
    pub attributes: BTreeMap<String, Attribute>,
    /// How much it has.
    #[serde(deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, Capacity>,
    /// What it takes of the pool's counters.
    #[serde(deserialize_with = "null_default")]
    pub consumes_counters: Vec<CounterConsumption>,
    /// The node that has it.
    pub node_name: Option<String>,
    /// The nodes that have it.
    pub node_selector: Option<NodeSelector>,
    /// Whether all nodes have it.
    #[serde(deserialize_with = "null_default")]
    pub all_nodes: bool,
    /// Taints.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<DeviceTaint>,
    /// Whether it can be used only on the node that it was allocated for.
    #[serde(deserialize_with = "null_default")]
    pub binds_to_node: bool,
    /// Conditions that must hold before a pod is bound.
    #[serde(deserialize_with = "null_default")]
    pub binding_conditions: Vec<String>,
    /// Conditions that say that this will never be.
    #[serde(deserialize_with = "null_default")]
    pub binding_failure_conditions: Vec<String>,
    /// Whether it can be allocated several times, as far as its capacity goes.
    #[serde(deserialize_with = "null_default")]
    pub allow_multiple_allocations: bool,
}

/// The value of an attribute: one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Attribute {
    /// A number.
    pub int: Option<i64>,
    /// Yes or no.
    pub bool: Option<bool>,
    /// A text.
    pub string: Option<String>,
    /// A semantic version.
    pub version: Option<String>,
}

/// How much a device has of something.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// How much.
    pub value: Amount,
    /// How it may be taken in parts.
    pub request_policy: Option<RequestPolicy>,
}

/// How capacity may be taken in parts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestPolicy {
    /// What a request takes that does not say.
    pub default: Option<Amount>,
    /// Amounts that may be taken, ascending.
    #[serde(deserialize_with = "null_default")]
    pub valid_values: Vec<Amount>,
    /// A range that may be taken.
    pub valid_range: Option<ValidRange>,
}

/// A range of amounts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ValidRange {
    /// The least.
    pub min: Option<Amount>,
    /// The most.
    pub max: Option<Amount>,
    /// Multiples of this, beginning at the least.
    pub step: Option<Amount>,
}

/// What the devices of a pool share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CounterSet {
    /// Name.
    pub name: String,
    /// How much there is.
    #[serde(deserialize_with = "null_default")]
    pub counters: BTreeMap<String, Counter>,
}

/// How much there is of something.
#[derive(Clone, Debug, Deserialize)]
pub struct Counter {
    /// How much.
    pub value: Amount,
}

/// What a device takes of a set of counters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CounterConsumption {
    /// The set.
    pub counter_set: String,
    /// How much.
    #[serde(deserialize_with = "null_default")]
    pub counters: BTreeMap<String, Counter>,
}

/// A taint of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceTaint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// `NoSchedule`, `NoExecute` or `None`.
    pub effect: String,
}

/// A toleration of taints of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceToleration {
    /// Key; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// `Equal` (default) or `Exists`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// Value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Effect; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// How long `NoExecute` is tolerated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl DeviceToleration {
    /// Whether a taint is tolerated (`resourceclaim.ToleratesTaint`).
    pub fn tolerates(&self, taint: &DeviceTaint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator.as_str() {
                "" | "Equal" => self.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    }
}

/// A sort of devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClass {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(deserialize_with = "null_default")]
    pub spec: ClassSpec,
}
resource!(DeviceClass, "deviceclasses", false);

/// `spec` of a class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClassSpec {
    /// What a device must be.
    #[serde(deserialize_with = "null_default")]
    pub selectors: Vec<DeviceSelector>,
    /// What its driver is told.
    #[serde(deserialize_with = "null_default")]
    pub config: Vec<DeviceConfig>,
    /// The extended resource that its devices stand for.
    pub extended_resource_name: Option<String>,
}

/// What a device must be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceSelector {
    /// A CEL expression.
    pub cel: Option<CelSelector>,
}

/// A CEL expression on `device`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CelSelector {
    /// The expression.
    pub expression: String,
}

/// What a driver is told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct DeviceConfig {
    /// Where it was said: `FromClass` or `FromClaim`; only in allocations.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The requests it is about; all, if none.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<String>,
    /// The driver, and what it is told.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub opaque: Value,
}

/// A claim of devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaim {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(deserialize_with = "null_default")]
    pub spec: DeviceClaimSpec,
    /// Status.
    #[serde(deserialize_with = "null_default")]
    pub status: DeviceClaimStatus,
}
resource!(ResourceClaim, "resourceclaims", true);

/// `spec` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClaimSpec {
    /// The devices.
    #[serde(deserialize_with = "null_default")]
    pub devices: DeviceClaim,
}

/// `devices` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClaim {
    /// What is wanted.
    #[serde(deserialize_with = "null_default")]
    pub requests: Vec<DeviceRequest>,
    /// What must hold of all the devices together.
    #[serde(deserialize_with = "null_default")]
    pub constraints: Vec<DeviceConstraint>,
    /// What drivers are told.
    #[serde(deserialize_with = "null_default")]
    pub config: Vec<DeviceConfig>,
}

/// One of `requests`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRequest {
    /// Name.
    pub name: String,
    /// What is wanted.
    pub exactly: Option<WantedDevices>,
    /// Alternatives, the best first.
    #[serde(deserialize_with = "null_default")]
    pub first_available: Vec<WantedDevices>,
}

/// `exactly`, or one of `firstAvailable`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WantedDevices {
    /// Name of an alternative.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The class.
    pub device_class_name: String,
    /// What a device must be.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub selectors: Vec<DeviceSelector>,
    /// `ExactCount` or `All`.
    pub allocation_mode: String,
    /// How many.
    pub count: i64,
    /// Whether devices are to be watched over only, whoever uses them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_access: Option<bool>,
    /// Taints that do not matter.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<DeviceToleration>,
    /// How much of each device.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub capacity: CapacityRequirements,
}

/// How much of a device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CapacityRequirements {
    /// By name.
    #[serde(deserialize_with = "null_default")]
    pub requests: Amounts,
}

/// What must hold of several devices together: one of the attributes is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceConstraint {
    /// The requests it is about; all, if none.
    #[serde(deserialize_with = "null_default")]
    pub requests: Vec<String>,
    /// The attribute in which all agree.
    pub match_attribute: Option<String>,
    /// The attribute in which all differ.
    pub distinct_attribute: Option<String>,
}

/// `status` of a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceClaimStatus {
    /// The devices.
    pub allocation: Option<Allocation>,
    /// Who may use them.
    #[serde(deserialize_with = "null_default")]
    pub reserved_for: Vec<Consumer>,
    /// What drivers say of them.
    #[serde(deserialize_with = "null_default")]
    pub devices: Vec<DeviceStatus>,
}

/// Who may use a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consumer {
    /// Group; empty for core.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// Plural of the kind.
    pub resource: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// The devices of a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation {
    /// The devices.
    #[serde(deserialize_with = "null_default")]
    pub devices: AllocatedDevices,
    /// Where they can be used; everywhere without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NodeSelector>,
    /// When they were chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation_timestamp: Option<Timestamp>,
}

/// `devices` of an allocation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct AllocatedDevices {
    /// The devices.
    #[serde(deserialize_with = "null_default")]
    pub results: Vec<DeviceResult>,
    /// What their drivers are told; written, never read.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<DeviceConfig>,
}

/// A device of a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceResult {
    /// The request, or `request/alternative`.
    pub request: String,
    /// The driver.
    pub driver: String,
    /// The pool.
    pub pool: String,
    /// The device.
    pub device: String,
    /// Whether it is watched over only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_access: Option<bool>,
    /// Taints that do not matter.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<DeviceToleration>,
    /// See [`Device::binding_conditions`].
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub binding_conditions: Vec<String>,
    /// See [`Device::binding_failure_conditions`].
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub binding_failure_conditions: Vec<String>,
    /// Names the share of a device that is shared.
    #[serde(rename = "shareID", skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// How much of a device that is shared.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Amounts::is_empty")]
    pub consumed_capacity: Amounts,
}

/// What a driver says of a device of a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeviceStatus {
    /// The driver.
    pub driver: String,
    /// The pool.
    pub pool: String,
    /// The device.
    pub device: String,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<DeviceCondition>,
}

/// A condition of a device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeviceCondition {
    /// Type.
    #[serde(rename = "type")]
    pub ty: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
}
