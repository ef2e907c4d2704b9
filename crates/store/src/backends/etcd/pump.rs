//! Feeds the hub from etcd.
//!
//! One watch over all keys runs for as long as the store is open. When it breaks it is resumed after the last whole
//! commit that was delivered; a commit is delivered when all its fragments are there and never twice. If etcd has
//! compacted what was missed, watchers who waited for it are ended with [`Error::Compacted`] and the hub starts anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, KeyValue, WatchClient, WatchOptions, WatchResponse, WatchResponseStream};
use futures_util::{StreamExt, stream};

use super::errors::unavailable;
use super::{Connector, record, revision, timed_out};
use crate::hub::{BeforeWindow, Commit, Hub, Subscription};
use crate::{Error, Event, EventKind, Revision, WatchMessage, WatchStream};

/// Waits between tries to resume grow from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a watch needs.
#[derive(Clone)]
pub(super) struct Pump {
    pub connector: Connector,
    pub hub: Arc<Hub>,
    pub prefix: Arc<str>,
    pub timeout: Duration,
}

/// An etcd watch over all keys and where it stands.
struct Source {
    stream: WatchResponseStream,
    /// Dropping it would end the watch.
    _requests: etcd_client::WatchRequestSender,
    assembler: Assembler,
}

impl Pump {
    /// Publishes every commit after `last`, for ever.
    pub async fn run(self, client: WatchClient, mut last: u64) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut source = match self.open(client.clone(), last).await {
                Ok(source) => source,
                Err(error) => {
                    tracing::debug!(%error, "etcd's watch cannot be opened, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            };
            loop {
                match source.next().await {
                    Ok(commits) => {
                        pause = FIRST_PAUSE;
                        if let Some(revision) = commits.last().map(|commit| commit.revision) {
                            last = revision;
                            self.hub.publish(commits, revision);
                        }
                    }
                    Err(Error::Compacted { oldest, .. }) => {
                        tracing::warn!(missed_from = last, to = oldest.0, "etcd has compacted what was missed");
                        last = last.max(oldest.0);
                        self.hub.reset(last);
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%error, last, "etcd's watch broke off, resuming");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        break;
                    }
                }
            }
        }
    }

    /// Opens a watch of the commits after `last`.
    async fn open(&self, mut client: WatchClient, last: u64) -> Result<Source, Error> {
        let options = WatchOptions::new()
            .with_all_keys()
            .with_start_revision(i64::try_from(last + 1).unwrap_or(i64::MAX))
            .with_prev_key()
            .with_fragment();
        match tokio::time::timeout(self.timeout, client.watch("", Some(options))).await {
            Ok(Ok(watch)) => {
                let (requests, stream) = watch.split();
                let assembler = Assembler::new(self.prefix.clone(), last);
                Ok(Source { stream, _requests: requests, assembler })
            }
            Ok(Err(error)) => Err(unavailable(error)),
            Err(_) => Err(timed_out(self.timeout)),
        }
    }

    /// A watch from before the hub's window: an etcd watch of its own until the window is reached.
    pub fn catch_up(self, prefix: String, from: u64) -> WatchStream {
        let behind = Behind { pump: self, source: None, prefix, reached: from, told: from, pause: FIRST_PAUSE };
        stream::unfold(CatchUp::Behind(Box::new(behind)), CatchUp::next).boxed()
    }
}

impl Source {
    /// The next whole commits; none if the message carried none.
    async fn next(&mut self) -> Result<Vec<Commit>, Error> {
        match self.stream.message().await {
            Ok(Some(response)) => self.assembler.take(response),
            Ok(None) => Err(Error::Unavailable("etcd: the watch was ended".to_string())),
            Err(error) => Err(unavailable(error)),
        }
    }
}

/// A watch on its way to the window.
enum CatchUp {
    Behind(Box<Behind>),
    Live(Subscription),
    Ended,
}

struct Behind {
    pump: Pump,
    source: Option<Source>,
    prefix: String,
    /// Everything up to here has been read.
    reached: u64,
    /// The last revision that the consumer knows it has reached.
    told: u64,
    pause: Duration,
}

impl CatchUp {
    async fn next(self) -> Option<(Result<WatchMessage, Error>, Self)> {
        let mut state = self;
        loop {
            match state {
                CatchUp::Ended => return None,
                CatchUp::Live(mut subscription) => {
                    let message = subscription.next().await?;
                    return Some((message, CatchUp::Live(subscription)));
                }
                CatchUp::Behind(mut behind) => {
                    if let Ok(subscription) = behind.subscribe() {
                        state = CatchUp::Live(subscription);
                        continue;
                    }
                    match behind.step().await {
                        Ok(events) if events.is_empty() => state = CatchUp::Behind(behind),
                        Ok(events) => return Some((Ok(WatchMessage::Events(events)), CatchUp::Behind(behind))),
                        Err(error) => return Some((Err(error), CatchUp::Ended)),
                    }
                }
            }
        }
    }
}

impl Behind {
    fn subscribe(&self) -> Result<Subscription, BeforeWindow> {
        self.pump.hub.subscribe(&self.prefix, self.reached, self.told)
    }

