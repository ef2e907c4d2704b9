//! Validation shared by kinds, with upstream's paths and texts.
//!
//! Each function adds what is wrong to an [`ErrorList`] and goes on. Upstream: `pkg/apis/core/validation`,
//! `k8s.io/apimachinery/pkg/api/validation`. Start with [`meta`] for what every object has, [`pod_spec`] for pods and
//! [`workload`] for what holds a pod template.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::object::{View, at, same};

pub mod conditions;
pub mod go_value;
pub mod internal;
pub mod ip;
pub mod labels;
pub mod meta;
pub mod pod_spec;
pub mod selector;
#[cfg(test)]
pub(crate) mod testing;
pub mod webhook;
pub mod workload;

/// The transport protocols of ports, in the order of error texts.
pub const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// A number that may be missing but not negative.
pub fn non_negative(errs: &mut ErrorList, v: &View<'_>) {
    if let Some(n) = v.int()
        && n < 0
    {
        errs.invalid(v.path(), n, "must be greater than or equal to 0");
    }
}

/// A port number.
pub fn port_number(errs: &mut ErrorList, number: i64, path: &Path) {
    if !(1..=65535).contains(&number) {
        errs.invalid(path, number, "must be between 1 and 65535, inclusive");
    }
}

/// What is wrong with the name of a port (an IANA service name).
pub fn port_name(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 15 {
        problems.push("must be no more than 15 characters".to_owned());
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// A port by number or name.
pub fn port_number_or_name(errs: &mut ErrorList, v: &View<'_>) {
    match v.value() {
        Value::String(name) => {
            for problem in port_name(name) {
                errs.invalid(v.path(), name, problem);
            }
        }
        value => port_number(errs, value.as_i64().unwrap_or_default(), v.path()),
    }
}

/// A text that is a DNS label.
pub fn dns_label_at(errs: &mut ErrorList, v: &View<'_>) {
    for problem in crate::names::dns_label(v.str(), false) {
        errs.invalid(v.path(), v.str(), problem);
    }
}

/// A text that is a DNS subdomain.
pub fn dns_subdomain_at(errs: &mut ErrorList, v: &View<'_>) {
    for problem in crate::names::dns_subdomain(v.str(), false) {
        errs.invalid(v.path(), v.str(), problem);
    }
}

/// A fully qualified domain name: a subdomain of at least two labels, a final dot allowed.
/// Upstream: `IsFullyQualifiedDomainName`.
pub fn fqdn(errs: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    for problem in crate::names::dns_subdomain(name, false) {
        errs.invalid(path, name, problem);
    }
    if name.split('.').count() < 2 {
        errs.invalid(path, name, "should be a domain with at least two segments separated by dots");
    }
    for label in name.split('.').filter(|label| label.len() > 63) {
        errs.invalid(path, label, "must be no more than 63 bytes");
    }
}

/// An address of either family.
pub fn ip_address(errs: &mut ErrorList, text: &str, path: &Path) {
    ip::address(errs, text, path);
}

/// An address that can be an endpoint's: no loopback, link-local or unspecified one.
/// Upstream: `ValidateEndpointIP`.
pub fn non_special_ip(errs: &mut ErrorList, text: &str, path: &Path) {
    let Some(ip) = ip::sloppy(text) else {
        errs.invalid(path, text, "must be a valid IP address");
        return;
    };
    if ip.is_unspecified() {
        errs.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errs.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments().first() == Some(&0xff02)),
    };
    if link_local {
        errs.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errs.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// An address range.
pub fn cidr(errs: &mut ErrorList, text: &str, path: &Path) {
    ip::cidr(errs, text, path);
}

/// An address range without bits beyond the prefix. Upstream: `IsValidCIDR` in strict mode.
pub fn strict_cidr(errs: &mut ErrorList, text: &str, path: &Path) {
    match text.parse::<ipnet::IpNet>() {
        Err(_) => cidr(errs, text, path),
        Ok(net) if net.trunc() != net => errs.invalid(path, text, "must not have bits set beyond the prefix length"),
        Ok(net) if net.to_string() != text => {
            errs.invalid(path, text, format!("must be in canonical form (\"{net}\")"));
        }
        Ok(_) => {}
    }
}

/// What is wrong with a key of a ConfigMap or Secret.
pub fn config_map_key_problems(key: &str) -> Vec<String> {
    static RE: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[-._a-zA-Z0-9]+$").expect("constant pattern compiles"));
    let mut problems = Vec::new();
    if key.len() > 253 {
        problems.push("must be no more than 253 bytes".to_owned());
    }
    if !RE.is_match(key) {
        problems.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
             'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .into(),
        );
    }
    match key {
        "." => problems.push("must not be '.'".into()),
        ".." => problems.push("must not be '..'".into()),
        key if key.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => {}
    }
    problems
}

/// A key of a ConfigMap or Secret, at the path of its entry.
pub fn config_map_key(key: &str, path: &Path) -> ErrorList {
    let mut errs = ErrorList::new();
    for problem in config_map_key_problems(key) {
        errs.invalid(path, key, problem);
    }
    errs
}

/// The fields that differ, one line each, old and new.
pub fn difference(new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    let keys: BTreeSet<&String> = [new, old].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys()).collect();
    for key in keys {
        let (a, b) = (at(old, &[key]), at(new, &[key]));
        if !same(a, b) {
            lines.push(format!("-  {key}: {a}\n+  {key}: {b}"));
        }
    }
    lines.join("\n")
}

/// The field at `path` is what it was.
pub fn immutable_field(errs: &mut ErrorList, new: &Value, old: &Value, path: &[&str]) {
    let value = at(new, path);
    if !same(value, at(old, path)) {
        let path = path.iter().fold(Path::root(), |p, name| p.child(name));
        errs.invalid(&path, value, "field is immutable");
    }
}

/// The effect of a taint or toleration.
pub fn taint_effect(errs: &mut ErrorList, v: &View<'_>, allow_empty: bool) {
    match v.str() {
        "" if allow_empty => {}
        "" => errs.required(v.path(), ""),
        "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
        other => errs.not_supported(v.path(), other, &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
    }
}

/// A text that is one of `supported`; empty is an error of its own.
pub fn one_of(errs: &mut ErrorList, v: &View<'_>, supported: &[&str]) {
    if v.str().is_empty() {
        errs.required(v.path(), "");
    } else if !supported.contains(&v.str()) {
        errs.not_supported(v.path(), v.str(), supported);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_are_iana_service_names() {
        assert!(port_name("http-2").is_empty());
        for bad in ["", "80", "a--b", "-a", "UPPER", "more-than-fifteen-characters"] {
            assert!(!port_name(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn special_addresses_are_no_endpoints() {
        let check = |ip: &str| {
            let mut errs = ErrorList::new();
            non_special_ip(&mut errs, ip, &Path::new("ip"));
            errs.0.len()
        };
        assert_eq!(
            [check("10.0.0.1"), check("127.0.0.1"), check("169.254.1.1"), check("224.0.0.1"), check("x")],
            [0, 1, 1, 1, 1]
        );
    }
}
