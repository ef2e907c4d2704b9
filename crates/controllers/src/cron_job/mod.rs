//! Cron jobs: a job whenever the schedule says so.
//!
//! Follows `pkg/controller/cronjob`: of the times that were missed only the last is made up for, and not when it is
//! too late; the name of a job carries its minute, so that no time is served twice; old jobs are removed.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use orkd_base::BoxError;
use orkd_reconcile::{
    Api, Controller, DeleteOptions, EventType, Informer, Key, Meta, ObjectRef, Outcome, Propagation, Recorder,
    Resource, View, null_default, run, time,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::job::Job;
use crate::owners;
use crate::replica_set::{BY_CONTROLLER, add_owner_indexes};
use crate::views::view;
use crate::{ControllerSpec, Cx};
use schedule::Schedule;

/// How the list of controllers names it.
pub const SPEC: ControllerSpec =
    ControllerSpec { name: "cronjob-controller", service_account: "cronjob-controller", run: |cx| Box::pin(start(cx)) };

/// On a job: the time it serves.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// A cron job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CronJob {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: CronJobSpec,
    /// Status.
    pub status: CronJobStatus,
}
view!(CronJob, "batch", "v1", "CronJob", "cronjobs");

/// What is asked of a cron job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpec {
    /// When.
    pub schedule: String,
    /// By which clock; UTC without.
    pub time_zone: Option<String>,
    /// How late a job may start, in seconds.
    pub starting_deadline_seconds: Option<i64>,
    /// `Allow`, `Forbid` or `Replace`.
    pub concurrency_policy: String,
    /// Whether it stands still.
    #[serde(deserialize_with = "null_default")]
    pub suspend: bool,
    /// What jobs are made of.
    pub job_template: Value,
    /// How many jobs that succeeded are kept.
    pub successful_jobs_history_limit: Option<i32>,
    /// How many jobs that failed are kept.
    pub failed_jobs_history_limit: Option<i32>,
}

/// The status of a cron job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatus {
    /// Jobs that run.
    #[serde(deserialize_with = "null_default")]
    pub active: Vec<ObjectRef>,
    /// The last time that was served.
    pub last_schedule_time: Option<Timestamp>,
    /// When a job last succeeded.
    pub last_successful_time: Option<Timestamp>,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let crons: Informer<CronJob> = cx.informers.informer();
    let jobs: Informer<Job> = cx.informers.informer();
    add_owner_indexes(&jobs);
    let queue = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        crons.subscribe(move |event| queue.add(event.key()));
    }
    {
        let queue = queue.clone();
        jobs.subscribe(move |event| {
            let meta = &event.object().metadata;
            if let Some(owner) = meta.controller().filter(|c| c.kind == "CronJob") {
                queue.add(Key::new(&meta.namespace, &owner.name));
            }
        });
    }
    crons.synced().await;
    jobs.synced().await;
    let controller = CronJobs { crons, jobs, api: cx.api, recorder: cx.recorder };
    run(Arc::new(controller), queue, 5, cx.clock, cx.stop).await;
    Ok(())
}

struct CronJobs {
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    api: Api,
    recorder: Recorder,
}

/// What is known of one cron job.
pub struct Observed {
    cron: Arc<CronJob>,
    /// Its jobs: those of the cache, and those that are noted as active and too new for it.
    jobs: Vec<Arc<Job>>,
}

/// What is to be done for one cron job.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Jobs to be removed: history, and what is replaced.
    delete: Vec<Key>,
    /// The job to be made, and the time it serves.
    create: Option<(Value, Timestamp)>,
    status: CronJobStatus,
    events: Vec<(EventType, &'static str, String)>,
    again: Option<Duration>,
}

