//! `CertificateSigningRequest`. Upstream: `pkg/registry/certificates/certificates/strategy.go`,
//! `pkg/apis/certificates/validation`.
//!
//! Who asks (`spec.username`, `uid`, `groups`, `extra`) is written by the API server between decoding and
//! `prepare_create`, from the request's user; here the rest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, Name};
use crate::kinds::{AGE, Facts, NAME, READ_WRITE, STATUS, Sub, facts};
use crate::object::{View, at, at_mut, default_text, items_mut, list, restore, set, text};
use crate::table::{age, human_duration, name, or_none};

/// The kind `CertificateSigningRequest`.
pub struct CertificateSigningRequest;

const DECISIONS: [&str; 2] = ["Approved", "Denied"];

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Kind for CertificateSigningRequest {
    facts!(Facts {
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        short_names: &["csr"],
        subresources: &[Sub("approval", "", None, READ_WRITE), STATUS],
        columns: &[
            NAME,
            AGE,
            ("SignerName", "string", "", 0),
            ("Requestor", "string", "", 0),
            ("RequestedDuration", "string", "", 0),
            ("Condition", "string", "", 0)
        ],
        ..Facts::cluster("certificates.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(status) = at_mut(obj, &["status"]) {
            for condition in items_mut(status, "conditions") {
                default_text(condition, "status", "True");
            }
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        restore(new, old, &["spec"]);
        match cx.subresource {
            Some("approval") => {
                // The decision only; the certificate is the signer's to write.
                restore(new, old, &["status", "certificate"]);
                stamp(new, old, cx.now);
            }
            Some("status") => {
                keep_decision(new, old);
                stamp(new, old, cx.now);
            }
            _ => restore(new, old, &["status"]),
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        spec(obj)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = spec(new);
        conditions(&mut errs, new);
        if cx.subresource == Some("approval") {
            decision_stays(&mut errs, new, old);
        }
        if cx.subresource == Some("status") {
            let certificate = View::root(new).dig("status.certificate");
            let before = text(old, &["status", "certificate"]);
            if !before.is_empty() && before != certificate.str() {
                errs.forbidden(certificate.path(), "updates may not change a certificate that was issued");
            }
            if !certificate.is_empty() && before.is_empty() && !certificate_pem(certificate.str()) {
                errs.invalid(certificate.path(), "<certificate data>", "no CERTIFICATE PEM blocks found");
            }
        }
        errs
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        vec![("spec.signerName".into(), text(obj, &["spec", "signerName"]).to_owned())]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let duration = at(obj, &["spec", "expirationSeconds"]).as_i64();
        vec![
            json!(name(obj)),
            json!(age(obj, now)),
            json!(or_none(text(obj, &["spec", "signerName"]))),
            json!(text(obj, &["spec", "username"])),
            json!(duration.map_or_else(|| "<none>".to_owned(), human_duration)),
            json!(condition(obj)),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        match subresource {
            None => &[&["status"]],
            Some("approval") => &[&["spec"], &["status", "certificate"]],
            Some(_) => &[&["spec"], &["status", "conditions"]],
        }
    }
}

fn has(obj: &Value, ty: &str) -> bool {
    list(obj, &["status", "conditions"]).iter().any(|c| c["type"] == ty)
}

/// Upstream: `extractCSRStatus`.
fn condition(obj: &Value) -> String {
    let mut text = if has(obj, "Denied") {
        "Denied"
    } else if has(obj, "Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has(obj, "Failed") {
        text.push_str(",Failed");
    }
    if !crate::object::text(obj, &["status", "certificate"]).is_empty() {
        text.push_str(",Issued");
    }
    text
}

/// Times of the conditions: when they were made and when they last changed.
fn stamp(new: &mut Value, old: &Value, now: jiff::Timestamp) {
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let Some(status) = at_mut(new, &["status"]) else { return };
    for condition in items_mut(status, "conditions") {
        let before = list(old, &["status", "conditions"]).iter().find(|c| c.get("type") == condition.get("type"));
        if condition.get("lastUpdateTime").is_none_or(Value::is_null) {
            set(condition, &["lastUpdateTime"], time.as_str());
        }
        if condition.get("lastTransitionTime").is_none_or(Value::is_null) {
            match before {
                Some(b) if b.get("status") == condition.get("status") && !at(b, &["lastTransitionTime"]).is_null() => {
                    restore(condition, b, &["lastTransitionTime"]);
                }
                _ => set(condition, &["lastTransitionTime"], time.as_str()),
            }
        }
    }
}

/// Through `status` the decision stays as it was: neither added, changed nor removed.
fn keep_decision(new: &mut Value, old: &Value) {
    let decided = |c: &&Value| c["type"].as_str().is_some_and(|t| DECISIONS.contains(&t));
    let mut conditions: Vec<Value> = list(old, &["status", "conditions"]).iter().filter(decided).cloned().collect();
    conditions.extend(list(new, &["status", "conditions"]).iter().filter(|c| !decided(c)).cloned());
    if conditions.is_empty() {
        crate::object::remove(new, &["status", "conditions"]);
    } else {
        set(new, &["status", "conditions"], conditions);
    }
}

fn spec(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let request = spec.get("request");
    match STANDARD.decode(request.str()).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(pem) if pem.contains("-----BEGIN CERTIFICATE REQUEST-----") => {}
        _ => errs.invalid(request.path(), request.str(), "PEM block type must be CERTIFICATE REQUEST"),
    }
    let usages = spec.get("usages");
    if usages.is_empty() {
        errs.required(usages.path(), "");
    }
    let mut seen = std::collections::BTreeSet::new();
    for usage in usages.list() {
        if !USAGES.contains(&usage.str()) {
            errs.not_supported(usage.path(), usage.str(), &USAGES);
        } else if !seen.insert(usage.str()) {
            errs.duplicate(usage.path(), usage.str());
        }
    }
    signer_name(&mut errs, &spec.get("signerName"));
    let duration = spec.get("expirationSeconds");
    if let Some(seconds) = duration.int()
        && seconds < 600
    {
        errs.invalid(duration.path(), seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    errs
}

/// `domain/path`: a domain of at least two labels and a path of subdomain segments. Upstream: `ValidateSignerName`.
fn signer_name(errs: &mut ErrorList, signer: &View<'_>) {
    let name = signer.str();
    if name.is_empty() {
        errs.required(signer.path(), "");
        return;
    }
    let Some((domain, path)) = name.split_once('/') else {
        errs.invalid(
            signer.path(),
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        return;
    };
    crate::validate::fqdn(errs, domain, signer.path());
    if path.is_empty() {
        errs.invalid(
            signer.path(),
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        return;
    }
    for problem in path.split('.').flat_map(|label| crate::names::dns_label(label, false)) {
        errs.invalid(signer.path(), name, format!("validating label \"{path}\": {problem}"));
    }
    if name.len() > 571 {
        errs.too_long(signer.path(), 571);
    }
}

fn conditions(errs: &mut ErrorList, new: &Value) {
    let conditions = View::root(new).dig("status.conditions");
    let mut seen = std::collections::BTreeSet::new();
    for condition in conditions.list() {
        let (ty, status) = (condition.get("type"), condition.get("status"));
        if ty.str().is_empty() {
            errs.required(ty.path(), "");
        } else if !seen.insert(ty.str()) {
            errs.duplicate(ty.path(), ty.str());
        }
        match (ty.str(), status.str()) {
            (_, "") => errs.required(status.path(), ""),
            ("Approved" | "Denied" | "Failed", "True") => {}
            ("Approved" | "Denied" | "Failed", other) => errs.not_supported(status.path(), other, &["True"]),
            (_, "True" | "False" | "Unknown") => {}
            (_, other) => errs.not_supported(status.path(), other, &["True", "False", "Unknown"]),
        }
    }
    if has(new, "Approved") && has(new, "Denied") {
        errs.invalid(conditions.path(), "Denied", "Approved and Denied conditions are mutually exclusive");
    }
}

/// A decision once made is neither taken back nor changed.
fn decision_stays(errs: &mut ErrorList, new: &Value, old: &Value) {
    let path = View::root(new).dig("status.conditions");
    for ty in DECISIONS {
        let of = |obj| list(obj, &["status", "conditions"]).iter().filter(|c| c["type"] == ty).count();
        if of(old) > of(new) {
            errs.forbidden(
                path.path(),
                format!("updates may not remove a condition of type {}", crate::field::quote(ty)),
            );
        }
    }
}

fn certificate_pem(encoded: &str) -> bool {
    STANDARD
        .decode(encoded)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .is_some_and(|pem| pem.contains("-----BEGIN CERTIFICATE-----"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_tells_decision_and_outcome() {
        let csr = json!({"status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="}});
        assert_eq!(condition(&csr), "Approved,Issued");
        assert_eq!(condition(&json!({})), "Pending");
    }

    #[test]
    fn the_signer_cannot_decide() {
        let old = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}});
        keep_decision(&mut new, &old);
        let types: Vec<&str> =
            list(&new, &["status", "conditions"]).iter().filter_map(|c| c["type"].as_str()).collect();
        assert_eq!(types, ["Denied", "Failed"]);
    }

    #[test]
    fn signer_names_are_domain_and_path() {
        let check = |name: &str| {
            let v = json!({"spec": {"signerName": name}});
            let mut errs = ErrorList::new();
            signer_name(&mut errs, &View::root(&v).dig("spec.signerName"));
            errs.0.len()
        };
        assert_eq!(check("kubernetes.io/kube-apiserver-client"), 0);
        assert!(check("nodomain") > 0 && check("") > 0 && check("kubernetes.io/") > 0);
    }
}
