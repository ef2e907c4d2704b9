//! `Ingress`. Upstream: `pkg/registry/networking/ingress/strategy.go`, `ValidateIngressCreate`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, list, set, text};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, name};
use crate::validate::{ip, port_name, port_number};

/// The kind `Ingress`.
pub struct Ingress;

impl Kind for Ingress {
    facts!(Facts {
        kind: "Ingress",
        plural: "ingresses",
        prefix: "ingress",
        short_names: &["ing"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Class", "string", "", 0),
            ("Hosts", "string", "", 0),
            ("Address", "string", "", 0),
            ("Ports", "string", "", 0),
            AGE
        ],
        ..Facts::namespaced("networking.k8s.io", "v1")
    });

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"loadBalancer": {}}));
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        separate_status(new, old, cx.subresource);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let annotation = at(obj, &["metadata", "annotations", CLASS_ANNOTATION]);
        let class = View::root(obj).dig("spec.ingressClassName");
        errs.extend(spec(obj));
        if class.is_set() && annotation.as_str().is_some_and(|annotated| annotated != class.str()) {
            errs.invalid(
                &crate::field::Path::new("annotations").child(CLASS_ANNOTATION),
                annotation,
                "must match `ingressClassName` when both are specified",
            );
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            let mut errs = ErrorList::new();
            for entry in View::root(new).dig("status.loadBalancer").items("ingress") {
                let (ip, hostname) = (entry.get("ip"), entry.get("hostname"));
                if !ip.str().is_empty() {
                    crate::validate::ip_address(&mut errs, ip.str(), ip.path());
                }
                if !hostname.str().is_empty() {
                    crate::validate::dns_subdomain_at(&mut errs, &hostname);
                    if ip::sloppy(hostname.str()).is_some() {
                        errs.invalid(hostname.path(), hostname.str(), "must be a DNS name, not an IP address");
                    }
                }
            }
            return errs;
        }
        spec(new)
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") {
            let addresses = View::root(new).dig("status.loadBalancer").items("ingress");
            return addresses.iter().flat_map(|entry| ip::address_warnings(&entry.get("ip"))).collect();
        }
        // The class may be said in both ways for a while; who says it in the old way alone is told, once.
        let annotated = !at(new, &["metadata", "annotations", CLASS_ANNOTATION]).is_null();
        if old.is_none() && annotated && at(new, &["spec", "ingressClassName"]).is_null() {
            return vec![format!(
                "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
            )];
        }
        Vec::new()
    }

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        if subresource == Some("status") { &[MetaPass::Changed] } else { &[MetaPass::Changed, MetaPass::New] }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let class = match text(obj, &["spec", "ingressClassName"]) {
            "" => text(obj, &["metadata", "annotations", CLASS_ANNOTATION]),
            class => class,
        };
        let hosts: Vec<&str> =
            list(obj, &["spec", "rules"]).iter().map(|r| text(r, &["host"])).filter(|h| !h.is_empty()).collect();
        let shown_hosts = match hosts.len() {
            0 => "*".to_owned(),
            n if n > 3 => format!("{} + {} more...", hosts.get(..3).unwrap_or_default().join(","), n - 3),
            _ => hosts.join(","),
        };
        let mut addresses: Vec<&str> = list(obj, &["status", "loadBalancer", "ingress"])
            .iter()
            .map(|i| match text(i, &["ip"]) {
                "" => text(i, &["hostname"]),
                ip => ip,
            })
            .filter(|a| !a.is_empty())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let ports = if list(obj, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            json!(name(obj)),
            json!(crate::table::or_none(class)),
            json!(shown_hosts),
            json!(addresses.join(",")),
            json!(ports),
            json!(age(obj, now)),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn spec(obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let (default, rules) = (spec.get("defaultBackend"), spec.get("rules"));
    if rules.is_empty() && !default.is_set() {
        errs.invalid(spec.path(), &Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if default.is_set() {
        backend(&mut errs, &default);
    }
    for rule in rules.list() {
        if ip::sloppy(rule.get("host").str()).is_some() {
            errs.invalid(rule.get("host").path(), rule.get("host").str(), "must be a DNS name, not an IP address");
        }
        if !rule.get("host").is_empty() {
            host(&mut errs, &rule.get("host"));
        }
        let http = rule.get("http");
        if !http.is_set() {
            continue;
        }
        let paths = http.get("paths");
        if paths.is_empty() {
            errs.required(paths.path(), "");
        }
        for path in paths.list() {
            if path.get("pathType").is_set() {
                self::path(&mut errs, &path);
                backend(&mut errs, &path.get("backend"));
            } else {
                errs.required(path.get("pathType").path(), "pathType must be specified");
            }
        }
    }
    for tls in spec.items("tls") {
        for name in tls.items("hosts") {
            host(&mut errs, &name);
        }
        let secret = tls.get("secretName");
        if !secret.str().is_empty() {
            crate::validate::dns_subdomain_at(&mut errs, &secret);
        }
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        crate::validate::dns_subdomain_at(&mut errs, &class);
    }
    errs
}

fn host(errs: &mut ErrorList, v: &View<'_>) {
    let name = v.str();
    let (subject, wildcard) = match name.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let problems = crate::names::dns_subdomain(subject, false);
    if problems.is_empty() {
        return;
    }
    if wildcard || name.contains('*') {
        if name.len() > 253 {
            errs.invalid(v.path(), name, "must be no more than 253 bytes");
        }
        errs.invalid(
            v.path(),
            name,
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of \
             lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', \
             regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        );
    } else {
        for problem in problems {
            errs.invalid(v.path(), name, problem);
        }
    }
}

fn path(errs: &mut ErrorList, v: &View<'_>) {
    let (path, ty) = (v.get("path"), v.get("pathType"));
    match ty.str() {
        "Exact" | "Prefix" => {
            if !path.str().starts_with('/') {
                errs.invalid(path.path(), path.str(), "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.str().contains(sequence) {
                    errs.invalid(path.path(), path.str(), format!("must not contain '{sequence}'"));
                }
            }
            for suffix in ["/..", "/."] {
                if path.str().ends_with(suffix) {
                    errs.invalid(path.path(), path.str(), format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.str().is_empty() && !path.str().starts_with('/') {
                errs.invalid(path.path(), path.str(), "must be an absolute path");
            }
        }
        other => errs.not_supported(ty.path(), other, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
}

fn backend(errs: &mut ErrorList, v: &View<'_>) {
    let (service, resource) = (v.get("service"), v.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => errs.invalid(v.path(), "", "cannot set both resource and service backends"),
        (false, true) => {
            super::local_reference(errs, &resource);
        }
        (false, false) => errs.invalid(v.path(), "", "resource or service backend is required"),
        (true, false) => {
            let name = service.get("name");
            if name.str().is_empty() {
                errs.required(name.path(), "");
            } else {
                for problem in crate::names::dns_label(name.str(), false) {
                    errs.invalid(name.path(), name.str(), problem);
                }
            }
            let (port, number) = (service.dig("port.name"), service.dig("port.number"));
            let given = number.int().unwrap_or_default();
            match (port.str().is_empty(), given) {
                (false, 0) => {
                    for problem in port_name(port.str()) {
                        errs.invalid(port.path(), port.str(), problem);
                    }
                }
                (false, _) => errs.invalid(v.path(), "", "cannot set both port name & port number"),
                (true, 0) => errs.required(v.path(), "port name or number is required"),
                (true, n) => port_number(errs, n, number.path()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, with_cx};

    #[test]
    fn specs() {
        let check = |spec: Value, expected: &[&str]| assert_eq!(problems(&Ingress, &json!({ "spec": spec })), expected);
        let rule = |path: Value| json!({"rules": [{"host": "a.io", "http": {"paths": [path]}}]});
        let service = json!({"service": {"name": "s", "port": {"number": 80}}});
        const AT: &str = "spec.rules[0].http.paths[0]";
        check(rule(json!({"path": "/", "pathType": "Prefix", "backend": service})), &[]);
        check(json!({"defaultBackend": {"resource": {"kind": "K", "name": "n"}}}), &[]);
        check(rule(json!({"backend": {}})), &[&format!("{AT}.pathType: Required value: pathType must be specified")]);
        check(
            rule(json!({"path": "a//b/..", "pathType": "Exact", "backend": {}})),
            &[
                &format!("{AT}.path: Invalid value: \"a//b/..\": must be an absolute path"),
                &format!("{AT}.path: Invalid value: \"a//b/..\": must not contain '//'"),
                &format!("{AT}.path: Invalid value: \"a//b/..\": cannot end with '/..'"),
                &format!("{AT}.backend: Invalid value: \"\": resource or service backend is required"),
            ],
        );
        check(
            rule(json!({"pathType": "x", "backend": {"resource": {}, "service": {}}})),
            &[
                &format!(
                    "{AT}.pathType: Unsupported value: \"x\": supported values: \"Exact\", \"ImplementationSpecific\", \
                     \"Prefix\""
                ),
                &format!("{AT}.backend: Invalid value: \"\": cannot set both resource and service backends"),
            ],
        );
        check(
            json!({"defaultBackend": {"resource": {}}, "rules": [{"http": {}}]}),
            &[
                "spec.defaultBackend.resource.kind: Required value",
                "spec.defaultBackend.resource.name: Required value",
                "spec.rules[0].http.paths: Required value",
            ],
        );
        check(
            json!({"defaultBackend": {"service": {"port": {"name": "http", "number": 80}}}}),
            &[
                "spec.defaultBackend.service.name: Required value",
                "spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number",
            ],
        );
        check(
            json!({"rules": [{"host": "1.2.3.4"}]}),
            &["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
        );
    }

    #[test]
    fn wildcards_are_not_too_long_either() {
        let long = format!("*.{}", "a.".repeat(130));
        let found = problems(&Ingress, &json!({"spec": {"rules": [{ "host": long }]}}));
        assert!(found[0].ends_with("must be no more than 253 bytes"), "{found:?}");
        assert!(found[1].contains("a wildcard DNS-1123 subdomain must start with"), "{found:?}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn who_says_the_class_in_the_old_way_alone_is_told() {
        let warnings = |new: Value, old: Option<&Value>| with_cx(None, |cx| Ingress.warnings(cx, &new, old).len());
        let annotated = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "x"}}});
        let mut both = annotated.clone();
        both["spec"] = json!({"ingressClassName": "x"});
        assert_eq!([warnings(annotated.clone(), None), warnings(both, None)], [1, 0]);
        assert_eq!(warnings(annotated, Some(&json!({}))), 0);
    }
}
