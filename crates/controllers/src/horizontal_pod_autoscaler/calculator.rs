//! How many pods a metric asks for: pure (`replica_calculator.go`).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use orkd_api::quantity::Quantity;
use orkd_api::quota::amounts;
use serde_json::{Value, json};

use super::metrics::{Sample, Samples, Source, TargetValue, go_selector};

/// For how long after its start a pod's CPU use says little (`--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION: i64 = 300;
/// How long a pod may take to be ready for the first time (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const INITIAL_READINESS: i64 = 30;

/// How many pods there are, as the target's scale says.
pub(super) struct Counts {
    /// Asked for.
    pub(super) spec: i32,
    /// There.
    pub(super) status: i32,
}

/// How far a ratio may be from one without a change.
pub(super) struct Tolerance {
    up: f64,
    down: f64,
}

impl Tolerance {
    /// That of an autoscaler's rules, or a tenth.
    pub(super) fn of(behavior: &Value) -> Self {
        let of = |direction: &str| {
            let own = behavior[direction]["tolerance"].as_str().and_then(|t| t.parse::<Quantity>().ok());
            own.map_or(0.1, |q| q.as_f64())
        };
        Tolerance { up: of("scaleUp"), down: of("scaleDown") }
    }

    fn covers(&self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What a calculation needs of a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodFacts {
    name: String,
    phase: String,
    deleting: bool,
    /// The status of its `Ready` condition, and since when.
    ready: Option<(String, Option<Timestamp>)>,
    started: Option<Timestamp>,
    /// Requests of the whole pod, where it states any.
    whole: BTreeMap<String, Quantity>,
    /// Requests by container: those that run all the time.
    requests: Vec<(String, BTreeMap<String, Quantity>)>,
}

impl PodFacts {
    /// The facts of a pod.
    pub(super) fn of(pod: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let time = |v: &Value| v.as_str().and_then(|t| t.parse::<Timestamp>().ok());
        let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let ready = list(&status["conditions"]).into_iter().find(|c| c["type"] == "Ready");
        let sidecars = list(&spec["initContainers"]).into_iter().filter(|c| c["restartPolicy"] == "Always");
        let containers = list(&spec["containers"]).into_iter().chain(sidecars);
        PodFacts {
            name: text(&pod["metadata"]["name"]),
            phase: text(&status["phase"]),
            deleting: pod["metadata"]["deletionTimestamp"].is_string(),
            ready: ready.map(|c| (text(&c["status"]), time(&c["lastTransitionTime"]))),
            started: time(&status["startTime"]),
            whole: amounts(&spec["resources"]["requests"]),
            requests: containers.map(|c| (text(&c["name"]), amounts(&c["resources"]["requests"]))).collect(),
        }
    }

    /// What the pod, or one of its containers, requests, in thousandths.
    fn request(&self, resource: &str, container: &str) -> Result<i64, String> {
        if container.is_empty()
            && let Some(whole) = self.whole.get(resource)
        {
            return Ok(whole.milli_value());
        }
        let mut sum = 0i64;
        let mut found = false;
        for (name, requests) in &self.requests {
            if !container.is_empty() && name != container {
                continue;
            }
            found = true;
            let Some(request) = requests.get(resource) else {
                return Err(format!("missing request for {resource} in container {name} of Pod {}", self.name));
            };
            sum = sum.saturating_add(request.milli_value());
        }
        if !found && !container.is_empty() {
            return Err(format!("container {container} not found in Pod {}", self.name));
        }
        Ok(sum)
    }

    fn is_ready(&self) -> bool {
        self.ready.as_ref().is_some_and(|(status, _)| status == "True")
    }
}

/// What a metric asks for.
#[derive(Debug)]
pub(super) struct Found {
    /// How many pods.
    pub(super) replicas: i32,
    /// The metric, as events name it.
    pub(super) name: String,
    /// Its `MetricStatus`.
    pub(super) status: Value,
}

/// Pods in groups: whose samples count, whose do not, and who has none.
#[derive(Default)]
struct Groups {
    ready: usize,
    unready: Vec<String>,
    missing: Vec<String>,
    ignored: Vec<String>,
}

fn group(pods: &[PodFacts], samples: &BTreeMap<String, Sample>, cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    let after =
        |t: Timestamp, seconds: i64| t.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    for pod in pods {
        if pod.deleting || pod.phase == "Failed" {
            groups.ignored.push(pod.name.clone());
            continue;
        }
        if pod.phase == "Pending" {
            groups.unready.push(pod.name.clone());
            continue;
        }
        let Some(sample) = samples.get(&pod.name) else {
            groups.missing.push(pod.name.clone());
            continue;
        };
        if cpu {
            let unready = match (&pod.ready, pod.started) {
                (Some((status, since)), Some(started)) => {
                    // `Unknown` is no reason to leave a sample out.
                    let (ready, since) = (status != "False", since.unwrap_or(Timestamp::MIN));
                    if after(started, CPU_INITIALIZATION) > now {
                        // The sample must lie wholly after the last change of readiness.
                        !ready || sample.at < after(since, sample.window)
                    } else {
                        !ready && after(started, INITIAL_READINESS) > since
                    }
                }
                _ => true,
            };
            if unready {
                groups.unready.push(pod.name.clone());
                continue;
            }
        }
        groups.ready += 1;
    }
    groups
}

/// Rounded up; what does not fit is cut.
#[expect(clippy::cast_possible_truncation, reason = "the cast cuts to the range, which is what is wanted")]
fn ceil(n: f64) -> i32 {
    n.ceil() as i32
}

/// Milli-values are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "as upstream's float64()")]
fn float(n: i64) -> f64 {
    n as f64
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// How the use of some pods compares with the target, and what it is.
struct Use {
    ratio: f64,
    /// Percent of the requests, where that is the target.
    percent: Option<i64>,
    /// The average.
    average: i64,
}

/// What all calculations about one target share.
struct Circumstances<'a> {
    pods: &'a [PodFacts],
    current: i32,
    tolerance: &'a Tolerance,
    now: Timestamp,
}

/// The calculation all metrics of pods share: `compare` tells use from samples, `full` what a missing pod is taken to
/// use when the number would fall.
fn of_pods(
    cx: &Circumstances<'_>,
    mut samples: BTreeMap<String, Sample>,
    cpu: bool,
    compare: impl Fn(&BTreeMap<String, Sample>) -> Result<Use, String>,
    full: impl Fn(&str) -> i64,
) -> Result<(i32, Use), String> {
    let Circumstances { pods, current, tolerance, now } = *cx;
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, &samples, cpu, now);
    for name in groups.ignored.iter().chain(&groups.unready) {
        samples.remove(name);
    }
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let first = compare(&samples)?;
    let up_with_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        let replicas = if tolerance.covers(first.ratio) { current } else { ceil(first.ratio * count(groups.ready)) };
        return Ok((replicas, first));
    }
    let sample = |value: i64| Sample { value, at: now, window: 0 };
    for name in &groups.missing {
        if first.ratio < 1.0 {
            samples.insert(name.clone(), sample(full(name)));
        } else if first.ratio > 1.0 {
            samples.insert(name.clone(), sample(0));
        }
    }
    if up_with_unready {
        for name in &groups.unready {
            samples.insert(name.clone(), sample(0));
        }
    }
    let second = compare(&samples)?;
    let turned = (first.ratio < 1.0 && second.ratio > 1.0) || (first.ratio > 1.0 && second.ratio < 1.0);
    if tolerance.covers(second.ratio) || turned {
        return Ok((current, first));
    }
    let replicas = ceil(second.ratio * count(samples.len()));
    let turned = (second.ratio < 1.0 && replicas > current) || (second.ratio > 1.0 && replicas < current);
    Ok((if turned { current } else { replicas }, first))
}

