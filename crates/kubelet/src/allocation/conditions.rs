//! What a pod's status and events say of its resize (pure). Follows `updatedPodResizeCondition` and its neighbours in
//! upstream's `pkg/kubelet/status/status_manager.go`, and `pkg/kubelet/events/pod_resize.go`.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::pod;

/// The condition of a resize that is not granted.
pub const PENDING: &str = "PodResizePending";
/// The condition of a resize that is granted and not in force everywhere.
pub const IN_PROGRESS: &str = "PodResizeInProgress";
/// The reason of a resize in progress that failed and is tried again.
const ERROR: &str = "Error";

/// How far a pod's resize is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resizing {
    /// It is not granted, and why.
    pub pending: Option<PodCondition>,
    /// One is granted and not done.
    pub in_progress: Option<PodCondition>,
}

fn condition(
    kind: &str,
    before: Option<&PodCondition>,
    (reason, message): (&str, &str),
    generation: i64,
    now: Timestamp,
) -> PodCondition {
    let now = Timestamp::from_second(now.as_second()).ok().map(Time);
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let same = before.filter(|c| c.reason.as_deref().unwrap_or_default() == reason);
    PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        last_probe_time: now.clone(),
        last_transition_time: same.map_or(now, |c| c.last_transition_time.clone()),
        reason: text(reason),
        message: text(message),
        observed_generation: Some(generation),
    }
}

fn says(condition: Option<&PodCondition>, reason: &str, message: &str) -> bool {
    let is = |field: &Option<String>, text: &str| field.as_deref().unwrap_or_default() == text;
    condition.is_some_and(|c| is(&c.reason, reason) && is(&c.message, message))
}

impl Resizing {
    /// As a status tells it (`BackfillPodResizeConditions`).
    pub fn of(status: Option<&PodStatus>) -> Resizing {
        let shown = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let find = |kind: &str| shown.iter().find(|c| c.type_ == kind && c.status == "True").cloned();
        Resizing { pending: find(PENDING), in_progress: find(IN_PROGRESS) }
    }

    /// The conditions there are.
    pub fn conditions(&self) -> impl Iterator<Item = &PodCondition> {
        self.pending.iter().chain(&self.in_progress)
    }

    /// The resize cannot be granted. Whether that is news.
    pub fn put_off(&mut self, reason: &str, message: &str, generation: i64, now: Timestamp) -> bool {
        let before = self.pending.as_ref();
        if says(before, reason, message) && before.and_then(|c| c.observed_generation) == Some(generation) {
            return false;
        }
        self.pending = Some(condition(PENDING, before, (reason, message), generation, now));
        true
    }

    /// The resize is granted; errors of an earlier one are forgotten.
    pub fn grant(&mut self, generation: i64, now: Timestamp) {
        self.pending = None;
        self.in_progress = Some(condition(IN_PROGRESS, None, ("", ""), generation, now));
    }

    /// A resize is being carried out; what is said of it already stays.
    pub fn go_on(&mut self, generation: i64, now: Timestamp) {
        self.in_progress.get_or_insert_with(|| condition(IN_PROGRESS, None, ("", ""), generation, now));
    }

    /// Carrying it out failed. The generation it is of, if that is news.
    pub fn fail(&mut self, message: &str, generation: i64, now: Timestamp) -> Option<i64> {
        let before = self.in_progress.as_ref();
        if says(before, ERROR, message) {
            return None;
        }
        let generation = before.and_then(|c| c.observed_generation).unwrap_or(generation);
        self.in_progress = Some(condition(IN_PROGRESS, before, (ERROR, message), generation, now));
        Some(generation)
    }

    /// Nothing is left to carry out. The generation of what was.
    pub fn finish(&mut self) -> Option<i64> {
        self.in_progress.take().map(|c| c.observed_generation.unwrap_or_default())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Asked<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Asked<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Asked<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// The text of an event: what happened, to which resources.
pub fn event_message(what: &str, object: &Pod, generation: i64, error: &str) -> String {
    let spec = pod::spec(object);
    fn asked(c: &Container) -> Asked<'_> {
        Asked { name: &c.name, resources: c.resources.clone().unwrap_or_default() }
    }
    let summary = Summary {
        init_containers: spec.init_containers.iter().flatten().map(asked).collect(),
        containers: spec.containers.iter().map(asked).collect(),
        generation,
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(summary) => format!("Pod resize {what}: {summary}"),
        Err(_) => format!("Pod resize {what}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or_default()
    }

    fn told(c: Option<&PodCondition>) -> Option<(&str, &str, i64, i64)> {
        let c = c?;
        let text = |field: &'static str, of: &'_ Option<String>| if of.is_none() { "" } else { field };
        let since = c.last_transition_time.as_ref().map_or(-1, |t| t.0.as_second());
        Some((text("reason", &c.reason), text("message", &c.message), c.observed_generation.unwrap_or(-1), since))
    }

    #[test]
    fn news_is_told_once_and_times_are_those_of_reasons() {
        let mut resizing = Resizing::default();
        assert!(resizing.put_off("Deferred", "no room", 2, at(10)));
        assert!(!resizing.put_off("Deferred", "no room", 2, at(20)), "nothing new");
        assert!(resizing.put_off("Deferred", "less room", 2, at(30)));
        assert_eq!(told(resizing.pending.as_ref()), Some(("reason", "message", 2, 10)));
        assert!(resizing.put_off("Infeasible", "never", 3, at(40)));
        assert_eq!(told(resizing.pending.as_ref()), Some(("reason", "message", 3, 40)));

        resizing.grant(4, at(50));
        assert_eq!(resizing.pending, None);
        assert_eq!(told(resizing.in_progress.as_ref()), Some(("", "", 4, 50)));
        assert_eq!(resizing.fail("busy", 9, at(60)), Some(4), "of the generation that is in progress");
        assert_eq!(resizing.fail("busy", 9, at(70)), None);
        resizing.go_on(9, at(80));
        assert_eq!(told(resizing.in_progress.as_ref()), Some(("reason", "message", 4, 60)), "the error stays");
        let shown = PodStatus { conditions: Some(resizing.conditions().cloned().collect()), ..PodStatus::default() };
        assert_eq!(Resizing::of(Some(&shown)), resizing);
        assert_eq!((resizing.finish(), resizing.finish()), (Some(4), None));
    }

    #[test]
    fn events_name_what_is_asked_for() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c0", "resources": {"limits": {"cpu": "100m", "memory": "100"}}}, {"name": "c1"}]}}))
        .expect("a pod");
        let text = event_message("started", &pod, 1, "");
        let wanted = r#"Pod resize started: {"containers":[{"name":"c0","resources":{"limits":{"cpu":"100m","memory":"100"}}},{"name":"c1","resources":{}}],"generation":1}"#;
        assert_eq!(text, wanted);
        let text = event_message("error", &pod, 2, "no \"room\"");
        assert!(text.ends_with(r#""generation":2,"error":"no \"room\""}"#), "{text}");
    }
}