#[async_trait]
impl Controller for CronJobs {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        let Some(cron) = self.crons.get(key) else { return Ok(None) };
        let mut jobs = self.jobs.by_index(BY_CONTROLLER, &cron.metadata.uid);
        for active in &cron.status.active {
            if jobs.iter().any(|j| j.metadata.uid == active.uid) {
                continue;
            }
            // The cache may be behind: one that is merely new to it must not be given up.
            match self.api.get::<Job>(&Resource::of::<Job>().at(&active.namespace, &active.name)).await {
                Ok(job) if job.metadata.uid == active.uid => jobs.push(Arc::new(job)),
                Err(err) if !err.is_not_found() => return Err(err.into()),
                _ => {}
            }
        }
        Ok(Some(Observed { cron, jobs }))
    }

    fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        plan(observed, now)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        let cron = &observed.cron;
        let about = ObjectRef::of(&**cron);
        let resource = Resource::of::<Job>();
        for (event_type, reason, message) in &plan.events {
            self.recorder.event(&about, *event_type, reason, message.clone());
        }
        // History that cannot be removed holds nothing up; a job that is to be replaced does.
        let replacing = plan.create.is_some() && cron.spec.concurrency_policy == "Replace";
        for job in &plan.delete {
            let options = DeleteOptions::default().propagation(Propagation::Background);
            match self.api.delete(&resource.at(&job.namespace, &job.name), &options).await {
                Ok(()) => self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted job {}", job.name)),
                Err(err) if err.is_not_found() => {}
                Err(err) => {
                    self.recorder.warning(&about, "FailedDelete", format!("Deleted job: {}", err.message()));
                    if replacing {
                        return Err(err.into());
                    }
                }
            }
        }
        let mut status = plan.status;
        if let Some((body, at)) = &plan.create {
            match self.api.create::<Job>(&resource.collection(&about.namespace), body).await {
                Ok(job) => {
                    let text = format!("Created job {}", job.metadata.name);
                    self.recorder.normal(&about, "SuccessfulCreate", text);
                    status.active.push(ObjectRef::of(&job));
                }
                Err(err) if err.is_already_exists() => {
                    let name = body["metadata"]["name"].as_str().unwrap_or_default();
                    let job: Job = self.api.get(&resource.at(&about.namespace, name)).await?;
                    if !job.metadata.is_controlled_by(&cron.metadata.uid) {
                        // Somebody's job has the name: nothing of ours was served.
                        return Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter));
                    }
                    // Made before, by us and not yet seen.
                    if job.finished().is_none() && !status.active.iter().any(|r| r.uid == job.metadata.uid) {
                        status.active.push(ObjectRef::of(&job));
                    }
                }
                Err(err) if err.has_cause("NamespaceTerminating") => return Ok(Outcome::Done),
                Err(err) => {
                    self.recorder.warning(&about, "FailedCreate", format!("Error creating job: {}", err.message()));
                    return Err(err.into());
                }
            }
            status.last_schedule_time = Some(*at);
        }
        if status != cron.status {
            let active: Vec<Value> = status
                .active
                .iter()
                .map(|r| {
                    json!({"apiVersion": r.api_version, "kind": r.kind, "namespace": r.namespace, "name": r.name,
                        "uid": r.uid, "resourceVersion": r.resource_version})
                })
                .collect();
            let body = json!({
                "active": if active.is_empty() { Value::Null } else { active.into() },
                "lastScheduleTime": status.last_schedule_time.map(time),
                "lastSuccessfulTime": status.last_successful_time.map(time),
            });
            owners::write_status(&self.api, &**cron, &body).await?;
        }
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let cron = &*observed.cron;
    let mut plan = Plan { status: cron.status.clone(), ..Plan::default() };
    // Jobs that run, and those that ended or went meanwhile.
    let (there, missing) =
        plan.status.active.into_iter().partition(|r| observed.jobs.iter().any(|j| j.metadata.uid == r.uid));
    plan.status.active = there;
    let gone = |r: ObjectRef| (EventType::Normal, "MissingJob", format!("Active job went missing: {}", r.name));
    plan.events.extend(Vec::into_iter(missing).map(gone));
    for job in &observed.jobs {
        // A job that was made and not noted, because we were interrupted, has served its time all the same.
        let served = job.metadata.annotation(SCHEDULED).and_then(|at| at.parse::<Timestamp>().ok());
        plan.status.last_schedule_time = plan.status.last_schedule_time.max(served);
        let uid = &job.metadata.uid;
        let listed = plan.status.active.iter().any(|r| r.uid == *uid);
        match job.finished() {
            Some(end) => {
                if listed {
                    plan.status.active.retain(|r| r.uid != *uid);
                    let text = format!("Saw completed job: {}, condition: {}", job.metadata.name, end.kind);
                    plan.events.push((EventType::Normal, "SawCompletedJob", text));
                }
                if end.kind == "Complete" && job.status.completion_time > plan.status.last_successful_time {
                    plan.status.last_successful_time = job.status.completion_time;
                }
            }
            None if listed || job.metadata.is_deleting() => {}
            None if served.is_some_and(|at| *job.metadata.name == *name_of(cron, at)) => {
                plan.status.active.push(ObjectRef::of(&**job));
            }
            None => {
                // Such as one that a user made from the template: it is in nobody's way.
                let text = format!("Saw a job that the controller did not create or forgot: {}", job.metadata.name);
                plan.events.push((EventType::Warning, "UnexpectedJob", text));
            }
        }
    }
    history(&mut plan, observed);
    if cron.metadata.is_deleting() {
        return plan;
    }
    let zone = match &cron.spec.time_zone {
        None => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => {
                let text = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                plan.events.push((EventType::Warning, "UnknownTimeZone", text));
                return plan;
            }
        },
    };
    if cron.spec.suspend {
        return plan;
    }
    let Some(schedule) = Schedule::parse(&cron.spec.schedule) else {
        let text = format!("unparseable schedule: {:?}", cron.spec.schedule);
        plan.events.push((EventType::Warning, "UnparseableSchedule", text));
        return plan;
    };
    let Some(since) = plan.status.last_schedule_time.or(cron.metadata.creation_timestamp) else { return plan };
    // What is too old to be made up for is not looked at.
    let deadline = cron.spec.starting_deadline_seconds.map(|d| now.as_second().saturating_sub(d));
    let oldest = deadline.and_then(|at| Timestamp::from_second(at).ok()).map_or(since, |at| at.max(since));
    let missed = match most_recent(oldest, now, &schedule, &zone) {
        Ok(missed) => missed,
        Err(why) => {
            let text = format!("invalid schedule: {} : {why}", cron.spec.schedule);
            plan.events.push((EventType::Warning, "InvalidSchedule", text));
            return plan;
        }
    };
    // The next time is counted from the last, or `@every` would never come at its time.
    let last =
        most_recent(since, now, &schedule, &zone).map_or(now, |m| m.last.unwrap_or(if m.many { now } else { since }));
    if let Some(next) = schedule.next(last, &zone) {
        let wait = next.duration_since(now);
        plan.again = Some(Duration::from_millis(wait.as_millis().try_into().unwrap_or(0)) + Duration::from_millis(100));
    }
    let Some(due) = missed.last else { return plan };
    if missed.many {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push((EventType::Warning, "TooManyMissedTimes", text.into()));
    }
    let late = cron.spec.starting_deadline_seconds.is_some_and(|d| due.as_second() + d < now.as_second());
    if late {
        let at = due.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
        let text = format!("Missed scheduled time to start a job: {at}");
        plan.events.push((EventType::Warning, "MissSchedule", text));
        return plan;
    }
    let running = !plan.status.active.is_empty();
    match cron.spec.concurrency_policy.as_str() {
        "Forbid" if running => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push((EventType::Normal, "JobAlreadyActive", text.into()));
            return plan;
        }
        "Replace" => {
            plan.delete.extend(plan.status.active.iter().map(|r| Key::new(&r.namespace, &r.name)));
            plan.status.active.clear();
        }
        _ => {}
    }
    plan.create = Some((job(cron, due, &zone), due));
    plan
}

