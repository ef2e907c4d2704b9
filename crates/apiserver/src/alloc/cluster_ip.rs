//! Cluster IPs: every one is an IPAddress object, made before the Service and removed after it
//! (`pkg/registry/core/service/ipallocator/{cidrallocator,ipallocator}.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use orkd_api::status::Status;
use rand::Rng;
use serde_json::{Value, json};

use crate::lookup::Lookup;
use crate::registry::options::DeleteOptions;
use crate::user::{MASTERS, UserInfo};
use crate::writer::Writer;

const GROUP: &str = "networking.k8s.io";
/// Who makes IPAddress objects.
pub const MANAGED_BY: &str = "ipallocator.k8s.io";
const LABEL_MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const LABEL_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// From `IPv4` or `IPv6`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

/// Why an address cannot be had.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Not an address of any range; the text.
    Invalid(String),
    /// The ranges are full or there are none; the text.
    Failed(String),
    /// A write failed.
    Status(Status),
}

/// Whose an address is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Namespace of the Service.
    pub namespace: &'a str,
    /// Name of the Service.
    pub name: &'a str,
}

/// Hands out cluster IPs. Cheap to clone.
#[derive(Clone)]
pub struct ClusterIps {
    objects: Lookup,
    configured: Vec<IpNet>,
}

/// The identity that writes IPAddress objects.
pub fn system_user() -> UserInfo {
    UserInfo::new("system:apiserver", &[MASTERS])
}

impl ClusterIps {
    /// Reads ServiceCIDR and IPAddress objects here. `configured`: the ranges of `--service-cidr`, the first of which
    /// gives the default family; they are in use also before their ServiceCIDR object exists.
    pub fn new(objects: Lookup, configured: Vec<IpNet>) -> Self {
        ClusterIps { objects, configured }
    }

    /// The family of Services that do not name one.
    pub fn default_family(&self) -> Family {
        self.configured.first().map_or(Family::V4, |net| Family::of(net.addr()))
    }

    /// The ranges that addresses are handed out from.
    fn ranges(&self) -> Vec<IpNet> {
        let mut ranges = self.configured.clone();
        for object in self.objects.list(GROUP, "servicecidrs", None) {
            if object["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            for cidr in object["spec"]["cidrs"].as_array().into_iter().flatten() {
                if let Some(net) = cidr.as_str().and_then(|c| c.parse::<IpNet>().ok())
                    && !ranges.contains(&net)
                {
                    ranges.push(net);
                }
            }
        }
        ranges
    }

    /// The families that addresses are handed out of.
    pub fn has(&self, family: Family) -> bool {
        self.ranges().iter().any(|net| Family::of(net.addr()) == family)
    }

    /// Takes a certain address.
    pub async fn take(&self, writer: &Writer, owner: Owner<'_>, ip: IpAddr, dry_run: bool) -> Result<(), Refusal> {
        if !self.ranges().iter().any(|net| is_usable(net, ip)) {
            return Err(Refusal::Invalid("the provided network does not match the current range".into()));
        }
        let taken = || Refusal::Invalid("provided IP is already allocated".into());
        if self.is_taken(ip) {
            return Err(taken());
        }
        if dry_run {
            return Ok(());
        }
        match create(writer, owner, ip).await {
            Ok(()) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Err(taken()),
            Err(status) => Err(Refusal::Status(status)),
        }
    }

    /// Takes any address of a family: from the upper part of a range while there is one, so that addresses which
    /// people choose by hand, mostly low ones, stay free. A dry run names the range itself.
    pub async fn take_any(
        &self,
        writer: &Writer,
        owner: Owner<'_>,
        family: Family,
        dry_run: bool,
    ) -> Result<IpAddr, Refusal> {
        let ranges: Vec<IpNet> = self.ranges().into_iter().filter(|n| Family::of(n.addr()) == family).collect();
        let Some(first) = ranges.first() else {
            return Err(Refusal::Failed("no ServiceCIDR is available".into()));
        };
        if dry_run {
            return Ok(first.network());
        }
        for net in &ranges {
            let total = size(net);
            let reserved = (total / 16).clamp(16, 256).min(total);
            for (start, len) in [(reserved, total - reserved), (0, reserved)] {
                if len == 0 {
                    continue;
                }
                let skip = rand::rng().random_range(0..len);
                for i in 0..len {
                    // Offset 0 is the network's own address.
                    let ip = nth(net, 1 + start + (skip + i) % len);
                    if self.is_taken(ip) {
                        continue;
                    }
                    match create(writer, owner, ip).await {
                        Ok(()) => return Ok(ip),
                        Err(status) if status.reason == "AlreadyExists" => {}
                        Err(status) => return Err(Refusal::Status(status)),
                    }
                }
            }
        }
        Err(Refusal::Failed("range is full".into()))
    }

