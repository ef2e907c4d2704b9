//! Reads metrics: of resources (`metrics.k8s.io`), of pods and objects (`custom.metrics.k8s.io`), of anything
//! (`external.metrics.k8s.io`). Follows `podautoscaler/metrics/client.go` and `k8s.io/metrics/pkg/client`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use orkd_api::quantity::Quantity;
use orkd_api::quota::amounts;
use orkd_api::selector::LabelSelector;
use orkd_reconcile::{Api, ApiError, Resource, Target};
use serde::Deserialize;
use serde_json::Value;

/// What is to be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TargetValue {
    /// Percent of requests.
    Utilization(i64),
    /// An average, in thousandths.
    Average(i64),
    /// A value, in thousandths.
    Value(i64),
    /// Nothing that is known.
    None,
}

impl TargetValue {
    fn parse(target: &Value) -> Self {
        let milli = |field: &str| {
            let quantity: Option<Quantity> = target[field].as_str().and_then(|t| t.parse().ok());
            quantity.map(|q| q.milli_value())
        };
        if let Some(percent) = target["averageUtilization"].as_i64() {
            return TargetValue::Utilization(percent);
        }
        match (milli("averageValue"), milli("value")) {
            (Some(average), _) => TargetValue::Average(average),
            (None, Some(value)) => TargetValue::Value(value),
            (None, None) => TargetValue::None,
        }
    }
}

/// Where a metric comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// CPU or memory of pods, or of one of their containers.
    Resource {
        /// `cpu`, `memory`.
        name: String,
        /// The container; `None` for the whole pod.
        container: Option<String>,
        /// The target.
        target: TargetValue,
    },
    /// A metric of each pod.
    Pods {
        /// Its name and selector.
        metric: Value,
        /// The average to keep, in thousandths.
        target: i64,
    },
    /// A metric of one object.
    Object {
        /// Its name and selector.
        metric: Value,
        /// The object.
        described: Value,
        /// The target.
        target: TargetValue,
    },
    /// A metric of something outside.
    External {
        /// Its name and selector.
        metric: Value,
        /// The target.
        target: TargetValue,
    },
}

impl Source {
    /// One element of `spec.metrics`.
    pub(super) fn parse(spec: &Value) -> Result<Self, String> {
        let kind = spec["type"].as_str().unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        match kind {
            "Resource" | "ContainerResource" => {
                let of = if kind == "Resource" { &spec["resource"] } else { &spec["containerResource"] };
                Ok(Source::Resource {
                    name: text(&of["name"]),
                    container: (kind == "ContainerResource").then(|| text(&of["container"])),
                    target: TargetValue::parse(&of["target"]),
                })
            }
            "Pods" => {
                let of = &spec["pods"];
                match TargetValue::parse(&of["target"]) {
                    TargetValue::Average(target) => Ok(Source::Pods { metric: of["metric"].clone(), target }),
                    _ => Err("invalid pods metric source: no average value target was set".into()),
                }
            }
            "Object" => {
                let of = &spec["object"];
                let target = TargetValue::parse(&of["target"]);
                Ok(Source::Object { metric: of["metric"].clone(), described: of["describedObject"].clone(), target })
            }
            "External" => {
                let of = &spec["external"];
                Ok(Source::External { metric: of["metric"].clone(), target: TargetValue::parse(&of["target"]) })
            }
            other => Err(format!("unknown metric source type {other:?}")),
        }
    }