/// Times that were missed.
struct Missed {
    /// The last of them.
    last: Option<Timestamp>,
    /// Whether there were more than a hundred, roughly.
    many: bool,
}

/// The times after one and up to another (`mostRecentScheduleTime`). They are not looked at one by one: the distance of
/// the first two says where the last may be. Where upstream then finds none, as on a Monday for a schedule of weekdays,
/// we look further back: the last time is served once whatever the schedule.
fn most_recent(after: Timestamp, now: Timestamp, schedule: &Schedule, zone: &TimeZone) -> Result<Missed, &'static str> {
    const NEVER: &str = "time difference between two schedules is less than 1 second";
    let first = schedule.next(after, zone).ok_or(NEVER)?;
    let second = schedule.next(first, zone).ok_or(NEVER)?;
    if now < first {
        return Ok(Missed { last: None, many: false });
    }
    if now < second {
        return Ok(Missed { last: Some(first), many: false });
    }
    let step = second.as_second() - first.as_second();
    let missed = (now.as_second() - first.as_second()) / step.max(1) + 1;
    // From one step before the last that there can be, and from further back where steps are not all alike.
    let mut near = first.as_second().saturating_add((missed - 2).saturating_mul(step));
    loop {
        let from = Timestamp::from_second(near).unwrap_or(first).max(first);
        let times = std::iter::successors(schedule.next(from, zone), |at| schedule.next(*at, zone));
        let last = times.take_while(|at| *at <= now).last();
        if last.is_some() || from == first {
            return Ok(Missed { last: last.or(Some(first)), many: missed > 100 });
        }
        near -= 2 * (now.as_second() - near);
    }
}