fn plain(samples: &BTreeMap<String, Sample>, target: i64) -> Use {
    let total: i64 = samples.values().map(|s| s.value).fold(0, i64::saturating_add);
    let average = total / i64::try_from(samples.len().max(1)).unwrap_or(i64::MAX);
    Use { ratio: float(average) / float(target), percent: None, average }
}

/// Use against requests, in percent.
fn utilization(
    samples: &BTreeMap<String, Sample>,
    requests: &BTreeMap<String, i64>,
    target: i64,
) -> Result<Use, String> {
    let (mut used, mut requested, mut entries) = (0i64, 0i64, 0i64);
    for (name, sample) in samples {
        if let Some(request) = requests.get(name) {
            used = used.saturating_add(sample.value);
            requested = requested.saturating_add(*request);
            entries += 1;
        }
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".into());
    }
    let percent = used.saturating_mul(100) / requested;
    Ok(Use { ratio: float(percent) / float(target), percent: Some(percent), average: used / entries.max(1) })
}

fn milli(n: i64) -> String {
    Quantity::from_milli(n).to_string()
}

/// For metrics of one value: ready pods times the ratio.
fn by_ratio(pods: &[PodFacts], ratio: f64, current: i32, tolerance: &Tolerance) -> Result<i32, String> {
    if current == 0 {
        return Ok(ceil(ratio));
    }
    if tolerance.covers(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        let why = "no pods returned by selector while calculating replica count";
        return Err(format!("unable to calculate ready pods: {why}"));
    }
    let ready = pods.iter().filter(|p| p.phase == "Running" && p.is_ready()).count();
    Ok(ceil(ratio * count(ready)))
}