    /// The type, as specifications write it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Source::Resource { container: None, .. } => "Resource",
            Source::Resource { container: Some(_), .. } => "ContainerResource",
            Source::Pods { .. } => "Pods",
            Source::Object { .. } => "Object",
            Source::External { .. } => "External",
        }
    }

    /// The group of the API that measures it.
    pub(super) fn group(&self) -> &'static str {
        match self {
            Source::Resource { .. } => "metrics.k8s.io",
            Source::Pods { .. } | Source::Object { .. } => "custom.metrics.k8s.io",
            Source::External { .. } => "external.metrics.k8s.io",
        }
    }

    /// The reason of conditions and events when it cannot be read.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Source::Resource { container: None, .. } => "FailedGetResourceMetric",
            Source::Resource { container: Some(_), .. } => "FailedGetContainerResourceMetric",
            Source::Pods { .. } => "FailedGetPodsMetric",
            Source::Object { .. } => "FailedGetObjectMetric",
            Source::External { .. } => "FailedGetExternalMetric",
        }
    }

    /// An error with what was asked for.
    pub(super) fn wrap(&self, why: &str) -> String {
        match self {
            Source::Resource { name, container: None, .. } => {
                format!("failed to get {name} resource metric value: {why}")
            }
            // Upstream names the container, not the resource.
            Source::Resource { container: Some(container), .. } => {
                format!("failed to get {container} container metric value: {why}")
            }
            Source::Pods { .. } => format!("failed to get pods metric value: {why}"),
            Source::Object { .. } => format!("failed to get object metric value: {why}"),
            Source::External { metric, .. } => {
                let name = metric["name"].as_str().unwrap_or_default();
                format!("failed to get {name} external metric value: {why}")
            }
        }
    }

    /// Version and kind of the object it is about.
    pub(super) fn described(&self) -> Option<(&str, &str)> {
        match self {
            Source::Object { described, .. } => {
                let text = |f: &str| described[f].as_str().unwrap_or_default();
                Some((text("apiVersion"), text("kind")))
            }
            _ => None,
        }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// In thousandths.
    pub(super) value: i64,
    /// When.
    pub(super) at: Timestamp,
    /// Over how many seconds.
    pub(super) window: i64,
}

/// What was read of a metric.
#[derive(Clone, Debug)]
pub(super) enum Samples {
    /// One measurement for each pod.
    Pods(BTreeMap<String, Sample>),
    /// Values, in thousandths.
    Values(Vec<i64>),
}

impl Samples {
    /// The measurements of pods.
    pub(super) fn pods(self) -> Result<BTreeMap<String, Sample>, String> {
        match self {
            Samples::Pods(pods) => Ok(pods),
            Samples::Values(_) => Err("no metrics returned from resource metrics API".into()),
        }
    }

    /// The sum of the values.
    pub(super) fn total(&self) -> i64 {
        match self {
            Samples::Pods(pods) => pods.values().map(|s| s.value).fold(0, i64::saturating_add),
            Samples::Values(values) => values.iter().copied().fold(0, i64::saturating_add),
        }
    }
}

/// A Go duration in seconds: `30s`, `1m0s`.
fn seconds(text: &str) -> i64 {
    let (mut total, mut number) = (0.0, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            continue;
        }
        let n: f64 = number.parse().unwrap_or(0.0);
        match c {
            'h' => total += n * 3600.0,
            'm' => total += n * 60.0,
            's' => total += n,
            _ => {}
        }
        number.clear();
    }
    #[expect(clippy::cast_possible_truncation, reason = "windows are seconds or minutes")]
    {
        total as i64
    }
}

fn milli(value: &Value) -> Option<i64> {
    let text = value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string());
    text.parse::<Quantity>().ok().map(|q| q.milli_value())
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|t| t.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The samples of `PodMetrics` objects: of the whole pod, or of one container. A pod of which a container says nothing
/// about the resource is left out.
fn of_pod_metrics(items: &[Value], resource: &str, container: Option<&str>) -> Result<Samples, String> {
    let mut samples = BTreeMap::new();
    'pods: for item in items {
        let text = |f: &str| item["metadata"][f].as_str().unwrap_or_default();
        let (mut sum, mut found) = (0i64, container.is_none());
        for of in item["containers"].as_array().into_iter().flatten() {
            if container.is_some_and(|wanted| of["name"] != wanted) {
                continue;
            }
            found = true;
            match amounts(&of["usage"]).get(resource) {
                Some(usage) => sum = sum.saturating_add(usage.milli_value()),
                None => continue 'pods,
            }
        }
        if !found {
            let (container, namespace, name) = (container.unwrap_or_default(), text("namespace"), text("name"));
            return Err(format!(
                "failed to get container metrics: container {container} not present in metrics for pod {namespace}/{name}"
            ));
        }
        let sample =
            Sample { value: sum, at: time(&item["timestamp"]), window: seconds(item["window"].as_str().unwrap_or("")) };
        samples.insert(text("name").to_owned(), sample);
    }
    Ok(Samples::Pods(samples))
}

