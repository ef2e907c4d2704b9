//! What the scheduler tells of itself on `/metrics`, under upstream's names (`pkg/scheduler/metrics`).
//!
//! What is counted for every pod is looked up once for a profile and kept ([`Meters`]).

use std::sync::Arc;
use std::time::Duration;

use orkd_base::metrics::{Counter, Family, Gauge, Histogram};

use crate::framework::Point;
use crate::queue::Lengths;

/// Bounds of a histogram: `N` of them, each `factor` times the one before.
const fn exponential<const N: usize>(start: f64, factor: f64) -> [f64; N] {
    let mut bounds = [start; N];
    let mut i = 1;
    while i < N {
        bounds[i] = bounds[i - 1] * factor;
        i += 1;
    }
    bounds
}

static MILLISECONDS: [f64; 15] = exponential(0.001, 2.0);
static POINTS: [f64; 12] = exponential(0.0001, 2.0);
static LONG: [f64; 20] = exponential(0.01, 2.0);
static ATTEMPTS_BOUNDS: [f64; 5] = exponential(1.0, 2.0);
static VICTIMS_BOUNDS: [f64; 7] = exponential(1.0, 2.0);

static ATTEMPTS: Family<Counter> = Family::counter(
    "scheduler_schedule_attempts_total",
    "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, \
     while 'error' means an internal scheduler problem.",
    &["profile", "result"],
);
static ATTEMPT_DURATION: Family<Histogram> = Family::histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)",
    &["profile", "result"],
    &MILLISECONDS,
);
static ALGORITHM_DURATION: Family<Histogram> = Family::histogram(
    "scheduler_scheduling_algorithm_duration_seconds",
    "[BETA] Scheduling algorithm latency in seconds",
    &[],
    &MILLISECONDS,
);
static POINT_DURATION: Family<Histogram> = Family::histogram(
    "scheduler_framework_extension_point_duration_seconds",
    "[STABLE] Latency for running all plugins of a specific extension point.",
    &["extension_point", "profile", "status"],
    &POINTS,
);
static SLI_DURATION: Family<Histogram> = Family::histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve \
     multiple scheduling attempts.",
    &["attempts"],
    &LONG,
);
static POD_ATTEMPTS: Family<Histogram> = Family::histogram(
    "scheduler_pod_scheduling_attempts",
    "[STABLE] Number of attempts to successfully schedule a pod.",
    &[],
    &ATTEMPTS_BOUNDS,
);
static PENDING: Family<Gauge> = Family::gauge(
    "scheduler_pending_pods",
    "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number \
     of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to \
     schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule \
     because they are gated.",
    &["queue"],
);
static INCOMING: Family<Counter> = Family::counter(
    "scheduler_queue_incoming_pods_total",
    "[STABLE] Number of pods added to scheduling queues by event and queue type.",
    &["event", "queue"],
);
static UNSCHEDULABLE: Family<Gauge> = Family::gauge(
    "scheduler_unschedulable_pods",
    "[BETA] The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins \
     that caused it to not schedule and so this metric have meaning only when broken down by plugin.",
    &["plugin", "profile"],
);
static PREEMPTION_ATTEMPTS: Family<Counter> = Family::counter(
    "scheduler_preemption_attempts_total",
    "[STABLE] Total preemption attempts in the cluster till now",
    &[],
);
static PREEMPTION_VICTIMS: Family<Histogram> = Family::histogram(
    "scheduler_preemption_victims",
    "[STABLE] Number of selected preemption victims",
    &[],
    &VICTIMS_BOUNDS,
);
static PERMIT_WAIT: Family<Histogram> = Family::histogram(
    "scheduler_permit_wait_duration_seconds",
    "[BETA] Duration of waiting on permit.",
    &["result"],
    &MILLISECONDS,
);
static GOROUTINES: Family<Gauge> = Family::gauge(
    "scheduler_goroutines",
    "[BETA] Number of running goroutines split by the work they do such as binding.",
    &["operation"],
);
static CACHE_SIZE: Family<Gauge> = Family::gauge(
    "scheduler_cache_size",
    "[ALPHA] Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
    &["type"],
);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pod was bound.
    Scheduled,
    /// No node will do.
    Unschedulable,
    /// Something failed.
    Error,
}

/// The part of the queue that a pod enters, and why (`queue_incoming_pods_total`).
pub fn incoming(queue: &str, event: &str) {
    INCOMING.with(&[event, queue]).inc();
}

