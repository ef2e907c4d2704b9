//! What the claims of a pod want, worked out once for all nodes.

use std::sync::Arc;

use orkd_reconcile::Key;

use super::Devices;
use super::constraints::{Constraint, Rule};
use super::selectors::{Selector, Selectors};
use crate::model::{Amounts, DeviceClass, DeviceConfig, DeviceRequest, DeviceSelector, DeviceToleration};
use crate::model::{ResourceClaim, WantedDevices};

/// How many devices a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(usize),
    /// All there are, one at least.
    All,
}

/// A way to satisfy a request.
#[derive(Debug)]
pub struct Alternative {
    /// `request`, or `request/alternative`.
    pub reference: String,
    /// Its class.
    pub class: Arc<DeviceClass>,
    /// What its class and what it says itself that a device must be.
    pub selectors: [Vec<Arc<Selector>>; 2],
    /// How many.
    pub count: Count,
    /// Whether `adminAccess` is asked for.
    pub admin: bool,
    /// Taints that do not matter.
    pub tolerations: Vec<DeviceToleration>,
    /// How much of each.
    pub capacity: Amounts,
}

/// A request of a claim.
#[derive(Debug)]
pub struct Request {
    /// Name.
    pub name: String,
    /// Whether it is `firstAvailable`.
    pub is_list: bool,
    /// The ways to satisfy it, the best first.
    pub alternatives: Vec<Alternative>,
}

/// A claim that devices are to be found for.
#[derive(Debug)]
pub struct Wanted {
    /// The claim.
    pub key: Key,
    /// What it asks for.
    pub requests: Vec<Request>,
    /// What must hold of the devices together.
    pub constraints: Vec<Constraint>,
    /// What drivers are told.
    pub config: Vec<DeviceConfig>,
}

/// Why a claim cannot be planned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unplannable {
    /// As things are: something that comes may help.
    Refused(String),
    /// It says something that is not understood.
    Failed(String),
}

impl Wanted {
    /// What a claim wants.
    ///
    /// # Errors
    /// It cannot be had, whatever devices there are.
    pub fn new(claim: &ResourceClaim, devices: &Devices, selectors: &Selectors) -> Result<Wanted, Unplannable> {
        let key = claim.metadata.key();
        let said = &claim.spec.devices;
        let requests: Result<Vec<Request>, Unplannable> =
            said.requests.iter().map(|r| request(&key, r, devices, selectors)).collect();
        let mut constraints = Vec::new();
        for (i, c) in said.constraints.iter().enumerate() {
            let (attribute, rule) = match (&c.match_attribute, &c.distinct_attribute) {
                (Some(attribute), _) => (attribute, Rule::Match),
                (None, Some(attribute)) => (attribute, Rule::Distinct),
                (None, None) => {
                    let why = format!("claim {key}, constraint #{i}: empty constraint (unsupported constraint type?)");
                    return Err(Unplannable::Failed(why));
                }
            };
            constraints.push(Constraint { requests: c.requests.clone(), attribute: attribute.clone(), rule });
        }
        Ok(Wanted { requests: requests?, constraints, config: said.config.clone(), key })
    }
}

fn request(
    claim: &Key,
    said: &DeviceRequest,
    devices: &Devices,
    selectors: &Selectors,
) -> Result<Request, Unplannable> {
    let one = |reference: String, wanted: &WantedDevices| alternative(claim, reference, wanted, devices, selectors);
    let alternatives = match &said.exactly {
        Some(wanted) => vec![one(said.name.clone(), wanted)?],
        None if said.first_available.is_empty() => {
            let why = format!("resource claim {claim}, request {}: unknown request type", said.name);
            return Err(Unplannable::Refused(why));
        }
        None => {
            let all = said.first_available.iter().map(|w| one(format!("{}/{}", said.name, w.name), w));
            all.collect::<Result<_, _>>()?
        }
    };
    Ok(Request { name: said.name.clone(), is_list: said.exactly.is_none(), alternatives })
}

fn alternative(
    claim: &Key,
    reference: String,
    said: &WantedDevices,
    devices: &Devices,
    selectors: &Selectors,
) -> Result<Alternative, Unplannable> {
    let failed = |why: String| Err(Unplannable::Failed(why));
    if said.device_class_name.is_empty() {
        return failed(format!("request {reference}: unsupported request type"));
    }
    let Some(class) = devices.class(&said.device_class_name) else {
        let why = format!("request {reference}: device class {} does not exist", said.device_class_name);
        return Err(Unplannable::Refused(why));
    };
    let count = match said.allocation_mode.as_str() {
        "All" => Count::All,
        "ExactCount" => Count::Exactly(usize::try_from(said.count).unwrap_or(0)),
        other => return failed(format!("claim {claim}, request {reference}: unsupported count mode {other}")),
    };
    let compiled = |of: &[DeviceSelector]| -> Option<Vec<Arc<Selector>>> {
        of.iter().map(|s| s.cel.as_ref().map(|cel| selectors.get(&cel.expression))).collect()
    };
    let (Some(of_class), Some(own)) = (compiled(&class.spec.selectors), compiled(&said.selectors)) else {
        let why = "CEL expression empty (unsupported selector type?)";
        return failed(format!("claim {claim}, request {reference}: {why}"));
    };
    Ok(Alternative {
        reference,
        class: class.clone(),
        selectors: [of_class, own],
        count,
        admin: said.admin_access == Some(true),
        tolerations: said.tolerations.clone(),
        capacity: said.capacity.requests.clone(),
    })
}