/// The samples of a `MetricValueList` about pods.
fn of_metric_values(items: &[Value]) -> Samples {
    let sample = |item: &Value| {
        let window = item["windowSeconds"].as_i64().unwrap_or(60);
        let name = item["describedObject"]["name"].as_str()?.to_owned();
        Some((name, Sample { value: milli(&item["value"])?, at: time(&item["timestamp"]), window }))
    };
    Samples::Pods(items.iter().filter_map(sample).collect())
}

/// Appends a query.
fn with(path: String, pairs: &[(&str, &str)]) -> Target {
    let mut path = path;
    let mut separator = '?';
    for (key, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let escaped: String = percent(value);
        path.push_str(&format!("{separator}{key}={escaped}"));
        separator = '&';
    }
    Target::path(path)
}

fn percent(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What a client of upstream says about a failed request.
fn said(err: &ApiError, what: &str) -> String {
    match err.code() {
        404 if !err.message().contains("not found for") => {
            format!("the server could not find the requested resource ({what})")
        }
        503 => format!("the server is currently unable to handle the request ({what})"),
        _ => err.message(),
    }
}

/// Reads a metric. The error is upstream's text.
pub(super) async fn read(
    api: &Api,
    source: &Source,
    namespace: &str,
    selector: &str,
    described: Option<&Resource>,
) -> Result<Samples, String> {
    match source {
        Source::Resource { name, container, .. } => {
            let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
            let list: Value = api.get(&with(path, &[("labelSelector", selector)])).await.map_err(|e| {
                let why = said(&e, "get pods.metrics.k8s.io");
                format!("unable to fetch metrics from resource metrics API: {why}")
            })?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            if items.is_empty() {
                return Err("no metrics returned from resource metrics API".into());
            }
            of_pod_metrics(&items, name, container.as_deref())
        }
        Source::Pods { metric, .. } => {
            let name = metric["name"].as_str().unwrap_or_default();
            let of_metric = selector_text(&metric["selector"])?;
            let query = [("labelSelector", selector), ("metricLabelSelector", of_metric.as_str())];
            let list = custom(api, &format!("namespaces/{namespace}/pods/*/{name}"), &query, "pods", name).await?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            if items.is_empty() {
                return Err("no metrics returned from custom metrics API".into());
            }
            Ok(of_metric_values(&items))
        }
        Source::Object { metric, described: object, .. } => {
            let name = object["name"].as_str().unwrap_or_default();
            of_object(api, metric, object, namespace, described)
                .await
                .map_err(|why| format!("{namespace} {name}/{why}"))
        }
        Source::External { metric, .. } => {
            let name = metric["name"].as_str().unwrap_or_default();
            let of_metric = selector_text(&metric["selector"])?;
            let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}");
            let list: Result<Value, ApiError> = api.get(&with(path, &[("labelSelector", &of_metric)])).await;
            let failed = |why: String| format!("{namespace}/{name}/{}: {why}", go_selector(&metric["selector"]));
            let list = list.map_err(|e| {
                let why = said(&e, &format!("get {name}.external.metrics.k8s.io"));
                failed(format!("unable to fetch metrics from external metrics API: {why}"))
            })?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            if items.is_empty() {
                return Err(failed("no metrics returned from external metrics API".into()));
            }
            Ok(Samples::Values(items.iter().filter_map(|item| milli(&item["value"])).collect()))
        }
    }
}

/// Reads a metric of one object.
async fn of_object(
    api: &Api,
    metric: &Value,
    object: &Value,
    namespace: &str,
    described: Option<&Resource>,
) -> Result<Samples, String> {
    let name = metric["name"].as_str().unwrap_or_default();
    let of_metric = selector_text(&metric["selector"])?;
    let object_name = object["name"].as_str().unwrap_or_default();
    let resource = described.map(ToString::to_string).unwrap_or_default();
    let path = if object["kind"] == "Namespace" {
        format!("namespaces/{namespace}/metrics/{name}")
    } else if described.is_some_and(|r| r.namespaced) {
        format!("namespaces/{namespace}/{resource}/{object_name}/{name}")
    } else {
        format!("{resource}/{object_name}/{name}")
    };
    let list = custom(api, &path, &[("metricLabelSelector", &of_metric)], &resource, name).await?;
    match list["items"].as_array().and_then(|items| items.first()).and_then(|item| milli(&item["value"])) {
        Some(value) => Ok(Samples::Values(vec![value])),
        None => Err("unable to fetch metrics from custom metrics API: no metric was returned".into()),
    }
}

