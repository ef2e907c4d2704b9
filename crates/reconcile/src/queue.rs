//! The work queue of controllers (`k8s.io/client-go/util/workqueue`).
//!
//! Guarantees: a key is handed out to one worker at a time; a key added while it is worked on is handed out once
//! more afterwards; a key added many times before it is taken is handed out once. The arithmetic is in [`State`],
//! which is told the time; [`Queue`] adds the waiting, by the clock of who works on it.
//!
//! Differs from client-go: the overall limit of ten retries a second is left out; every key has its own back-off.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use orkd_base::Clock;
use orkd_base::metrics::{Counter, Family, Gauge, Histogram, before_render};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

const NAME: &[&str] = &["name"];
const SECONDS: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];
static ADDS: Family<Counter> =
    Family::counter("workqueue_adds_total", "[ALPHA] Total number of adds handled by workqueue", NAME);
static RETRIES: Family<Counter> =
    Family::counter("workqueue_retries_total", "[ALPHA] Total number of retries handled by workqueue", NAME);
static DEPTH: Family<Gauge> = Family::gauge("workqueue_depth", "[ALPHA] Current depth of workqueue", NAME);
static WAITED: Family<Histogram> = Family::histogram(
    "workqueue_queue_duration_seconds",
    "[ALPHA] How long in seconds an item stays in workqueue before being requested.",
    NAME,
    SECONDS,
);
static WORKED: Family<Histogram> = Family::histogram(
    "workqueue_work_duration_seconds",
    "[ALPHA] How long in seconds processing an item from workqueue takes.",
    NAME,
    SECONDS,
);

static UNFINISHED: Family<Gauge> = Family::gauge(
    "workqueue_unfinished_work_seconds",
    "[ALPHA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values \
     indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
    NAME,
);
static LONGEST: Family<Gauge> = Family::gauge(
    "workqueue_longest_running_processor_seconds",
    "[ALPHA] How many seconds has the longest running processor for workqueue been running.",
    NAME,
);

struct Meters {
    adds: Arc<Counter>,
    retries: Arc<Counter>,
    depth: Arc<Gauge>,
    waited: Arc<Histogram>,
    worked: Arc<Histogram>,
    unfinished: Arc<Gauge>,
    longest: Arc<Gauge>,
}

impl Meters {
    fn new(name: &str) -> Self {
        let name = &[name];
        Meters {
            adds: ADDS.with(name),
            retries: RETRIES.with(name),
            depth: DEPTH.with(name),
            waited: WAITED.with(name),
            worked: WORKED.with(name),
            unfinished: UNFINISHED.with(name),
            longest: LONGEST.with(name),
        }
    }
}

/// What keys can be.
pub trait QueueKey: Clone + Eq + Hash + Ord + Send + 'static {}
impl<K: Clone + Eq + Hash + Ord + Send + 'static> QueueKey for K {}

/// The back-off of failing keys: `initial * 2^failures`, at most `cap`.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for RateLimit {
    /// client-go's default: 5 ms to 1000 s.
    fn default() -> Self {
        RateLimit { initial: Duration::from_millis(5), cap: Duration::from_secs(1000) }
    }
}

impl RateLimit {
    fn delay(&self, failures: u32) -> Duration {
        let factor = 1u64.checked_shl(failures).unwrap_or(u64::MAX);
        let nanos = self.initial.as_nanos().saturating_mul(factor.into());
        if nanos >= self.cap.as_nanos() { self.cap } else { Duration::from_nanos(nanos as u64) }
    }
}

