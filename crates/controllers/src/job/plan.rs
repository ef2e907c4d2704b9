//! What is to be done for a job (`syncJob`, `manageJob`, `trackJobStatusAndRemoveFinalizers`).
//!
//! Upstream writes the status up to three times in one round; here a round writes it once, and what the write and the
//! removed finalizers make possible is done by the round that follows: an ended pod is noted as uncounted, let go, and
//! counted when the cache shows it without its finalizer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_reconcile::EventType;

use super::pod::NewPod;
use super::policy::{self, Failure};
use super::types::{Job, JobStatus, Uncounted, index_of, is_held};
use super::{backoff, indexes};
use crate::owners::{self, Claim};
use crate::pods;
use crate::views::{Condition, Pod, condition};

/// What is known of one job.
pub struct Observed {
    pub job: Arc<Job>,
    /// Pods that are its own or nobody's.
    pub pods: Vec<Arc<Pod>>,
}

/// A pod to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    pub uid: String,
    /// Whether its finalizer goes first, so that it counts for nothing.
    pub uncounted: bool,
}

/// What is to be done for one job, in this order. Pods are named by uid.
#[derive(Debug, Default)]
pub struct Plan {
    pub adopt: Vec<String>,
    pub release: Vec<String>,
    pub delete: Vec<Delete>,
    pub create: Vec<NewPod>,
    pub status: JobStatus,
    /// Pods whose finalizer goes after the status is written.
    pub let_go: Vec<String>,
    /// Told after the status is written.
    pub events: Vec<(EventType, String, String)>,
    pub again: Option<Duration>,
}

/// The most pods made or deleted, and let go, in one round.
const BURST: usize = 500;

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let job = &*observed.job;
    let mut plan = Plan { status: job.status.clone(), ..Plan::default() };
    let own = own(&mut plan, observed);
    if job.finished().is_some() {
        let let_go = own.iter().filter(|p| is_held(p)).map(|p| p.metadata.uid.clone()).collect();
        // What has ended takes and gives up nothing.
        return Plan { status: job.status.clone(), let_go, ..Plan::default() };
    }
    if !matches!(job.spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
        let text = "Skipped Job sync because completion mode is unknown";
        plan.events.push((EventType::Warning, "UnknownCompletionMode".into(), text.into()));
        return plan;
    }
    let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
    if plan.status.start_time.is_none() && !job.spec.suspend {
        plan.status.start_time = Some(whole);
    }
    count_noted(&mut plan.status, &own);
    let sync = Sync::look(job, own, &plan.status, whole);
    let mut verdict = sync.verdict(&plan.status);
    match &verdict {
        Some(_) => {
            let active = sync.active.iter().take(BURST);
            plan.delete = active.map(|p| Delete { uid: p.metadata.uid.clone(), uncounted: false }).collect();
        }
        None => {
            let managed = !job.metadata.is_deleting();
            if managed {
                sync.manage(&mut plan);
            }
            let active = sync.active.len() - plan.delete.len() + plan.create.len();
            let complete = active == 0
                && match job.spec.completions {
                    // Any success will do, once the others have ended too.
                    None => sync.succeeded > 0,
                    Some(completions) => sync.succeeded >= completions,
                };
            if complete {
                verdict = Some(Verdict::new(true, "CompletionsReached", "Reached expected number of succeeded pods"));
            } else if managed {
                suspension(&mut plan, job, whole);
            }
            if verdict.is_none()
                && let (Some(limit), Some(start), false) =
                    (job.spec.active_deadline_seconds, plan.status.start_time, job.spec.suspend)
            {
                sooner(&mut plan.again, start.as_second() + limit - whole.as_second());
            }
        }
    }
    let leaving: HashSet<&str> = plan.delete.iter().map(|d| d.uid.as_str()).collect();
    let staying: Vec<&&Arc<Pod>> = sync.active.iter().filter(|p| !leaving.contains(p.metadata.uid.as_str())).collect();
    plan.status.active = count(staying.len() + plan.create.len());
    plan.status.ready = Some(count(staying.iter().filter(|p| pods::is_ready(p)).count()));
    plan.status.terminating = Some(count(sync.terminating + plan.delete.len()));
    let all_noted = sync.track(&mut plan, verdict.as_ref());
    if let Some(verdict) = verdict {
        let remaining = plan.status.active + plan.status.terminating.unwrap_or(0);
        let ended = all_noted && remaining == 0 && plan.status.uncounted_terminated_pods.len() == 0;
        finish(&mut plan, job, &verdict, ended && sync.held.is_empty(), whole);
    }
    plan
}

