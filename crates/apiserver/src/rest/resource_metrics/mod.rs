//! `metrics.k8s.io`: what nodes and pods use, asked of their kubelets when somebody wants to know.
//!
//! Upstream leaves this to metrics-server, a second server behind the aggregation layer; names, times, windows, what is
//! left out and what is not found are as there (`pkg/api`, `pkg/storage` of `sigs.k8s.io/metrics-server`). Kubelets are
//! reached as for logs, and answer `/metrics/resource`, which every kubelet has.

mod collect;
mod sample;
mod usage;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::quantity::{Quantity, canonical};
use orkd_api::status::Status;
use orkd_api::time::{format_duration, format_time};
use serde_json::{Value, json};

pub use collect::Collector;
use usage::Usage;

use super::dial::{self, Address};
use super::{Call, Reply, Rest, made};
use crate::Body;
use crate::admission::items;
use crate::cache::Entry;
use crate::negotiation::{self, Offer};
use crate::selector::{FieldSelector, Filter, LabelSelector};

const GROUP: &str = "metrics.k8s.io";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Nodes.
    Nodes,
    /// Pods.
    Pods,
}

/// The handler of `nodes` or `pods`.
pub struct ResourceMetrics {
    of: Of,
    collector: Collector,
}

impl ResourceMetrics {
    /// A handler that asks by this collector.
    pub fn new(of: Of, collector: Collector) -> Self {
        ResourceMetrics { of, collector }
    }
}

#[async_trait]
impl Rest for ResourceMetrics {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let wanted = negotiation::negotiate(request.headers(), &call.query, Offer::Objects)?;
        let list = call.info.verb == "list";
        let objects = if list { self.selected(&call)? } else { vec![self.named(&call)?] };
        let measured = match self.of {
            Of::Nodes => self.nodes(&call, &objects).await,
            Of::Pods => self.pods(&call, &objects).await,
        };
        if list {
            return made::list(&call, &wanted, measured);
        }
        match measured.into_iter().next() {
            Some(object) => made::one(&call, &wanted, object),
            None => Err(self.unknown(&call)),
        }
    }
}

impl ResourceMetrics {
    fn plural(&self) -> &'static str {
        match self.of {
            Of::Nodes => "nodes",
            Of::Pods => "pods",
        }
    }

    /// 404 for an object of which nothing is known.
    fn unknown(&self, call: &Call) -> Status {
        let name = &call.info.name;
        match self.of {
            Of::Nodes => Status::not_found(GROUP, "nodemetrics", name),
            Of::Pods => Status::not_found(GROUP, "podmetrics", &format!("{}/{name}", call.info.namespace)),
        }
    }

    /// The node or pod that a get asks for.
    fn named(&self, call: &Call) -> Result<Arc<Entry>, Status> {
        let (namespace, name) = (&call.info.namespace, &call.info.name);
        let found = call.server.reader().get("", self.plural(), namespace, name);
        found.ok_or_else(|| match self.of {
            Of::Nodes => Status::not_found("", "nodes", name),
            Of::Pods => Status::not_found("", "pods", &format!("{namespace}/{name}")),
        })
    }

    /// The nodes or pods that a list selects.
    fn selected(&self, call: &Call) -> Result<Vec<Arc<Entry>>, Status> {
        let filter = filter(call)?;
        let namespace = Some(call.info.namespace.as_str()).filter(|ns| !ns.is_empty());
        let mut all = call.server.reader().list("", self.plural(), namespace);
        all.retain(|entry| filter.matches(entry));
        Ok(all)
    }

    async fn nodes(&self, call: &Call, nodes: &[Arc<Entry>]) -> Vec<Value> {
        let asked = nodes.iter().filter_map(|n| Some((n.name().to_owned(), address(n)?))).collect();
        let looks = self.looks(call, asked).await;
        nodes.iter().filter_map(|n| Some(node_metrics(n, &looks.get(n.name())?.node()?, call.now))).collect()
    }

    async fn pods(&self, call: &Call, pods: &[Arc<Entry>]) -> Vec<Value> {
        let running: Vec<(&Arc<Entry>, String)> = pods
            .iter()
            .filter(|p| p.field("status.phase") == Some("Running"))
            .filter_map(|p| Some((p, p.field("spec.nodeName").filter(|n| !n.is_empty())?.to_owned())))
            .collect();
        let names: HashSet<&String> = running.iter().map(|(_, node)| node).collect();
        let reader = call.server.reader();
        let asked = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), address(&*reader.get("", "nodes", "", name)?)?)))
            .collect();
        let looks = self.looks(call, asked).await;
        running
            .into_iter()
            .filter_map(|(pod, node)| {
                let containers = looks.get(&node)?.pod(&pod.key)?;
                Some(pod_metrics(pod, &containers, call.now))
            })
            .collect()
    }

    async fn looks(
        &self,
        call: &Call,
        nodes: Vec<(String, Address)>,
    ) -> std::collections::HashMap<String, Arc<usage::Looks>> {
        let reader = call.server.reader();
        self.collector.keep(|name| reader.get("", "nodes", "", name).is_some());
        self.collector.looks(nodes).await
    }
}