    /// Reads on; only compaction is an error, everything else is tried again.
    async fn step(&mut self) -> Result<Vec<Event>, Error> {
        let result = match &mut self.source {
            Some(source) => source.next().await,
            none => {
                let opened = match self.pump.connector.watch_client().await {
                    Ok(client) => self.pump.open(client, self.reached).await,
                    Err(error) => Err(error),
                };
                opened.map(|source| {
                    *none = Some(source);
                    Vec::new()
                })
            }
        };
        match result {
            Ok(commits) => {
                let Some(last) = commits.last().map(|commit| commit.revision) else { return Ok(Vec::new()) };
                self.reached = last;
                self.pause = FIRST_PAUSE;
                let events = commits.into_iter().flat_map(|commit| commit.events);
                let wanted = events.filter(|event| event.record.key.starts_with(&self.prefix));
                let wanted: Vec<Event> = wanted.map(Arc::unwrap_or_clone).collect();
                if let Some(event) = wanted.last() {
                    self.told = event.record.mod_revision.0;
                }
                Ok(wanted)
            }
            Err(Error::Compacted { oldest, .. }) => Err(Error::Compacted { asked: Revision(self.reached), oldest }),
            Err(_) => {
                self.source = None;
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Ok(Vec::new())
            }
        }
    }
}

/// Puts commits together from watch responses. Pure.
struct Assembler {
    prefix: Arc<str>,
    /// The last commit given out.
    last: u64,
    /// Events of commits that may not be whole yet, with their revisions.
    parts: VecDeque<(u64, Option<Event>)>,
}

impl Assembler {
    fn new(prefix: Arc<str>, last: u64) -> Self {
        Self { prefix, last, parts: VecDeque::new() }
    }

    /// Takes a response in; gives out the commits that are whole now, in order, also those without events of ours.
    fn take(&mut self, response: WatchResponse) -> Result<Vec<Commit>, Error> {
        if response.compact_revision() > 0 {
            let oldest = revision(response.compact_revision());
            return Err(Error::Compacted { asked: Revision(self.last), oldest });
        }
        if response.canceled() {
            let reason = response.cancel_reason();
            return Err(Error::Unavailable(format!("etcd: the watch was cancelled: {reason}")));
        }
        let response = response.0;
        for event in response.events {
            let kind = match EventType::try_from(event.r#type) {
                Ok(EventType::Delete) => EventKind::Delete,
                _ => EventKind::Put,
            };
            let Some(kv) = event.kv else { continue };
            let Revision(revision) = revision(kv.mod_revision);
            if revision > self.last {
                let event = self.event(KeyValue(kv), event.prev_kv.map(KeyValue), kind);
                self.parts.push_back((revision, event));
            }
        }
        // The rest of the last commit may come in the next fragment.
        let open = if response.fragment { self.parts.back().map(|(revision, _)| *revision) } else { None };
        let mut commits: Vec<Commit> = Vec::new();
        while let Some((revision, event)) = self.parts.pop_front_if(|(revision, _)| Some(*revision) != open) {
            match commits.last_mut() {
                Some(commit) if commit.revision == revision => commit.events.extend(event.map(Arc::new)),
                _ => commits.push(Commit { revision, events: event.into_iter().map(Arc::new).collect() }),
            }
        }
        if let Some(commit) = commits.last() {
            self.last = commit.revision;
        }
        Ok(commits)
    }

    /// `None` for a key that is not ours.
    fn event(&self, kv: KeyValue, prev: Option<KeyValue>, kind: EventKind) -> Option<Event> {
        let mut record = record(kv, &self.prefix)?;
        let prev = prev.and_then(|prev| super::record(prev, &self.prefix));
        if let (EventKind::Delete, Some(prev)) = (kind, &prev) {
            record.value = prev.value.clone();
            record.create_revision = prev.create_revision;
        }
        Some(Event { record, kind, prev: prev.map(|prev| prev.value) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_client::proto::{PbEvent, PbKeyValue, PbWatchResponse};

    fn response(events: &[(&str, i64)], fragment: bool) -> WatchResponse {
        let event = |&(key, revision): &(&str, i64)| PbEvent {
            kv: Some(PbKeyValue { key: key.into(), mod_revision: revision, ..PbKeyValue::default() }),
            ..PbEvent::default()
        };
        let events = events.iter().map(event).collect();
        WatchResponse(PbWatchResponse { events, fragment, ..PbWatchResponse::default() })
    }

    /// Feeds responses; each step's commits as `revision:key,key`.
    #[track_caller]
    fn check(responses: &[(&[(&str, i64)], bool)], expected: &[&[&str]]) {
        let mut assembler = Assembler::new("/us".into(), 5);
        let steps: Vec<Vec<String>> = responses
            .iter()
            .map(|(events, fragment)| {
                let commits = assembler.take(response(events, *fragment)).expect("not cancelled");
                let show = |commit: &Commit| {
                    let keys: Vec<&str> = commit.events.iter().map(|event| event.record.key.as_str()).collect();
                    format!("{}:{}", commit.revision, keys.join(","))
                };
                commits.iter().map(show).collect()
            })
            .collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn commits_are_grouped_and_foreign_keys_only_counted() {
        check(&[(&[("/us/a", 6), ("/us/b", 6), ("/them", 7), ("/us/c", 8)], false)], &[&["6:/a,/b", "7:", "8:/c"]]);
    }

    #[test]
    fn a_commit_waits_for_all_its_fragments() {
        check(
            &[(&[("/us/a", 6), ("/us/b", 7)], true), (&[("/us/c", 7)], true), (&[("/us/d", 7)], false)],
            &[&["6:/a"], &[], &["7:/b,/c,/d"]],
        );
    }

    #[test]
    fn what_was_given_out_is_not_given_out_again() {
        check(&[(&[("/us/a", 5), ("/us/a", 6)], false), (&[("/us/a", 6)], false)], &[&["6:/a"], &[]]);
    }

    #[test]
    fn a_compacted_start_is_told() {
        let mut assembler = Assembler::new("".into(), 5);
        let compacted = PbWatchResponse { compact_revision: 9, canceled: true, ..PbWatchResponse::default() };
        assert!(matches!(assembler.take(WatchResponse(compacted)), Err(Error::Compacted { oldest: Revision(9), .. })));
    }
}
