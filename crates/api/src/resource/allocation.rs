//! What was found for a claim, and what drivers say of it. Upstream: `validateResourceClaimStatusUpdate`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::request::{Names, reference, references};
use super::{binding_conditions, configuration, driver, each, pool_name, raw_object, set, uuid};
use crate::field::{ErrorList, Shown};
use crate::object::{View, at, list, same, text};
use crate::validate::pod_spec::affinity::node_selector;
use crate::validate::{dns_label_at, one_of};

/// A device that may be shared.
fn device_id(v: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|f| text(v, &[f]))
}

/// Such a device in texts: upstream's `SharedDeviceID`.
fn shown([driver, pool, device, share]: [&str; 4]) -> Shown {
    let of = Value::from;
    Shown::raw(format!(
        r#"{{"Driver":{},"Pool":{},"Device":{},"ShareID":{}}}"#,
        of(driver),
        of(pool),
        of(device),
        of(share)
    ))
}

/// A changed status.
pub(super) fn status(errs: &mut ErrorList, new: &Value, old: &Value) {
    let status = View::root(new).get("status");
    let names = Names::of(at(new, &["spec"]));
    let reserved = status.get("reservedFor");
    set(
        errs,
        &reserved,
        256,
        |r| r.get("uid").str().to_owned(),
        |errs, r| {
            for field in ["resource", "name", "uid"] {
                if r.get(field).is_empty() {
                    errs.required(r.get(field).path(), "");
                }
            }
        },
    );
    let results = list(new, &["status", "allocation", "devices", "results"]);
    let allocated: BTreeSet<[&str; 4]> = results.iter().map(device_id).collect();
    set(
        errs,
        &status.get("devices"),
        usize::MAX,
        |d| shown(device_id(d.value())),
        |errs, device| device_status(errs, device, &allocated),
    );
    let allocation = status.get("allocation");
    if !reserved.is_empty() {
        if !allocation.is_set() {
            errs.forbidden(reserved.path(), "may not be specified when `allocated` is not set");
        } else if crate::meta::deletion_timestamp(new).is_some() {
            let before = list(old, &["status", "reservedFor"]);
            if reserved.list().iter().any(|r| !before.contains(r.value())) {
                errs.forbidden(
                    reserved.path(),
                    "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
                );
            }
        }
    }
    if allocation.is_set() {
        if at(old, &["status", "allocation"]).is_null() {
            result(errs, &allocation, &names);
        } else if !same(allocation.value(), at(old, &["status", "allocation"])) {
            errs.invalid(allocation.path(), super::shown::allocation(allocation.value()), "field is immutable");
        }
    }
}

fn result(errs: &mut ErrorList, allocation: &View<'_>, names: &Names<'_>) {
    let devices = allocation.get("devices");
    each(errs, &devices.get("results"), 32, |errs, result| {
        reference(errs, &result.get("request"), names);
        driver(errs, &result.get("driver"));
        pool_name(errs, &result.get("pool"));
        dns_label_at(errs, &result.get("device"));
        binding_conditions(errs, result);
        if result.get("shareID").is_set() {
            uuid(errs, &result.get("shareID"));
        }
    });
    each(errs, &devices.get("config"), 64, |errs, config| {
        one_of(errs, &config.get("source"), &["FromClaim", "FromClass"]);
        references(errs, &config.get("requests"), names);
        configuration(errs, config, false);
    });
    let selector = allocation.get("nodeSelector");
    if selector.is_set() {
        node_selector(errs, &selector);
    }
}

fn device_status(errs: &mut ErrorList, device: &View<'_>, allocated: &BTreeSet<[&str; 4]>) {
    driver(errs, &device.get("driver"));
    pool_name(errs, &device.get("pool"));
    dns_label_at(errs, &device.get("device"));
    if device.get("shareID").is_set() {
        uuid(errs, &device.get("shareID"));
    }
    let id = device_id(device.value());
    if !allocated.contains(&id) {
        errs.invalid(device.path(), shown(id), "must be an allocated device in the claim");
    }
    let conditions = device.get("conditions");
    if conditions.len() > 8 {
        errs.too_many(conditions.path(), conditions.len(), 8);
    }
    crate::validate::conditions::conditions(errs, &conditions);
    if device.get("data").is_set() {
        raw_object(errs, &device.get("data"), false);
    }
    let network = device.get("networkData");
    for (field, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.get(field).len() > max {
            errs.too_long(network.get(field).path(), max);
        }
    }
    set(errs, &network.get("ips"), 16, |ip| ip.str().to_owned(), interface_address);
}

/// The address of an interface with the length of its network. Upstream: `IsValidInterfaceAddress`.
fn interface_address(errs: &mut ErrorList, v: &View<'_>) {
    match v.str().parse::<ipnet::IpNet>() {
        Err(_) => errs.invalid(
            v.path(),
            v.str(),
            "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
        ),
        Ok(net) if net.to_string() != v.str() => {
            errs.invalid(v.path(), v.str(), format!("must be in canonical form (\"{net}\")"));
        }
        Ok(_) => {}
    }
}