/// The pods of the job; what is to be taken or given up is planned.
fn own<'a>(plan: &mut Plan, observed: &'a Observed) -> Vec<&'a Arc<Pod>> {
    let job = &*observed.job;
    let mut own = Vec::with_capacity(observed.pods.len());
    for pod in &observed.pods {
        match owners::claim(&job.metadata, &job.spec.selector, &pod.metadata) {
            Claim::Keep => own.push(pod),
            Claim::Adopt => {
                plan.adopt.push(pod.metadata.uid.clone());
                own.push(pod);
            }
            Claim::Release => plan.release.push(pod.metadata.uid.clone()),
            Claim::Ignore if pod.metadata.is_controlled_by(&job.metadata.uid) => own.push(pod),
            Claim::Ignore => {}
        }
    }
    own
}

/// Counts what was noted and let go since (`cleanUncountedPodsWithoutFinalizers`).
fn count_noted(status: &mut JobStatus, own: &[&Arc<Pod>]) {
    let held: HashSet<&str> = own.iter().filter(|p| is_held(p)).map(|p| p.metadata.uid.as_str()).collect();
    let Uncounted { succeeded, failed } = &mut status.uncounted_terminated_pods;
    for (uids, counter) in [(succeeded, &mut status.succeeded), (failed, &mut status.failed)] {
        let before = uids.len();
        uids.retain(|uid| held.contains(uid.as_str()));
        *counter = counter.saturating_add(count(before - uids.len()));
    }
}

/// Why a job ends.
#[derive(Debug)]
struct Verdict {
    success: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(success: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Verdict { success, reason: reason.into(), message: message.into() }
    }

    fn of(success: bool, condition: &Condition) -> Self {
        Verdict::new(success, &condition.reason, &condition.message)
    }
}

/// What one round works with.
struct Sync<'a> {
    job: &'a Job,
    own: Vec<&'a Arc<Pod>>,
    active: Vec<&'a Arc<Pod>>,
    /// Pods that wait to be counted.
    held: Vec<&'a Arc<Pod>>,
    terminating: usize,
    succeeded: i32,
    failed: i32,
    /// Indexes that are done.
    done: BTreeSet<i32>,
    /// Indexes that have failed for good, if that is counted.
    lost: Option<BTreeSet<i32>>,
    /// Failed pods that stay until another of their index is made, which needs their counts.
    delayed: BTreeMap<i32, &'a Arc<Pod>>,
    now: Timestamp,
}

