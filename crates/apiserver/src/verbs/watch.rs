//! WATCH: shared frames from the cache.
//!
//! Errors after the options were understood are events of the stream, as upstream sends them
//! (`cacher.newErrWatcher`). Bookmarks come about once a minute, and shortly before the watch's time is over.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use orkd_api::field::{ErrorList, Path};
use orkd_api::selector::FieldTerm;
use orkd_api::status::Status;
use orkd_base::metrics::Counter;
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::list::filter;
use super::table::{self, Include};
use super::{Answer, Context, number, version};
use crate::Body;
use crate::cache::watch_cache::frame;
use crate::cache::{Bucket, Change, Entry, Gone, Watcher};
use crate::codec;
use crate::negotiation::{self, Format, Offer, Shape, Wanted};
use crate::query::Query;
use crate::resources::Resource;
use crate::rest::websocket;
use crate::selector::Filter;

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A bookmark is sent so long before the end.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// A watch without `timeoutSeconds` lives this long, and up to twice as long.
const MIN_LIFE: Duration = Duration::from_secs(1800);
/// Frames are put together up to about this size.
const CHUNK: usize = 32 * 1024;

fn check_options(query: &Query) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    let matching = query.text("resourceVersionMatch");
    let initial = query.get("sendInitialEvents").is_some();
    if initial && matching != "NotOlderThan" {
        errors.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !matching.is_empty() {
        if !initial {
            errors.forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if matching != "NotOlderThan" {
            errors.not_supported(&path, matching, &["NotOlderThan"]);
        }
        if !query.text("continue").is_empty() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// Writes events as frames of the stream.
struct Writer {
    resource: Arc<Resource>,
    wanted: Wanted,
    include: Include,
    /// Column definitions are sent with the first table only.
    columns: bool,
}

enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    fn text(&self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

impl Writer {
    fn plain(&self) -> bool {
        self.wanted.shape == Shape::Object && self.wanted.format == Format::Json && !self.resource.is_view()
    }

    fn object(&mut self, kind: &str, entry: &Arc<Entry>) -> Bytes {
        let Some(entry) = self.resource.served(entry) else { return Bytes::new() };
        if self.wanted.format == Format::Protobuf && self.wanted.shape == Shape::Object {
            return codec::protobuf_frame(kind, &codec::entry_protobuf(&entry));
        }
        let json = table::one_json(&self.resource, self.wanted.shape, self.include, &entry, self.columns);
        self.columns = false;
        match self.wanted.format {
            Format::Protobuf => codec::protobuf_frame(kind, &codec::json_to_protobuf(&json)),
            _ => frame(kind, &json),
        }
    }

    fn change(&mut self, kind: &Kind, change: &Change) -> Bytes {
        if self.plain() {
            return match kind {
                Kind::Added => change.added_frame(),
                Kind::Modified => change.modified_frame(),
                Kind::Deleted => change.deleted_frame(),
            };
        }
        let entry = match kind {
            Kind::Deleted => self.resource.cache.as_ref().and_then(|c| change.gone(&*c.kind)),
            _ => change.new.clone(),
        };
        entry.map_or_else(Bytes::new, |e| self.object(kind.text(), &e))
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let annotations = if initial_end { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        let (kind, api_version) = match self.wanted.shape {
            Shape::Object => (self.resource.info().kind.to_string(), self.resource.api_version()),
            Shape::Metadata(v) => ("PartialObjectMetadata".into(), format!("meta.k8s.io/{v}")),
            Shape::Table(v) => ("Table".into(), format!("meta.k8s.io/{v}")),
        };
        let tail = match self.wanted.shape {
            Shape::Table(_) => ",\"columnDefinitions\":null,\"rows\":[]",
            _ => "",
        };
        let json = format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"\
             {annotations}}}{tail}}}"
        );
        self.encoded("BOOKMARK", json.as_bytes())
    }

    fn error(&self, status: &Status) -> Bytes {
        self.encoded("ERROR", &codec::encode(&status.to_value()))
    }

    fn encoded(&self, kind: &str, json: &[u8]) -> Bytes {
        match self.wanted.format {
            Format::Protobuf => codec::protobuf_frame(kind, &codec::json_to_protobuf(json)),
            _ => frame(kind, json),
        }
    }
}

/// A change, and whether its objects could be converted.
type Preparing = Pin<Box<dyn Future<Output = (Arc<Change>, Result<(), Status>)> + Send>>;

/// Has the objects of a change converted by the program that does it; `all`: nothing ceases to be seen but what is gone.
async fn prepared(resource: Arc<Resource>, change: Arc<Change>, all: bool) -> (Arc<Change>, Result<(), Status>) {
    let gone = match &change.new {
        Some(_) if all => None,
        _ => change.gone(resource.stored_kind()),
    };
    let done = resource.prepare(change.old.iter().chain(&change.new).chain(&gone)).await;
    (change, done)
}

struct Stream {
    writer: Writer,
    filter: Filter,
    all: bool,
    watcher: Option<Watcher>,
    initial: VecDeque<Arc<Entry>>,
    /// The bookmark that ends the initial events is still to be sent, with this revision.
    initial_end: Option<u64>,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    last_bookmark_done: bool,
    failed: Option<Status>,
    /// A change whose objects are being turned into the version that is watched.
    preparing: Option<Preparing>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Kept like the one before: to begin them anew for each event costs more than the event.
    timer: Pin<Box<tokio::time::Sleep>>,
    sent: Arc<Counter>,
}

/// Where a watch begins.
fn bucket(filter: &Filter, namespace: &str, namespaced: bool, view: bool) -> Bucket {
    let name = filter.fields.exact("metadata.name");
    match (name, namespace) {
        (Some(name), "") if !namespaced => Bucket::Key(name.into()),
        (Some(name), ns) if namespaced && !ns.is_empty() => Bucket::Key(format!("{ns}/{name}").into()),
        _ => match (filter.pinned(), namespace) {
            // The value of a field that is not set is empty, and so is that of one the kind does not know.
            (Some((label, value)), _) if !value.is_empty() && !view => Bucket::Field(label.into(), value.into()),
            (_, "") => Bucket::All,
            (_, ns) => Bucket::Namespace(ns.into()),
        },
    }
}

/// Answers a WATCH.
pub async fn watch(cx: &Context<'_>) -> Answer {
    let query = cx.query;
    let wanted = negotiation::negotiate(&cx.parts.headers, query, Offer::of_watch(&*cx.resource.kind))?;
    let include = Include::parse(wanted.shape, query)?;
    let target = cx.target();
    let filter = filter(cx)?;
    check_options(query)?;
    let asked = version(query.text("resourceVersion"))?;
    let life = match number(query, "timeoutSeconds")?.filter(|s| *s > 0) {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(86_400)),
        None => MIN_LIFE.mul_f64(1.0 + rand::rng().random::<f64>()),
    };
    let bookmarks = query.flag("allowWatchBookmarks");
    let send_initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
    let cache = target.cache()?.clone();
    let bucket = bucket(&filter, target.namespace, target.namespaced(), cx.resource.is_view());
    let by_field = matches!(bucket, Bucket::Field(..));
    let one = filter.fields.exact("metadata.name").filter(|_| matches!(bucket, Bucket::Key(_))).map(str::to_owned);
    let mut failed = None;
    let mut initial = VecDeque::new();
    let mut initial_end = None;
    let mut watcher = None;
    // Without a version, or with 0, what stands comes first; so it does when it is asked for.
    let from_now = send_initial == Some(false) && asked.unwrap_or(0) == 0;
    let with_state = send_initial.unwrap_or(asked.unwrap_or(0) == 0);
    if with_state || from_now {
        let floor = if asked == Some(0) { Some(0) } else { asked };
        match super::not_older(cx.server, floor).await {
            Err(status) => failed = Some(status),
            Ok(()) => {
                let (snapshot, live) = cache.snapshot_and_watch(bucket);
                watcher = Some(live);
                if with_state {
                    let prefix =
                        if target.namespace.is_empty() { String::new() } else { format!("{}/", target.namespace) };
                    let range = snapshot.map.range::<_, str>((Bound::Included(prefix.as_str()), Bound::Unbounded));
                    let all: Vec<_> = range.take_while(|(k, _)| k.starts_with(&prefix)).map(|(_, e)| e).collect();
                    failed = cx.resource.prepare(all.iter().copied()).await.err();
                    initial.extend(all.into_iter().filter(|e| cx.resource.matches(&filter, e)).cloned());
                    if send_initial == Some(true) && bookmarks {
                        initial_end = Some(snapshot.revision);
                    }
                }
            }
        }
    } else {
        match cache.watch(bucket, asked.unwrap_or(0)) {
            Ok(live) => watcher = Some(live),
            Err(gone) => failed = Some(too_old(asked.unwrap_or(0), gone)),
        }
    }
    let now = Instant::now();
    // The bucket of a field holds objects of every namespace; the others hold no more than is asked for, and that of a
    // name nothing else.
    let filter = match one {
        Some(name) => filter.without_name(&name),
        None if by_field => with_namespace(filter, target.namespace),
        None => filter,
    };
    let all = filter.is_empty();
    let state = Stream {
        writer: Writer { resource: cx.resource.clone(), wanted, include, columns: true },
        filter,
        all,
        watcher,
        initial,
        initial_end,
        bookmarks,
        next_bookmark: now + BOOKMARK_EVERY.mul_f64(0.9 + rand::rng().random::<f64>() * 0.2),
        end: now + life,
        last_bookmark_done: false,
        failed,
        preparing: None,
        stop: Box::pin(cx.server.stopping().clone().cancelled_owned()),
        timer: Box::pin(tokio::time::sleep_until(now + life)),
        sent: crate::metrics::watch_events(&cx.info.group, &cx.info.version, &cx.info.resource),
    };
    let media_type = match wanted.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    if websocket::is_asked_for(&cx.parts.headers) {
        let format = wanted.format;
        let mut state = state;
        let chunks = stream::poll_fn(move |cx| state.poll_next(cx));
        let events = chunks.map(move |chunk| stream::iter(events(format, &chunk))).flatten();
        return websocket::messages(cx.parts, media_type, format != Format::Protobuf, events);
    }
    let mut response = Response::new(Body::new(state));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The events of a chunk, each a message of its own: lines of JSON, or protobuf without its frame.
fn events(format: Format, chunk: &Bytes) -> Vec<Bytes> {
    let mut events = Vec::new();
    let mut rest = chunk.clone();
    while !rest.is_empty() {
        if format == Format::Protobuf {
            let Some(head) = rest.first_chunk::<4>() else { break };
            let len = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
            if len > rest.len() - 4 {
                break;
            }
            let mut event = rest.split_off(4);
            rest = event.split_off(len);
            events.push(event);
        } else {
            let end = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
            events.push(rest.split_to(end));
        }
    }
    events
}

/// A watch by a pinned field in one namespace filters the namespace itself.
fn with_namespace(mut filter: Filter, namespace: &str) -> Filter {
    if !namespace.is_empty() {
        filter.fields.terms.push(FieldTerm {
            field: "metadata.namespace".to_owned(),
            value: namespace.to_owned(),
            equal: true,
        });
    }
    filter
}

fn too_old(asked: u64, gone: Gone) -> Status {
    Status::expired(format!("too old resource version: {asked} ({})", gone.oldest))
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let chunk = ready!(self.poll_next(cx));
        Poll::Ready(chunk.map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}

impl Stream {
    /// What a change is to this watcher: an object that begins to match is added, one that ceases to is deleted.
    fn kind(&self, change: &Change) -> Option<Kind> {
        let matches = |e: &Option<Arc<Entry>>| {
            e.as_ref().is_some_and(|e| self.all || self.writer.resource.matches(&self.filter, e))
        };
        match (matches(&change.old), matches(&change.new)) {
            (true, true) => Some(Kind::Modified),
            (false, true) => Some(Kind::Added),
            (true, false) => Some(Kind::Deleted),
            (false, false) => None,
        }
    }

    fn frame(&mut self, change: &Change) -> Option<Bytes> {
        let kind = self.kind(change)?;
        let frame = Some(self.writer.change(&kind, change)).filter(|b| !b.is_empty())?;
        self.sent.inc();
        Some(frame)
    }

    /// Adds what is ready to a first frame. One frame alone is passed on without a copy.
    fn more(&mut self, first: Bytes) -> Bytes {
        let mut out: Option<BytesMut> = None;
        loop {
            if out.as_ref().map_or(first.len(), BytesMut::len) >= CHUNK {
                break;
            }
            let Some(watcher) = &mut self.watcher else { break };
            // An error is met again by the next call.
            let Ok(Some(change)) = watcher.ready() else { break };
            if let Some(frame) = self.frame(&change) {
                let out = out.get_or_insert_with(|| {
                    let mut out = BytesMut::with_capacity(4 * first.len());
                    out.put_slice(&first);
                    out
                });
                out.put_slice(&frame);
            }
        }
        out.map_or(first, BytesMut::freeze)
    }

    /// The next frames; `None` at the end.
    fn poll_next(&mut self, cx: &mut task::Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(status) = self.failed.take() {
            self.watcher = None;
            return Poll::Ready(Some(self.writer.error(&status)));
        }
        if !self.initial.is_empty() {
            return Poll::Ready(Some(self.initial_chunk()));
        }
        if let Some(revision) = self.initial_end.take() {
            return Poll::Ready(Some(self.writer.bookmark(revision, true)));
        }
        loop {
            if let Some(preparing) = &mut self.preparing {
                let (change, done) = ready!(preparing.as_mut().poll(cx));
                self.preparing = None;
                if let Err(status) = done {
                    self.watcher = None;
                    return Poll::Ready(Some(self.writer.error(&status)));
                }
                if let Some(frame) = self.frame(&change) {
                    return Poll::Ready(Some(frame));
                }
            }
            // Whether it is time to stop is asked when there is no change: to ask each time costs more than a change.
            // The scheduler lets no task take changes for ever.
            let Some(watcher) = &mut self.watcher else { return Poll::Ready(None) };
            match watcher.poll_next(cx) {
                Poll::Ready(Ok(change)) if self.writer.resource.is_converted_remotely() => {
                    self.preparing = Some(Box::pin(prepared(self.writer.resource.clone(), change, self.all)));
                    continue;
                }
                Poll::Ready(Ok(change)) => match self.frame(&change) {
                    Some(first) => return Poll::Ready(Some(self.more(first))),
                    None => continue,
                },
                // Too slow: the client comes back with its last version and finds out whether that is too old.
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if self.stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let before_end = self.end.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(self.end);
            let bookmark_at = if self.last_bookmark_done { self.end } else { self.next_bookmark.min(before_end) };
            let timer = if self.bookmarks { bookmark_at.min(self.end) } else { self.end };
            if self.timer.deadline() != timer {
                self.timer.as_mut().reset(timer);
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.end {
                return Poll::Ready(None);
            }
            if now >= before_end {
                self.last_bookmark_done = true;
            }
            self.next_bookmark = now + BOOKMARK_EVERY;
            if let Some(revision) = self.watcher.as_mut().and_then(Watcher::bookmark) {
                return Poll::Ready(Some(self.writer.bookmark(revision, false)));
            }
        }
    }

    fn initial_chunk(&mut self) -> Bytes {
        let mut out = BytesMut::with_capacity(CHUNK);
        while let Some(entry) = self.initial.pop_front() {
            self.sent.inc();
            if self.writer.plain() {
                out.put_slice(b"{\"type\":\"ADDED\",\"object\":");
                out.put_slice(entry.json());
                out.put_slice(b"}\n");
            } else {
                out.put_slice(&self.writer.object("ADDED", &entry));
            }
            if out.len() >= CHUNK {
                break;
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_apart_into_events() {
        let lines = events(Format::Json, &Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n"));
        assert_eq!(lines, [&b"{\"a\":1}\n"[..], b"{\"b\":2}\n"]);
        let frames = events(Format::Protobuf, &Bytes::from_static(b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01c"));
        assert_eq!(frames, [&b"ab"[..], b"", b"c"]);
        assert!(events(Format::Protobuf, &Bytes::from_static(b"\xff\xff\xff\xffab")).is_empty());
    }
}
