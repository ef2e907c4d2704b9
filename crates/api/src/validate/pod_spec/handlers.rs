//! Probes and lifecycle hooks. Upstream: `validateProbe`, `validateLifecycle`, `validateHandler`.

use std::sync::LazyLock;

use regex::Regex;

use crate::field::ErrorList;
use crate::object::View;
use crate::validate::{non_negative, one_of, port_number, port_number_or_name};

/// The three probes of a container.
pub fn probes(errs: &mut ErrorList, container: &View<'_>, grace_seconds: i64) {
    for (field, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        let probe = container.get(field);
        if !probe.is_set() {
            continue;
        }
        handler(errs, &probe, grace_seconds, false);
        for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            non_negative(errs, &probe.get(number));
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        if let Some(seconds) = grace.int() {
            if seconds <= 0 {
                errs.invalid(grace.path(), seconds, "must be greater than 0");
            }
            if field == "readinessProbe" {
                errs.invalid(grace.path(), seconds, "must not be set for readinessProbes");
            }
        }
        let success = probe.get("successThreshold");
        if once && success.int() != Some(1) {
            errs.invalid(success.path(), success.int().unwrap_or_default(), "must be 1");
        }
    }
}

/// The hooks of a container.
pub fn lifecycle(errs: &mut ErrorList, v: &View<'_>, grace_seconds: i64) {
    for field in ["postStart", "preStop"] {
        let hook = v.get(field);
        if hook.is_set() {
            handler(errs, &hook, grace_seconds, true);
        }
    }
}

/// One way to act: a command, a request, a connection, a sleep (hooks only) or a gRPC health check (probes only).
fn handler(errs: &mut ErrorList, v: &View<'_>, grace_seconds: i64, hook: bool) {
    let mut found = false;
    let kinds: &[&str] =
        if hook { &["exec", "httpGet", "tcpSocket", "sleep"] } else { &["exec", "httpGet", "tcpSocket", "grpc"] };
    for kind in kinds {
        let action = v.get(kind);
        if !action.is_set() {
            continue;
        }
        if found {
            errs.forbidden(action.path(), "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                if action.get("command").is_empty() {
                    errs.required(action.get("command").path(), "");
                }
            }
            "httpGet" => http(errs, &action),
            "tcpSocket" => port_number_or_name(errs, &action.get("port")),
            "grpc" => port_number(errs, action.get("port").int().unwrap_or_default(), action.get("port").path()),
            _ => {
                let seconds = action.get("seconds").int().unwrap_or_default();
                if seconds < 0 || seconds > grace_seconds {
                    errs.invalid(
                        action.path(),
                        seconds,
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_seconds})"),
                    );
                }
            }
        }
    }
    if !found {
        errs.required(v.path(), "must specify a handler type");
    }
}

fn http(errs: &mut ErrorList, v: &View<'_>) {
    static HEADER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("^[-A-Za-z0-9]+$").expect("constant pattern compiles"));
    if v.get("path").str().is_empty() {
        errs.required(v.get("path").path(), "");
    }
    port_number_or_name(errs, &v.get("port"));
    one_of(errs, &v.get("scheme"), &["HTTP", "HTTPS"]);
    for header in v.items("httpHeaders") {
        let name = header.get("name").str();
        if !HEADER.is_match(name) {
            errs.invalid(
                v.get("httpHeaders").path(),
                name,
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
                 for validation is '[-A-Za-z0-9]+')",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::container_problems;

    #[test]
    fn a_probe_does_one_thing() {
        assert_eq!(
            container_problems(json!({
                "livenessProbe": {"successThreshold": 2, "httpGet": {"port": 0}, "exec": {"command": ["x"]}},
                "readinessProbe": {}})),
            [
                "spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            ]
        );
    }
}
