//! The harness of controllers: key, observe, plan, act.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use jiff::Timestamp;
use orkd_base::{BoxError, CancellationToken, Clock, chain};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::Queue;
use crate::queue::QueueKey;

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing left to do until something changes.
    Done,
    /// Again, with the key's back-off.
    Requeue,
    /// Again after a while.
    RequeueAfter(Duration),
}

/// A loop that brings the world towards what objects ask for, one key at a time.
///
/// A round gets a key and nothing else: [`observe`](Self::observe) looks (mostly into informers),
/// [`plan`](Self::plan) decides and is pure, [`act`](Self::act) does what the plan says and decides nothing. Every
/// round is complete by itself, so that the first round after a crash needs no history.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// What is reconciled.
    type Key: QueueKey + Display + Sync;
    /// What a plan is made from.
    type Observed: Send + Sync;
    /// What is to be done.
    type Plan: Send + Sync;

    /// Looks at the world. `None` when there is nothing to do for the key.
    async fn observe(&self, key: &Self::Key) -> Result<Option<Self::Observed>, BoxError>;

    /// Decides. Pure: the time is an argument.
    fn plan(&self, observed: &Self::Observed, now: Timestamp) -> Self::Plan;

    /// Does what was decided. An error brings the key back after its back-off.
    async fn act(&self, observed: &Self::Observed, plan: Self::Plan) -> Result<Outcome, BoxError>;
}

/// Runs a controller with some workers until `stop`; see [`work`].
pub async fn run<C: Controller>(
    controller: Arc<C>,
    queue: Queue<C::Key>,
    workers: usize,
    clock: Clock,
    stop: CancellationToken,
) {
    work(queue, workers, stop, move |key| {
        let (controller, clock) = (controller.clone(), clock.clone());
        async move {
            match controller.observe(&key).await? {
                None => Ok(Outcome::Done),
                Some(observed) => {
                    let plan = controller.plan(&observed, clock.now());
                    controller.act(&observed, plan).await
                }
            }
        }
    })
    .await;
}

/// After how long a round counts as slow, and how many times as many rounds there may be as workers, when slow ones are
/// among them.
const SLOW: (Duration, usize) = (Duration::from_secs(1), 10);

/// Empties a queue with `workers` rounds at a time until `stop`, then shuts it down and waits for the rounds that
/// run. An error is logged and brings the key back after its back-off; a good round ends the back-off.
///
/// Several workers are not eaten by rounds that wait, such as for a webhook that hangs: a round that is slow leaves its
/// place to the next key. With one worker rounds never overlap. Only rounds that run take memory.
pub async fn work<K, F, Fut>(queue: Queue<K>, workers: usize, stop: CancellationToken, round: F)
where
    K: QueueKey + Display,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Outcome, BoxError>>,
{
    let workers = workers.max(1);
    let most = if workers == 1 { 1 } else { workers * SLOW.1 };
    let places = Semaphore::new(workers);
    let mut rounds = FuturesUnordered::new();
    let (mut stopping, mut drained) = (false, false);
    while !(drained && rounds.is_empty()) {
        // A key is given out in the moment it is taken, so nothing is lost when something else comes first.
        let next = async {
            let place = places.acquire().await;
            Some((place, queue.get().await?))
        };
        tokio::select! {
            biased;
            () = stop.cancelled(), if !stopping => {
                queue.shutdown();
                stopping = true;
            }
            Some(()) = rounds.next() => {}
            next = next, if !drained && rounds.len() < most => match next {
                Some((place, key)) => {
                    let running = round(key.clone());
                    rounds.push(finish(&queue, key, running, (workers > 1).then_some(place)));
                }
                None => drained = true,
            },
        }
    }
}

