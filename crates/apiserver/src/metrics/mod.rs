//! `/metrics` and `/metrics/slis`, with upstream's names and labels (`endpoints/metrics`, `storage/etcd3/metrics`,
//! `component-base/metrics/prometheus/slis`).
//!
//! Cells of requests are found by one look-up for the labels of a request ([`requests`]); what is known elsewhere
//! (objects stored, requests in flight, the process) is asked for when it is to be shown.

pub mod process;
pub mod requests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use orkd_base::metrics::{self as base, Counter, Family, Gauge, Histogram};

use crate::admission::Operation;
use crate::pipeline::ApiServer;

pub use requests::Metrics;

static WATCH_EVENTS: Family<Counter> = Family::counter(
    "apiserver_watch_events_total",
    "[ALPHA] Number of events sent in watch clients",
    &["group", "resource", "version"],
);
static AUTHENTICATIONS: Family<Counter> =
    Family::counter("authentication_attempts", "[ALPHA] Counter of authenticated attempts.", &["result"]);
static AUTHENTICATED_USERS: Family<Counter> = Family::counter(
    "authenticated_user_requests",
    "[ALPHA] Counter of authenticated requests broken out by username.",
    &["username"],
);
static AUTHORIZATIONS: Family<Counter> = Family::counter(
    "authorization_attempts_total",
    "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' \
     or 'error'.",
    &["result"],
);
/// 1 ms, doubled fourteen times.
const DOUBLING: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
static AUTHENTICATION_TIME: Family<Histogram> = Family::histogram(
    "authentication_duration_seconds",
    "[ALPHA] Authentication duration in seconds broken out by result.",
    &["result"],
    DOUBLING,
);
static AUTHORIZATION_TIME: Family<Histogram> = Family::histogram(
    "authorization_duration_seconds",
    "[ALPHA] Authorization duration in seconds broken out by result.",
    &["result"],
    DOUBLING,
);
const ADMISSION: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
static ADMISSION_STEPS: Family<Histogram> = Family::histogram(
    "apiserver_admission_step_admission_duration_seconds",
    "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type \
     (validate or admit).",
    &["operation", "rejected", "type"],
    ADMISSION,
);
static ADMISSION_CONTROLLERS: Family<Histogram> = Family::histogram(
    "apiserver_admission_controller_admission_duration_seconds",
    "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and \
     API resource and type (validate or admit).",
    &["name", "operation", "rejected", "type"],
    ADMISSION,
);
static TERMINATIONS: Family<Counter> = Family::counter(
    "apiserver_request_terminations_total",
    "[ALPHA] Number of requests which apiserver terminated in self-defense.",
    &["code", "component", "group", "resource", "scope", "subresource", "verb", "version"],
);
static HEALTH: Family<Gauge> = Family::gauge(
    "kubernetes_healthcheck",
    "[STABLE] This metric records the result of a single healthcheck.",
    &["name", "type"],
);
static HEALTH_TOTAL: Family<Counter> = Family::counter(
    "kubernetes_healthchecks_total",
    "[STABLE] This metric records the results of all healthcheck.",
    &["name", "status", "type"],
);

/// The counter of the events of a resource's watches.
pub fn watch_events(group: &str, version: &str, resource: &str) -> Arc<Counter> {
    WATCH_EVENTS.with(&[group, resource, version])
}

/// Counts how a request was authenticated, and how long it took; `user` is none for one that was not.
pub fn authenticated(user: Option<&str>, took: Duration) {
    let result = if user.is_some() { "success" } else { "failure" };
    AUTHENTICATIONS.with(&[result]).inc();
    AUTHENTICATION_TIME.with(&[result]).observe(took.as_secs_f64());
    if let Some(name) = user {
        // Names are the clients' to choose: those that tools know are kept, and the rest is one.
        let known = ["admin", "client", "kube_proxy", "kubelet", "apiserver"].into_iter().find(|n| *n == name);
        AUTHENTICATED_USERS.with(&[known.unwrap_or("other")]).inc();
    }
}

/// Counts a decision of the authorizers (`allowed`, `denied` or `no-opinion`), and how long it took.
pub fn authorized(result: &str, took: Duration) {
    AUTHORIZATIONS.with(&[result]).inc();
    AUTHORIZATION_TIME.with(&[result]).observe(took.as_secs_f64());
}

