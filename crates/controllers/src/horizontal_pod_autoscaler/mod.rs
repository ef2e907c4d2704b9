//! Horizontal pod autoscalers: as many pods as the metrics ask for.
//!
//! Follows `pkg/controller/podautoscaler`. Every fifteen seconds each autoscaler reads the scale of its target, the
//! metrics it names ([`metrics`]) and the pods they are about; how many pods each metric asks for is [`calculator`]'s
//! to say, how fast the number may change [`pace`]'s. Both are pure.
//!
//! Metrics and scales may be served by anybody. What takes a request and does not answer holds a few workers, never all:
//! see [`Gates`].

mod calculator;
mod metrics;
mod pace;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_api::selector::LabelSelector;
use orkd_base::{BoxError, Clock, chain};
use orkd_reconcile::{
    Api, ApiError, EventType, Gates, Informer, Key, ListOptions, Meta, ObjectRef, Outcome, Queue, Recorder, Resource,
    Target, View, time, work,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::discovery::{Discovery, discover};
use crate::views::{Pod, view};
use crate::{ControllerSpec, Cx, owners};
use calculator::{PodFacts, Tolerance};
use metrics::Source;
use pace::History;
use status::Conditions;

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "horizontal-pod-autoscaler-controller",
    service_account: "horizontal-pod-autoscaler",
    run: |cx| Box::pin(start(cx)),
};

/// How often each autoscaler looks (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);
/// How many autoscalers are looked at at once (`--concurrent-horizontal-pod-autoscaler-syncs`).
const WORKERS: usize = 5;
/// How many of them may wait for one group of the API.
const PLACES: usize = 16;
/// How long a change of a scale may take: longer than the server lets it.
const CHANGES: Duration = Duration::from_secs(65);

/// An autoscaler. There are few, so they are kept whole.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Autoscaler {
    metadata: Meta,
    spec: Value,
    status: Value,
}
view!(Autoscaler, "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers");

async fn start(cx: Cx) -> Result<(), BoxError> {
    let scalers: Informer<Autoscaler> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    let controller = Arc::new(Scalers {
        recorder: cx.recorder.clone(),
        gates: Gates::new(PLACES),
        changes: Gates::new(PLACES).patient(CHANGES),
        api: cx.api.clone(),
        clock: cx.clock.clone(),
        scalers: scalers.clone(),
        histories: Mutex::default(),
        selectors: Mutex::default(),
        served: Mutex::default(),
    });
    {
        let (queue, controller) = (queue.clone(), controller.clone());
        scalers.subscribe(move |event| {
            if event.is_deleted() {
                controller.histories.lock().remove(&event.key());
                controller.selectors.lock().remove(&event.key());
                return;
            }
            // Our own writes to the status are no reason to look again.
            if event.old().is_none_or(|old| old.spec != event.object().spec) {
                queue.add(event.key());
            }
        });
    }
    scalers.synced().await;
    let controller = &controller;
    work(queue, WORKERS, cx.stop, |key| async move {
        let Some(scaler) = controller.scalers.get(&key) else { return Ok(Outcome::Done) };
        if let Err(err) = controller.reconcile(&key, &scaler).await {
            // What is wrong stands in conditions and events; the next look is in its time.
            tracing::debug!(%key, error = %chain(&*err), "an autoscaler could not decide");
        }
        Ok(Outcome::RequeueAfter(PERIOD))
    })
    .await;
    Ok(())
}

struct Scalers {
    api: Api,
    gates: Gates,
    /// The same for changes, which admission may slow down.
    changes: Gates,
    recorder: Recorder,
    clock: Clock,
    scalers: Informer<Autoscaler>,
    /// Recommendations and changes of each autoscaler.
    histories: Mutex<HashMap<Key, History>>,
    /// Which pods each autoscaler is about.
    selectors: Mutex<HashMap<Key, LabelSelector>>,
    served: Mutex<Option<Arc<Discovery>>>,
}

/// The scale of a target.
struct Scale {
    /// The group that serves it.
    group: String,
    target: Target,
    object: Value,
}

impl Scale {
    fn count(&self, part: &str) -> i32 {
        self.object[part]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
    }
}

/// One round about one autoscaler: what is to be written and said.
struct Round<'a> {
    scaler: &'a Autoscaler,
    conditions: Conditions,
    metrics: Vec<Value>,
    now: Timestamp,
    about: ObjectRef,
}

/// What the metrics ask for.
struct Proposal {
    replicas: i32,
    metric: String,
    /// Some metrics could not be read, yet the others suffice.
    incomplete: Option<String>,
}