impl<'a> Sync<'a> {
    fn look(job: &'a Job, own: Vec<&'a Arc<Pod>>, status: &JobStatus, now: Timestamp) -> Self {
        let active: Vec<_> = own.iter().copied().filter(|p| pods::is_active(p)).collect();
        let mut held: Vec<_> = own.iter().copied().filter(|p| is_held(p)).collect();
        held.sort_by_key(|p| (index_of(p), p.metadata.creation_timestamp, p.metadata.uid.clone()));
        let terminating = own.iter().filter(|p| p.metadata.is_deleting() && !pods::is_terminal(p)).count();
        let noted = &status.uncounted_terminated_pods;
        let failed_noted: HashSet<&String> = noted.failed.iter().collect();
        let succeeded_noted: HashSet<&String> = noted.succeeded.iter().collect();
        let valid = |pod: &Pod| !job.is_indexed() || job.index_of(pod).is_some();
        let new_failed = held
            .iter()
            .filter(|p| job.counts_as_failed(p) && valid(p) && !failed_noted.contains(&p.metadata.uid))
            .filter(|p| policy::failure(job, p).counts());
        let failed = status.failed.saturating_add(count(noted.failed.len() + new_failed.count()));
        let mut sync = Sync {
            job,
            active,
            terminating,
            succeeded: 0,
            failed,
            done: BTreeSet::new(),
            lost: None,
            delayed: BTreeMap::new(),
            now,
            held,
            own,
        };
        if !job.is_indexed() {
            let new = sync.held.iter().filter(|p| has_succeeded(p) && !succeeded_noted.contains(&p.metadata.uid));
            sync.succeeded = status.succeeded.saturating_add(count(noted.succeeded.len() + new.count()));
            return sync;
        }
        let limit = job.spec.completions.unwrap_or(0);
        sync.done = indexes::parse(&status.completed_indexes, limit);
        sync.done.extend(sync.held.iter().filter(|p| has_succeeded(p)).filter_map(|p| job.index_of(p)));
        sync.succeeded = count(sync.done.len());
        if let Some(limit_of_index) = job.spec.backoff_limit_per_index {
            let mut lost = indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), limit);
            lost.extend(
                sync.held.iter().filter(|p| loses_index(job, p, limit_of_index)).filter_map(|p| job.index_of(p)),
            );
            sync.delayed = sync.delayed(&lost);
            sync.lost = Some(lost);
        }
        sync
    }

    /// Of each index that is to be tried again the pod that failed last (`getPodsWithDelayedDeletionPerIndex`).
    fn delayed(&self, lost: &BTreeSet<i32>) -> BTreeMap<i32, &'a Arc<Pod>> {
        let active: BTreeSet<i32> = self.active.iter().filter_map(|p| index_of(p)).collect();
        let mut delayed: BTreeMap<i32, &'a Arc<Pod>> = BTreeMap::new();
        let rank = |pod: &Pod| {
            let (failures, ignored) = backoff::counts(pod);
            (failures.saturating_add(ignored), backoff::ended_at(pod))
        };
        for pod in self.held.iter().copied().filter(|p| self.job.counts_as_failed(p)) {
            let Some(index) = self.job.index_of(pod) else { continue };
            if self.done.contains(&index) || lost.contains(&index) || active.contains(&index) {
                continue;
            }
            if delayed.get(&index).is_none_or(|last| rank(last) <= rank(pod)) {
                delayed.insert(index, pod);
            }
        }
        delayed
    }

    fn verdict(&self, status: &JobStatus) -> Option<Verdict> {
        let job = self.job;
        // What was decided stays decided.
        if let Some(met) = job.is("SuccessCriteriaMet") {
            return Some(Verdict::of(true, met));
        }
        if let Some(target) = job.is("FailureTarget") {
            return Some(Verdict::of(false, target));
        }
        if job.spec.pod_failure_policy.is_some() {
            let failed = self.own.iter().filter(|p| job.counts_as_failed(p));
            for pod in failed {
                if let Failure::FailsJob(message) = policy::failure(job, pod) {
                    return Some(Verdict::new(false, "PodFailurePolicy", message));
                }
            }
        }
        let limit = job.spec.backoff_limit.unwrap_or(6);
        if self.failed > limit || self.restarted_too_often(limit) {
            let text = "Job has reached the specified backoff limit";
            return Some(Verdict::new(false, "BackoffLimitExceeded", text));
        }
        if let (Some(deadline), Some(start), false) =
            (job.spec.active_deadline_seconds, status.start_time, job.spec.suspend)
            && self.now.as_second() - start.as_second() >= deadline
        {
            let text = "Job was active longer than specified deadline";
            return Some(Verdict::new(false, "DeadlineExceeded", text));
        }
        if let Some(lost) = &self.lost {
            if job.spec.max_failed_indexes.is_some_and(|max| count(lost.len()) > max) {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return Some(Verdict::new(false, "MaxFailedIndexesExceeded", text));
            }
            if !lost.is_empty() && count(lost.len() + self.done.len()) >= job.spec.completions.unwrap_or(0) {
                return Some(Verdict::new(false, "FailedIndexes", "Job has failed indexes"));
            }
        }
        let policy = job.spec.success_policy.as_ref().filter(|_| job.is_indexed())?;
        let message = policy::success(policy, job.spec.completions.unwrap_or(0), &self.done)?;
        Some(Verdict::new(true, "SuccessPolicy", message))
    }

    /// Whether containers that are restarted in place have used up the limit.
    fn restarted_too_often(&self, limit: i32) -> bool {
        if self.job.spec.template["spec"]["restartPolicy"] != "OnFailure" {
            return false;
        }
        let alive = self.own.iter().filter(|p| matches!(p.status.phase.as_str(), "Running" | "Pending"));
        let statuses = alive.flat_map(|p| p.status.init_container_statuses.iter().chain(&p.status.container_statuses));
        let restarts = statuses.fold(0_i32, |sum, c| sum.saturating_add(c.restart_count));
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// Pods that are missing or too many.
    fn manage(&self, plan: &mut Plan) {
        let job = self.job;
        let has = self.active.len();
        let uncounted = |pod: &&Arc<Pod>| Delete { uid: pod.metadata.uid.clone(), uncounted: true };
        if job.spec.suspend {
            plan.delete = self.active.iter().take(BURST).map(uncounted).collect();
            return;
        }
        let parallelism = job.spec.parallelism.unwrap_or(1).max(0);
        let wanted = match job.spec.completions {
            // One has succeeded: the others end by themselves.
            None if self.succeeded > 0 => has,
            None => size(parallelism),
            Some(completions) => size((completions - self.succeeded).min(parallelism)),
        };
        plan.delete = self.surplus(has.saturating_sub(wanted)).into_iter().take(BURST).map(|p| uncounted(&p)).collect();
        if !plan.delete.is_empty() {
            return;
        }
        let waiting = if job.waits_for_terminating() { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(waiting + has);
        if missing == 0 {
            return;
        }
        if self.lost.is_none() {
            let left = backoff::left(&self.own, job, self.now);
            if left > 0 {
                return sooner(&mut plan.again, left);
            }
        }
        let missing = missing.min(BURST);
        if !job.is_indexed() {
            plan.create = vec![NewPod::default(); missing];
            return;
        }
        let (mut ready, mut wait) = (Vec::new(), None);
        for index in self.pending(missing) {
            let last = self.delayed.get(&index);
            match last.map_or(0, |pod| backoff::left_of_index(pod, self.now)) {
                0 => ready.push(NewPod { index: Some(index), failures: self.failures_before(last) }),
                left => sooner(&mut wait, left),
            }
        }
        if let Some(wait) = wait {
            plan.again = Some(plan.again.map_or(wait, |a| a.min(wait)));
        }
        plan.create = ready;
    }

    /// The counts for the pod that replaces another of its index.
    fn failures_before(&self, last: Option<&&Arc<Pod>>) -> Option<(i32, i32)> {
        self.lost.as_ref()?;
        let Some(last) = last else { return Some((0, 0)) };
        let (failures, ignored) = backoff::counts(last);
        Some(match policy::failure(self.job, last) {
            Failure::Ignored => (failures, ignored.saturating_add(1)),
            _ => (failures.saturating_add(1), ignored),
        })
    }

    /// Pods to give up: of an index all but one, those without a proper index, and so many of the rest that `at_least`
    /// go.
    fn surplus(&self, at_least: usize) -> Vec<&'a Arc<Pod>> {
        let mut left = self.active.clone();
        // Those that have come least far go first.
        left.sort_by_cached_key(|p| pods::deletion_rank(p, 0, self.now));
        let mut surplus = Vec::new();
        if self.job.is_indexed() {
            let mut taken = BTreeSet::new();
            let mut stays = Vec::new();
            for pod in left.into_iter().rev() {
                match self.job.index_of(pod) {
                    Some(index) if taken.insert(index) => stays.push(pod),
                    _ => surplus.push(pod),
                }
            }
            stays.reverse();
            left = stays;
        }
        let more = at_least.saturating_sub(surplus.len());
        surplus.extend(left.into_iter().take(more));
        surplus
    }

    /// The first indexes nobody works on (`firstPendingIndexes`).
    fn pending(&self, most: usize) -> Vec<i32> {
        let mut taken: BTreeSet<i32> = self.active.iter().filter_map(|p| index_of(p)).collect();
        if self.job.waits_for_terminating() {
            let leaving = self.own.iter().filter(|p| p.metadata.is_deleting() && !pods::is_terminal(p));
            taken.extend(leaving.filter_map(|p| index_of(p)));
        }
        let lost = self.lost.as_ref();
        let free = |i: &i32| !taken.contains(i) && !self.done.contains(i) && !lost.is_some_and(|lost| lost.contains(i));
        (0..self.job.spec.completions.unwrap_or(0)).filter(free).take(most).collect()
    }

    /// Notes who has ended and lets them go. Returns whether that was all of them.
    fn track(&self, plan: &mut Plan, verdict: Option<&Verdict>) -> bool {
        let job = self.job;
        let (failing, winning) = (verdict.is_some_and(|v| !v.success), verdict.is_some_and(|v| v.success));
        let status = &mut plan.status;
        let before = indexes::parse(&job.status.completed_indexes, job.spec.completions.unwrap_or(0));
        let mut noted: HashSet<String> = status.uncounted_terminated_pods.failed.iter().cloned().collect();
        noted.extend(status.uncounted_terminated_pods.succeeded.iter().cloned());
        let mut new_indexes = 0;
        let mut all = true;
        for pod in &self.held {
            let uid = &pod.metadata.uid;
            let failed = job.counts_as_failed(pod);
            let delayed = || {
                let of_index = job.index_of(pod).and_then(|i| self.delayed.get(&i));
                of_index.is_some_and(|last| last.metadata.uid == *uid)
            };
            let free = job.metadata.is_deleting() || verdict.is_some() || has_succeeded(pod) || failed && !delayed();
            if !free {
                continue;
            }
            plan.let_go.push(uid.clone());
            let uncounted = &mut status.uncounted_terminated_pods;
            if has_succeeded(pod) && !uncounted.failed.contains(uid) {
                match job.is_indexed() {
                    true => new_indexes += usize::from(job.index_of(pod).is_some_and(|i| !before.contains(&i))),
                    false if noted.contains(uid) => {}
                    false => uncounted.succeeded.push(uid.clone()),
                }
            } else if (failed || failing)
                // We end those that a success makes needless; that is no failure of theirs.
                && (!winning || pod.status.phase == "Failed")
                && !noted.contains(uid)
                && (!job.is_indexed() || job.index_of(pod).is_some())
                && policy::failure(job, pod).counts()
            {
                uncounted.failed.push(uid.clone());
            }
            if new_indexes + uncounted.len() >= BURST {
                all = false;
                break;
            }
        }
        if job.is_indexed() {
            status.completed_indexes = indexes::format(&self.done);
            status.succeeded = count(self.done.len());
            status.failed_indexes = self.lost.as_ref().map(indexes::format);
        }
        all
    }
}