/// How long an admission plugin takes, or a whole phase of admission. Every write asks every plugin twice, so the cells are
/// looked up once each and kept.
pub struct AdmissionTimes {
    plugin: Option<&'static str>,
    cells: [OnceLock<Arc<Histogram>>; 16],
}

impl AdmissionTimes {
    /// Those of a plugin; of whole phases without one.
    pub const fn new(plugin: Option<&'static str>) -> Self {
        AdmissionTimes { plugin, cells: [const { OnceLock::new() }; 16] }
    }

    /// Counts one: what was asked, in the phase `admit` or `validate`, whether it was refused, how long it took.
    pub fn observe(&self, operation: Operation, mutating: bool, rejected: bool, took: Duration) {
        let (at, operation) = match operation {
            Operation::Create => (0, "CREATE"),
            Operation::Update => (1, "UPDATE"),
            Operation::Delete => (2, "DELETE"),
            Operation::Connect => (3, "CONNECT"),
        };
        let phase = if mutating { "admit" } else { "validate" };
        let refusal = if rejected { "true" } else { "false" };
        let cell =
            self.cells[at * 4 + usize::from(mutating) * 2 + usize::from(rejected)].get_or_init(|| match self.plugin {
                Some(name) => ADMISSION_CONTROLLERS.with(&[name, operation, refusal, phase]),
                None => ADMISSION_STEPS.with(&[operation, refusal, phase]),
            });
        cell.observe(took.as_secs_f64());
    }
}

/// Counts a request that was sent away because there are too many.
pub fn terminated(code: &str, verb: &str) {
    TERMINATIONS.with(&[code, "apiserver", "", "", "", "", verb, ""]).inc();
}

/// Counts the outcome of a health check.
pub fn checked(name: &str, kind: &str, ok: bool) {
    HEALTH.with(&[name, kind]).set(if ok { 1.0 } else { 0.0 });
    HEALTH_TOTAL.with(&[name, if ok { "success" } else { "error" }, kind]).inc();
}

/// The text of `/metrics`.
pub fn text(server: &ApiServer) -> String {
    let mut out = String::with_capacity(64 << 10);
    base::render(&mut out);
    requests::in_flight(server, &mut out);
    stored(server, &mut out);
    build_info(server, &mut out);
    process::write(&mut out);
    out
}

/// The text of `/metrics` of a process that is no API server.
pub fn of_process() -> String {
    let mut out = String::with_capacity(16 << 10);
    base::render(&mut out);
    process::write(&mut out);
    out
}

/// The text of `/metrics/slis`: health checks alone.
pub fn slis() -> String {
    let mut all = String::new();
    base::render(&mut all);
    let mut out = String::new();
    let about = |line: &str| {
        line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ").starts_with("kubernetes_healthcheck")
    };
    for line in all.lines().filter(|l| about(l)) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn stored(server: &ApiServer, out: &mut String) {
    // Both names: the second is the one of 1.34 and later.
    for (name, help, with_group) in [
        (
            "apiserver_storage_objects",
            "[STABLE] Number of stored objects at the time of last check split by kind.",
            false,
        ),
        (
            "apiserver_resource_objects",
            "[ALPHA] Number of stored objects at the time of last check split by kind.",
            true,
        ),
    ] {
        base::head(out, name, help, "gauge");
        for resource in server.resources().iter() {
            let Some(cache) = resource.cache.as_ref().filter(|_| resource.is_stored_as_served()) else { continue };
            let info = resource.info();
            let value = cache.len() as f64;
            if with_group {
                base::line(out, name, &[("group", &info.group), ("resource", &info.plural)], value);
            } else {
                let resource = orkd_api::status::group_resource(&info.group, &info.plural);
                base::line(out, name, &[("resource", &resource)], value);
            }
        }
    }
}

fn build_info(server: &ApiServer, out: &mut String) {
    let name = "kubernetes_build_info";
    let help = "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree \
                state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is \
                running.";
    base::head(out, name, help, "gauge");
    let version = server.git_version();
    let labels = [("git_version", version.as_str()), ("major", "1"), ("minor", "36"), ("platform", "linux/amd64")];
    base::line(out, name, &labels, 1.0);
}
