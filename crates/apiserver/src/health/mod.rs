//! `/healthz`, `/livez`, `/readyz`, whole or one check at a time (`k8s.io/apiserver/pkg/server/healthz`).

use std::fmt::Write;

use http::Response;

use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::{Body, metrics, respond};

/// What a server does after its start, under upstream's names: there three servers in a chain do it, and some that are asked
/// by one name here are one part. All of it is done before the first request is answered, so these checks fail for nobody;
/// they are there for those who ask by name (`test/e2e/apimachinery/health_handlers.go`).
const HOOKS: [&str; 32] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/storage-readiness",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-wait-for-first-sync",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];

/// What can be asked about.
pub const KINDS: [&str; 3] = ["healthz", "livez", "readyz"];

/// The names of the checks of one of [`KINDS`].
pub async fn names(server: &ApiServer, kind: &str) -> Vec<String> {
    checks(server, kind).await.into_iter().map(|(name, _)| name).collect()
}

/// A check: its name, and why it fails.
pub type Outcome = (String, Result<(), String>);

/// Answers a health path, whole or of one check.
pub async fn serve(server: &ApiServer, segments: &[&str], query: &Query) -> Option<Response<Body>> {
    let checks = checks(server, segments.first()?).await;
    answer(segments, query, &checks)
}

/// Answers a health path by the outcome of checks; `None` where there is no such check.
pub fn answer(segments: &[&str], query: &Query, checks: &[Outcome]) -> Option<Response<Body>> {
    let (name, one) = segments.split_first()?;
    if !one.is_empty() {
        let wanted = one.join("/");
        let (_, outcome) = checks.iter().find(|(n, _)| *n == wanted)?;
        return Some(match outcome {
            Ok(()) => respond::text(200, "ok"),
            Err(why) => respond::text(500, format!("internal server error: {why}\n")),
        });
    }
    for (check, outcome) in checks {
        metrics::checked(check, name, outcome.is_ok());
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (code, text) = whole(name, checks, &excluded, query.get("verbose").is_some());
    Some(respond::text(code, text))
}

async fn checks(server: &ApiServer, name: &str) -> Vec<Outcome> {
    let mut checks: Vec<Outcome> = vec![("ping".into(), Ok(())), ("log".into(), Ok(()))];
    let store = server.store().current_revision().await.map(|_| ()).map_err(|e| e.to_string());
    checks.push(("etcd".into(), store.clone()));
    if name == "readyz" {
        checks.push(("etcd-readiness".into(), store));
        checks.push(("informer-sync".into(), Ok(())));
    }
    checks.extend(HOOKS.iter().map(|hook| ((*hook).to_owned(), Ok(()))));
    // A restart does not heal a key management service: `livez` does not ask (`addHealthChecksWithoutLivez`).
    for (check, ready) in server.checks() {
        if name == "readyz" || (name == "healthz" && check.starts_with("kms-provider")) {
            checks.push((check.clone(), ready()));
        }
    }
    if name == "readyz" {
        let stopping = server.stopping().is_cancelled();
        checks.push(("shutdown".into(), if stopping { Err("process is shutting down".into()) } else { Ok(()) }));
    }
    checks
}

/// The answer to a question about all checks.
fn whole(name: &str, checks: &[Outcome], excluded: &[&str], verbose: bool) -> (u16, String) {
    let mut text = String::new();
    let mut failed = false;
    for (check, outcome) in checks {
        // Writing to a string cannot fail.
        let _ = match outcome {
            _ if excluded.contains(&check.as_str()) => writeln!(text, "[+]{check} excluded: ok"),
            Ok(()) => writeln!(text, "[+]{check} ok"),
            Err(why) => {
                failed = true;
                tracing::warn!(endpoint = name, check, why, "a health check fails");
                writeln!(text, "[-]{check} failed: reason withheld")
            }
        };
    }
    let unknown: Vec<String> =
        excluded.iter().filter(|e| !checks.iter().any(|(name, _)| name == *e)).map(|e| format!("\"{e}\"")).collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {unknown}");
    }
    match (failed, verbose) {
        (true, _) => (500, format!("{text}{name} check failed\n")),
        (false, true) => (200, format!("{text}{name} check passed\n")),
        (false, false) => (200, "ok".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_upstreams_form() {
        let good: Vec<Outcome> = vec![("ping".into(), Ok(())), ("etcd".into(), Ok(()))];
        let bad: Vec<Outcome> = vec![("ping".into(), Ok(())), ("etcd".into(), Err("secret".into()))];
        let check = |checks: &[Outcome], excluded: &[&str], verbose: bool, code: u16, text: &str| {
            assert_eq!(whole("livez", checks, excluded, verbose), (code, text.to_owned()));
        };
        check(&good, &[], false, 200, "ok");
        check(&good, &[], true, 200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n");
        check(&bad, &[], false, 500, "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n");
        check(&bad, &["etcd"], true, 200, "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n");
        check(&good, &["etcd"], false, 200, "ok");
        check(
            &good,
            &["x", "y"],
            true,
            200,
            "[+]ping ok\n[+]etcd ok\nwarn: some health checks cannot be excluded: no matches for \"x\", \"y\"\nlivez check \
             passed\n",
        );
    }
}