/// How many pods one metric asks for. `samples` is what was read of it, or why nothing was.
pub(super) fn calculate(
    source: &Source,
    samples: Result<Samples, String>,
    pods: &[PodFacts],
    counts: &Counts,
    tolerance: &Tolerance,
    now: Timestamp,
) -> Result<Found, String> {
    let current = counts.spec;
    let cx = Circumstances { pods, current, tolerance, now };
    match source {
        Source::Resource { name, container, target } => {
            let what = match target {
                TargetValue::Average(_) => "usage",
                _ => "utilization",
            };
            let failed = |why: String| format!("failed to get {name} {what}: {why}");
            let samples = samples
                .and_then(Samples::pods)
                .map_err(|why| failed(format!("unable to get metrics for resource {name}: {why}")))?;
            let cpu = name == "cpu";
            let key = if container.is_some() { "containerResource" } else { "resource" };
            let status = |current: Value| {
                let mut status = json!({"type": source.kind(), key: {"name": name, "current": current}});
                if let Some(container) = container {
                    status[key]["container"] = json!(container);
                }
                status
            };
            match target {
                TargetValue::Average(target) => {
                    let compare = |s: &BTreeMap<String, Sample>| Ok(plain(s, *target));
                    let done = of_pods(&cx, samples, cpu, compare, |_| *target);
                    let (replicas, used) = done.map_err(failed)?;
                    let status = status(json!({"averageValue": milli(used.average)}));
                    Ok(Found { replicas, name: format!("{name} resource"), status })
                }
                TargetValue::Utilization(target) => {
                    let container = container.as_deref().unwrap_or_default();
                    let requests: Result<BTreeMap<String, i64>, String> =
                        pods.iter().map(|p| Ok((p.name.clone(), p.request(name, container)?))).collect();
                    // A request that is missing matters once there are samples to compare with it.
                    let compare = |s: &BTreeMap<String, Sample>| utilization(s, requests.as_ref().map_err(String::clone)?, *target);
                    let full = |pod: &str| {
                        let request = requests.as_ref().ok().and_then(|r| r.get(pod)).copied().unwrap_or(0);
                        request.saturating_mul((*target).max(100)) / 100
                    };
                    let (replicas, used) =
                        of_pods(&cx, samples, cpu, compare, full).map_err(failed)?;
                    let status =
                        status(json!({"averageUtilization": used.percent, "averageValue": milli(used.average)}));
                    let sort = if container.is_empty() { "" } else { "container " };
                    let text = format!("{name} {sort}resource utilization (percentage of request)");
                    Ok(Found { replicas, name: text, status })
                }
                TargetValue::Value(_) | TargetValue::None => Err(
                    "invalid resource metric source: neither an average utilization target nor an average value (usage) \
                     target was set"
                        .into(),
                ),
            }
        }
        Source::Pods { metric, target } => {
            let name = metric["name"].as_str().unwrap_or_default();
            let samples =
                samples.and_then(Samples::pods).map_err(|why| format!("unable to get metric {name}: {why}"))?;
            let compare = |s: &BTreeMap<String, Sample>| Ok(plain(s, *target));
            let (replicas, used) = of_pods(&cx, samples, false, compare, |_| *target)?;
            let status =
                json!({"type": "Pods", "pods": {"metric": metric, "current": {"averageValue": milli(used.average)}}});
            Ok(Found { replicas, name: format!("pods metric {name}"), status })
        }
        Source::Object { metric, described, target } => {
            let name = metric["name"].as_str().unwrap_or_default();
            let kind = described["kind"].as_str().unwrap_or_default();
            let value = samples.map(|s| s.total());
            let value = value.map_err(|why| {
                let why = format!("unable to get metric {name}: {kind} on {why}");
                match target {
                    TargetValue::Average(_) => format!("failed to get {name} object metric: {why}"),
                    _ => why,
                }
            })?;
            let status = |current: Value| json!({"type": "Object", "object": {"describedObject": described, "metric": metric, "current": current}});
            match target {
                TargetValue::Value(target) => {
                    let replicas = by_ratio(pods, float(value) / float(*target), current, tolerance)?;
                    let status = status(json!({"value": milli(value)}));
                    Ok(Found { replicas, name: format!("{kind} metric {name}"), status })
                }
                TargetValue::Average(target) => {
                    let (replicas, average) = per_pod(value, *target, counts.status, tolerance);
                    let status = status(json!({"averageValue": milli(average)}));
                    Ok(Found { replicas, name: external_name(metric), status })
                }
                _ => {
                    Err("invalid object metric source: neither a value target nor an average value target was set"
                        .into())
                }
            }
        }
        Source::External { metric, target } => {
            let name = metric["name"].as_str().unwrap_or_default();
            let value = samples.map(|s| s.total());
            let failed = |why: String| match target {
                TargetValue::Value(_) => format!("failed to get external metric {name}: {why}"),
                _ => format!("failed to get {name} external metric: {why}"),
            };
            let value = value.map_err(|why| failed(format!("unable to get external metric {why}")))?;
            let status =
                |current: Value| json!({"type": "External", "external": {"metric": metric, "current": current}});
            match target {
                TargetValue::Average(target) => {
                    let (replicas, average) = per_pod(value, *target, counts.status, tolerance);
                    let status = status(json!({"averageValue": milli(average)}));
                    Ok(Found { replicas, name: external_name(metric), status })
                }
                TargetValue::Value(target) => {
                    let replicas = by_ratio(pods, float(value) / float(*target), current, tolerance).map_err(failed)?;
                    let status = status(json!({"value": milli(value)}));
                    Ok(Found { replicas, name: external_name(metric), status })
                }
                _ => {
                    Err("invalid external metric source: neither a value target nor an average value target was set"
                        .into())
                }
            }
        }
    }
}

