//! Sources of volumes that are elsewhere: iSCSI, Quobyte, fibre channel, Azure.

use std::sync::LazyLock;

use regex::Regex;

use super::{required, secret_reference};
use crate::field::ErrorList;
use crate::object::View;

pub(super) const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// Upstream: `validateISCSIVolumeSource`, and `validateISCSIPersistentVolumeSource` where the volume has a name.
pub(super) fn iscsi(errs: &mut ErrorList, v: &View<'_>, persistent: Option<&str>) {
    static IQN: LazyLock<Regex> = LazyLock::new(|| regex(r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$"));
    static EUI: LazyLock<Regex> = LazyLock::new(|| regex("^eui.[[:alnum:]]{16}$"));
    static NAA: LazyLock<Regex> = LazyLock::new(|| regex("^naa.[[:alnum:]]{32}$"));
    let (portal, name, initiator) = (v.get("targetPortal"), v.get("iqn"), v.get("initiatorName"));
    let start = if persistent.is_some() {
        "must be valid format"
    } else {
        "must be valid format starting with iqn, eui, or naa"
    };
    let problem = |text: &str| {
        let known = [("iqn", &IQN), ("eui", &EUI), ("naa", &NAA)];
        match known.iter().find(|(prefix, _)| text.starts_with(*prefix)) {
            None => Some(start),
            Some((_, form)) => (!form.is_match(text)).then_some("must be valid format"),
        }
    };
    required(errs, v, &["targetPortal"]);
    if persistent.is_some_and(|volume| initiator.is_set() && volume.len() + 1 + portal.len() > 64) {
        errs.invalid(&v.path().child("targetportal"), portal.str(), ISCSI_TOO_LONG);
    }
    if name.is_empty() {
        errs.required(name.path(), "");
    } else if let Some(problem) = problem(name.str()) {
        errs.invalid(name.path(), name.str(), problem);
    }
    let lun = v.get("lun").int().unwrap_or_default();
    if !(0..=255).contains(&lun) {
        errs.invalid(v.get("lun").path(), lun, "must be between 0 and 255, inclusive");
    }
    let secret = v.get("secretRef");
    if (v.get("chapAuthDiscovery").is_true() || v.get("chapAuthSession").is_true()) && !secret.is_set() {
        errs.required(secret.path(), "");
    }
    if persistent.is_some() {
        secret_reference(errs, v, &["name"]);
    }
    if let Some(text) = initiator.opt_str()
        && let Some(problem) = problem(text)
    {
        errs.invalid(&v.path().child("initiatorname"), text, problem);
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("constant pattern compiles")
}

pub(super) fn quobyte(errs: &mut ErrorList, v: &View<'_>) {
    const FORM: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, tenant) = (v.get("registry"), v.get("tenant"));
    if registry.is_empty() {
        errs.required(registry.path(), FORM);
    } else if tenant.len() >= 65 {
        errs.required(tenant.path(), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for pair in registry.str().split(',') {
            // An IPv6 address stands in brackets.
            let (host, port) = pair.rsplit_once(':').unwrap_or_default();
            let bracketed = host.starts_with('[') && host.ends_with(']');
            if !pair.contains(':') || (host.contains(':') && !bracketed) || port.contains(']') {
                errs.invalid(registry.path(), registry.str(), FORM);
            }
        }
    }
    required(errs, v, &["volume"]);
}

pub(super) fn fibre_channel(errs: &mut ErrorList, v: &View<'_>) {
    let (targets, ids, lun) = (v.get("targetWWNs"), v.get("wwids"), v.get("lun"));
    if targets.is_empty() && ids.is_empty() {
        errs.required(targets.path(), "must specify either targetWWNs or wwids, but not both");
    }
    if !targets.is_empty() && !ids.is_empty() {
        errs.invalid(targets.path(), targets.value(), "targetWWNs and wwids can not be specified simultaneously");
    }
    if targets.is_empty() {
        return;
    }
    match lun.int() {
        None => errs.required(lun.path(), "lun is required if targetWWNs is specified"),
        Some(n) if !(0..=255).contains(&n) => errs.invalid(lun.path(), n, "must be between 0 and 255, inclusive"),
        Some(_) => {}
    }
}

pub(super) fn azure_disk(errs: &mut ErrorList, v: &View<'_>) {
    const CACHING: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
    const KINDS: [&str; 3] = ["Dedicated", "Managed", "Shared"];
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    required(errs, v, &["diskName", "diskURI"]);
    let (caching, kind, uri) = (v.get("cachingMode"), v.get("kind"), v.get("diskURI"));
    for (v, supported) in [(&caching, CACHING), (&kind, KINDS)] {
        if v.is_set() && !supported.contains(&v.str()) {
            errs.not_supported(v.path(), v.str(), &supported);
        }
    }
    match kind.opt_str() {
        Some("Managed") if !uri.str().starts_with("/subscriptions/") => {
            errs.not_supported(uri.path(), uri.str(), &[MANAGED]);
        }
        Some(other) if other != "Managed" && !uri.str().starts_with("https://") => {
            errs.not_supported(uri.path(), uri.str(), &[BLOB]);
        }
        _ => {}
    }
}