    fn is_taken(&self, ip: IpAddr) -> bool {
        self.objects.get(GROUP, "ipaddresses", "", &ip.to_string()).is_some()
    }

    /// Gives an address back, if it is still this Service's.
    pub async fn give_back(&self, writer: &Writer, owner: Owner<'_>, ip: IpAddr) {
        let writer = writer.as_user(system_user()).dry_run(false);
        let found = match writer.get(GROUP, "ipaddresses", "", &ip.to_string()).await {
            Ok(found) => found,
            Err(status) if status.reason == "NotFound" => return,
            Err(status) => {
                tracing::warn!(%ip, %status, "failed to give back a cluster IP, repair will");
                return;
            }
        };
        let parent = &found["spec"]["parentRef"];
        if parent["namespace"] != owner.namespace || parent["name"] != owner.name {
            return;
        }
        delete(&writer, &found).await;
    }
}

/// Removes an IPAddress, if it is still the one that was read.
pub(super) async fn delete(writer: &Writer, address: &Value) {
    let text = |field: &str| address["metadata"][field].as_str().unwrap_or_default();
    let options = DeleteOptions { uid: Some(text("uid").to_owned()), ..DeleteOptions::default() };
    match writer.delete(GROUP, "ipaddresses", "", text("name"), options).await {
        Ok(_) => {}
        Err(status) if status.reason == "NotFound" || status.reason == "Conflict" => {}
        Err(status) => {
            tracing::warn!(ip = text("name"), %status, "failed to give back a cluster IP, repair will");
        }
    }
}

/// Makes the IPAddress of a cluster IP.
pub(super) async fn create(writer: &Writer, owner: Owner<'_>, ip: IpAddr) -> Result<(), Status> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "labels": { LABEL_FAMILY: Family::of(ip).name(), LABEL_MANAGED_BY: MANAGED_BY },
        },
        "spec": { "parentRef": {
            "group": "", "resource": "services", "namespace": owner.namespace, "name": owner.name,
        } },
    });
    let writer = writer.as_user(system_user()).dry_run(false).manager("kube-apiserver");
    writer.create(GROUP, "ipaddresses", "", object).await.map(|_| ())
}

/// Whether an IPAddress is one of ours.
pub(super) fn is_managed(address: &Value) -> bool {
    address["metadata"]["labels"][LABEL_MANAGED_BY] == MANAGED_BY
}

/// Whether an address of a range may be handed out: not the network's own, and not IPv4's broadcast.
fn is_usable(net: &IpNet, ip: IpAddr) -> bool {
    let last = net.addr().is_ipv4() && ip == net.broadcast();
    net.contains(&ip) && (size(net) < 2 || (ip != net.network() && !last))
}

/// How many addresses of a range may be handed out, at most 2^62.
fn size(net: &IpNet) -> u64 {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len()).min(62);
    let all = 1u64 << bits;
    all.saturating_sub(if net.addr().is_ipv4() { 2 } else { 1 })
}

/// The address that many after the network's own.
fn nth(net: &IpNet, offset: u64) -> IpAddr {
    match net.network() {
        IpAddr::V4(ip) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits().saturating_add(offset)))
        }
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits().saturating_add(u128::from(offset)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_out_their_ends() {
        let net: IpNet = "10.43.0.0/29".parse().expect("net");
        assert_eq!(size(&net), 6);
        assert_eq!(nth(&net, 1).to_string(), "10.43.0.1");
        let usable = |ip: &str| is_usable(&net, ip.parse().expect("ip"));
        assert!(usable("10.43.0.1") && usable("10.43.0.6"));
        assert!(!usable("10.43.0.0") && !usable("10.43.0.7") && !usable("10.43.0.8") && !usable("fd00::1"));
        let six: IpNet = "fd00::/112".parse().expect("net");
        assert_eq!(size(&six), 65535);
        assert_eq!(nth(&six, 65535).to_string(), "fd00::ffff");
        assert!(is_usable(&six, "fd00::ffff".parse().expect("ip")));
    }
}
