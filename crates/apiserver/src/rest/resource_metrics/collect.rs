//! Asks kubelets what they use, when somebody wants to know.
//!
//! The last two looks at each node are kept. A look is good for some seconds; the next question after that takes one
//! more, and CPU is what was added since the one before. Where that is too long ago, two are taken, a second apart. So
//! whoever asks regularly (an autoscaler) gets averages over his own interval, as from metrics-server, and nothing is
//! asked while nobody does.
//!
//! A kubelet that does not answer is left alone for a while: one question waits for it, those that follow do not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use orkd_api::status::Status;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::sample::{self, Sample};
use super::usage::Looks;
use crate::Body;
use crate::rest::dial::{Address, Dialer};

/// For how long a look is good.
const GOOD: Duration = Duration::from_secs(10);
/// What was seen longer ago than this says nothing about now.
const STALE: Duration = Duration::from_secs(90);
/// Between two looks of one question.
const APART: Duration = Duration::from_secs(1);
/// How long a kubelet may take for one look.
const PATIENCE: Duration = Duration::from_secs(3);
/// For how long a kubelet that did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(30);
/// How long a question waits for all its nodes; what comes later is there for the next one.
const WAIT: Duration = Duration::from_secs(10);
/// Kubelets asked at once.
const AT_ONCE: usize = 64;
/// The longest answer of a kubelet.
const LONGEST: usize = 16 << 20;

/// Asks kubelets, and remembers. Cheap to clone.
#[derive(Clone)]
pub struct Collector(Arc<Inner>);

struct Inner {
    dialer: Arc<Dialer>,
    /// By name. Whoever asks a node holds its lock, so that those who ask meanwhile share the answer.
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
    places: Semaphore,
}

/// What is known of a node.
#[derive(Default)]
struct Known {
    looks: Option<Arc<Looks>>,
    /// When the last look was taken.
    looked: Option<Instant>,
    /// When the kubelet did not answer.
    failed: Option<Instant>,
}

/// What has to be done for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// What is known is good.
    Tell,
    /// There is no answer for now.
    Leave,
    /// One look.
    Look,
    /// Two looks.
    LookTwice,
}

/// Decides by how long ago the last look and the last failure were.
fn next(looked: Option<Duration>, failed: Option<Duration>) -> Next {
    match (looked, failed) {
        (Some(ago), _) if ago < GOOD => Next::Tell,
        (_, Some(ago)) if ago < PAUSE => Next::Leave,
        (Some(ago), _) if ago < STALE => Next::Look,
        _ => Next::LookTwice,
    }
}

impl Collector {
    /// A collector that reaches kubelets by this dialer.
    pub fn new(dialer: Arc<Dialer>) -> Self {
        Collector(Arc::new(Inner { dialer, nodes: Mutex::default(), places: Semaphore::new(AT_ONCE) }))
    }

    /// What is known of these nodes, after asking where that has to be. Those that do not answer are missing.
    pub async fn looks(&self, nodes: Vec<(String, Address)>) -> HashMap<String, Arc<Looks>> {
        let mut asked = JoinSet::new();
        let mut found = HashMap::new();
        for (name, address) in nodes {
            let inner = Arc::clone(&self.0);
            asked.spawn(async move {
                let looks = inner.ask(&name, &address).await;
                (name, looks)
            });
        }
        let all = async {
            while let Some(answer) = asked.join_next().await {
                if let Ok((name, Some(looks))) = answer {
                    found.insert(name, looks);
                }
            }
        };
        // What is asked already is asked to the end: the answer is for whoever comes next.
        let _ = tokio::time::timeout(WAIT, all).await;
        asked.detach_all();
        found
    }

    /// Forgets nodes that are gone.
    pub fn keep(&self, there: impl Fn(&str) -> bool) {
        self.0.nodes.lock().retain(|name, _| there(name));
    }
}

impl Inner {
    async fn ask(&self, name: &str, address: &Address) -> Option<Arc<Looks>> {
        let known = Arc::clone(self.nodes.lock().entry(name.to_owned()).or_default());
        let mut known = known.lock().await;
        let ago = |at: Option<Instant>| at.map(|at| at.elapsed());
        let step = next(ago(known.looked), ago(known.failed));
        let before = match step {
            Next::Tell => return known.looks.clone(),
            Next::Leave => return None,
            Next::Look => known.looks.as_ref().map(|looks| looks.last.clone()),
            Next::LookTwice => None,
        };
        let outcome = async {
            let before = match before {
                Some(before) => before,
                None => {
                    let first = self.look(address).await?;
                    tokio::time::sleep(APART).await;
                    first
                }
            };
            Ok::<Looks, Status>(Looks { before, last: self.look(address).await? })
        };
        match outcome.await {
            Ok(looks) => {
                *known = Known { looks: Some(Arc::new(looks)), looked: Some(Instant::now()), failed: None };
                known.looks.clone()
            }
            Err(status) => {
                tracing::info!(node = name, why = status.message, "a kubelet does not say what it uses");
                known.failed = Some(Instant::now());
                None
            }
        }
    }

    /// Takes one look.
    async fn look(&self, address: &Address) -> Result<Sample, Status> {
        let _place = self.places.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
        let text = tokio::time::timeout(PATIENCE, self.fetch(address));
        let text = text.await.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")))?;
        Ok(sample::parse(&text, jiff::Timestamp::now().as_millisecond()))
    }

    async fn fetch(&self, address: &Address) -> Result<String, Status> {
        let failed = |e: &dyn std::fmt::Display| Status::unavailable(e.to_string());
        let request = http::Request::get("/metrics/resource")
            .header(http::header::HOST, address.authority())
            .body(Body::empty())
            .map_err(|e| failed(&e))?;
        let mut sender = self.dialer.connect(address).await?;
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(|e| failed(&e))?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        if code.is_success() { Ok(text) } else { Err(failed(&format!("{code}: {}", text.trim()))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_that_need_not_be() {
        let check = |looked: Option<u64>, failed: Option<u64>, expected: Next| {
            let seconds = |s: Option<u64>| s.map(Duration::from_secs);
            assert_eq!(next(seconds(looked), seconds(failed)), expected, "{looked:?} {failed:?}");
        };
        check(None, None, Next::LookTwice);
        check(Some(1), None, Next::Tell);
        check(Some(15), None, Next::Look);
        check(Some(91), None, Next::LookTwice);
        // Left alone after a failure, but for what is known still.
        check(None, Some(1), Next::Leave);
        check(Some(5), Some(1), Next::Tell);
        check(Some(15), Some(1), Next::Leave);
        check(Some(60), Some(31), Next::Look);
        check(None, Some(31), Next::LookTwice);
    }
}
