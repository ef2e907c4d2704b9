//! Requests counted: how many, how long, how large, and how many stay open.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orkd_base::metrics::{self as base, Counter, Family, Gauge, Histogram};
use parking_lot::RwLock;

use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::route::RequestInfo;

static TOTAL: Family<Counter> = Family::counter(
    "apiserver_request_total",
    "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, \
     component, and HTTP response code.",
    &["code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
);
const LABELS: &[&str] = &["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"];
const NO_DRY_RUN: &[&str] = &["component", "group", "resource", "scope", "subresource", "verb", "version"];
static DURATION: Family<Histogram> = Family::histogram(
    "apiserver_request_duration_seconds",
    "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, \
     subresource, scope and component.",
    LABELS,
    &[
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0,
        30.0, 45.0, 60.0,
    ],
);
static SLI_DURATION: Family<Histogram> = Family::histogram(
    "apiserver_request_sli_duration_seconds",
    "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in \
     seconds for each verb, group, version, resource, subresource, scope and component.",
    NO_DRY_RUN,
    &[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0],
);
static SIZES: Family<Histogram> = Family::histogram(
    "apiserver_response_sizes",
    "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and \
     component.",
    NO_DRY_RUN,
    &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9],
);
static LONG_RUNNING: Family<Gauge> = Family::gauge(
    "apiserver_longrunning_requests",
    "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and \
     component. Not all requests are tracked this way.",
    NO_DRY_RUN,
);

/// What distinguishes series of requests. Names that are not served are empty, so that clients cannot make series.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Labels<'a> {
    verb: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
    dry_run: &'static str,
}

struct Cells {
    labels: [Box<str>; 7],
    by_code: RwLock<Vec<(u16, Arc<Counter>)>>,
    duration: Arc<Histogram>,
    sli: Arc<Histogram>,
    size: Option<Arc<Histogram>>,
    open: Arc<Gauge>,
}

/// The counters of a server's requests.
#[derive(Default)]
pub struct Metrics {
    cells: RwLock<HashMap<u64, Vec<Arc<Cells>>>>,
    /// Requests under way that read, and that change something.
    in_flight: [AtomicU64; 2],
}

fn verb(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "get"
            if info.is_resource && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") =>
        {
            "CONNECT"
        }
        "create" if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        _ => "other",
    }
}

/// Paths outside the resources that are counted by name.
const PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/metrics"];

impl<'a> Labels<'a> {
    fn of(server: &ApiServer, info: &'a RequestInfo, query: &Query) -> Self {
        let resources = server.resources();
        let served = if info.is_resource { resources.get(&info.group, &info.version, &info.resource) } else { None };
        let dry_run = if query.text("dryRun") == "All" { "All" } else { "" };
        let Some(resource) = served else {
            let path = PATHS.into_iter().find(|p| *p == info.path).unwrap_or_default();
            return Labels {
                verb: verb(info),
                group: "",
                version: "",
                resource: "",
                subresource: path,
                scope: "",
                dry_run,
            };
        };
        let known = resource.info().subresources.iter().any(|s| s.name == info.subresource);
        Labels {
            verb: verb(info),
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: if known { &info.subresource } else { "" },
            scope: match (info.name.is_empty(), info.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
            dry_run,
        }
    }

    fn all(&self) -> [&str; 7] {
        [self.verb, self.group, self.version, self.resource, self.subresource, self.scope, self.dry_run]
    }

    fn hash(&self) -> u64 {
        let mut h = 0xcbf2_9ce4_8422_2325_u64;
        for text in self.all() {
            for byte in text.bytes().chain([0xff]) {
                h = (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        h
    }
}

impl Metrics {
    fn cells(&self, labels: &Labels<'_>) -> Arc<Cells> {
        let key = labels.hash();
        let same = |c: &&Arc<Cells>| c.labels.iter().map(|l| &**l).eq(labels.all());
        if let Some(found) = self.cells.read().get(&key).and_then(|all| all.iter().find(same)) {
            return Arc::clone(found);
        }
        let l = labels;
        let few = ["apiserver", l.group, l.resource, l.scope, l.subresource, l.verb, l.version];
        let cells = Arc::new(Cells {
            labels: l.all().map(Box::from),
            by_code: RwLock::default(),
            duration: DURATION.with(&[
                "apiserver",
                l.dry_run,
                l.group,
                l.resource,
                l.scope,
                l.subresource,
                l.verb,
                l.version,
            ]),
            sli: SLI_DURATION.with(&few),
            size: matches!(l.verb, "GET" | "LIST").then(|| SIZES.with(&few)),
            open: LONG_RUNNING.with(&few),
        });
        self.cells.write().entry(key).or_default().push(Arc::clone(&cells));
        cells
    }

    /// Counts an answer. One that stays open is counted as open until what is returned is dropped; `waited` is the part
    /// of its time that it waited for its turn.
    pub fn record(
        &self,
        server: &ApiServer,
        info: &RequestInfo,
        query: &Query,
        answer: &Answer,
    ) -> Option<OpenRequest> {
        let labels = Labels::of(server, info, query);
        let cells = self.cells(&labels);
        let known = cells.by_code.read().iter().find(|(c, _)| *c == answer.code).map(|(_, c)| Arc::clone(c));
        let counter = known.unwrap_or_else(|| {
            let l = &labels;
            let code = answer.code.to_string();
            let counter = TOTAL.with(&[
                &code,
                "apiserver",
                l.dry_run,
                l.group,
                l.resource,
                l.scope,
                l.subresource,
                l.verb,
                l.version,
            ]);
            cells.by_code.write().push((answer.code, Arc::clone(&counter)));
            counter
        });
        counter.inc();
        if answer.stays_open {
            cells.open.add(1.0);
            return Some(OpenRequest(Arc::clone(&cells.open)));
        }
        let seconds = answer.took.as_secs_f64();
        cells.duration.observe(seconds);
        cells.sli.observe((seconds - answer.waited.as_secs_f64()).max(0.0));
        if let (Some(size), Some(bytes)) = (&cells.size, answer.size) {
            size.observe(bytes as f64);
        }
        None
    }

    /// Counts a request as under way until what is returned is dropped.
    pub fn enter(&self, reads: bool) -> UnderWay<'_> {
        let count = &self.in_flight[usize::from(!reads)];
        count.fetch_add(1, Ordering::Relaxed);
        UnderWay(count)
    }
}

/// How a request was answered.
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// How long it took in all.
    pub took: Duration,
    /// How much of that it waited for its turn.
    pub waited: Duration,
    /// Bytes of the body, where they are known.
    pub size: Option<u64>,
    /// Whether the answer goes on.
    pub stays_open: bool,
}

/// A request whose answer goes on.
pub struct OpenRequest(Arc<Gauge>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

/// A request under way.
pub struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Writes how many requests are under way.
pub(super) fn in_flight(server: &ApiServer, out: &mut String) {
    let name = "apiserver_current_inflight_requests";
    let help = "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last \
                second.";
    base::head(out, name, help, "gauge");
    let [reads, writes] = &server.metrics().in_flight;
    for (kind, count) in [("mutating", writes), ("readOnly", reads)] {
        base::line(out, name, &[("request_kind", kind)], count.load(Ordering::Relaxed) as f64);
    }
}