impl Scalers {
    async fn reconcile(&self, key: &Key, scaler: &Autoscaler) -> Result<(), BoxError> {
        let now = self.clock.now();
        let mut round = Round {
            scaler,
            conditions: Conditions::of(&scaler.status, now),
            metrics: Vec::new(),
            now,
            about: ObjectRef::of(scaler),
        };
        let spec = &scaler.spec;
        let scale = match self.scale(&key.namespace, &spec["scaleTargetRef"]).await {
            Ok(scale) => scale,
            Err(err) => {
                let why = text(&*err);
                self.recorder.warning(&round.about, "FailedGetScale", why.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {why}");
                round.conditions.set("AbleToScale", false, "FailedGetScale", message);
                // What was decided and measured before stays.
                let standing = &scaler.status;
                round.metrics = standing["currentMetrics"].as_array().cloned().unwrap_or_default();
                let before = |field: &str| standing[field].as_i64();
                self.write(&round, before("currentReplicas"), before("desiredReplicas"), None).await?;
                return Err(err);
            }
        };
        let able = "the HPA controller was able to get the target's current scale";
        round.conditions.set("AbleToScale", true, "SucceededGetScale", able);
        let current = scale.count("spec");
        let least = spec["minReplicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(1);
        let most = spec["maxReplicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(1);
        let mut history = self.histories.lock().remove(key).unwrap_or_else(|| History::starting_at(current, now));
        let mut incomplete = None;
        let (desired, reason) = if current == 0 && least != 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            round.conditions.set("ScalingActive", false, "ScalingDisabled", why);
            (0, None)
        } else if current > most {
            (most, Some("Current number of replicas above Spec.MaxReplicas".to_owned()))
        } else if current < least {
            (least, Some("Current number of replicas below Spec.MinReplicas".to_owned()))
        } else {
            let proposal = match self.propose(&mut round, key, &scale).await {
                Ok(proposal) => proposal,
                Err(why) => {
                    self.histories.lock().insert(key.clone(), history);
                    self.write_failure(&round, current).await?;
                    self.recorder.warning(&round.about, "FailedComputeMetricsReplicas", why.clone());
                    return Err(why.into());
                }
            };
            let wanted = proposal.replicas.max(0);
            let reason = match wanted.cmp(&current) {
                std::cmp::Ordering::Greater => Some(format!("{} above target", proposal.metric)),
                std::cmp::Ordering::Less => Some("All metrics below target".to_owned()),
                std::cmp::Ordering::Equal => None,
            };
            incomplete = proposal.incomplete;
            let bounds = pace::Bounds { current, least, most };
            let decision = pace::decide(&mut history, spec.get("behavior"), &bounds, wanted, now);
            let (stabilized, limited) = (decision.stabilized, decision.limited);
            round.conditions.set("AbleToScale", true, stabilized.0, stabilized.1);
            round.conditions.set("ScalingLimited", decision.is_limited, limited.0, limited.1);
            (decision.replicas, (decision.replicas != current).then(|| reason.unwrap_or_default()))
        };
        let done = match reason {
            None => self.write(&round, Some(current.into()), Some(current.into()), None).await.map(|()| false),
            Some(reason) => self.rescale(&mut round, &scale, current, desired, &reason).await.map(|()| true),
        };
        if matches!(done, Ok(true)) {
            history.changed(spec.get("behavior"), current, desired, now);
        }
        self.histories.lock().insert(key.clone(), history);
        done?;
        incomplete.map_or(Ok(()), |why| Err(why.into()))
    }

    async fn rescale(
        &self,
        round: &mut Round<'_>,
        scale: &Scale,
        current: i32,
        desired: i32,
        reason: &str,
    ) -> Result<(), BoxError> {
        if let Err(err) = self.changes.ask(&scale.group, self.set_scale(scale, desired)).await {
            let why = err.message();
            let message = format!("New size: {desired}; reason: {reason}; error: {why}");
            self.recorder.warning(&round.about, "FailedRescale", message);
            let message = format!("the HPA controller was unable to update the target scale: {why}");
            round.conditions.set("AbleToScale", false, "FailedUpdateScale", message);
            self.write_failure(round, current).await?;
            return Err(err.into());
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        round.conditions.set("AbleToScale", true, "SucceededRescale", message);
        let message = format!("New size: {desired}; reason: {reason}");
        self.recorder.event(&round.about, EventType::Normal, "SuccessfulRescale", message);
        self.write(round, Some(current.into()), Some(desired.into()), Some(round.now)).await
    }

    /// Writes a scale. A target whose status moved meanwhile is asked again; one that was scaled is left to the next look.
    async fn set_scale(&self, scale: &Scale, desired: i32) -> Result<(), ApiError> {
        let mut object = scale.object.clone();
        for _ in 0..3 {
            object["spec"]["replicas"] = desired.into();
            match self.api.update::<Value>(&scale.target, &object).await {
                Err(err) if err.is_conflict() => {
                    object = self.api.get(&scale.target).await?;
                    if object["spec"]["replicas"] != scale.object["spec"]["replicas"] {
                        return Err(err);
                    }
                }
                other => return other.map(|_| ()),
            }
        }
        object["spec"]["replicas"] = desired.into();
        self.api.update::<Value>(&scale.target, &object).await.map(|_| ())
    }

    /// Writes what a round that failed has found: what was decided before stays (`setCurrentReplicasAndMetricsInStatus`).
    async fn write_failure(&self, round: &Round<'_>, current: i32) -> Result<(), BoxError> {
        self.write(round, Some(current.into()), round.scaler.status["desiredReplicas"].as_i64(), None).await
    }

    /// Writes the status, where it changes.
    async fn write(
        &self,
        round: &Round<'_>,
        current: Option<i64>,
        desired: Option<i64>,
        scaled: Option<Timestamp>,
    ) -> Result<(), BoxError> {
        let standing = &round.scaler.status;
        let mut status = json!({
            "currentReplicas": current.unwrap_or(0),
            "desiredReplicas": desired.unwrap_or(0),
            "conditions": round.conditions.to_value(),
            "currentMetrics": Value::Null,
        });
        if !round.metrics.is_empty() {
            status["currentMetrics"] = json!(round.metrics);
        }
        if let Some(scaled) = scaled {
            status["lastScaleTime"] = time(scaled).into();
        }
        let same = status.as_object().into_iter().flatten().all(|(field, value)| {
            let old = &standing[field.as_str()];
            old == value || (field == "currentReplicas" && value == 0 && old.is_null())
        });
        if !same {
            owners::write_status(&self.api, round.scaler, &status).await?;
        }
        Ok(())
    }

    /// The scale of the object that an autoscaler is about.
    async fn scale(&self, namespace: &str, reference: &Value) -> Result<Scale, BoxError> {
        let field = |f: &str| reference[f].as_str().unwrap_or_default();
        let (api_version, kind) = (field("apiVersion"), field("kind"));
        let Some(resource) = self.resource_of(api_version, kind).await? else {
            let group = api_version.split_once('/').map_or("", |(group, _)| group);
            return Err(format!("no matches for kind {kind:?} in group {group:?}").into());
        };
        let target = resource.at(namespace, field("name")).sub("scale");
        let group = resource.group.to_string();
        let object = self.gates.ask(&group, self.api.get::<Value>(&target)).await?;
        Ok(Scale { group, target, object })
    }

    /// The resource of a kind; what is served is asked again when a kind is not known.
    async fn resource_of(&self, api_version: &str, kind: &str) -> Result<Option<Resource>, BoxError> {
        let known = self.served.lock().clone();
        if let Some(found) = known.and_then(|k| k.of_kind(api_version, kind).cloned()) {
            return Ok(Some(found));
        }
        let fresh = Arc::new(discover(&self.api).await?);
        let found = fresh.of_kind(api_version, kind).cloned();
        *self.served.lock() = Some(fresh);
        Ok(found)
    }

    /// How many pods all metrics together ask for. The error is upstream's text; conditions and events about it are
    /// set.
    async fn propose(&self, round: &mut Round<'_>, key: &Key, scale: &Scale) -> Result<Proposal, String> {
        let (selector, pods) = self.pods(round, key, scale).await?;
        let specs = round.scaler.spec["metrics"].as_array().cloned().unwrap_or_default();
        let counts = calculator::Counts { spec: scale.count("spec"), status: scale.count("status") };
        let behavior = &round.scaler.spec["behavior"];
        let tolerance = Tolerance::of(behavior);
        let mut best: Option<(i32, String)> = None;
        let mut first: Option<(status::Failure, String)> = None;
        let mut invalid = 0;
        for spec in &specs {
            let done = self.one_metric(round, key, spec, &selector, &pods, &counts, &tolerance).await;
            match done {
                Ok(found) => {
                    round.metrics.push(found.status);
                    if best.as_ref().is_none_or(|(replicas, _)| found.replicas > *replicas) {
                        best = Some((found.replicas, found.name));
                    }
                }
                Err((failure, why)) => {
                    self.recorder.warning(&round.about, failure.reason, failure.why.clone());
                    // An empty status keeps the place of the metric: clients read them by their order.
                    round.metrics.push(json!({"type": ""}));
                    invalid += 1;
                    first.get_or_insert((failure, why));
                }
            }
        }
        let error = first.as_ref().map(|(_, why)| {
            format!("invalid metrics ({invalid} invalid out of {}), first error is: {why}", specs.len())
        });
        match (best, first, error) {
            (Some((replicas, metric)), first, error) if first.is_none() || replicas >= counts.spec => {
                let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
                round.conditions.set("ScalingActive", true, "ValidMetricFound", message);
                Ok(Proposal { replicas, metric, incomplete: error })
            }
            (_, Some((failure, _)), Some(error)) => {
                let message = format!("the HPA was unable to compute the replica count: {}", failure.why);
                round.conditions.set("ScalingActive", false, failure.reason, message);
                Err(error)
            }
            _ => Err("invalid metrics (0 invalid out of 0), first error is: no metrics are named".into()),
        }
    }

    /// The pods that an autoscaler is about, and their selector as it was written.
    async fn pods(&self, round: &mut Round<'_>, key: &Key, scale: &Scale) -> Result<(String, Vec<PodFacts>), String> {
        let written = scale.object["status"]["selector"].as_str().unwrap_or_default().to_owned();
        let mut refuse = |reason: &str, event: &str, message: String, error: String| {
            self.recorder.warning(&round.about, event, error.clone());
            round.conditions.set("ScalingActive", false, reason, message);
            error
        };
        if written.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return Err(refuse("InvalidSelector", "SelectorRequired", message, "selector is required".into()));
        }
        let selector = LabelSelector::parse(&written).map_err(|e| {
            let why = format!("couldn't convert selector into a corresponding internal selector object: {e}");
            refuse("InvalidSelector", "InvalidSelector", why.clone(), why)
        })?;
        let options = ListOptions { labels: written.clone(), ..ListOptions::default() };
        let listed = self.api.list_all::<Value>(&Resource::of::<Pod>().collection(&key.namespace), &options).await;
        let listed =
            listed.map_err(|e| format!("unable to get pods while calculating replica count: {}", e.message()))?;
        // Two autoscalers of one pod would fight.
        let others: Vec<String> = {
            let mut selectors = self.selectors.lock();
            selectors.insert(key.clone(), selector);
            let about = |(other, selector): (&Key, &LabelSelector)| {
                let same = other.namespace == key.namespace && listed.items.iter().any(|p| selector.matches_object(p));
                same.then(|| other.to_string())
            };
            selectors.iter().filter_map(about).collect()
        };
        if others.len() > 1 {
            let mut others = others;
            others.sort_unstable();
            let why = format!("pods by selector {written} are controlled by multiple HPAs: [{}]", others.join(" "));
            return Err(refuse("AmbiguousSelector", "AmbiguousSelector", why.clone(), why));
        }
        Ok((written, listed.items.iter().map(PodFacts::of).collect()))
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are one metric's circumstances")]
    async fn one_metric(
        &self,
        round: &Round<'_>,
        key: &Key,
        spec: &Value,
        selector: &str,
        pods: &[PodFacts],
        counts: &calculator::Counts,
        tolerance: &Tolerance,
    ) -> Result<calculator::Found, (status::Failure, String)> {
        let source = Source::parse(spec).map_err(|why| {
            let failure = status::Failure { reason: "InvalidMetricSourceType", why: why.clone() };
            (failure, why)
        })?;
        let failed = |why: String| {
            let error = source.wrap(&why);
            (status::Failure { reason: source.reason(), why }, error)
        };
        let described = match source.described() {
            None => None,
            Some((api_version, kind)) => {
                let found = self.resource_of(api_version, kind).await.map_err(|e| failed(text(&*e)))?;
                let group = api_version.split_once('/').map_or("", |(group, _)| group);
                let missing = || failed(format!("no matches for kind {kind:?} in group {group:?}"));
                Some(found.ok_or_else(missing)?)
            }
        };
        let read = async {
            Ok::<_, ApiError>(metrics::read(&self.api, &source, &key.namespace, selector, described.as_ref()).await)
        };
        let samples = self.gates.ask(source.group(), read).await.map_err(|e| e.message()).and_then(|samples| samples);
        calculator::calculate(&source, samples, pods, counts, tolerance, round.now).map_err(failed)
    }
}

/// What an error says, as upstream's clients would.
fn text(err: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    match err.downcast_ref::<orkd_reconcile::ApiError>() {
        Some(err) => err.message(),
        None => err.to_string(),
    }
}
