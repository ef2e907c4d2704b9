//! Fans commits out to watchers.
//!
//! The hub holds the most recent commits in memory (the window) and one bounded queue per watcher. The one writer
//! publishes commits in order of revision and never waits: a watcher whose queue is full is ended with
//! [`Error::Slow`], the store goes on. A watcher that starts before the window is first served from disk
//! (see `embedded::watch`) and joins the hub when it has reached the window; joining happens under the same lock
//! as publishing, so that no commit falls between the two.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;

use crate::{Error, Event, Revision, WatchMessage};

/// Bounds of the hub.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many events the window keeps.
    pub window_events: usize,
    /// How many bytes of values the window keeps.
    pub window_bytes: usize,
    /// How many events may wait for one watcher.
    pub watcher_events: usize,
    /// How many bytes of values may wait for one watcher.
    pub watcher_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { window_events: 4096, window_bytes: 2 << 20, watcher_events: 16_384, watcher_bytes: 32 << 20 }
    }
}

/// At most so many events are put in one message (more only where one commit has more).
const MESSAGE_EVENTS: usize = 512;

/// One commit and what it changed.
#[derive(Debug)]
pub struct Commit {
    /// Its revision.
    pub revision: u64,
    /// Its events, in the order of the transaction's writes.
    pub events: Vec<Arc<Event>>,
}

impl Commit {
    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event_bytes(event)).sum()
    }
}

fn event_bytes(event: &Event) -> usize {
    event.record.key.len() + event.record.value.len() + event.prev.as_ref().map_or(0, |prev| prev.len())
}

/// The window does not reach back so far: read the disk first.
#[derive(Debug, PartialEq, Eq)]
pub struct BeforeWindow;

/// See the module's documentation.
pub struct Hub {
    limits: Limits,
    state: Mutex<State>,
}

struct State {
    window: VecDeque<Arc<Commit>>,
    window_events: usize,
    window_bytes: usize,
    /// Every commit after this revision is in the window.
    window_start: u64,
    /// The last revision published.
    published: u64,
    watchers: HashMap<u64, Arc<Watcher>>,
    next_id: u64,
    closed: Option<End>,
}

/// Why watchers are ended.
#[derive(Clone, Debug)]
enum End {
    Slow,
    Closed,
    Unavailable(String),
    Compacted { asked: Revision, oldest: Revision },
}

impl End {
    fn error(&self) -> Error {
        match self {
            End::Slow => Error::Slow,
            End::Closed => Error::Closed,
            End::Unavailable(reason) => Error::Unavailable(reason.clone()),
            End::Compacted { asked, oldest } => Error::Compacted { asked: *asked, oldest: *oldest },
        }
    }
}

struct Watcher {
    prefix: String,
    from: u64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Everything up to here has been queued.
    progress: u64,
    end: Option<End>,
    waker: Option<Waker>,
}

impl Hub {
    /// A hub of a store whose last commit is `revision`.
    pub fn new(limits: Limits, revision: u64) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                window: VecDeque::new(),
                window_events: 0,
                window_bytes: 0,
                window_start: revision,
                published: revision,
                watchers: HashMap::new(),
                next_id: 0,
                closed: None,
            }),
        }
    }

    /// Publishes commits, in order of revision, and tells watchers that the store stands at `revision` now.
    pub fn publish(&self, commits: Vec<Commit>, revision: u64) {
        let mut state = self.state.lock();
        let commits: Vec<Arc<Commit>> = commits.into_iter().map(Arc::new).collect();
        let limits = self.limits;
        state.watchers.retain(|_, watcher| watcher.offer(&commits, revision, &limits));
        for commit in commits {
            debug_assert!(commit.revision > state.published, "commits are published in order");
            state.published = commit.revision;
            state.window_events += commit.events.len();
            state.window_bytes += commit.bytes();
            state.window.push_back(commit);
        }
        state.published = state.published.max(revision);
        while state.window_events > limits.window_events || state.window_bytes > limits.window_bytes {
            let Some(oldest) = state.window.pop_front() else { break };
            state.window_events -= oldest.events.len();
            state.window_bytes -= oldest.bytes();
            state.window_start = oldest.revision;
        }
    }

    /// Joins a watcher of the commits after `from`, who has been told so far that it has everything up to `told`.
    pub fn subscribe(self: &Arc<Self>, prefix: &str, from: u64, told: u64) -> Result<Subscription, BeforeWindow> {
        let mut state = self.state.lock();
        if from < state.window_start && state.closed.is_none() {
            return Err(BeforeWindow);
        }
        let watcher = Arc::new(Watcher { prefix: prefix.to_string(), from, queue: Mutex::default() });
        let published = state.published;
        {
            let mut queue = watcher.queue.lock();
            // The window is smaller than a queue may be, so what it holds is queued without looking at limits.
            let first = state.window.partition_point(|commit| commit.revision <= from);
            for commit in state.window.range(first..) {
                queue.push(&watcher.prefix, &commit.events);
            }
            queue.progress = published.max(from);
            queue.end = state.closed.clone();
        }
        let id = state.next_id;
        state.next_id += 1;
        if state.closed.is_none() {
            state.watchers.insert(id, watcher.clone());
        }
        Ok(Subscription { id, hub: self.clone(), watcher, told, finished: false })
    }

    /// Ends all watchers, after they have read what is queued.
    pub fn close(&self, failure: Option<String>) {
        let mut state = self.state.lock();
        let end = failure.map_or(End::Closed, End::Unavailable);
        for (_, watcher) in state.watchers.drain() {
            watcher.queue.lock().finish(end.clone());
        }
        state.closed.get_or_insert(end);
        state.window.clear();
    }

    /// Starts anew at `revision`, because what lies between it and the last commit published can no longer be
    /// known: watchers who wait for something of it are ended.
    pub fn reset(&self, revision: u64) {
        let mut state = self.state.lock();
        let start = revision.max(state.published);
        let end = End::Compacted { asked: Revision(state.published), oldest: Revision(start) };
        state.watchers.retain(|_, watcher| {
            let misses_nothing = watcher.from >= start;
            if !misses_nothing {
                watcher.queue.lock().finish(end.clone());
            }
            misses_nothing
        });
        state.window.clear();
        (state.window_events, state.window_bytes) = (0, 0);
        state.published = start;
        state.window_start = start;
    }

    #[cfg(test)]
    fn watchers(&self) -> usize {
        self.state.lock().watchers.len()
    }
}

