//! `/metrics`: counters of requests, in the Prometheus text form with upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pipeline::ApiServer;
use crate::route::RequestInfo;

/// Upper bounds of the duration histogram, in seconds.
const BOUNDS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Default)]
struct Series {
    by_code: BTreeMap<u16, u64>,
    buckets: Vec<u64>,
    sum: f64,
}

/// The counters of a server.
#[derive(Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<Labels, Series>>,
}

fn verb(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "post" => "POST",
        "head" => "HEAD",
        _ => "other",
    }
}

impl Metrics {
    /// Counts a request. Names that are not served are not counted by name, so that clients cannot make series.
    pub fn record(&self, server: &ApiServer, info: &RequestInfo, code: u16, took: Duration) {
        let served = info.is_resource && server.resources().get(&info.group, &info.version, &info.resource).is_some();
        let known = |text: &str| if served { text.to_owned() } else { String::new() };
        let subresource = match info.subresource.as_str() {
            "" => "",
            sub if served => {
                let resources = server.resources();
                let resource = resources.get(&info.group, &info.version, &info.resource);
                if resource.is_some_and(|r| r.info().subresources.iter().any(|s| s.name == sub)) { sub } else { "" }
            }
            _ => "",
        };
        let labels = Labels {
            verb: verb(info),
            group: known(&info.group),
            version: known(&info.version),
            resource: known(&info.resource),
            subresource: subresource.to_owned(),
            scope: match (served, info.name.is_empty(), info.namespace.is_empty()) {
                (false, _, _) => "",
                (true, false, _) => "resource",
                (true, true, false) => "namespace",
                (true, true, true) => "cluster",
            },
        };
        let mut all = self.series.lock();
        let series = all.entry(labels).or_default();
        *series.by_code.entry(code).or_default() += 1;
        if info.verb != "watch" {
            let seconds = took.as_secs_f64();
            if series.buckets.is_empty() {
                series.buckets = vec![0; BOUNDS.len() + 1];
            }
            let at = BOUNDS.iter().position(|b| seconds <= *b).unwrap_or(BOUNDS.len());
            series.buckets[at] += 1;
            series.sum += seconds;
        }
    }

    /// The text form.
    pub fn text(&self, server: &ApiServer) -> String {
        let mut out = String::new();
        let all = self.series.lock();
        out.push_str(
            "# HELP apiserver_request_total [STABLE] Counter of apiserver requests.\n# TYPE apiserver_request_total \
             counter\n",
        );
        for (l, series) in all.iter() {
            for (code, count) in &series.by_code {
                let _ = writeln!(
                    out,
                    "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group=\"{}\",\
                     resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"}} {count}",
                    l.group, l.resource, l.scope, l.subresource, l.verb, l.version
                );
            }
        }
        out.push_str(
            "# HELP apiserver_request_duration_seconds [STABLE] Response latency in seconds.\n# TYPE \
             apiserver_request_duration_seconds histogram\n",
        );
        for (l, series) in all.iter().filter(|(_, s)| !s.buckets.is_empty()) {
            let labels = format!(
                "component=\"apiserver\",dry_run=\"\",group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
                l.group, l.resource, l.scope, l.subresource, l.verb, l.version
            );
            let mut total = 0;
            for (i, count) in series.buckets.iter().enumerate() {
                total += count;
                let bound = BOUNDS.get(i).map_or("+Inf".to_owned(), ToString::to_string);
                let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {total}");
            }
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", series.sum);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {total}");
        }
        drop(all);
        out.push_str(
            "# HELP apiserver_storage_objects [STABLE] Number of stored objects.\n# TYPE apiserver_storage_objects gauge\n",
        );
        for resource in server.resources().iter() {
            if let Some(cache) = resource.cache.as_ref().filter(|_| !resource.is_view()) {
                let info = resource.info();
                let name = orkd_api::status::group_resource(&info.group, &info.plural);
                let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{name}\"}} {}", cache.len());
            }
        }
        out
    }
}