/// Finished jobs beyond the limits, oldest first.
fn history(plan: &mut Plan, observed: &Observed) {
    let spec = &observed.cron.spec;
    for (kind, limit) in [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut ended: Vec<&Arc<Job>> = observed
            .jobs
            .iter()
            .filter(|j| !j.metadata.is_deleting() && j.finished().is_some_and(|c| c.kind == kind))
            .collect();
        // One that never began is the newest.
        ended.sort_by_key(|j| (j.status.start_time.is_none(), j.status.start_time, j.metadata.name.clone()));
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        plan.delete.extend(ended.into_iter().take(surplus).map(|j| j.metadata.key()));
    }
}

/// The name of the job that serves a time: it carries the minute.
fn name_of(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name, at.as_second() / 60)
}

/// The job that serves a time.
fn job(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Value {
    let template = &cron.spec.job_template;
    let stamp = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z");
    let mut metadata = json!({
        "name": name_of(cron, at),
        "namespace": &*cron.metadata.namespace,
        "ownerReferences": [owners::controller_ref(cron)],
    });
    for field in ["labels", "annotations"] {
        if template["metadata"][field].is_object() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][SCHEDULED] = stamp.into();
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The job of midnight.
    const RUNNING: &str = "tick-29453760";

    fn cron(change: impl FnOnce(&mut Value)) -> Arc<CronJob> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": "tick", "uid": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {}}},
        });
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a cron job"))
    }

    fn job_named(name: &str, end: &str) -> Arc<Job> {
        let conditions = if end.is_empty() { json!([]) } else { json!([{"type": end, "status": "True"}]) };
        let annotations = if name == RUNNING { json!({SCHEDULED: "2026-01-01T00:00:00Z"}) } else { json!({}) };
        let json = json!({
            "metadata": {"namespace": "n", "name": name, "uid": name, "annotations": annotations},
            "status": {"conditions": conditions},
        });
        Arc::new(serde_json::from_value(json).expect("a job"))
    }

    fn check(cron: &Arc<CronJob>, jobs: Vec<Arc<Job>>, now: &str, created: &str, deleted: &[&str]) -> Plan {
        let plan = plan(&Observed { cron: cron.clone(), jobs }, now.parse().expect("a time"));
        let name = plan.create.as_ref().map(|(_, at)| time(*at)).unwrap_or_default();
        let names: Vec<&str> = plan.delete.iter().map(|k| &*k.name).collect();
        assert_eq!((name.as_str(), names.as_slice()), (created, deleted), "{:?}", plan.events);
        plan
    }

    #[test]
    fn the_last_missed_time_is_served() {
        let plan = check(&cron(|_| {}), vec![], "2026-01-01T00:05:00Z", "", &[]);
        assert_eq!(plan.again, Some(Duration::from_millis(300_100)));
        check(&cron(|_| {}), vec![], "2026-01-01T00:35:00Z", "2026-01-01T00:30:00Z", &[]);
        let served = cron(|c| c["status"]["lastScheduleTime"] = "2026-01-01T00:30:00Z".into());
        check(&served, vec![], "2026-01-01T00:35:00Z", "", &[]);
        let strict = cron(|c| c["spec"]["startingDeadlineSeconds"] = 60.into());
        check(&strict, vec![], "2026-01-01T00:35:00Z", "", &[]);
        check(&strict, vec![], "2026-01-01T00:30:30Z", "2026-01-01T00:30:00Z", &[]);
        check(&cron(|_| {}), vec![], "2026-06-01T00:05:00Z", "2026-06-01T00:00:00Z", &[]);
    }

    #[test]
    fn many_missed_times_are_told_and_the_last_is_served() {
        let texts = |plan: &Plan| plan.events.iter().map(|(_, reason, _)| *reason).collect::<Vec<_>>();
        // Ten minutes apart: the hundred and first is at 16:50.
        let some = check(&cron(|_| {}), vec![], "2026-01-01T16:45:00Z", "2026-01-01T16:40:00Z", &[]);
        assert!(texts(&some).is_empty());
        let many = check(&cron(|_| {}), vec![], "2026-01-01T16:50:00Z", "2026-01-01T16:50:00Z", &[]);
        assert_eq!(texts(&many), ["TooManyMissedTimes"]);
        let deadline = cron(|c| c["spec"]["startingDeadlineSeconds"] = 600.into());
        let few = check(&deadline, vec![], "2026-01-03T16:55:00Z", "2026-01-03T16:50:00Z", &[]);
        assert!(texts(&few).is_empty());
        // Uneven distances, and long ones.
        let at = |schedule: &'static str| cron(move |c| c["spec"]["schedule"] = schedule.into());
        check(&at("30 6-16/4 * * 1-5"), vec![], "2026-01-05T05:00:00Z", "2026-01-02T14:30:00Z", &[]);
        check(&at("0 0 29 2 *"), vec![], "2031-01-01T00:00:00Z", "2028-02-29T00:00:00Z", &[]);
    }

    #[test]
    fn so_often_is_counted_from_the_last_time() {
        let every = |last: Option<&'static str>| {
            cron(move |c| {
                c["metadata"]["creationTimestamp"] = "2026-01-01T00:00:30Z".into();
                c["spec"]["schedule"] = "@every 5m".into();
                c["status"]["lastScheduleTime"] = last.map_or(Value::Null, Value::from);
            })
        };
        let plan = check(&every(None), vec![], "2026-01-01T00:02:30Z", "", &[]);
        assert_eq!(plan.again, Some(Duration::from_millis(180_100)));
        check(&every(None), vec![], "2026-01-01T00:05:31Z", "2026-01-01T00:05:30Z", &[]);
        let served = every(Some("2026-01-01T00:05:30Z"));
        let plan = check(&served, vec![], "2026-01-01T00:08:30Z", "", &[]);
        assert_eq!(plan.again, Some(Duration::from_millis(120_100)));
        // After a long time too.
        let plan = check(&served, vec![], "2026-01-02T00:08:00Z", "2026-01-02T00:05:30Z", &[]);
        assert_eq!(plan.again, Some(Duration::from_millis(150_100)));
    }

    #[test]
    fn a_schedule_that_never_comes_is_told() {
        let never = cron(|c| c["spec"]["schedule"] = "59 23 31 2 *".into());
        let plan = check(&never, vec![], "2026-01-01T00:35:00Z", "", &[]);
        let text = "invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second";
        assert_eq!(plan.events, [(EventType::Warning, "InvalidSchedule", text.to_owned())]);
        let lost = cron(|c| {
            c["spec"]["timeZone"] = "Nowhere/Land".into();
            c["spec"]["suspend"] = true.into();
        });
        let plan = check(&lost, vec![], "2026-01-01T00:35:00Z", "", &[]);
        let text = "invalid timeZone: \"Nowhere/Land\": unknown time zone Nowhere/Land";
        assert_eq!(plan.events, [(EventType::Warning, "UnknownTimeZone", text.to_owned())]);
    }

    #[test]
    fn concurrency_is_as_asked() {
        let running = || vec![job_named(RUNNING, "")];
        check(&cron(|_| {}), running(), "2026-01-01T00:11:00Z", "", &[]);
        let replace = cron(|c| c["spec"]["concurrencyPolicy"] = "Replace".into());
        check(&replace, running(), "2026-01-01T00:11:00Z", "2026-01-01T00:10:00Z", &[RUNNING]);
        let allow = cron(|c| c["spec"]["concurrencyPolicy"] = "Allow".into());
        check(&allow, running(), "2026-01-01T00:11:00Z", "2026-01-01T00:10:00Z", &[]);
    }

    #[test]
    fn a_job_of_a_user_is_in_nobodys_way() {
        for policy in ["Forbid", "Replace"] {
            let cron = cron(|c| c["spec"]["concurrencyPolicy"] = policy.into());
            let jobs = vec![job_named("by-hand", "")];
            let plan = check(&cron, jobs, "2026-01-01T00:11:00Z", "2026-01-01T00:10:00Z", &[]);
            let text = "Saw a job that the controller did not create or forgot: by-hand";
            assert_eq!(plan.events, [(EventType::Warning, "UnexpectedJob", text.to_owned())]);
            assert!(plan.status.active.is_empty());
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        let cron = cron(|c| {
            c["status"] =
                json!({"active": [{"name": "gone", "uid": "gone"}], "lastScheduleTime": "2026-01-01T00:00:00Z"});
            c["spec"]["startingDeadlineSeconds"] = 300.into();
        });
        let plan = plan(&Observed { cron, jobs: Vec::new() }, "2026-01-01T00:15:01Z".parse().expect("a time"));
        assert_eq!(plan.events, [(EventType::Normal, "MissingJob", "Active job went missing: gone".to_owned())]);
    }

    #[test]
    fn history_has_limits() {
        let jobs = ["a", "b", "c", "d"].map(|n| job_named(n, "Complete")).to_vec();
        check(&cron(|c| c["spec"]["suspend"] = true.into()), jobs, "2026-01-01T00:11:00Z", "", &["a"]);
        let body = job(&cron(|_| {}), "2026-01-01T00:10:00Z".parse().expect("a time"), &TimeZone::UTC);
        assert_eq!(body["metadata"]["name"], "tick-29453770");
        assert_eq!(
            body["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"],
            "2026-01-01T00:10:00Z"
        );
    }
}