/// A shared queue of keys. Cheap to clone.
///
/// ```
/// # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # rt.block_on(async {
/// let queue = orkd_reconcile::Queue::new("example");
/// queue.add("a");
/// queue.add("a");
/// assert_eq!(queue.get().await, Some("a"));
/// queue.done(&"a");
/// queue.shutdown();
/// assert_eq!(queue.get().await, None);
/// # });
/// ```
pub struct Queue<K>(Arc<Inner<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

struct Inner<K> {
    name: String,
    limit: RateLimit,
    clock: Clock,
    state: Mutex<State<K>>,
    wake: Notify,
}

impl<K: QueueKey> Queue<K> {
    /// A queue with client-go's limits, by the machine's clock. The name stands in logs and metrics.
    pub fn new(name: impl Into<String>) -> Self {
        Queue::by(Clock::real(), name, RateLimit::default())
    }

    /// A queue whose waits are by a clock, with limits.
    pub fn by(clock: Clock, name: impl Into<String>, limit: RateLimit) -> Self {
        let name = name.into();
        let state = Mutex::new(State::new(&name));
        let inner = Arc::new(Inner { name, limit, clock, state, wake: Notify::new() });
        // Upstream sets them twice a second; here they are set when somebody looks.
        let weak = Arc::downgrade(&inner);
        before_render(move || weak.upgrade().inspect(|inner| inner.state.lock().tell(inner.clock.instant())).is_some());
        Queue(inner)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Adds a key.
    pub fn add(&self, key: K) {
        if self.0.state.lock().add(key, self.0.clock.instant()) {
            self.0.wake.notify_one();
        }
    }

    /// Adds a key after a while. Of several waits for one key the shortest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        if self.0.state.lock().add_at(key, self.0.clock.instant() + delay) {
            self.0.wake.notify_one();
        }
    }

    /// The clock that waits are by.
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Adds a key after its back-off, which grows until [`Queue::forget`]. Returns the wait.
    pub fn add_rate_limited(&self, key: K) -> Duration {
        let failures = self.0.state.lock().fail(&key);
        let delay = self.0.limit.delay(failures);
        self.add_after(key, delay);
        delay
    }

    /// Ends a key's back-off.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// How often a key failed since it was forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Takes a key; waits for one. `None` when the queue was shut down and is empty.
    pub async fn get(&self) -> Option<K> {
        loop {
            let woken = self.0.wake.notified();
            let next = {
                let mut state = self.0.state.lock();
                match state.take(self.0.clock.instant()) {
                    Take::Key(key) => {
                        // Another worker takes over the watch on what is left.
                        if state.has_more() {
                            self.0.wake.notify_one();
                        }
                        return Some(key);
                    }
                    Take::Ended => {
                        self.0.wake.notify_one();
                        return None;
                    }
                    Take::Wait(next) => next,
                }
            };
            match next {
                None => woken.await,
                // Whichever comes first, the state is asked again.
                Some(at) => tokio::select! {
                    () = woken => {}
                    () = self.0.clock.sleep_until(at) => {}
                },
            }
        }
    }

    /// Gives a key back. If it was added meanwhile it is ready again.
    pub fn done(&self, key: &K) {
        if self.0.state.lock().done(key, self.0.clock.instant()) {
            self.0.wake.notify_one();
        }
    }

    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no further keys; [`Queue::get`] gives out what is ready, then `None`. Waits are dropped.
    pub fn shutdown(&self) {
        let mut state = self.0.state.lock();
        state.ended = true;
        state.delayed.clear();
        state.due.clear();
        drop(state);
        self.0.wake.notify_one();
        self.0.wake.notify_waiters();
    }
}

/// The queue without its waiting.
struct State<K> {
    /// Keys in the order they are handed out.
    ready: VecDeque<K>,
    /// Keys that need work, ready or waiting for their running twin, and since when.
    dirty: HashMap<K, Instant>,
    /// Keys that workers hold, and since when.
    running: HashMap<K, Instant>,
    /// Waits, soonest first; entries that `due` does not confirm are stale.
    delayed: BinaryHeap<Reverse<(Instant, K)>>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    ended: bool,
    meters: Meters,
}

enum Take<K> {
    Key(K),
    /// Nothing is ready; the instant is when that may change by itself.
    Wait(Option<Instant>),
    Ended,
}

impl<K> Drop for State<K> {
    fn drop(&mut self) {
        // Nobody will set them any more.
        for gauge in [&self.meters.depth, &self.meters.unfinished, &self.meters.longest] {
            gauge.set(0.0);
        }
    }
}

