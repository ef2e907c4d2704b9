//! `CronJob`. Upstream: `pkg/registry/batch/cronjob/strategy.go`, `validateCronJobSpec`.

use serde_json::{Value, json};

use super::{job, schedule};
use crate::core::pod::defaults;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, list, same, set, text};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, containers_and_images, name, or_none, since};
use crate::validate::non_negative;
use crate::validate::pod_spec::warnings;

/// The kind `CronJob`.
pub struct CronJob;

/// What is said of a time zone in the schedule, which no new cron job may have. The path is upstream's.
const TZ_STAYS: &str = "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                        https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";

impl Kind for CronJob {
    facts!(Facts {
        kind: "CronJob",
        plural: "cronjobs",
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Schedule", "string", "", 0),
            ("Timezone", "string", "", 0),
            ("Suspend", "boolean", "", 0),
            ("Active", "integer", "", 0),
            ("Last Schedule", "string", "", 0),
            AGE,
            ("Containers", "string", "", 1),
            ("Images", "string", "", 1),
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("batch", "v1")
    });

    fn default(&self, obj: &mut Value) {
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        default_text(spec, "concurrencyPolicy", "Allow");
        default_value(spec, "suspend", false);
        default_value(spec, "successfulJobsHistoryLimit", 3);
        default_value(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = at_mut(spec, &["jobTemplate"]) {
            defaults::template(template);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
        first_generation(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        separate_status(new, old, cx.subresource);
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = spec(cx, obj, None);
        let name = View::root(obj).dig("metadata.name");
        // A job's name is the cron job's and eleven characters more, and must fit a label.
        if name.len() > 52 {
            errs.invalid(name.path(), name.str(), "must be no more than 52 characters");
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") { ErrorList::new() } else { spec(cx, new, Some(old)) }
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") {
            return Vec::new();
        }
        let mut warnings = warnings::pod_name(new, old, "Pod names and hostnames");
        warnings.extend(job::spec_warnings("spec.jobTemplate.spec", new, old));
        if old.is_some() && text(new, &["spec", "schedule"]).contains("TZ") {
            warnings.push(TZ_STAYS.to_owned());
        }
        warnings
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let last = match at(obj, &["status", "lastScheduleTime"]).as_str() {
            Some(time) => since(Some(time), now),
            None => "<none>".to_owned(),
        };
        let suspend = match at(obj, &["spec", "suspend"]).as_bool() {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let (containers, images) = containers_and_images(at(obj, &["spec", "jobTemplate", "spec", "template", "spec"]));
        vec![
            json!(name(obj)),
            json!(text(obj, &["spec", "schedule"])),
            json!(or_none(text(obj, &["spec", "timeZone"]))),
            json!(suspend),
            json!(list(obj, &["status", "active"]).len()),
            json!(last),
            json!(age(obj, now)),
            json!(containers),
            json!(images),
            json!(crate::table::label_selector(at(obj, &["spec", "jobTemplate", "spec", "selector"]))),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

fn spec(cx: &Cx<'_>, obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    schedule(&mut errs, &spec, old);
    non_negative(&mut errs, &spec.get("startingDeadlineSeconds"));
    let zone = spec.get("timeZone");
    if old.is_none_or(|old| at(old, &["spec", "timeZone"]) != zone.value()) {
        time_zone(&mut errs, &zone);
    }
    let policy = spec.get("concurrencyPolicy");
    match policy.str() {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errs.required(policy.path(), ""),
        other => errs.not_supported(policy.path(), other, &["Allow", "Forbid", "Replace"]),
    }
    let template = spec.get("jobTemplate");
    let unchanged = old.is_some_and(|old| same(at(old, &["spec", "jobTemplate"]), template.value()));
    let job_spec = template.get("spec");
    job::job_spec(&mut errs, cx, &job_spec, unchanged);
    let (chosen, manual) = (job_spec.get("selector"), job_spec.get("manualSelector"));
    if chosen.is_set() {
        errs.invalid(chosen.path(), chosen.value(), "`selector` will be auto-generated");
    }
    if manual.is_true() {
        errs.not_supported(manual.path(), true, &["nil", "false"]);
    }
    non_negative(&mut errs, &spec.get("successfulJobsHistoryLimit"));
    non_negative(&mut errs, &spec.get("failedJobsHistoryLimit"));
    errs
}

/// The cron expression, without a time zone unless there was one before. Upstream: `validateScheduleFormat`.
fn schedule(errs: &mut ErrorList, spec: &View<'_>, old: Option<&Value>) {
    let v = spec.get("schedule");
    if v.is_empty() {
        errs.required(v.path(), "");
        return;
    }
    if let Err(problem) = schedule::check(v.str()) {
        errs.invalid(v.path(), v.str(), problem);
    }
    let had_zone = old.is_some_and(|old| text(old, &["spec", "schedule"]).contains("TZ"));
    let problem = match (v.str().contains("TZ"), had_zone) {
        (true, true) if spec.get("timeZone").is_set() => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        _ => return,
    };
    errs.invalid(v.path(), v.str(), problem);
}

/// Upstream: `validateTimeZone`.
fn time_zone(errs: &mut ErrorList, v: &View<'_>) {
    let Some(zone) = v.opt_str() else { return };
    if zone.is_empty() {
        errs.invalid(v.path(), zone, "timeZone must be nil or non-empty string");
        return;
    }
    // Go knows the zone of the machine by this name and no other.
    if zone.eq_ignore_ascii_case("Local") {
        errs.invalid(
            v.path(),
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    }
    if zone != "Local" && !orkd_cel::time::is_zone(zone) {
        errs.invalid(v.path(), zone, format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Features;

    #[test]
    fn time_zones_have_to_be_known_when_they_are_set() {
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "test", features: &features };
        let job = |zone: &str| {
            let mut job = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"schedule": "* * * * *", "timeZone": zone,
                "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "i"}]}}}}}});
            CronJob.default(&mut job);
            job
        };
        let problems = |zone: &str, old: Option<&str>| {
            let errs = spec(&cx, &job(zone), old.map(job).as_ref());
            let of_zone = errs.0.iter().map(ToString::to_string).filter(|e| e.starts_with("spec.timeZone"));
            of_zone.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(problems("UTC", None), "");
        let unknown = "spec.timeZone: Invalid value: \"Mars/X\": unknown time zone Mars/X";
        assert_eq!(problems("Mars/X", None), unknown);
        assert_eq!(problems("Mars/X", Some("UTC")), unknown);
        assert_eq!(problems("Mars/X", Some("Mars/X")), "");
        let local = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        assert_eq!(problems("Local", None), format!("spec.timeZone: Invalid value: \"Local\": {local}"));
    }
}