impl Watcher {
    /// Queues what concerns the watcher; `false` if it was ended.
    fn offer(&self, commits: &[Arc<Commit>], revision: u64, limits: &Limits) -> bool {
        let mut queue = self.queue.lock();
        for commit in commits {
            if commit.revision > self.from {
                queue.push(&self.prefix, &commit.events);
            }
        }
        if queue.events.len() > limits.watcher_events || queue.bytes > limits.watcher_bytes {
            queue.events.clear();
            queue.bytes = 0;
            queue.finish(End::Slow);
            return false;
        }
        queue.progress = queue.progress.max(revision);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        true
    }
}

impl Queue {
    fn push(&mut self, prefix: &str, events: &[Arc<Event>]) {
        for event in events.iter().filter(|event| event.record.key.starts_with(prefix)) {
            self.bytes += event_bytes(event);
            self.events.push_back(event.clone());
        }
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next message: whole commits only.
    fn take(&mut self) -> Option<Vec<Event>> {
        let mut message: Vec<Event> = Vec::new();
        while let Some(event) = self.events.front() {
            let revision = event.record.mod_revision;
            if message.len() >= MESSAGE_EVENTS
                && message.last().is_some_and(|last| last.record.mod_revision != revision)
            {
                break;
            }
            if let Some(event) = self.events.pop_front() {
                self.bytes -= event_bytes(&event);
                message.push(Arc::unwrap_or_clone(event));
            }
        }
        (!message.is_empty()).then_some(message)
    }
}

/// A watcher's end of its queue. Dropping it leaves the hub.
pub struct Subscription {
    id: u64,
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
    /// The watcher knows that it has everything up to here.
    told: u64,
    finished: bool,
}

impl Stream for Subscription {
    type Item = Result<WatchMessage, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let watcher = self.watcher.clone();
        let mut queue = watcher.queue.lock();
        if let Some(events) = queue.take() {
            let last = events.last().map_or(0, |event| event.record.mod_revision.0);
            self.told = self.told.max(last);
            return Poll::Ready(Some(Ok(WatchMessage::Events(events))));
        }
        if let Some(end) = &queue.end {
            let error = end.error();
            self.finished = true;
            return Poll::Ready(Some(Err(error)));
        }
        if queue.progress > self.told {
            self.told = queue.progress;
            return Poll::Ready(Some(Ok(WatchMessage::Progress(Revision(queue.progress)))));
        }
        match &mut queue.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.state.lock().watchers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventKind, Record};
    use futures_util::{FutureExt, StreamExt};

    fn commit(revision: u64, keys: &[&str]) -> Commit {
        let record = |key: &&str| Record {
            key: key.to_string(),
            value: bytes::Bytes::from_static(b"v"),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
        };
        let event = |key: &&str| Event { record: record(key), kind: EventKind::Put, prev: None };
        Commit { revision, events: keys.iter().map(|key| Arc::new(event(key))).collect() }
    }

    fn hub(limits: Limits) -> Arc<Hub> {
        Arc::new(Hub::new(limits, 1))
    }

