//! `APIService`: one group and version, served here or by a service.
//!
//! Upstream: `pkg/registry/apiservice/strategy.go`, `ValidateAPIService` of `k8s.io/kube-aggregator`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, MetaRules};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::names::{dns_subdomain, dns1035_label, path_segment};
use crate::object::{View, at, at_mut, default_value, list, restore, set, text};
use crate::strategy::{reset_all_or_status, reset_meta_for_status};
use crate::table::{age, name};

/// The kind `APIService`.
pub struct APIService;

impl Kind for APIService {
    facts!(Facts {
        kind: "APIService",
        plural: "apiservices",
        categories: &["api-extensions"],
        subresources: &[STATUS],
        prefix: "apiregistration.k8s.io/apiservices",
        columns: &[NAME, ("Service", "string", "", 0), ("Available", "string", "", 0), AGE],
        ..Facts::cluster("apiregistration.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(service) = at_mut(obj, &["spec", "service"]) {
            default_value(service, "port", 443);
        }
    }

    fn prepare_create(&self, cx: &Cx<'_>, obj: &mut Value) {
        let status = if at(obj, &["spec", "service"]).is_null() {
            json!({"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": crate::time::format_time(cx.now)}]})
        } else {
            json!({})
        };
        set(obj, &["status"], status);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
            reset_meta_for_status(new, old);
        } else {
            restore(new, old, &["status"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        validate(obj)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource != Some("status") {
            return validate(new);
        }
        let mut errs = ErrorList::new();
        for condition in View::root(new).get("status").items("conditions") {
            let status = condition.get("status");
            if !matches!(status.str(), "True" | "False" | "Unknown") {
                errs.not_supported(status.path(), status.str(), &["True", "False", "Unknown"]);
            }
        }
        errs
    }

    /// The whole rule needs the spec; see [`validate`].
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        path_segment(name, prefix)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        if subresource == Some("status") { &[MetaPass::Changed] } else { &[MetaPass::Changed, MetaPass::New] }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let service = at(obj, &["spec", "service"]);
        let served_by = if service.is_null() {
            "Local".to_owned()
        } else {
            format!("{}/{}", text(service, &["namespace"]), text(service, &["name"]))
        };
        let available = match list(obj, &["status", "conditions"]).iter().find(|c| c["type"] == "Available") {
            None => "Unknown".to_owned(),
            Some(c) if c["status"] == "True" || text(c, &["reason"]).is_empty() => text(c, &["status"]).to_owned(),
            Some(c) => format!("{} ({})", text(c, &["status"]), text(c, &["reason"])),
        };
        vec![json!(name(obj)), json!(served_by), json!(available), json!(age(obj, now))]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_all_or_status(subresource)
    }
}

fn validate(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(obj);
    let spec = root.get("spec");
    let (name, group, version) = (root.dig("metadata.name"), spec.get("group"), spec.get("version"));
    let wanted = format!("{}.{}", version.str(), group.str());
    if name.str() != wanted && !name.is_empty() && path_segment(name.str(), false).is_empty() {
        errs.invalid(
            name.path(),
            name.str(),
            format!("must be `spec.version+\".\"+spec.group`: {}", crate::field::quote(&wanted)),
        );
    }
    if group.is_empty() && version.str() != "v1" {
        errs.required(group.path(), "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        for problem in dns_subdomain(group.str(), false) {
            errs.invalid(group.path(), group.str(), problem);
        }
    }
    for problem in dns1035_label(version.str(), false) {
        errs.invalid(version.path(), version.str(), problem);
    }
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let v = spec.get(field);
        let n = v.int().unwrap_or_default();
        if n <= 0 || n > max {
            errs.invalid(v.path(), n, format!("must be positive and less than {max}"));
        }
    }
    let (service, bundle, insecure) = (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !service.is_set() {
        if !bundle.is_empty() {
            let padding = bundle.str().bytes().rev().take_while(|b| *b == b'=').count();
            let bytes = (bundle.len() / 4 * 3).saturating_sub(padding);
            errs.invalid(bundle.path(), format!("{bytes} bytes").as_str(), "local APIServices may not have a caBundle");
        }
        if insecure.is_true() {
            errs.invalid(insecure.path(), true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return errs;
    }
    for field in ["namespace", "name"] {
        if service.get(field).is_empty() {
            errs.required(service.get(field).path(), "");
        }
    }
    if insecure.is_true() && !bundle.is_empty() {
        errs.invalid(insecure.path(), true, "may not be true if caBundle is present");
    }
    errs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update, with_cx};

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn what_is_local_is_available() {
        let mut obj = service("v1.ex.io", json!({"group": "ex.io", "version": "v1"}));
        with_cx(None, |cx| APIService.prepare_create(cx, &mut obj));
        assert_eq!(obj["status"]["conditions"][0]["reason"], "Local");
        assert_eq!(APIService.cells(&obj, jiff::Timestamp::UNIX_EPOCH)[1..3], [json!("Local"), json!("True")]);
        let mut obj = service("v1.ex.io", json!({"service": {"name": "s", "namespace": "n"}}));
        APIService.default(&mut obj);
        with_cx(None, |cx| APIService.prepare_create(cx, &mut obj));
        assert_eq!((&obj["status"], &obj["spec"]["service"]["port"]), (&json!({}), &json!(443)));
        obj["status"] = json!({"conditions": [{"type": "Available", "status": "False", "reason": "ServiceNotFound"}]});
        let cells = APIService.cells(&obj, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], [json!("n/s"), json!("False (ServiceNotFound)")]);
    }

    #[test]
    fn specs() {
        let good = json!({"group": "ex.io", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100});
        assert_eq!(problems(&APIService, &service("v1.ex.io", good.clone())), [""; 0]);
        assert_eq!(
            problems(&APIService, &service("x", good)),
            ["metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.ex.io\"",]
        );
        assert_eq!(
            problems(
                &APIService,
                &service("v2.", json!({"version": "v2", "insecureSkipTLSVerify": true, "caBundle": "AAAA"}))
            ),
            [
                "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
                "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ]
        );
        let old = service("v1.ex.io", json!({}));
        let mut new = old.clone();
        new["status"] = json!({"conditions": [{"type": "Available", "status": "x"}]});
        assert_eq!(
            problems_of_update(&APIService, Some("status"), &new, &old),
            [
                "status.conditions[0].status: Unsupported value: \"x\": supported values: \"True\", \"False\", \"Unknown\"",
            ]
        );
    }
}
