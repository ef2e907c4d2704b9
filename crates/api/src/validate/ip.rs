//! Addresses and ranges of addresses of fields as old as these: leading zeros (`010.0.0.1`) and IPv4 in IPv6
//! (`::ffff:1.2.3.4`) are taken with a warning, as long as `StrictIPCIDRValidation` is off.
//!
//! Upstream: `IsValidIPForLegacyField`, `IsValidCIDRForLegacyField`, `GetWarningsForIP`, `GetWarningsForCIDR` in
//! `k8s.io/apimachinery/pkg/util/validation/ip.go`; `ParseIPSloppy` in `k8s.io/utils/net`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::field::{ErrorList, Path, quote};
use crate::object::View;

/// An address, leading zeros allowed; IPv4 in IPv6 is IPv4, as in Go.
pub fn sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(match ip {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
            IpAddr::V4(_) => ip,
        });
    }
    let parts: Vec<&str> = text.split('.').collect();
    let number = |part: &&str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if digits {
            part.trim_start_matches('0').parse::<u8>().ok().or((part.bytes().all(|b| b == b'0')).then_some(0))
        } else {
            None
        }
    };
    let numbers: Option<Vec<u8>> = parts.iter().map(number).collect();
    let octets: [u8; 4] = numbers?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

/// A range, leading zeros allowed: the address as written and the range it lies in.
pub fn sloppy_cidr(text: &str) -> Option<(IpAddr, IpNet)> {
    let (address, bits) = text.split_once('/')?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    let written_v6 = address.contains(':');
    match sloppy(address)? {
        // IPv4 in IPv6 counts its prefix from the front of the IPv6 address.
        IpAddr::V4(v4) if written_v6 => {
            let net = Ipv6Net::new(v4.to_ipv6_mapped(), bits).ok()?.trunc();
            Some((IpAddr::V4(v4), IpNet::V6(net)))
        }
        IpAddr::V4(v4) => Some((IpAddr::V4(v4), IpNet::V4(Ipv4Net::new(v4, bits).ok()?.trunc()))),
        IpAddr::V6(v6) => Some((IpAddr::V6(v6), IpNet::V6(Ipv6Net::new(v6, bits).ok()?.trunc()))),
    }
}

/// Checks an address; returns it if it is one.
pub fn address(errs: &mut ErrorList, text: &str, path: &Path) -> Option<IpAddr> {
    let ip = sloppy(text);
    if ip.is_none() {
        errs.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    ip
}

/// Checks a range of addresses; returns it if it is one.
pub fn cidr(errs: &mut ErrorList, text: &str, path: &Path) -> Option<IpNet> {
    let net = sloppy_cidr(text);
    if net.is_none() {
        errs.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
    net.map(|(_, net)| net)
}

/// Whether addresses (or ranges) are one of each family at the most. Upstream: `IsDualStackIPStrings`.
pub fn is_dual_stack<'a>(texts: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut v4, mut v6) = (false, false);
    for text in texts {
        if text.contains(':') { v6 = true } else { v4 = true }
    }
    v4 && v6
}

/// Warnings for an address that is not written as it should be.
pub fn address_warnings(v: &View<'_>) -> Vec<String> {
    let Some(ip) = sloppy(v.str()) else { return Vec::new() };
    let path = v.path();
    match v.str().parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let canonical = v6.to_string();
            if canonical == v.str() {
                return Vec::new();
            }
            vec![format!(
                "{path}: IPv6 address {} should be in RFC 5952 canonical format ({})",
                quote(v.str()),
                quote(&canonical)
            )]
        }
        Ok(IpAddr::V4(_)) => Vec::new(),
        _ => vec![format!(
            "{path}: non-standard IP address {} will be considered invalid in a future Kubernetes release: use {}",
            quote(v.str()),
            quote(&ip.to_string())
        )],
    }
}

/// Warnings for a range that is not written as it should be.
pub fn cidr_warnings(v: &View<'_>) -> Vec<String> {
    let text = v.str();
    let Some((ip, net)) = sloppy_cidr(text) else { return Vec::new() };
    let (path, mut warnings) = (v.path(), Vec::new());
    let first = match net {
        IpNet::V6(n) => n.network().to_ipv4_mapped().map_or(IpAddr::V6(n.network()), IpAddr::V4),
        IpNet::V4(n) => IpAddr::V4(n.network()),
    };
    if ip != first {
        warnings.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quote(text),
            quote(&net.to_string()),
            quote(&format!("{ip}/{}", net.max_prefix_len()))
        ));
    }
    let strict = text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
    let mapped = matches!(strict, Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some());
    if strict.is_none() || mapped {
        warnings.push(format!(
            "{path}: non-standard CIDR value {} will be considered invalid in a future Kubernetes release: use {}",
            quote(text),
            quote(&net.to_string())
        ));
    }
    if warnings.is_empty()
        && let Some(IpAddr::V6(v6)) = strict
    {
        let canonical = format!("{v6}/{}", net.prefix_len());
        if canonical != text {
            warnings.push(format!(
                "{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({})",
                quote(text),
                quote(&canonical)
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn old_spellings_are_addresses_too() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.0.01", Some("10.0.0.1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("fd00::0:1", Some("fd00::1")),
            ("256.0.0.1", None),
            ("1.2.3", None),
            ("1.2.3.+4", None),
            ("", None),
        ] {
            assert_eq!(sloppy(text).map(|ip| ip.to_string()).as_deref(), expected, "{text}");
        }
        for (text, good) in [("10.0.0.0/8", true), ("010.0.0.0/8", true), ("10.0.0.0/33", false), ("10.0.0.0", false)] {
            assert_eq!(sloppy_cidr(text).is_some(), good, "{text}");
        }
    }

    #[test]
    fn old_spellings_are_warned_of() {
        let check = |f: fn(&View<'_>) -> Vec<String>, text: &str, expected: &[&str]| {
            let v = json!(text);
            assert_eq!(f(&View::at(Path::new("f"), &v)), expected, "{text}");
        };
        check(address_warnings, "10.0.0.1", &[]);
        check(address_warnings, "2001:db8::1", &[]);
        check(
            address_warnings,
            "010.0.0.1",
            &[
                "f: non-standard IP address \"010.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"",
            ],
        );
        check(
            address_warnings,
            "::ffff:1.2.3.4",
            &[
                "f: non-standard IP address \"::ffff:1.2.3.4\" will be considered invalid in a future Kubernetes release: use \"1.2.3.4\"",
            ],
        );
        check(
            address_warnings,
            "2001:DB8:0::1",
            &["f: IPv6 address \"2001:DB8:0::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"],
        );
        check(cidr_warnings, "10.0.0.0/8", &[]);
        check(
            cidr_warnings,
            "10.1.2.3/8",
            &[
                "f: CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.1.2.3/32\"?)",
            ],
        );
        check(
            cidr_warnings,
            "010.0.0.0/8",
            &[
                "f: non-standard CIDR value \"010.0.0.0/8\" will be considered invalid in a future Kubernetes release: use \"10.0.0.0/8\"",
            ],
        );
        check(
            cidr_warnings,
            "2001:DB8::/32",
            &["f: IPv6 CIDR value \"2001:DB8::/32\" should be in RFC 5952 canonical format (\"2001:db8::/32\")"],
        );
    }
}