/// Whether a failed pod was the last try of its index.
fn loses_index(job: &Job, pod: &Pod, limit: i32) -> bool {
    job.counts_as_failed(pod)
        && match policy::failure(job, pod) {
            Failure::FailsIndex => true,
            failure => failure.counts() && backoff::counts(pod).0 >= limit,
        }
}

/// The decision at once; the end when all pods have ended and are counted.
fn finish(plan: &mut Plan, job: &Job, verdict: &Verdict, ended: bool, now: Timestamp) {
    let mut set = |kind: &str| {
        plan.status.conditions.retain(|c| c.kind != kind || c.status == "True");
        if condition(&plan.status.conditions, kind).is_none() {
            plan.status.conditions.push(made(kind, "True", &verdict.reason, &verdict.message, now));
        }
    };
    set(if verdict.success { "SuccessCriteriaMet" } else { "FailureTarget" });
    if !ended {
        return;
    }
    set(if verdict.success { "Complete" } else { "Failed" });
    if !verdict.success {
        plan.events.push((EventType::Warning, verdict.reason.clone(), verdict.message.clone()));
        return;
    }
    plan.status.completion_time = Some(now);
    if job.spec.completions.is_some_and(|wanted| plan.status.succeeded > wanted) {
        let text = "Too many succeeded pods running after completion count reached";
        plan.events.push((EventType::Warning, "TooManySucceededPods".into(), text.into()));
    }
    plan.events.push((EventType::Normal, "Completed".into(), "Job completed".into()));
}

