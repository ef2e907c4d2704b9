//! Ranges of pod addresses for nodes.
//!
//! Follows `pkg/controller/nodeipam` with the range allocator: every node gets the lowest free range of each family
//! from the cluster's, once and for ever. Nodes are taken one at a time, so that no range is given twice; what is
//! taken is read from the nodes themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, ObjectRef, Outcome, Patch, Queue, Resource, work};
use serde_json::json;

use crate::views::Node;
use crate::{Config, ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec =
    ControllerSpec { name: "node-ipam-controller", service_account: "node-controller", run: |cx| Box::pin(start(cx)) };

async fn start(cx: Cx) -> Result<(), BoxError> {
    if cx.config.cluster_cidrs.is_empty() {
        return Ok(());
    }
    let nodes: Informer<Node> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        nodes.subscribe(move |event| {
            if !event.is_deleted() && event.object().spec.pod_cidrs.is_empty() {
                queue.add(event.key());
            }
        });
    }
    nodes.synced().await;
    let (cx_ref, nodes_ref) = (&cx, &nodes);
    work(queue, 1, cx.stop.clone(), |key| async move {
        let Some(node) = nodes_ref.get(&key) else { return Ok(Outcome::Done) };
        if !node.spec.pod_cidrs.is_empty() || node.metadata.is_deleting() {
            return Ok(Outcome::Done);
        }
        let taken: Vec<IpNet> = nodes_ref
            .list()
            .iter()
            .flat_map(|n| {
                n.spec.pod_cidrs.iter().chain([&n.spec.pod_cidr]).filter_map(|c| c.parse().ok()).collect::<Vec<_>>()
            })
            .collect();
        let about = ObjectRef::of(&*node);
        let Some(ranges) = allocate(&cx_ref.config, &taken) else {
            let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
            cx_ref.recorder.normal(&about, "CIDRNotAvailable", text);
            return Err(format!("no range of pod addresses is left for node {}", key.name).into());
        };
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        });
        let target = Resource::of::<Node>().at("", &key.name);
        let patched: Node = cx_ref.api.patch(&target, &Patch::Strategic(patch)).await?;
        // The next node must see what this one took.
        nodes_ref.caught_up(patched.metadata.rv()).await;
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// The lowest free range of each family; `None` when one is used up.
fn allocate(config: &Config, taken: &[IpNet]) -> Option<Vec<IpNet>> {
    config
        .cluster_cidrs
        .iter()
        .map(|cluster| {
            let prefix = match cluster {
                IpNet::V4(_) => config.node_mask_v4.unwrap_or(24),
                IpNet::V6(_) => config.node_mask_v6.unwrap_or(64),
            };
            lowest_free(cluster, prefix.max(cluster.prefix_len()), taken)
        })
        .collect()
}

fn lowest_free(cluster: &IpNet, prefix: u8, taken: &[IpNet]) -> Option<IpNet> {
    let (base, width) = match cluster.network() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    if prefix > width {
        return None;
    }
    let bits = u32::from(prefix - cluster.prefix_len());
    // Never more than there can be nodes: a free one is found within the taken ones and one.
    let count = if bits >= 64 { u64::MAX } else { 1 << bits };
    let step = u32::from(width - prefix);
    (0..count.min(taken.len() as u64 + 1)).find_map(|n| {
        let address = base + (u128::from(n) << step);
        let ip = match cluster {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(address).ok()?)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(address)),
        };
        let range = IpNet::new(ip, prefix).ok()?;
        let free = !taken.iter().any(|t| t.contains(&range) || range.contains(t));
        free.then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, mask: u8, taken: &[&str], expected: Option<&str>) {
        let taken: Vec<IpNet> = taken.iter().map(|t| t.parse().expect("a range")).collect();
        let got = lowest_free(&cluster.parse().expect("a range"), mask, &taken);
        assert_eq!(got.map(|g| g.to_string()).as_deref(), expected, "{cluster} {taken:?}");
    }

    #[test]
    fn the_lowest_free_range_is_given() {
        check("10.42.0.0/16", 24, &[], Some("10.42.0.0/24"));
        check("10.42.0.0/16", 24, &["10.42.0.0/24", "10.42.2.0/24"], Some("10.42.1.0/24"));
        check("10.42.0.0/24", 24, &["10.42.0.0/24"], None);
        check("10.42.0.0/23", 24, &["10.42.0.0/25"], Some("10.42.1.0/24"));
        check("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64"));
    }
}
