//! `CertificateSigningRequest`. Upstream: `pkg/registry/certificates/certificates/strategy.go`,
//! `pkg/apis/certificates/validation`.
//!
//! Who asks (`spec.username`, `uid`, `groups`, `extra`) is written by the API server between decoding and
//! `prepare_create`, from the request's user; here the rest.

use serde_json::{Value, json};

use super::pem::{blocks, certificate_problem, is_sequence};
use crate::field::{ErrorList, Path};
use crate::kind::{Cells, Cx, Kind, MetaPass, Name};
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
        validate(obj, &Value::Null)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = validate(new, old);
        changes(&mut errs, new, old, cx.subresource);
        errs
    }

    /// Upstream does not care what requests are called, so long as a path can name them.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::path_segment(name, prefix)
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        vec![("spec.signerName".into(), text(obj, &["spec", "signerName"]).to_owned())]
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::Changed]
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

/// Through `status` decisions stay as they were. Where there are more or fewer than before, they are left for the
/// validation to complain about. Upstream: `preserveConditionInstances`.
fn keep_decision(new: &mut Value, old: &Value) {
    for ty in DECISIONS {
        let before = of_type(old, ty);
        if of_type(new, ty).len() != before.len() {
            continue;
        }
        let Some(status) = at_mut(new, &["status"]) else { return };
        let now = items_mut(status, "conditions").filter(|c| c["type"] == ty);
        now.zip(before).for_each(|(now, before)| *now = before);
    }
}

/// The conditions of one type.
fn of_type(obj: &Value, ty: &str) -> Vec<Value> {
    list(obj, &["status", "conditions"]).iter().filter(|c| text(c, &["type"]) == ty).cloned().collect()
}

/// What is held against a changed request only where the old one was free of it. Upstream: `getValidationOptions`.
struct Strictness {
    one_decision: bool,
    signer_name: bool,
    unique_conditions: bool,
    named_conditions: bool,
    certificate: bool,
    unique_usages: bool,
    known_usages: bool,
}

impl Strictness {
    fn of(new: &Value, old: &Value) -> Self {
        let texts = |path: &[&str], field: Option<&str>| -> Vec<String> {
            let text_of = |v: &Value| field.map_or(v.as_str(), |f| v.get(f)?.as_str()).unwrap_or_default().to_owned();
            list(old, path).iter().map(text_of).collect()
        };
        let unique = |all: &[String]| all.iter().collect::<std::collections::BTreeSet<_>>().len() == all.len();
        let (types, usages) = (texts(&["status", "conditions"], Some("type")), texts(&["spec", "usages"], None));
        let before = text(old, &["status", "certificate"]);
        Strictness {
            one_decision: !DECISIONS.iter().all(|d| has(old, d)),
            signer_name: text(old, &["spec", "signerName"]) != LEGACY_SIGNER,
            unique_conditions: unique(&types),
            named_conditions: types.iter().all(|t| !t.is_empty()),
            certificate: old.is_null()
                || (before != text(new, &["status", "certificate"]) && certificate_problem(before).is_none()),
            unique_usages: unique(&usages),
            known_usages: usages.iter().all(|u| USAGES.contains(&u.as_str())),
        }
    }
}

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