fn suspension(plan: &mut Plan, job: &Job, now: Timestamp) {
    let current = condition(&plan.status.conditions, "Suspended").map(|c| c.status == "True");
    let (status, reason, message, event) = match (job.spec.suspend, current) {
        (true, None | Some(false)) => ("True", "JobSuspended", "Job suspended", "Suspended"),
        (false, Some(true)) => ("False", "JobResumed", "Job resumed", "Resumed"),
        _ => return,
    };
    let changed = made("Suspended", status, reason, message, now);
    match plan.status.conditions.iter_mut().find(|c| c.kind == "Suspended") {
        Some(standing) => *standing = changed,
        None => plan.status.conditions.push(changed),
    }
    // The deadline is about the time since it was resumed; while suspended there is none.
    plan.status.start_time = (!job.spec.suspend).then_some(now);
    plan.events.push((EventType::Normal, event.into(), message.into()));
}

fn made(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Some(now),
        last_probe_time: Some(now),
        ..Condition::default()
    }
}

fn has_succeeded(pod: &Pod) -> bool {
    pod.status.phase == "Succeeded"
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

fn sooner(again: &mut Option<Duration>, seconds: i64) {
    let wait = Duration::from_secs(seconds.max(1).unsigned_abs());
    *again = Some(again.map_or(wait, |a| a.min(wait)));
}