    /// What the watcher can read now: `key@revision`, `progress@revision` or the error.
    fn drain(subscription: &mut Subscription) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(Some(message)) = subscription.next().now_or_never() {
            match message {
                Ok(WatchMessage::Events(events)) => seen
                    .extend(events.iter().map(|event| format!("{}@{}", event.record.key, event.record.mod_revision.0))),
                Ok(WatchMessage::Progress(revision)) => seen.push(format!("progress@{}", revision.0)),
                Err(error) => seen.push(error.to_string()),
            }
        }
        seen
    }

    #[test]
    fn a_watcher_sees_its_prefix_and_is_told_of_the_rest() {
        let hub = hub(Limits::default());
        let mut watch = hub.subscribe("/a/", 1, 1).expect("in window");
        hub.publish(vec![commit(2, &["/a/x", "/b/x", "/a/y"])], 2);
        assert_eq!(drain(&mut watch), ["/a/x@2", "/a/y@2"]);
        hub.publish(vec![commit(3, &["/b/y"]), commit(4, &["/b/z"])], 4);
        assert_eq!(drain(&mut watch), ["progress@4"]);
        assert_eq!(drain(&mut watch), [""; 0]);
    }

    #[test]
    fn a_late_watcher_reads_the_window_and_an_earlier_one_must_read_the_disk() {
        let hub = hub(Limits { window_events: 2, ..Limits::default() });
        for revision in 2..=5 {
            hub.publish(vec![commit(revision, &["/a"])], revision);
        }
        assert!(hub.subscribe("/", 2, 2).is_err());
        let mut watch = hub.subscribe("/", 3, 3).expect("in window");
        assert_eq!(drain(&mut watch), ["/a@4", "/a@5"]);
    }

    #[test]
    fn a_watch_from_the_future_skips_what_comes_before() {
        let hub = hub(Limits::default());
        let mut watch = hub.subscribe("/", 3, 3).expect("future");
        for revision in 2..=4 {
            hub.publish(vec![commit(revision, &["/a"])], revision);
        }
        assert_eq!(drain(&mut watch), ["/a@4"]);
    }

    #[test]
    fn a_watcher_is_told_at_once_where_the_store_stands() {
        let hub = hub(Limits::default());
        hub.publish(vec![commit(2, &["/b"])], 2);
        let mut watch = hub.subscribe("/a", 1, 1).expect("in window");
        assert_eq!(drain(&mut watch), ["progress@2"]);
        assert_eq!(drain(&mut hub.subscribe("/a", 2, 2).expect("in window")), [""; 0]);
        // Who has caught up by history that did not concern him has not been told yet.
        assert_eq!(drain(&mut hub.subscribe("/a", 2, 1).expect("in window")), ["progress@2"]);
    }

    #[test]
    fn a_slow_watcher_is_ended_and_forgotten() {
        let hub = hub(Limits { watcher_events: 3, ..Limits::default() });
        let mut slow = hub.subscribe("/", 1, 1).expect("in window");
        let mut quick = hub.subscribe("/", 1, 1).expect("in window");
        for revision in 2..=5 {
            hub.publish(vec![commit(revision, &["/a"])], revision);
            assert_eq!(drain(&mut quick), [format!("/a@{revision}")]);
        }
        assert_eq!(drain(&mut slow), [Error::Slow.to_string()]);
        assert_eq!(hub.watchers(), 1);
        drop(quick);
        assert_eq!(hub.watchers(), 0);
    }

    #[test]
    fn closing_ends_watchers_after_what_is_queued() {
        let hub = hub(Limits::default());
        let mut watch = hub.subscribe("/", 1, 1).expect("in window");
        hub.publish(vec![commit(2, &["/a"])], 2);
        hub.close(None);
        assert_eq!(drain(&mut watch), ["/a@2".to_string(), Error::Closed.to_string()]);
        let mut late = hub.subscribe("/", 1, 1).expect("closed hubs answer at once");
        assert_eq!(drain(&mut late), [Error::Closed.to_string()]);
    }

    #[test]
    fn a_reset_ends_watchers_that_miss_something_and_starts_anew() {
        let hub = hub(Limits::default());
        let mut watch = hub.subscribe("/", 1, 1).expect("in window");
        let mut ahead = hub.subscribe("/", 9, 9).expect("future");
        hub.publish(vec![commit(2, &["/a"])], 2);
        hub.reset(9);
        let oldest = Error::Compacted { asked: Revision(2), oldest: Revision(9) };
        assert_eq!(drain(&mut watch), ["/a@2".to_string(), oldest.to_string()]);
        assert!(hub.subscribe("/", 8, 8).is_err());
        hub.publish(vec![commit(10, &["/a"])], 10);
        assert_eq!(drain(&mut hub.subscribe("/", 9, 9).expect("in window")), ["/a@10"]);
        assert_eq!(drain(&mut ahead), ["/a@10"], "who started after the gap has missed nothing");
    }

    #[test]
    fn a_commit_is_never_split_over_messages() {
        let keys: Vec<String> = (0..700).map(|n| format!("/{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let hub = hub(Limits::default());
        let mut watch = hub.subscribe("/", 1, 1).expect("in window");
        hub.publish(vec![commit(2, &keys[..500]), commit(3, &keys), commit(4, &keys[..1])], 4);
        let mut sizes = Vec::new();
        while let Some(Some(Ok(WatchMessage::Events(events)))) = watch.next().now_or_never() {
            sizes.push(events.len());
        }
        assert_eq!(sizes, [1200, 1]);
    }
}
