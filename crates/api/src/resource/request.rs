//! What a claim asks for. Upstream: `validateDeviceClaim`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{configuration, each, full_name, selectors, set, tolerations};
use crate::field::ErrorList;
use crate::object::{View, at_mut, default_text, items_mut, text};
use crate::validate::{dns_label_at, dns_subdomain_at};

/// Defaults of the requests of a claim's spec.
pub(super) fn default(spec: &mut Value) {
    let Some(devices) = at_mut(spec, &["devices"]) else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = at_mut(request, &["exactly"]) {
            default_count(exactly);
        }
        items_mut(request, "firstAvailable").for_each(default_count);
    }
}

fn default_count(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if text(request, &["allocationMode"]) == "ExactCount" {
        crate::object::default_number(request, "count", 1);
    }
    for toleration in items_mut(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

/// The names of requests, each with the names of its alternatives.
pub(super) struct Names<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Names<'a> {
    /// The requests of a claim's spec.
    pub(super) fn of(spec: &'a Value) -> Self {
        let requests = crate::object::list(spec, &["devices", "requests"]);
        let alternatives =
            |r: &'a Value| crate::object::list(r, &["firstAvailable"]).iter().map(|a| text(a, &["name"])).collect();
        Names(requests.iter().map(|r| (text(r, &["name"]), alternatives(r))).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, alternative)) => self.0.get(request).is_some_and(|a| a.contains(alternative)),
        }
    }
}

/// The name of a request of the claim.
pub(super) fn reference(errs: &mut ErrorList, v: &View<'_>, names: &Names<'_>) {
    const TEXT: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated \
                        by '/'";
    let parts: Vec<&str> = v.str().split('/').collect();
    if parts.len() > 2 {
        errs.invalid(v.path(), v.str(), TEXT);
        return;
    }
    for part in parts {
        for problem in crate::names::dns_label(part, false) {
            errs.invalid(v.path(), part, problem);
        }
    }
    if !names.has(v.str()) {
        errs.invalid(v.path(), v.str(), TEXT);
    }
}

/// References to requests, each once.
pub(super) fn references(errs: &mut ErrorList, list: &View<'_>, names: &Names<'_>) {
    set(errs, list, 32, |v| v.str().to_owned(), |errs, v| reference(errs, v, names));
}

/// The spec of a claim.
pub(super) fn claim_spec(errs: &mut ErrorList, spec: &View<'_>) {
    let devices = spec.get("devices");
    let names = Names::of(spec.value());
    set(errs, &devices.get("requests"), 32, |r| r.get("name").str().to_owned(), device_request);
    each(errs, &devices.get("constraints"), 32, |errs, constraint| {
        references(errs, &constraint.get("requests"), &names);
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        if same.is_set() {
            full_name(errs, &same);
        } else if distinct.is_set() {
            full_name(errs, &distinct);
        } else {
            errs.required(
                constraint.path(),
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            );
        }
    });
    each(errs, &devices.get("config"), 32, |errs, config| {
        references(errs, &config.get("requests"), &names);
        configuration(errs, config, false);
    });
}

fn device_request(errs: &mut ErrorList, request: &View<'_>) {
    dns_label_at(errs, &request.get("name"));
    let (exactly, alternatives) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), !alternatives.is_empty()) {
        (false, false) => {
            errs.required(request.path(), "exactly one of `exactly` or `firstAvailable` is required");
        }
        (true, true) => errs.invalid(
            request.path(),
            &Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (true, false) => wanted(errs, &exactly),
        (false, true) => set(
            errs,
            &alternatives,
            8,
            |r| r.get("name").str().to_owned(),
            |errs, alternative| {
                dns_label_at(errs, &alternative.get("name"));
                wanted(errs, alternative);
            },
        ),
    }
}

fn wanted(errs: &mut ErrorList, request: &View<'_>) {
    let class = request.get("deviceClassName");
    if class.is_empty() {
        errs.required(class.path(), "");
    } else {
        dns_subdomain_at(errs, &class);
    }
    selectors(errs, &request.get("selectors"), false);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    let n = count.int().unwrap_or_default();
    match mode.str() {
        "All" if n != 0 => errs.invalid(count.path(), n, "must not be specified when allocationMode is 'All'"),
        "ExactCount" if n <= 0 => errs.invalid(count.path(), n, "must be greater than zero"),
        "All" | "ExactCount" => {}
        other => errs.not_supported(mode.path(), other, &["All", "ExactCount"]),
    }
    tolerations(errs, &request.get("tolerations"));
}