/// Reads from the custom metrics API, in the version its group prefers.
async fn custom(api: &Api, path: &str, query: &[(&str, &str)], resource: &str, metric: &str) -> Result<Value, String> {
    let failed = |err: &ApiError| {
        let why = said(err, &format!("get {resource}.custom.metrics.k8s.io {metric}"));
        format!("unable to fetch metrics from custom metrics API: {why}")
    };
    let group: Value = match api.get(&Target::path("/apis/custom.metrics.k8s.io")).await {
        Ok(group) => group,
        Err(err) if err.is_not_found() => {
            return Err("unable to fetch metrics from custom metrics API: no custom metrics API \
                        (custom.metrics.k8s.io) registered"
                .into());
        }
        Err(err) => return Err(failed(&err)),
    };
    let version = group["preferredVersion"]["version"].as_str().unwrap_or("v1beta1");
    let path = format!("/apis/custom.metrics.k8s.io/{version}/{path}");
    api.get(&with(path, query)).await.map_err(|err| failed(&err))
}

/// A label selector of an object as a text for queries; empty where there is none.
fn selector_text(selector: &Value) -> Result<String, String> {
    if !selector.is_object() {
        return Ok(String::new());
    }
    LabelSelector::of_object(selector).map(|s| s.to_string())
}

/// The selector of a metric as texts show it.
pub(super) fn go_selector(selector: &Value) -> String {
    match orkd_reconcile::LabelSelector::deserialize(selector) {
        Ok(selector) => selector.to_string(),
        Err(_) => "nil".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pod_metrics_are_summed() {
        let items = [
            json!({"metadata": {"name": "a", "namespace": "n"}, "timestamp": "2026-01-01T00:00:00Z", "window": "1m30s",
                "containers": [{"name": "c", "usage": {"cpu": "100m"}}, {"name": "d", "usage": {"cpu": "50m"}}]}),
            json!({"metadata": {"name": "b", "namespace": "n"}, "containers": [{"name": "c", "usage": {"memory": "1Mi"}}]}),
        ];
        let all = of_pod_metrics(&items, "cpu", None).and_then(Samples::pods).expect("samples");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((all["a"].value, all["a"].window), (150, 90));
        let one = of_pod_metrics(&items[..1], "cpu", Some("d")).and_then(Samples::pods).expect("samples");
        assert_eq!(one["a"].value, 50);
        let missing = of_pod_metrics(&items[..1], "cpu", Some("x")).expect_err("no such container");
        assert_eq!(missing, "failed to get container metrics: container x not present in metrics for pod n/a");
    }

    #[test]
    fn specifications_are_read() {
        let source = Source::parse(&json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}));
        assert!(matches!(source, Ok(Source::Resource { target: TargetValue::Utilization(50), .. })));
        let source = Source::parse(&json!({"type": "External", "external": {"metric": {"name": "q"},
            "target": {"type": "Value", "value": "2k"}}}));
        assert!(matches!(source, Ok(Source::External { target: TargetValue::Value(2_000_000), .. })));
        assert_eq!(Source::parse(&json!({"type": "X"})).expect_err("unknown"), "unknown metric source type \"X\"");
    }

    #[test]
    fn selectors_are_told_as_go_tells_them() {
        assert_eq!(go_selector(&Value::Null), "nil");
        let selector = json!({"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]});
        assert_eq!(
            go_selector(&selector),
            "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{\
             LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
        );
    }

    #[test]
    fn what_could_not_be_read_is_named() {
        let check = |spec: Value, expected: &str| {
            let source = Source::parse(&spec).expect("a source");
            assert_eq!(source.wrap("why"), expected);
        };
        check(
            json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "app",
                "target": {"type": "Utilization", "averageUtilization": 50}}}),
            "failed to get app container metric value: why",
        );
        check(
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}}),
            "failed to get cpu resource metric value: why",
        );
        let target = json!({"type": "AverageValue", "averageValue": "1"});
        check(
            json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": target}}),
            "failed to get pods metric value: why",
        );
        check(
            json!({"type": "Object", "object": {"metric": {"name": "qps"}, "target": target}}),
            "failed to get object metric value: why",
        );
        check(
            json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": target}}),
            "failed to get queue external metric value: why",
        );
    }
}
