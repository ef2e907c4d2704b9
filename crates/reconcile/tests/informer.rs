//! Informers against a server that plays a script: what they ask for, what they make of the answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use orkd_base::{BoxError, Supervisor};
use orkd_reconcile::{Event, Informer, Informers, Key, Meta, Options, View};
use parking_lot::Mutex;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Thing {
    metadata: Meta,
    #[serde(default)]
    #[expect(dead_code, reason = "read by the decoder alone")]
    size: u8,
}

impl View for Thing {
    const GROUP: &'static str = "example.com";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Thing";
    const PLURAL: &'static str = "things";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// One answer: status, chunks of the body, and whether it stays open.
#[derive(Clone)]
struct Answer(u16, Vec<String>, bool);

fn object(name: &str, rv: u64) -> String {
    format!(r#"{{"metadata":{{"namespace":"n","name":"{name}","uid":"{name}","resourceVersion":"{rv}"}}}}"#)
}

fn event(kind: &str, name: &str, rv: u64) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", object(name, rv))
}

fn bookmark(rv: u64, end: bool) -> String {
    let annotations = if end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!("{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{rv}\"{annotations}}}}}}}\n")
}

fn list(items: &[String], rv: u64, next: &str) -> String {
    format!(r#"{{"metadata":{{"resourceVersion":"{rv}","continue":"{next}"}},"items":[{}]}}"#, items.join(","))
}

fn open(lines: &[String]) -> Answer {
    Answer(200, lines.to_vec(), true)
}

fn ended(lines: &[String]) -> Answer {
    Answer(200, lines.to_vec(), false)
}

fn failure(code: u16) -> Answer {
    Answer(code, vec![format!(r#"{{"kind":"Status","code":{code},"message":"no"}}"#)], false)
}

struct World {
    informer: Informer<Thing>,
    asked: Arc<Mutex<Vec<String>>>,
    seen: Arc<Mutex<Vec<String>>>,
    supervisor: Supervisor,
}

impl World {
    fn start(script: Vec<Answer>, options: Options) -> World {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let log = asked.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            log.lock().push(request.uri().to_string());
            // After the script's end nothing happens any more.
            let Answer(status, chunks, stays) = script.lock().pop_front().unwrap_or(open(&[]));
            let frames =
                stream::iter(chunks.into_iter().map(|c| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(c)))));
            let body: UnsyncBoxBody<Bytes, BoxError> = if stays {
                StreamBody::new(frames.chain(stream::pending())).boxed_unsync()
            } else {
                StreamBody::new(frames).boxed_unsync()
            };
            let answer = Response::builder().status(status).body(body);
            async move { answer.map_err(BoxError::from) }
        });
        let supervisor = Supervisor::new();
        let informers = Informers::new(kube::Client::new(service, "default"), supervisor.clone());
        let informer = informers.informer_with::<Thing>(options);
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = seen.clone();
        informer.subscribe(move |event| {
            let sign = match event {
                Event::Added(_) => "+",
                Event::Updated { .. } => "~",
                Event::Deleted(_) => "-",
            };
            log.lock().push(format!("{sign}{}", event.object().metadata.name));
        });
        World { informer, asked, seen, supervisor }
    }

    async fn until(&self, version: u64) {
        let caught = tokio::time::timeout(Duration::from_secs(20), self.informer.caught_up(version)).await;
        assert!(caught.is_ok(), "asked {:#?}, seen {:?}", self.asked.lock(), self.seen.lock());
    }

    async fn end(self) -> (Vec<String>, Vec<String>) {
        self.supervisor.shutdown(Duration::from_secs(2)).await;
        let asked = self.asked.lock().iter().map(|uri| without_timeout(uri)).collect();
        let seen = self.seen.lock().clone();
        (asked, seen)
    }
}

/// Watches last for a random time.
fn without_timeout(uri: &str) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let kept: Vec<&str> = query.split('&').filter(|p| !p.starts_with("timeoutSeconds=")).collect();
    format!("{path}?{}", kept.join("&"))
}

const STREAM: &str = "/apis/example.com/v1/things?watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
                      &resourceVersionMatch=NotOlderThan";

#[tokio::test]
async fn a_streamed_list_is_followed_and_resumed() {
    let world = World::start(
        vec![
            ended(&[
                event("ADDED", "a", 1),
                event("ADDED", "b", 2),
                bookmark(5, true),
                event("MODIFIED", "a", 6),
                bookmark(8, false),
            ]),
            open(&[event("DELETED", "b", 9)]),
        ],
        Options::default(),
    );
    world.until(9).await;
    assert!(world.informer.get(&Key::new("n", "a")).is_some() && world.informer.len() == 1);
    let (asked, seen) = world.end().await;
    assert_eq!(seen, ["+a", "+b", "~a", "-b"]);
    let resumed = "/apis/example.com/v1/things?watch=true&allowWatchBookmarks=true&resourceVersion=8";
    assert_eq!(asked, [STREAM, resumed]);
}

#[tokio::test]
async fn an_expired_version_makes_a_new_list_and_the_difference() {
    let expired = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
    let world = World::start(
        vec![
            ended(&[event("ADDED", "a", 1), event("ADDED", "b", 2), bookmark(5, true), format!("{expired}\n")]),
            open(&[event("ADDED", "a", 1), event("ADDED", "c", 7), bookmark(10, true)]),
        ],
        Options::default(),
    );
    world.until(10).await;
    let (asked, seen) = world.end().await;
    assert_eq!(seen, ["+a", "+b", "-b", "+c"]);
    assert_eq!(asked, [STREAM, STREAM]);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_listed_in_pages() {
    let world = World::start(
        vec![
            failure(422),
            ended(&[list(&[object("a", 1)], 4, "more")]),
            ended(&[list(&[object("b", 2)], 4, "")]),
            open(&[event("ADDED", "c", 5)]),
        ],
        Options::labels("app in (x)").namespace("n"),
    );
    world.until(5).await;
    let (asked, seen) = world.end().await;
    assert_eq!(seen, ["+a", "+b", "+c"]);
    let things = "/apis/example.com/v1/namespaces/n/things?";
    assert_eq!(
        asked[1..],
        [
            format!("{things}labelSelector=app%20in%20%28x%29&limit=500"),
            format!("{things}labelSelector=app%20in%20%28x%29&continue=more&limit=500"),
            format!("{things}watch=true&allowWatchBookmarks=true&labelSelector=app%20in%20%28x%29&resourceVersion=4"),
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_failures_are_tried_again() {
    let odd = r#"{"type":"ADDED","object":{"metadata":{"name":"odd","resourceVersion":"3"},"size":"large"}}"#;
    let world = World::start(
        vec![
            failure(503),
            ended(&[bookmark(2, true), format!("{odd}\n"), "{\"type\":\"ADDED\",\"obj".to_owned()]),
            open(&[event("ADDED", "a", 4)]),
        ],
        Options::default(),
    );
    world.until(4).await;
    let (asked, seen) = world.end().await;
    assert_eq!(seen, ["+a"]);
    assert!(asked[2].ends_with("resourceVersion=3"), "{asked:?}");
}
