//! Events on their way to a backend that must not hold a request up: a bounded queue, emptied in batches
//! (`k8s.io/apiserver/plugin/pkg/audit/buffered`).

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How events are put together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batching {
    /// Events that may wait; more are dropped.
    pub buffer: usize,
    /// Bytes that may wait; more are dropped.
    pub bytes: usize,
    /// Events in a batch.
    pub max_size: usize,
    /// Bytes in a batch of more than one event.
    pub max_bytes: usize,
    /// A batch that is not full is sent after this.
    pub max_wait: Duration,
    /// Batches a second on the average.
    pub per_second: f64,
    /// Batches at once.
    pub burst: f64,
}

impl Default for Batching {
    /// Upstream's for webhooks; the bytes are ours.
    fn default() -> Self {
        Batching {
            buffer: 10_000,
            bytes: 64 << 20,
            max_size: 400,
            max_bytes: usize::MAX,
            max_wait: Duration::from_secs(30),
            per_second: 10.0,
            burst: 15.0,
        }
    }
}

/// The queue.
pub struct Queue {
    batching: Batching,
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<String>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// An empty queue.
    pub fn new(batching: Batching) -> Self {
        Queue { batching, waiting: Mutex::default(), came: Notify::new() }
    }

    /// Adds an event; false where there is no room.
    pub fn push(&self, event: String) -> bool {
        let mut waiting = self.waiting.lock();
        let room = waiting.events.len() < self.batching.buffer && waiting.bytes + event.len() <= self.batching.bytes;
        if !room || waiting.closed {
            return false;
        }
        waiting.bytes += event.len();
        waiting.events.push_back(event);
        if waiting.events.len() == 1 || waiting.events.len() == self.batching.max_size {
            self.came.notify_one();
        }
        true
    }

    fn take(&self) -> Vec<String> {
        let mut waiting = self.waiting.lock();
        let mut bytes = 0;
        let fits = |event: &&String| {
            bytes += event.len();
            bytes <= self.batching.max_bytes
        };
        let n = waiting.events.iter().take(self.batching.max_size).take_while(fits).count();
        // One that is larger by itself goes by itself.
        let n = n.max(1).min(waiting.events.len());
        let batch: Vec<String> = waiting.events.drain(..n).collect();
        waiting.bytes -= batch.iter().map(String::len).sum::<usize>();
        batch
    }

    fn len(&self) -> usize {
        self.waiting.lock().events.len()
    }

    /// The next batch, when it is full or its time has come; after `stop` what is left. `None` when all is over, and from
    /// then on nothing is taken.
    pub async fn next(&self, stop: &CancellationToken, pace: &mut Pace) -> Option<Vec<String>> {
        while self.len() == 0 && !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.came.notified() => {}
            }
        }
        let deadline = Instant::now() + self.batching.max_wait;
        while self.len() < self.batching.max_size && !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.came.notified() => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        pace.wait(&self.batching, stop).await;
        let batch = self.take();
        if batch.is_empty() {
            self.waiting.lock().closed = true;
            return None;
        }
        Some(batch)
    }
}

/// Keeps batches from following each other too fast.
pub struct Pace {
    tokens: f64,
    filled: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { tokens: f64::INFINITY, filled: Instant::now() }
    }
}

impl Pace {
    async fn wait(&mut self, batching: &Batching, stop: &CancellationToken) {
        let now = Instant::now();
        let refill = now.duration_since(self.filled).as_secs_f64() * batching.per_second;
        (self.tokens, self.filled) = ((self.tokens + refill).min(batching.burst), now);
        if self.tokens < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - self.tokens) / batching.per_second);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
            (self.tokens, self.filled) = (1.0, Instant::now());
        }
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn batches_are_full_or_late_and_the_queue_is_bounded() {
        let batching = Batching { buffer: 5, max_size: 2, max_wait: Duration::from_secs(30), ..Batching::default() };
        let queue = Arc::new(Queue::new(batching));
        let taken: Vec<bool> = (0..6).map(|i| queue.push(i.to_string())).collect();
        assert_eq!(taken, [true, true, true, true, true, false]);
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (running, stopped) = (queue.clone(), stop.clone());
        let begun = Instant::now();
        let task = tokio::spawn(async move {
            let mut pace = Pace::default();
            while let Some(batch) = running.next(&stopped, &mut pace).await {
                tx.send((batch, begun.elapsed().as_secs())).expect("somebody listens");
            }
        });
        assert_eq!(rx.recv().await, Some((vec!["0".into(), "1".into()], 0)));
        assert_eq!(rx.recv().await, Some((vec!["2".into(), "3".into()], 0)));
        assert_eq!(rx.recv().await, Some((vec!["4".into()], 30)));
        queue.push("last".into());
        stop.cancel();
        assert_eq!(rx.recv().await, Some((vec!["last".into()], 30)));
        task.await.expect("ends");
        assert!(!queue.push("too late".into()));
    }

    #[test]
    fn batches_are_split_by_size() {
        let queue = Queue::new(Batching { max_size: 3, max_bytes: 10, ..Batching::default() });
        for event in ["1234", "5678", "abc", "0123456789abcdef", "x", "y", "z", "last"] {
            assert!(queue.push(event.into()));
        }
        let batches: Vec<Vec<String>> = std::iter::repeat_with(|| queue.take()).take_while(|b| !b.is_empty()).collect();
        let expected: [&[&str]; 4] = [&["1234", "5678"], &["abc"], &["0123456789abcdef"], &["x", "y", "z"]];
        assert_eq!(batches[..4], expected);
        assert_eq!(batches[4..], [["last"]]);
    }

    #[test]
    fn bytes_are_bounded() {
        let queue = Queue::new(Batching { bytes: 10, ..Batching::default() });
        assert!(queue.push("12345678".into()));
        assert!(!queue.push("123".into()));
    }
}