impl<K: QueueKey> State<K> {
    fn new(name: &str) -> Self {
        State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            running: HashMap::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            ended: false,
            meters: Meters::new(name),
        }
    }

    /// Returns whether a key became ready.
    fn add(&mut self, key: K, now: Instant) -> bool {
        if self.ended || self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), now);
        self.meters.adds.inc();
        if self.running.contains_key(&key) {
            return false;
        }
        self.push(key);
        true
    }

    fn push(&mut self, key: K) {
        self.ready.push_back(key);
        self.meters.depth.set(self.ready.len() as f64);
    }

    /// Returns whether the next instant to wake at may have come nearer.
    fn add_at(&mut self, key: K, at: Instant) -> bool {
        if self.ended || self.due.get(&key).is_some_and(|&due| due <= at) {
            return false;
        }
        self.due.insert(key.clone(), at);
        self.delayed.push(Reverse((at, key)));
        true
    }

    fn fail(&mut self, key: &K) -> u32 {
        self.meters.retries.inc();
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let before = *failures;
        *failures = failures.saturating_add(1);
        before
    }

    fn take(&mut self, now: Instant) -> Take<K> {
        let mut next = None;
        while let Some(Reverse((at, _))) = self.delayed.peek() {
            if *at > now {
                next = Some(*at);
                break;
            }
            let Some(Reverse((at, key))) = self.delayed.pop() else { break };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key, now);
            }
        }
        match self.ready.pop_front() {
            Some(key) => {
                if let Some(since) = self.dirty.remove(&key) {
                    self.meters.waited.observe(now.duration_since(since).as_secs_f64());
                }
                self.meters.depth.set(self.ready.len() as f64);
                self.running.insert(key.clone(), now);
                Take::Key(key)
            }
            None if self.ended => Take::Ended,
            None => Take::Wait(next),
        }
    }

    /// Returns whether a key became ready.
    fn done(&mut self, key: &K, now: Instant) -> bool {
        if let Some(since) = self.running.remove(key) {
            self.meters.worked.observe(now.duration_since(since).as_secs_f64());
        }
        if self.dirty.contains_key(key) {
            self.push(key.clone());
            return true;
        }
        false
    }

    /// Sets the gauges of what is under way.
    fn tell(&self, now: Instant) {
        let (total, longest) =
            self.running.values().fold((Duration::ZERO, Duration::ZERO), |(total, longest), since| {
                let took = now.saturating_duration_since(*since);
                (total + took, longest.max(took))
            });
        self.meters.unfinished.set(total.as_secs_f64());
        self.meters.longest.set(longest.as_secs_f64());
    }

    fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.delayed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(state: &mut State<&'static str>, now: Instant) -> Option<&'static str> {
        match state.take(now) {
            Take::Key(key) => Some(key),
            _ => None,
        }
    }

    #[test]
    fn a_key_added_twice_is_handed_out_once() {
        let (mut state, now) = (State::new("test"), Instant::now());
        assert!(state.add("a", now) && !state.add("a", now) && state.add("b", now));
        assert_eq!([take(&mut state, now), take(&mut state, now), take(&mut state, now)], [Some("a"), Some("b"), None]);
    }

    #[test]
    fn pending_key_waits_for_its_running_twin() {
        let (mut state, now) = (State::new("test"), Instant::now());
        state.add("a", now);
        assert_eq!(take(&mut state, now), Some("a"));
        assert!(!state.add("a", now));
        assert_eq!(take(&mut state, now), None);
        assert!(state.done(&"a", now));
        assert_eq!(take(&mut state, now), Some("a"));
        assert!(!state.done(&"a", now));
    }

    #[test]
    fn of_several_waits_the_shortest_counts() {
        let (mut state, now) = (State::new("test"), Instant::now());
        let after = |s| now + Duration::from_secs(s);
        assert!(state.add_at("a", after(10)));
        assert!(state.add_at("a", after(5)));
        assert!(!state.add_at("a", after(7)));
        assert!(matches!(state.take(now), Take::Wait(Some(at)) if at == after(5)));
        assert_eq!(take(&mut state, after(5)), Some("a"));
        state.done(&"a", now);
        assert_eq!(take(&mut state, after(20)), None, "the longer wait was superseded");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_is_told() {
        let queue: Queue<&'static str> = Queue::new("of-hanging-work");
        let check = |unfinished: f64, longest: f64| {
            let mut text = String::new();
            orkd_base::metrics::render(&mut text);
            for (name, value) in [("unfinished_work", unfinished), ("longest_running_processor", longest)] {
                let line = format!("workqueue_{name}_seconds{{name=\"of-hanging-work\"}} {value}\n");
                assert!(text.contains(&line), "no {line} in {text}");
            }
        };
        check(0.0, 0.0);
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        tokio::time::advance(Duration::from_secs(3)).await;
        queue.add("b");
        assert_eq!(queue.get().await, Some("b"));
        tokio::time::advance(Duration::from_secs(2)).await;
        check(7.0, 5.0);
        queue.done(&"a");
        check(2.0, 2.0);
        drop(queue);
        check(0.0, 0.0);
    }

    #[test]
    fn backoff_is_that_of_upstream() {
        let limit = RateLimit::default();
        let delays: Vec<u128> = [0, 1, 2, 10, 17, 18, 63, 64, 4000].map(|n| limit.delay(n).as_millis()).to_vec();
        assert_eq!(delays, [5, 10, 20, 5120, 655_360, 1_000_000, 1_000_000, 1_000_000, 1_000_000]);
        let mut state = State::new("test");
        assert_eq!([state.fail(&"a"), state.fail(&"a"), state.fail(&"b")], [0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_by_the_clock_of_the_queue() {
        let clock = Clock::movable();
        let queue: Queue<u32> = Queue::by(clock.clone(), "test", RateLimit::default());
        queue.add_after(7, Duration::from_secs(3600));
        let started = Instant::now();
        let (got, ()) = tokio::join!(queue.get(), async { clock.advance(Duration::from_secs(3600)) });
        assert_eq!((got, started.elapsed()), (Some(7), Duration::ZERO));
    }

    #[test]
    fn shutdown_ends_all_waiting_workers() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        rt.block_on(async {
            let queue: Queue<u32> = Queue::new("test");
            queue.add_after(1, Duration::from_secs(3600));
            let workers = [queue.clone(), queue.clone(), queue.clone()];
            let all = futures_util::future::join_all(workers.iter().map(|q| q.get()));
            let (got, ()) = tokio::join!(all, async { queue.shutdown() });
            assert_eq!(got, [None, None, None]);
        });
    }

    #[test]
    fn a_wait_ends_for_a_worker_that_came_before_it() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        rt.block_on(async {
            let queue: Queue<u32> = Queue::new("test");
            let (got, ()) = tokio::join!(queue.get(), async { queue.add_after(7, Duration::from_millis(5)) });
            assert_eq!(got, Some(7));
        });
    }
}