/// Runs a round to its end and does for the key what follows from that. A round that is slow gives its place back early,
/// if there is one.
async fn finish<K, P>(
    queue: &Queue<K>,
    key: K,
    round: impl Future<Output = Result<Outcome, BoxError>>,
    place: Option<P>,
) where
    K: QueueKey + Display,
{
    let started = Instant::now();
    let moved = queue.clock().moved();
    let mut round = pin!(AssertUnwindSafe(round).catch_unwind());
    let result = match place {
        None => round.await,
        Some(place) => match tokio::time::timeout(SLOW.0, &mut round).await {
            Ok(result) => result,
            Err(_) => {
                drop(place);
                round.await
            }
        },
    };
    ROUNDS.fetch_add(1, Ordering::Relaxed);
    match result.unwrap_or_else(|_| Err("the round panicked".into())) {
        Ok(Outcome::Done) => queue.forget(&key),
        Ok(Outcome::RequeueAfter(delay)) => {
            queue.forget(&key);
            // How long to wait was reckoned by a clock that may have been moved since.
            let delay = if queue.clock().moved() == moved { delay } else { Duration::ZERO };
            queue.add_after(key.clone(), delay);
        }
        Ok(Outcome::Requeue) => {
            queue.add_rate_limited(key.clone());
        }
        Err(err) => {
            ERRORS.fetch_add(1, Ordering::Relaxed);
            let retry = queue.add_rate_limited(key.clone());
            let error = chain(&*err).to_string();
            // Lost races are part of the trade; only what stays is worth a warning.
            if queue.failures(&key) <= 3 {
                tracing::debug!(controller = queue.name(), %key, error, ?retry, "round failed");
            } else {
                tracing::warn!(controller = queue.name(), %key, error, ?retry, "round failed");
            }
        }
    }
    queue.done(&key);
    tracing::trace!(controller = queue.name(), %key, elapsed = ?started.elapsed(), "round");
}

static ROUNDS: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);

/// How many rounds this process ran, and how many of them failed.
pub fn totals() -> (u64, u64) {
    (ROUNDS.load(Ordering::Relaxed), ERRORS.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn a_failed_round_comes_back_and_a_stop_ends_the_work() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        rt.block_on(async {
            let queue: Queue<&'static str> = Queue::new("test");
            queue.add("a");
            let stop = CancellationToken::new();
            let rounds = Mutex::new(Vec::new());
            work(queue.clone(), 2, stop.clone(), |key| {
                let n = {
                    let mut rounds = rounds.lock();
                    rounds.push(key);
                    rounds.len()
                };
                let stop = stop.clone();
                async move {
                    match n {
                        1 => Err("not yet".into()),
                        2 => Ok(Outcome::RequeueAfter(Duration::from_millis(1))),
                        3 => Ok(Outcome::Requeue),
                        _ => {
                            stop.cancel();
                            Ok(Outcome::Done)
                        }
                    }
                }
            })
            .await;
            assert_eq!(*rounds.lock(), ["a"; 4]);
        });
    }

    /// Most controllers wait most of the time: what they would do then must not lie in memory.
    #[test]
    fn only_rounds_that_run_take_memory() {
        let queue: Queue<u32> = Queue::new("test");
        let large = |_| async {
            let held = [0_u8; 1 << 16];
            tokio::task::yield_now().await;
            std::hint::black_box(&held);
            Ok(Outcome::Done)
        };
        let waiting = work(queue.clone(), 5, CancellationToken::new(), large);
        assert!(size_of_val(&waiting) < 1 << 16, "{}", size_of_val(&waiting));
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_that_hang_do_not_eat_the_workers() {
        let queue: Queue<String> = Queue::new("test");
        (0..12).for_each(|n| queue.add(format!("hangs-{n}")));
        queue.add("well".into());
        let (stop, started) = (CancellationToken::new(), Instant::now());
        let (served, at_once) = (Mutex::new(None), Mutex::new((0, 0)));
        work(queue.clone(), 2, stop.clone(), |key| {
            let (stop, served, at_once) = (stop.clone(), &served, &at_once);
            async move {
                {
                    let (now, most) = &mut *at_once.lock();
                    *now += 1;
                    *most = (*now).max(*most);
                }
                if key == "well" {
                    *served.lock() = Some(started.elapsed());
                } else {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    stop.cancel();
                }
                at_once.lock().0 -= 1;
                Ok(Outcome::Done)
            }
        })
        .await;
        let served = served.lock().expect("it is served");
        assert!(served <= Duration::from_secs(7), "{served:?}");
        assert_eq!(at_once.lock().1, 13);
    }

    #[tokio::test(start_paused = true)]
    async fn one_worker_does_one_thing_at_a_time() {
        let queue: Queue<u32> = Queue::new("test");
        (0..3).for_each(|n| queue.add(n));
        let (stop, started) = (CancellationToken::new(), Instant::now());
        work(queue.clone(), 1, stop.clone(), |key| {
            let stop = stop.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(5)).await;
                if key == 2 {
                    stop.cancel();
                }
                Ok(Outcome::Done)
            }
        })
        .await;
        assert_eq!(started.elapsed(), Duration::from_secs(15));
    }
}
