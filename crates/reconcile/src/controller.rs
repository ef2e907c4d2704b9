//! The harness of controllers: key, observe, plan, act.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
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
/// place to the next key. With one worker rounds never overlap.
pub async fn work<K, F, Fut>(queue: Queue<K>, workers: usize, stop: CancellationToken, round: F)
where
    K: QueueKey + Display,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Outcome, BoxError>>,
{
    let workers = workers.max(1);
    let places = Semaphore::new(workers);
    let one = || async {
        loop {
            let place = places.acquire().await;
            let Some(key) = queue.get().await else { return };
            let started = Instant::now();
            let round = AssertUnwindSafe(round(key.clone())).catch_unwind();
            tokio::pin!(round);
            let result = match tokio::time::timeout(SLOW.0, &mut round).await {
                Ok(result) => result,
                Err(_) if workers == 1 => round.await,
                Err(_) => {
                    drop(place);
                    round.await
                }
            };
            let result = result.unwrap_or_else(|_| Err("the round panicked".into()));
            ROUNDS.fetch_add(1, Ordering::Relaxed);
            match result {
                Ok(Outcome::Done) => queue.forget(&key),
                Ok(Outcome::RequeueAfter(delay)) => {
                    queue.forget(&key);
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
    };
    let most = if workers == 1 { 1 } else { workers * SLOW.1 };
    let rounds = futures_util::future::join_all((0..most).map(|_| one()));
    tokio::pin!(rounds);
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            queue.shutdown();
            rounds.await;
        }
        _ = &mut rounds => {}
    }
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
