//! The devices that claims have. Upstream: `plugins/dynamicresources/allocateddevices.go`.

use std::collections::{BTreeMap, HashMap};

use orkd_api::quantity::Quantity;

use super::catalogue::{DeviceId, full_name};
use crate::model::{Allocation, DeviceResult};

/// What is taken of a device that is shared.
#[derive(Debug, Default)]
struct Shares {
    count: usize,
    /// By full names.
    consumed: BTreeMap<String, Quantity>,
}

/// The devices that claims have. A claim that is both decided and seen counts twice for a moment: too much is safe.
#[derive(Debug, Default)]
pub struct Taken {
    alone: HashMap<DeviceId, usize>,
    shared: HashMap<DeviceId, Shares>,
}

/// The results that count, with their devices: who only watches over a device does not have it.
fn that_count(allocation: &Allocation) -> impl Iterator<Item = (DeviceId, &DeviceResult)> {
    let counts = |r: &&DeviceResult| r.admin_access != Some(true);
    allocation.devices.results.iter().filter(counts).map(|r| {
        let id = DeviceId {
            driver: r.driver.as_str().into(),
            pool: r.pool.as_str().into(),
            device: r.device.as_str().into(),
        };
        (id, r)
    })
}

impl Taken {
    /// Adds the devices of a claim.
    pub fn add(&mut self, allocation: &Allocation) {
        for (id, result) in that_count(allocation) {
            if result.share_id.is_none() {
                *self.alone.entry(id).or_default() += 1;
                continue;
            }
            let shares = self.shared.entry(id).or_default();
            shares.count += 1;
            for (name, amount) in &result.consumed_capacity {
                let sum = shares.consumed.entry(full_name(name, &result.driver)).or_insert(Quantity::ZERO);
                *sum = *sum + amount.0;
            }
        }
    }

    /// Takes them away again.
    pub fn remove(&mut self, allocation: &Allocation) {
        for (id, result) in that_count(allocation) {
            if result.share_id.is_none() {
                if let Some(count) = self.alone.get_mut(&id) {
                    *count -= 1;
                    if *count == 0 {
                        self.alone.remove(&id);
                    }
                }
                continue;
            }
            let Some(shares) = self.shared.get_mut(&id) else { continue };
            shares.count -= 1;
            for (name, amount) in &result.consumed_capacity {
                if let Some(sum) = shares.consumed.get_mut(&full_name(name, &result.driver)) {
                    *sum = *sum - amount.0;
                }
            }
            if shares.count == 0 {
                self.shared.remove(&id);
            }
        }
    }

    /// Whether a device is taken as a whole.
    pub fn is_taken(&self, id: &DeviceId) -> bool {
        self.alone.contains_key(id)
    }

    /// Whether someone has a part of a device.
    pub fn is_shared(&self, id: &DeviceId) -> bool {
        self.shared.contains_key(id)
    }

    /// How much of a device others have, by full name.
    pub fn consumed(&self, id: &DeviceId, name: &str) -> Quantity {
        self.shared.get(id).and_then(|s| s.consumed.get(name)).copied().unwrap_or(Quantity::ZERO)
    }

    /// Whether nothing is taken.
    pub fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.shared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_added_can_be_removed() {
        let allocation = |share: Option<&str>, amount: &str, admin: bool| -> Allocation {
            let mut result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x"});
            if let Some(share) = share {
                result["shareID"] = json!(share);
                result["consumedCapacity"] = json!({"memory": amount});
            }
            if admin {
                result["adminAccess"] = json!(true);
            }
            serde_json::from_value(json!({"devices": {"results": [result]}})).expect("an allocation")
        };
        let id = DeviceId { driver: "d".into(), pool: "p".into(), device: "x".into() };
        let mut taken = Taken::default();
        taken.add(&allocation(None, "", true));
        assert!(!taken.is_taken(&id), "it is only watched over");
        taken.remove(&allocation(None, "", true));
        taken.add(&allocation(None, "", false));
        taken.add(&allocation(None, "", false));
        taken.remove(&allocation(None, "", false));
        assert!(taken.is_taken(&id), "it was decided and seen");
        taken.remove(&allocation(None, "", false));
        taken.add(&allocation(Some("1"), "1Gi", false));
        taken.add(&allocation(Some("2"), "3Gi", false));
        assert!(!taken.is_taken(&id) && taken.is_shared(&id));
        assert_eq!(taken.consumed(&id, "d/memory"), Quantity::from_bytes(4 << 30));
        taken.remove(&allocation(Some("1"), "1Gi", false));
        assert_eq!(taken.consumed(&id, "d/memory"), Quantity::from_bytes(3 << 30));
        taken.remove(&allocation(Some("2"), "3Gi", false));
        assert!(taken.is_empty());
    }
}