/// What a list is narrowed to: labels, name and namespace.
fn filter(call: &Call) -> Result<Filter, Status> {
    let bad = |text: String| Status::new(400, "BadRequest", text);
    let labels = LabelSelector::parse(call.query.text("labelSelector")).map_err(bad)?;
    let fields = FieldSelector::parse(call.query.text("fieldSelector")).map_err(bad)?;
    let known = ["metadata.name", "metadata.namespace"];
    if let Some(term) = fields.terms.iter().find(|term| !known.contains(&term.field.as_str())) {
        return Err(bad(orkd_api::kind::unknown_label(&term.field)));
    }
    Ok(Filter { labels, fields })
}

/// Where a node's kubelet is; `None` for a node that the cluster knows to be out of reach.
fn address(node: &Entry) -> Option<Address> {
    let node = node.decode();
    let lost = items(&node["status"]["conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "Unknown");
    if lost { None } else { dial::kubelet_of(&node).ok() }
}

/// The metadata of what is told about an object: its names and labels, made now.
fn metadata(of: &Entry, now: jiff::Timestamp) -> Value {
    let mut metadata = json!({ "name": of.name() });
    if !of.namespace().is_empty() {
        metadata["namespace"] = json!(of.namespace());
    }
    metadata["creationTimestamp"] = json!(format_time(now));
    if !of.labels().is_empty() {
        metadata["labels"] = of.labels().iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
    }
    metadata
}

/// CPU in billionths of a core and memory in bytes, each in its shortest form.
fn amounts(usage: &Usage) -> Value {
    let cpu = canonical(&format!("{}n", usage.cpu)).unwrap_or_default();
    let memory = Quantity::from_bytes(i64::try_from(usage.memory).unwrap_or(i64::MAX)).to_string();
    json!({ "cpu": cpu, "memory": memory })
}

fn timestamp(usage: &Usage) -> String {
    format_time(jiff::Timestamp::from_millisecond(usage.at).unwrap_or_default())
}

fn window(usage: &Usage) -> String {
    format_duration(usage.window.saturating_mul(1_000_000))
}

fn node_metrics(node: &Entry, usage: &Usage, now: jiff::Timestamp) -> Value {
    json!({
        "metadata": metadata(node, now), "timestamp": timestamp(usage), "window": window(usage),
        "usage": amounts(usage),
    })
}

/// The time of a pod is that of the container that was looked at first.
fn pod_metrics(pod: &Entry, containers: &[(&str, Usage)], now: jiff::Timestamp) -> Value {
    let first = containers.iter().map(|(_, usage)| usage).min_by_key(|usage| usage.at);
    let containers: Vec<Value> =
        containers.iter().map(|(name, usage)| json!({ "name": name, "usage": amounts(usage) })).collect();
    json!({
        "metadata": metadata(pod, now), "timestamp": first.map(timestamp), "window": first.map(window),
        "containers": containers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(plural: &str, key: &str, object: &Value) -> Entry {
        let kinds = orkd_api::kinds::all();
        let kind = kinds.iter().find(|k| k.info().plural == plural && k.info().group.is_empty()).expect("a kind");
        Entry::new(&**kind, true, key.into(), &object.to_string().into(), 1).expect("an entry")
    }

    const USAGE: Usage = Usage { at: 1_767_225_660_500, window: 15_020, cpu: 250_000_000, memory: 3 << 20 };

    fn now() -> jiff::Timestamp {
        "2026-01-01T00:01:02Z".parse().unwrap_or_default()
    }

    #[test]
    fn a_node_in_figures() {
        let object = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "labels": {"a": "b"}}});
        let expected = json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:01:02Z", "labels": {"a": "b"}},
            "timestamp": "2026-01-01T00:01:00Z", "window": "15.02s", "usage": {"cpu": "250m", "memory": "3Mi"},
        });
        assert_eq!(node_metrics(&entry("nodes", "n", &object), &USAGE, now()), expected);
    }

    #[test]
    fn a_pod_in_figures() {
        let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "ns"}});
        let later = Usage { at: USAGE.at + 1000, window: 1, cpu: 12_345_678, memory: 1000 };
        let expected = json!({
            "metadata": {"name": "p", "namespace": "ns", "creationTimestamp": "2026-01-01T00:01:02Z"},
            "timestamp": "2026-01-01T00:01:00Z", "window": "15.02s",
            "containers": [
                {"name": "a", "usage": {"cpu": "12345678n", "memory": "1k"}},
                {"name": "b", "usage": {"cpu": "250m", "memory": "3Mi"}},
            ],
        });
        let got = pod_metrics(&entry("pods", "ns/p", &object), &[("a", later), ("b", USAGE)], now());
        assert_eq!(got, expected);
    }

    #[test]
    fn a_lost_node_is_not_asked() {
        let node = |ready: &str| {
            entry(
                "nodes",
                "n",
                &json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}, "status": {
                    "conditions": [{"type": "Ready", "status": ready}],
                    "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                }}),
            )
        };
        assert!(address(&node("Unknown")).is_none());
        assert!(address(&node("False")).is_some() && address(&node("True")).is_some());
    }
}