/// Upstream: `validateCertificateSigningRequest`.
fn validate(obj: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let strict = Strictness::of(obj, old);
    let spec = View::root(obj).get("spec");
    let request = spec.get("request");
    match blocks(request.str()).first() {
        Some(block) if block.ty == "CERTIFICATE REQUEST" => {
            if !is_sequence(&block.der) {
                errs.invalid(request.path(), request.str(), "asn1: structure error: no certificate request");
            }
        }
        _ => errs.invalid(request.path(), request.str(), "PEM block type must be CERTIFICATE REQUEST"),
    }
    let usages = spec.get("usages");
    if usages.is_empty() {
        errs.required(usages.path(), "");
    }
    if strict.known_usages {
        for usage in usages.list().iter().filter(|usage| !USAGES.contains(&usage.str())) {
            errs.not_supported(usage.path(), usage.str(), &USAGES);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for usage in usages.list() {
        if !seen.insert(usage.str()) && strict.unique_usages {
            errs.duplicate(usage.path(), usage.str());
        }
    }
    let signer = spec.get("signerName");
    if strict.signer_name && signer.str() == LEGACY_SIGNER {
        errs.invalid(signer.path(), signer.str(), "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(&mut errs, &signer);
    }
    let duration = spec.get("expirationSeconds");
    if let Some(seconds) = duration.int()
        && seconds < 600
    {
        errs.invalid(duration.path(), seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    conditions(&mut errs, obj, &strict);
    let certificate = View::root(obj).dig("status.certificate");
    if strict.certificate
        && let Some(problem) = certificate_problem(certificate.str())
    {
        errs.invalid(certificate.path(), "<certificate data>", problem);
    }
    errs
}

/// `domain/path`: a domain of at least two labels and a path of subdomains. Upstream: `ValidateSignerName`.
fn signer_name(errs: &mut ErrorList, signer: &View<'_>) {
    const MAX_DOMAIN: usize = 253;
    const MAX: usize = MAX_DOMAIN + 1 + 253 + 63 + 1;
    let (name, path) = (signer.str(), signer.path());
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    let (Some((domain, rest)), 1) = (name.split_once('/'), name.matches('/').count()) else {
        errs.invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    if domain.len() > MAX_DOMAIN {
        errs.too_long(path, MAX_DOMAIN);
    }
    labels(errs, path, domain, crate::names::dns_label);
    if !domain.contains('.') {
        errs.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(errs, path, rest, crate::names::dns_subdomain);
    if name.len() > MAX {
        errs.too_long(path, MAX);
    }
}

/// The parts between dots; the first that is wrong is enough.
fn labels(errs: &mut ErrorList, path: &Path, text: &str, problems: fn(&str, bool) -> Vec<String>) {
    let mut labels = text.split('.').map(|label| (label, problems(label, false)));
    let Some((label, problems)) = labels.find(|(_, problems)| !problems.is_empty()) else { return };
    for problem in problems {
        errs.invalid(path, text, format!("validating label {}: {problem}", crate::field::quote(label)));
    }
}

/// Upstream: `validateConditions`.
fn conditions(errs: &mut ErrorList, obj: &Value, strict: &Strictness) {
    let conditions = View::root(obj).dig("status.conditions");
    let mut seen = std::collections::BTreeSet::new();
    for condition in conditions.list() {
        let (ty, status) = (condition.get("type"), condition.get("status"));
        if strict.named_conditions && ty.is_empty() {
            errs.required(ty.path(), "");
        }
        let allowed: &[&str] = if matches!(ty.str(), "Approved" | "Denied" | "Failed") {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        if status.is_empty() {
            errs.required(status.path(), "");
        } else if !allowed.contains(&status.str()) {
            errs.not_supported(status.path(), status.str(), allowed);
        }
        let other = DECISIONS.iter().find(|d| DECISIONS.contains(&ty.str()) && **d != ty.str());
        if strict.one_decision && other.is_some_and(|other| seen.contains(other)) {
            errs.invalid(conditions.path(), ty.str(), "Approved and Denied conditions are mutually exclusive");
        }
        if !seen.insert(ty.str()) && strict.unique_conditions {
            errs.duplicate(ty.path(), ty.str());
        }
    }
}

/// Decisions and failures are not taken back; who may decide and who may issue depends on the door.
/// Upstream: `validateCertificateSigningRequestUpdate`.
fn changes(errs: &mut ErrorList, new: &Value, old: &Value, door: Option<&str>) {
    let status = View::root(new).get("status");
    let (conditions, certificate) = (status.get("conditions"), status.get("certificate"));
    let forbidden = |errs: &mut ErrorList, what: &str, ty: &str| {
        let ty = crate::field::quote(ty);
        errs.forbidden(conditions.path(), format!("updates may not {what} a condition of type {ty}"));
    };
    for ty in ["Approved", "Denied", "Failed"] {
        if of_type(new, ty).len() < of_type(old, ty).len() {
            forbidden(errs, "remove", ty);
        }
    }
    if door != Some("approval") {
        for ty in DECISIONS {
            if of_type(new, ty).len() > of_type(old, ty).len() {
                forbidden(errs, "add", ty);
            }
        }
    }
    let before = text(old, &["status", "certificate"]);
    if certificate.str() != before {
        if door != Some("status") {
            errs.forbidden(certificate.path(), "updates may not set certificate content");
        } else if !before.is_empty() {
            errs.forbidden(certificate.path(), "updates may not modify existing certificate content");
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::validate::testing::{problems, problems_of_update, with_cx};

    fn pem(ty: &str, body: &str) -> String {
        STANDARD.encode(format!("-----BEGIN {ty}-----\n{body}-----END {ty}-----\n"))
    }

    fn request() -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"request": pem("CERTIFICATE REQUEST", "MAA=\n"),
            "signerName": "example.com/s", "usages": ["client auth"]}})
    }

    fn with(change: impl Fn(&mut Value)) -> Value {
        let mut obj = request();
        change(&mut obj);
        obj
    }

    #[test]
    fn the_condition_tells_decision_and_outcome() {
        let csr = json!({"status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="}});
        assert_eq!(condition(&csr), "Approved,Issued");
        assert_eq!(condition(&json!({})), "Pending");
    }

    #[test]
    fn requests() {
        let check = |obj: &Value, expected: &[&str]| {
            assert_eq!(problems(&CertificateSigningRequest, obj), expected, "{obj}");
        };
        check(&request(), &[]);
        let certificate = pem("CERTIFICATE", "MAA=\n");
        check(
            &with(|o| {
                o["spec"] = json!({"request": certificate, "expirationSeconds": 599, "usages": ["a", "any", "any"]})
            }),
            &[
                &format!("spec.request: Invalid value: \"{certificate}\": PEM block type must be CERTIFICATE REQUEST"),
                &format!(
                    "spec.usages[0]: Unsupported value: \"a\": supported values: {}",
                    USAGES.map(crate::field::quote).join(", ")
                ),
                "spec.usages[2]: Duplicate value: \"any\"",
                "spec.signerName: Required value",
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
            ],
        );
        check(
            &with(|o| {
                o["spec"]["signerName"] = json!(LEGACY_SIGNER);
                o["spec"]["usages"] = json!([]);
            }),
            &[
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via \
                 this API version",
            ],
        );
    }

    #[test]
    fn signer_names_are_domain_and_path() {
        const FORM: &str = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        let check = |name: &str| {
            let v = json!({"spec": {"signerName": name}});
            let mut errs = ErrorList::new();
            signer_name(&mut errs, &View::root(&v).dig("spec.signerName"));
            crate::validate::testing::texts(&errs)
        };
        assert_eq!(check("kubernetes.io/kube-apiserver-client"), [""; 0]);
        for name in ["nodomain", "a.b/c/d"] {
            assert_eq!(check(name), [format!("spec.signerName: Invalid value: \"{name}\": {FORM}")]);
        }
        let found = check("A/b.-");
        assert!(
            found[0].starts_with(
                "spec.signerName: Invalid value: \"A\": validating label \"A\": a lowercase RFC 1123 label"
            ),
            "{found:?}"
        );
        assert_eq!(
            found[1],
            "spec.signerName: Invalid value: \"A\": should be a domain with at least two segments separated by dots"
        );
        assert!(
            found[2].starts_with(
                "spec.signerName: Invalid value: \"b.-\": validating label \"-\": a lowercase RFC 1123 subdomain"
            ),
            "{found:?}"
        );
    }

    #[test]
    fn conditions_decide_once() {
        let old = request();
        let update = |door: Option<&str>, status: Value, old: &Value| {
            let mut new = old.clone();
            new["status"] = status;
            with_cx(door, |cx| CertificateSigningRequest.prepare_update(cx, &mut new, old));
            problems_of_update(&CertificateSigningRequest, door, &new, old)
        };
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        assert_eq!(update(Some("approval"), approved.clone(), &old), [""; 0]);
        assert_eq!(
            update(Some("status"), approved.clone(), &old),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert_eq!(
            update(
                Some("approval"),
                json!({"conditions": [{"type": "Approved", "status": "False"}, {"type": "Denied", "status": "True"}, {"type": "X", "status": "?"},
                    {"type": "X"}, {"status": "True"}]}),
                &old
            ),
            [
                "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
                "status.conditions[2].status: Unsupported value: \"?\": supported values: \"False\", \"True\", \"Unknown\"",
                "status.conditions[3].status: Required value",
                "status.conditions[3].type: Duplicate value: \"X\"",
                "status.conditions[4].type: Required value",
            ]
        );
        let decided = with(|o| o["status"] = approved.clone());
        assert_eq!(
            update(Some("approval"), json!({}), &decided),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        // The signer sees the decision and leaves it as it is.
        let mut new = decided.clone();
        new["status"]["conditions"][0]["message"] = json!("mine");
        with_cx(Some("status"), |cx| CertificateSigningRequest.prepare_update(cx, &mut new, &decided));
        assert_eq!(at(&new["status"]["conditions"][0], &["message"]), &Value::Null);
    }

    #[test]
    fn certificates_are_issued_once() {
        let old = with(|o| o["status"] = json!({}));
        let issue = |door: &str, certificate: &str, old: &Value| {
            let mut new = old.clone();
            new["status"]["certificate"] = json!(certificate);
            problems_of_update(&CertificateSigningRequest, Some(door), &new, old)
        };
        let (good, other) = (pem("CERTIFICATE", "MAA=\n"), pem("CERTIFICATE", "MAIFAA==\n"));
        assert_eq!(issue("status", &good, &old), [""; 0]);
        assert_eq!(
            issue("approval", &good, &old),
            ["status.certificate: Forbidden: updates may not set certificate content"]
        );
        let bad = |problem: &str| [format!("status.certificate: Invalid value: \"<certificate data>\": {problem}")];
        assert_eq!(issue("status", "eA==", &old), bad("must contain at least one CERTIFICATE PEM block"));
        assert_eq!(
            issue("status", &pem("X", "MAA=\n"), &old),
            bad("only CERTIFICATE PEM blocks are allowed, found \"X\"")
        );
        assert_eq!(
            issue("status", &pem("CERTIFICATE", "a: b\n\nMAA=\n"), &old),
            bad("no PEM block headers are permitted")
        );
        assert_eq!(issue("status", &pem("CERTIFICATE", "AAAA\n"), &old), bad("x509: malformed certificate"));
        let issued = with(|o| o["status"] = json!({"certificate": good}));
        let found = issue("status", &other, &issued);
        assert_eq!(
            found.last().map(String::as_str),
            Some("status.certificate: Forbidden: updates may not modify existing certificate content")
        );
    }
}
