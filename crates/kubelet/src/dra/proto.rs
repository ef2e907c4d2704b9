//! The messages of drivers of devices on a node (`k8s.io/kubelet/pkg/apis/dra/v1`; `v1beta1` has the same). Written from
//! names and numbers.

use std::collections::HashMap;

use prost::Message;

/// Claims to prepare, or to take back.
#[derive(Clone, PartialEq, Message)]
pub struct Claims {
    /// Each.
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<Claim>,
}

/// A claim.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Claim {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its uid.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// What came of preparing.
#[derive(Clone, PartialEq, Message)]
pub struct Prepared {
    /// By uid.
    #[prost(map = "string, message", tag = "1")]
    pub claims: HashMap<String, PreparedClaim>,
}

/// A claim that was prepared.
#[derive(Clone, PartialEq, Message)]
pub struct PreparedClaim {
    /// Its devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
    /// Why it was not.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// A device.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    /// The requests it is for; empty for all.
    #[prost(string, repeated, tag = "1")]
    pub request_names: Vec<String>,
    /// Its pool.
    #[prost(string, tag = "2")]
    pub pool_name: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub device_name: String,
    /// What the runtime calls it.
    #[prost(string, repeated, tag = "4")]
    pub cdi_device_ids: Vec<String>,
}

/// What came of taking back.
#[derive(Clone, PartialEq, Message)]
pub struct Unprepared {
    /// By uid.
    #[prost(map = "string, message", tag = "1")]
    pub claims: HashMap<String, UnpreparedClaim>,
}

/// A claim that was taken back.
#[derive(Clone, PartialEq, Message)]
pub struct UnpreparedClaim {
    /// Why it was not.
    #[prost(string, tag = "1")]
    pub error: String,
}