/// What plugins refused a pod begins (or ceases) to count.
pub fn unschedulable(profile: &str, plugins: &[&'static str], delta: f64) {
    plugins.iter().for_each(|plugin| UNSCHEDULABLE.with(&[plugin, profile]).add(delta));
}

/// A way to make room is looked for.
pub fn preemption() {
    PREEMPTION_ATTEMPTS.with(&[]).inc();
}

/// So many victims were chosen.
pub fn victims(victims: usize) {
    PREEMPTION_VICTIMS.with(&[]).observe(victims as f64);
}

/// A pod waited for leave.
pub fn permit_wait(result: &str, waited: Duration) {
    PERMIT_WAIT.with(&[result]).observe(waited.as_secs_f64());
}

/// A profile's cells.
pub struct Meters {
    profile: String,
    scheduled: (Arc<Counter>, Arc<Histogram>),
    unschedulable: (Arc<Counter>, Arc<Histogram>),
    error: (Arc<Counter>, Arc<Histogram>),
    algorithm: Arc<Histogram>,
    /// By point, what ended well.
    points: Vec<Arc<Histogram>>,
    attempts: Arc<Histogram>,
    at_first: Arc<Histogram>,
}

impl Meters {
    /// The cells of a profile.
    pub fn new(profile: &str) -> Meters {
        let outcome = |result| (ATTEMPTS.with(&[profile, result]), ATTEMPT_DURATION.with(&[profile, result]));
        let point = |point: Point| POINT_DURATION.with(&[&format!("{point:?}"), profile, "Success"]);
        Meters {
            profile: profile.to_owned(),
            scheduled: outcome("scheduled"),
            unschedulable: outcome("unschedulable"),
            error: outcome("error"),
            algorithm: ALGORITHM_DURATION.with(&[]),
            points: Point::ALL.into_iter().map(point).collect(),
            attempts: POD_ATTEMPTS.with(&[]),
            at_first: SLI_DURATION.with(&["1"]),
        }
    }

    /// An attempt ended.
    pub fn attempt(&self, outcome: Outcome, took: Duration) {
        let (count, duration) = match outcome {
            Outcome::Scheduled => &self.scheduled,
            Outcome::Unschedulable => &self.unschedulable,
            Outcome::Error => &self.error,
        };
        count.inc();
        duration.observe(took.as_secs_f64());
    }

    /// A pod was bound after so many attempts, so long after the queue knew it.
    pub fn bound(&self, attempts: u32, since: Duration) {
        self.attempts.observe(f64::from(attempts));
        let since = since.as_secs_f64();
        match attempts {
            0 | 1 => self.at_first.observe(since),
            2..15 => SLI_DURATION.with(&[&attempts.to_string()]).observe(since),
            _ => SLI_DURATION.with(&["15+"]).observe(since),
        }
    }

    /// A node was chosen, or none found.
    pub fn algorithm(&self, took: Duration) {
        self.algorithm.observe(took.as_secs_f64());
    }

    /// All plugins of a point were called.
    pub fn point(&self, point: Point, status: &str, took: Duration) {
        match status {
            "Success" => self.points[point as usize].observe(took.as_secs_f64()),
            status => {
                let cell = POINT_DURATION.with(&[&format!("{point:?}"), &self.profile, status]);
                cell.observe(took.as_secs_f64());
            }
        }
    }
}

/// What is told as it is now.
pub struct Levels {
    pending: [Arc<Gauge>; 4],
    cache: [Arc<Gauge>; 3],
    binding: Arc<Gauge>,
}

impl Default for Levels {
    fn default() -> Self {
        Levels {
            pending: ["active", "backoff", "unschedulable", "gated"].map(|queue| PENDING.with(&[queue])),
            cache: ["nodes", "pods", "assumed_pods"].map(|of| CACHE_SIZE.with(&[of])),
            binding: GOROUTINES.with(&["binding"]),
        }
    }
}

impl Levels {
    /// Tells how many pods wait where, and how many nodes, pods and assumed pods are known.
    pub fn set(&self, queue: Lengths, cache: [usize; 3]) {
        let queue = [queue.active, queue.backoff, queue.unschedulable, queue.gated];
        self.pending.iter().zip(queue).chain(self.cache.iter().zip(cache)).for_each(|(cell, n)| cell.set(n as f64));
    }

    /// One binding more (or less) is on its way.
    pub fn binding(&self, delta: f64) {
        self.binding.add(delta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_told_under_upstreams_names() {
        let meters = Meters::new("metrics-test");
        meters.attempt(Outcome::Unschedulable, Duration::from_millis(3));
        meters.attempt(Outcome::Scheduled, Duration::from_millis(3));
        meters.bound(20, Duration::from_secs(1));
        meters.point(Point::PreFilter, "Success", Duration::from_micros(150));
        Levels::default().set(Lengths { gated: 2, ..Lengths::default() }, [3, 4, 5]);
        let mut text = String::new();
        orkd_base::metrics::render(&mut text);
        for line in [
            "scheduler_schedule_attempts_total{profile=\"metrics-test\",result=\"unschedulable\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"metrics-test\",result=\"scheduled\",le=\"0.004\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"metrics-test\",result=\"scheduled\",le=\"0.002\"} 0",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"15+\"} 1",
            "scheduler_framework_extension_point_duration_seconds_bucket{extension_point=\"PreFilter\",\
             profile=\"metrics-test\",status=\"Success\",le=\"0.0002\"} 1",
            "scheduler_pending_pods{queue=\"gated\"} 2",
            "scheduler_cache_size{type=\"assumed_pods\"} 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
