//! The texts of `/metrics`, `/metrics/resource` and `/metrics/cadvisor` (pure).
//!
//! Upstream: `pkg/kubelet/metrics/collectors/resource_metrics.go`, `pkg/kubelet/metrics/metrics.go`, and cAdvisor's
//! `metrics/prometheus.go` with the labels of `containerPrometheusLabelsFunc`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use orkd_base::metrics::{head, line, line_at};
use orkd_cri::v1;

use super::disk::Filesystem;
use super::usage::{Memory, Swap};
use super::{Measured, Snapshot};

#[expect(clippy::cast_precision_loss, reason = "the text form has no integers")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a date are enough")]
fn date(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}

/// One series: its labels, and what was measured.
struct Series<'a> {
    labels: Vec<(&'a str, &'a str)>,
    measured: &'a Measured,
}

/// Writes a metric of all series that have it.
fn write(
    out: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    series: &[Series<'_>],
    value: impl Fn(&Measured) -> Option<f64>,
) {
    let values: Vec<_> = series.iter().filter_map(|s| Some((s, value(s.measured)?))).collect();
    if values.is_empty() {
        return;
    }
    head(out, name, help, kind);
    for (one, value) in values {
        line_at(out, name, &one.labels, value, one.measured.at.as_millisecond());
    }
}

fn cpu(m: &Measured) -> Option<f64> {
    m.usage.cpu.map(seconds)
}

fn memory(of: impl Fn(&Memory) -> u64) -> impl Fn(&Measured) -> Option<f64> {
    move |m| m.usage.memory.as_ref().map(|memory| float(of(memory)))
}

fn swap(of: impl Fn(&Swap) -> Option<u64>) -> impl Fn(&Measured) -> Option<f64> {
    move |m| m.usage.swap.as_ref().and_then(&of).map(float)
}

/// `/metrics/resource`. Without a snapshot, that there is none.
pub(super) fn resource(snapshot: Option<&Snapshot>) -> String {
    let mut out = String::new();
    if let Some(snapshot) = snapshot {
        let mut containers = Vec::new();
        let mut pods = Vec::new();
        let mut started = Vec::new();
        for pod in &snapshot.pods {
            let of_pod = [("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())];
            for container in &pod.containers {
                let labels = vec![("container", container.name.as_str()), of_pod[0], of_pod[1]];
                started.push((labels.clone(), date(container.started)));
                containers.extend(container.measured.as_ref().map(|measured| Series { labels, measured }));
            }
            pods.extend(pod.measured.as_ref().map(|measured| Series { labels: of_pod.to_vec(), measured }));
        }
        let node = [Series { labels: Vec::new(), measured: &snapshot.node }];
        let mut all = |what: &str, long: &str, series: &[Series<'_>], limit: bool| {
            let name = format!("{what}_cpu_usage_seconds_total");
            let help = format!("[STABLE] Cumulative cpu time consumed by the {long} in core-seconds");
            write(&mut out, &name, &help, "counter", series, cpu);
            let name = format!("{what}_memory_working_set_bytes");
            let help = format!("[STABLE] Current working set of the {long} in bytes");
            write(&mut out, &name, &help, "gauge", series, memory(|m| m.working_set));
            if what == "container" && !started.is_empty() {
                let name = "container_start_time_seconds";
                head(&mut out, name, "[STABLE] Start time of the container since unix epoch in seconds", "gauge");
                for (labels, value) in &started {
                    line(&mut out, name, labels, *value);
                }
            }
            if limit {
                let name = format!("{what}_swap_limit_bytes");
                let help = format!(
                    "[ALPHA] Current amount of the {long} swap limit in bytes. Reported only on non-windows systems"
                );
                write(&mut out, &name, &help, "gauge", series, swap(|s| s.limit));
            }
            let name = format!("{what}_swap_usage_bytes");
            let amount = if what == "node" { "Current swap usage of the node" } else { "Current amount of the" };
            let help = match what {
                "node" => format!("[ALPHA] {amount} in bytes. Reported only on non-windows systems"),
                _ => format!("[ALPHA] {amount} {long} swap usage in bytes. Reported only on non-windows systems"),
            };
            write(&mut out, &name, &help, "gauge", series, swap(|s| Some(s.usage)));
        };
        all("container", "container", &containers, true);
        all("node", "node", &node, false);
        all("pod", "pod", &pods, false);
    }
    let name = "resource_scrape_error";
    head(&mut out, name, "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise", "gauge");
    line(&mut out, name, &[], if snapshot.is_some() { 0.0 } else { 1.0 });
    out
}

/// `/metrics/cadvisor`: the node, pods and containers, as far as their cgroups and networks tell.
pub(super) fn cadvisor(snapshot: &Snapshot) -> String {
    fn labels<'a>(container: &'a str, id: &'a str, image: &'a str, name: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![("container", container), ("id", id), ("image", image), ("name", name)]
    }
    let mut series = vec![Series {
        labels: [labels("", "/", "", ""), vec![("namespace", ""), ("pod", "")]].concat(),
        measured: &snapshot.node,
    }];
    let mut started = Vec::new();
    for pod in &snapshot.pods {
        let of_pod = [("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())];
        let own = [labels("", &pod.cgroup, "", ""), of_pod.to_vec()].concat();
        started.push((own.clone(), pod.started));
        series.extend(pod.measured.as_ref().map(|measured| Series { labels: own, measured }));
        for c in &pod.containers {
            let own = [labels(&c.name, &c.cgroup, &c.image, &c.id), of_pod.to_vec()].concat();
            started.push((own.clone(), c.started));
            series.extend(c.measured.as_ref().map(|measured| Series { labels: own, measured }));
        }
    }
    let mut out = String::new();
    let with_cpu: Vec<Series<'_>> = series
        .iter()
        .map(|s| {
            let mut labels = s.labels.clone();
            // Labels are in the order of their names.
            labels.insert(1, ("cpu", "total"));
            Series { labels, measured: s.measured }
        })
        .collect();
    let help = "Cumulative cpu time consumed in seconds.";
    write(&mut out, "container_cpu_usage_seconds_total", help, "counter", &with_cpu, cpu);
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Measured) -> Option<f64>| {
        write(&mut out, name, help, "gauge", &series, value);
    };
    gauge("container_memory_rss", "Size of RSS in bytes.", &memory(|m| m.rss));
    gauge("container_memory_swap", "Container swap usage in bytes.", &swap(|s| Some(s.usage)));
    let help = "Current memory usage in bytes, including all memory regardless of when it was accessed";
    gauge("container_memory_usage_bytes", help, &memory(|m| m.usage));
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", &memory(|m| m.working_set));
    gauge("container_processes", "Number of processes running inside the container.", &|m| {
        m.usage.processes.map(float)
    });
    gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", &memory(|m| m.limit.unwrap_or(0)));
    networks(&mut out, snapshot);
    let name = "container_start_time_seconds";
    head(&mut out, name, "Start time of the container since unix epoch in seconds.", "gauge");
    for (labels, at) in started {
        line(&mut out, name, &labels, date(at).floor());
    }
    head(&mut out, "machine_cpu_cores", "Number of logical CPU cores.", "gauge");
    line(&mut out, "machine_cpu_cores", &[], float(snapshot.cores));
    if let Some(total) = snapshot.node.usage.memory.and_then(|m| m.limit) {
        head(&mut out, "machine_memory_bytes", "Amount of memory installed on the machine.", "gauge");
        line(&mut out, "machine_memory_bytes", &[], float(total));
    }
    out
}

fn networks(out: &mut String, snapshot: &Snapshot) {
    type Of = fn(&super::Interface) -> u64;
    let metrics: [(&str, &str, Of); 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| {
            i.rx_errors
        }),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| {
            i.tx_errors
        }),
    ];
    let at = snapshot.at.as_millisecond();
    for (name, help, of) in metrics {
        head(out, name, help, "counter");
        let mut all = |id: &str, namespace: &str, pod: &str, sandbox: &str, interfaces: &[super::Interface]| {
            for i in interfaces {
                let labels = [
                    ("container", ""),
                    ("id", id),
                    ("image", ""),
                    ("interface", i.name.as_str()),
                    ("name", sandbox),
                    ("namespace", namespace),
                    ("pod", pod),
                ];
                line_at(out, name, &labels, float(of(i)), at);
            }
        };
        all("/", "", "", "", &snapshot.interfaces);
        for pod in &snapshot.pods {
            all(&pod.cgroup, &pod.namespace, &pod.name, &pod.sandbox, &pod.interfaces);
        }
    }
}

/// `/metrics`: what is to be said of the kubelet itself.
pub(super) fn kubelet(
    node: &str,
    pods: usize,
    containers: &[v1::Container],
    evictions: &BTreeMap<&'static str, u64>,
    claims: &BTreeMap<(String, String), Filesystem>,
) -> String {
    let mut out = String::new();
    if !evictions.is_empty() {
        let name = "kubelet_evictions";
        head(&mut out, name, "[ALPHA] Cumulative number of pod evictions by eviction signal", "counter");
        for (signal, count) in evictions {
            line(&mut out, name, &[("eviction_signal", signal)], float(*count));
        }
    }
    head(&mut out, "kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", "gauge");
    line(&mut out, "kubelet_node_name", &[("node", node)], 1.0);
    let mut by_state: BTreeMap<&str, u64> = BTreeMap::new();
    for container in containers {
        let state = match v1::ContainerState::try_from(container.state) {
            Ok(v1::ContainerState::ContainerCreated) => "created",
            Ok(v1::ContainerState::ContainerRunning) => "running",
            Ok(v1::ContainerState::ContainerExited) => "exited",
            _ => "unknown",
        };
        *by_state.entry(state).or_default() += 1;
    }
    let name = "kubelet_running_containers";
    head(&mut out, name, "[ALPHA] Number of containers currently running", "gauge");
    for (state, count) in by_state {
        line(&mut out, name, &[("container_state", state)], float(count));
    }
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    head(&mut out, "kubelet_running_pods", help, "gauge");
    line(&mut out, "kubelet_running_pods", &[], float(pods as u64));
    volumes(&mut out, claims);
    out
}

/// How full the volumes of claims are, by namespace and claim
/// (`pkg/kubelet/metrics/collectors/volume_stats.go`).
fn volumes(out: &mut String, claims: &BTreeMap<(String, String), Filesystem>) {
    type Of = fn(&Filesystem) -> u64;
    let all: [(&str, &str, Of); 6] = [
        ("available_bytes", "Number of available bytes in the volume", |fs| fs.available),
        ("capacity_bytes", "Capacity in bytes of the volume", |fs| fs.capacity),
        ("inodes", "Maximum number of inodes in the volume", |fs| fs.inodes),
        ("inodes_free", "Number of free inodes in the volume", |fs| fs.inodes_free),
        ("inodes_used", "Number of used inodes in the volume", |fs| fs.inodes.saturating_sub(fs.inodes_free)),
        ("used_bytes", "Number of used bytes in the volume", |fs| fs.used),
    ];
    for (what, help, of) in all.into_iter().filter(|_| !claims.is_empty()) {
        let name = format!("kubelet_volume_stats_{what}");
        head(out, &name, &format!("[ALPHA] {help}"), "gauge");
        for ((namespace, claim), fs) in claims {
            let labels = [("namespace", namespace.as_str()), ("persistentvolumeclaim", claim.as_str())];
            line(out, &name, &labels, float(of(fs)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::snapshot;
    use super::*;

    /// Lines without their heads.
    fn lines(text: &str) -> Vec<&str> {
        text.lines().filter(|l| !l.starts_with('#')).collect()
    }

    #[test]
    fn resource_metrics_are_upstreams() {
        let text = resource(Some(&snapshot()));
        let expected = [
            r#"container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 1767225660000"#,
            r#"container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 4 1767225660000"#,
            r#"container_start_time_seconds{container="c",namespace="ns",pod="p"} 1.7672256e+09"#,
            r#"container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 0 1767225660000"#,
            "node_cpu_usage_seconds_total 1.5 1767225660000",
            "node_memory_working_set_bytes 4 1767225660000",
            "node_swap_usage_bytes 0 1767225660000",
            r#"pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 1.5 1767225660000"#,
            r#"pod_memory_working_set_bytes{namespace="ns",pod="p"} 4 1767225660000"#,
            r#"pod_swap_usage_bytes{namespace="ns",pod="p"} 0 1767225660000"#,
            "resource_scrape_error 0",
        ];
        assert_eq!(lines(&text), expected);
        let head = "# HELP pod_memory_working_set_bytes [STABLE] Current working set of the pod in bytes\n\
                    # TYPE pod_memory_working_set_bytes gauge\n";
        assert!(text.contains(head), "{text}");
        assert_eq!(lines(&resource(None)), ["resource_scrape_error 1"]);
    }

    #[test]
    fn cadvisor_metrics_have_its_labels() {
        let text = cadvisor(&snapshot());
        let of = |name: &str| -> Vec<&str> {
            lines(&text).into_iter().filter(|l| l.starts_with(&format!("{name}{{"))).collect()
        };
        assert_eq!(
            of("container_cpu_usage_seconds_total"),
            [
                r#"container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""} 1.5 1767225660000"#,
                r#"container_cpu_usage_seconds_total{container="",cpu="total",id="/kubepods/podu",image="",name="",namespace="ns",pod="p"} 1.5 1767225660000"#,
                r#"container_cpu_usage_seconds_total{container="c",cpu="total",id="/kubepods/podu/id",image="image",name="id",namespace="ns",pod="p"} 1.5 1767225660000"#,
            ]
        );
        assert_eq!(
            of("container_network_transmit_bytes_total").last().copied(),
            Some(
                r#"container_network_transmit_bytes_total{container="",id="/kubepods/podu",image="",interface="eth0",name="sandbox",namespace="ns",pod="p"} 2 1767225660000"#
            )
        );
        assert_eq!(of("container_spec_memory_limit_bytes").len(), 3);
        assert!(text.contains("\nmachine_cpu_cores 2\n") && text.contains("\nmachine_memory_bytes 100\n"), "{text}");
    }

    #[test]
    fn the_kubelet_counts_what_it_runs() {
        let container = |state: v1::ContainerState| v1::Container { state: state.into(), ..v1::Container::default() };
        let (running, exited) = (v1::ContainerState::ContainerRunning, v1::ContainerState::ContainerExited);
        let evictions = BTreeMap::from([("memory.available", 3)]);
        let fs = Filesystem { capacity: 100, available: 60, used: 40, inodes: 10, inodes_free: 6 };
        let claims = BTreeMap::from([(("ns".to_owned(), "data".to_owned()), fs)]);
        let containers = [container(running), container(exited), container(running)];
        let text = kubelet("n", 2, &containers, &evictions, &claims);
        let expected = [
            r#"kubelet_evictions{eviction_signal="memory.available"} 3"#,
            r#"kubelet_node_name{node="n"} 1"#,
            r#"kubelet_running_containers{container_state="exited"} 1"#,
            r#"kubelet_running_containers{container_state="running"} 2"#,
            "kubelet_running_pods 2",
            r#"kubelet_volume_stats_available_bytes{namespace="ns",persistentvolumeclaim="data"} 60"#,
            r#"kubelet_volume_stats_capacity_bytes{namespace="ns",persistentvolumeclaim="data"} 100"#,
            r#"kubelet_volume_stats_inodes{namespace="ns",persistentvolumeclaim="data"} 10"#,
            r#"kubelet_volume_stats_inodes_free{namespace="ns",persistentvolumeclaim="data"} 6"#,
            r#"kubelet_volume_stats_inodes_used{namespace="ns",persistentvolumeclaim="data"} 4"#,
            r#"kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="data"} 40"#,
        ];
        assert_eq!(lines(&text), expected);
    }
}