fn external_name(metric: &Value) -> String {
    let name = metric["name"].as_str().unwrap_or_default();
    format!("external metric {name}({})", go_selector(&metric["selector"]))
}

/// A value shared by all pods: how many, and what is each one's part.
fn per_pod(value: i64, target: i64, current: i32, tolerance: &Tolerance) -> (i32, i64) {
    let ratio = float(value) / (float(target) * f64::from(current));
    let replicas = if tolerance.covers(ratio) { current } else { ceil(float(value) / float(target)) };
    let part = if current == 0 { value } else { i64::from(ceil(float(value) / f64::from(current))) };
    (replicas, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> PodFacts {
        let mut pod = json!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}]}});
        change(&mut pod);
        PodFacts::of(&pod)
    }

    fn samples(values: &[(&str, i64)]) -> Result<Samples, String> {
        let at: Timestamp = NOW.parse().expect("a time");
        let sample = |value: i64| Sample { value, at, window: 30 };
        Ok(Samples::Pods(values.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect()))
    }

    fn cpu(target: i64) -> Source {
        Source::Resource { name: "cpu".into(), container: None, target: TargetValue::Utilization(target) }
    }

    fn check(source: &Source, read: Result<Samples, String>, pods: &[PodFacts], current: i32, expected: &str) {
        let counts = Counts { spec: current, status: current };
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        let done = calculate(source, read, pods, &counts, &tolerance, NOW.parse().expect("a time"));
        let shown = match done {
            Ok(found) => found.replicas.to_string(),
            Err(why) => why,
        };
        assert_eq!(shown, expected);
    }

    fn plain_pods(n: usize) -> Vec<PodFacts> {
        (0..n).map(|i| pod(&format!("p{i}"), |_| {})).collect()
    }

    #[test]
    fn utilization_asks_for_pods() {
        let three = plain_pods(3);
        check(&cpu(30), samples(&[("p0", 300), ("p1", 500), ("p2", 700)]), &three, 3, "5");
        check(&cpu(50), samples(&[("p0", 300), ("p1", 500), ("p2", 700)]), &three, 3, "3");
        check(&cpu(50), samples(&[("p0", 100), ("p1", 300), ("p2", 500)]), &three, 3, "2");
        // Within a tenth nothing changes.
        check(&cpu(50), samples(&[("p0", 540), ("p1", 540), ("p2", 540)]), &three, 3, "3");
        check(
            &cpu(50),
            Err("no metrics returned from resource metrics API".into()),
            &three,
            3,
            "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource \
             metrics API",
        );
        let silent = vec![pod("p0", |p| p["spec"]["containers"][0]["resources"] = json!({}))];
        check(
            &cpu(50),
            samples(&[("p0", 1)]),
            &silent,
            1,
            "failed to get cpu utilization: missing request for cpu in container c of Pod p0",
        );
    }

    #[test]
    fn pods_without_samples_are_taken_for_the_careful_side() {
        // Growing: the missing one is taken to use nothing.
        check(&cpu(50), samples(&[("p0", 900), ("p1", 900)]), &plain_pods(3), 3, "4");
        // Shrinking: it is taken to use all it requests.
        check(&cpu(50), samples(&[("p0", 100), ("p1", 100)]), &plain_pods(3), 3, "3");
        // Pods that start count as using nothing when others are over.
        let mut pods = plain_pods(2);
        pods.push(pod("p2", |p| p["status"]["phase"] = json!("Pending")));
        check(&cpu(50), samples(&[("p0", 900), ("p1", 900)]), &pods, 3, "4");
        // A pod that was never ready is not asked.
        let unready = vec![pod("p0", |p| {
            p["status"]["conditions"][0]["status"] = json!("False");
            p["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:00:05Z");
        })];
        check(
            &cpu(50),
            samples(&[("p0", 800)]),
            &unready,
            1,
            "failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)",
        );
    }

    /// `HPAConfigurableTolerance`.
    #[test]
    fn a_tolerance_of_its_own_decides() {
        let three = plain_pods(3);
        let check = |behavior: Value, used: i64, expected: i32| {
            let read = samples(&[("p0", used), ("p1", used), ("p2", used)]);
            let (counts, tolerance) = (Counts { spec: 3, status: 3 }, Tolerance::of(&behavior));
            let found = calculate(&cpu(50), read, &three, &counts, &tolerance, NOW.parse().expect("a time"));
            assert_eq!(found.expect("a number").replicas, expected, "{behavior} {used}");
        };
        check(Value::Null, 540, 3);
        check(Value::Null, 600, 4);
        let up = json!({"scaleUp": {"tolerance": "0.01"}, "scaleDown": {"tolerance": "500m"}});
        check(up.clone(), 540, 4);
        check(up.clone(), 300, 3);
        check(up, 200, 2);
        // One direction leaves the other as it is.
        check(json!({"scaleDown": {"tolerance": "0.5"}}), 600, 4);
        check(json!({"scaleUp": {"tolerance": "0"}}), 470, 3);
    }

    #[test]
    fn other_metrics() {
        let three = plain_pods(3);
        let metric = json!({"name": "qps"});
        let pods_metric = Source::Pods { metric: metric.clone(), target: 15_000 };
        check(&pods_metric, samples(&[("p0", 20_000), ("p1", 10_000), ("p2", 30_000)]), &three, 3, "4");
        let object = |target| Source::Object { metric: metric.clone(), described: json!({"kind": "Service"}), target };
        check(&object(TargetValue::Value(15_000)), Ok(Samples::Values(vec![20_000])), &three, 3, "4");
        check(&object(TargetValue::Average(5_000)), Ok(Samples::Values(vec![20_000])), &three, 3, "4");
        let external = |target| Source::External { metric: metric.clone(), target };
        check(&external(TargetValue::Value(10_000)), Ok(Samples::Values(vec![8_000, 12_000])), &three, 3, "6");
        check(&external(TargetValue::Average(10_000)), Ok(Samples::Values(vec![20_000])), &three, 3, "2");
        check(&external(TargetValue::Value(10_000)), Ok(Samples::Values(vec![30_000])), &[], 0, "3");
        let why = || Err("n/qps/nil: why".to_owned());
        let text = |told: &str| format!("{told}: unable to get external metric n/qps/nil: why");
        check(&external(TargetValue::Value(1)), why(), &three, 3, &text("failed to get external metric qps"));
        check(&external(TargetValue::Average(1)), why(), &three, 3, &text("failed to get qps external metric"));
        let text = "unable to get metric qps: Service on n s/why";
        check(&object(TargetValue::Value(1)), Err("n s/why".into()), &three, 3, text);
        let text = format!("failed to get qps object metric: {text}");
        check(&object(TargetValue::Average(1)), Err("n s/why".into()), &three, 3, &text);
        // Pods of which nobody knows whether they are ready are not counted as such.
        let mut pods = plain_pods(2);
        pods.push(pod("p2", |p| p["status"]["conditions"][0]["status"] = json!("Unknown")));
        check(&object(TargetValue::Value(10_000)), Ok(Samples::Values(vec![20_000])), &pods, 3, "4");
        let container =
            Source::Resource { name: "cpu".into(), container: Some("d".into()), target: TargetValue::Utilization(50) };
        check(
            &container,
            samples(&[("p0", 1)]),
            &three,
            3,
            "failed to get cpu utilization: container d not found in Pod p0",
        );
        let raw = Source::Resource { name: "memory".into(), container: None, target: TargetValue::Average(100) };
        check(&raw, samples(&[("p0", 200), ("p1", 200), ("p2", 200)]), &three, 3, "6");
    }
}
