//! Patience with the parts of an API that do not answer.
//!
//! Some controllers ask for objects of any kind: metrics that an adapter serves, scales, dependents of custom kinds. What
//! stands behind such a kind may be broken in the worst way: it takes requests and is silent. A controller has few
//! workers; each that waits there is missing elsewhere. [`Gates`] bounds that: a part of the API holds some requests at
//! most, each for a while at most, and while a part is silent a few that try it, the others are refused at once.
//!
//! The alternative, more workers, only moves the number of broken objects that stop a controller.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use orkd_base::BoxError;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ApiError;

/// How long an answer may take, unless [`Gates::patient`] says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// After how long without any answer a part counts as silent, and how long a request waits for its turn.
const SILENCE: Duration = Duration::from_secs(2);
/// How many parts are remembered; those that hold no request are forgotten first.
const REMEMBERED: usize = 256;

/// Lets requests through to the parts of an API. Cheap to clone.
#[derive(Clone)]
pub struct Gates {
    places: usize,
    patience: Duration,
    parts: Arc<Mutex<HashMap<String, Arc<Part>>>>,
}

struct Part {
    state: Mutex<State>,
    left: Notify,
}

/// Why a request is not let through now.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// Nothing was answered for a while; some requests still try.
    Silent,
    /// As many are asking as may.
    Full,
}

/// The requests of one part.
#[derive(Debug, Default)]
struct State {
    asking: usize,
    /// Since when there has been a request and no answer.
    waiting_since: Option<Instant>,
}

impl State {
    /// Lets a request in, or not. A quarter of the places is left to a silent part.
    fn enter(&mut self, places: usize, now: Instant) -> Result<(), Refusal> {
        let silent = self.waiting_since.is_some_and(|since| now.duration_since(since) >= SILENCE);
        if silent && self.asking >= (places / 4).max(1) {
            return Err(Refusal::Silent);
        }
        if self.asking >= places {
            return Err(Refusal::Full);
        }
        self.asking += 1;
        self.waiting_since.get_or_insert(now);
        Ok(())
    }

    /// Lets a request out, that was answered or not.
    fn leave(&mut self, answered: bool, now: Instant) {
        self.asking = self.asking.saturating_sub(1);
        if answered {
            self.waiting_since = (self.asking > 0).then_some(now);
        }
    }
}

/// A place that is given back, whatever becomes of the request.
struct Place<'a> {
    part: &'a Part,
    answered: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.part.state.lock().leave(self.answered, Instant::now());
        self.part.left.notify_one();
    }
}

impl Gates {
    /// Gates where each part holds so many requests at once.
    pub fn new(places: usize) -> Self {
        Gates { places: places.max(1), patience: PATIENCE, parts: Arc::default() }
    }

    /// Gates that wait longer, such as for changes: a server may ask others about them for as long as it likes.
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn part(&self, name: &str) -> Arc<Part> {
        let mut parts = self.parts.lock();
        if parts.len() >= REMEMBERED && !parts.contains_key(name) {
            parts.retain(|_, part| part.state.lock().asking > 0);
        }
        let part = || Arc::new(Part { state: Mutex::default(), left: Notify::new() });
        parts.entry(name.to_owned()).or_insert_with(part).clone()
    }

    /// Asks a part of the API, such as a group, and waits only so long for the answer. A request that is not let
    /// through or not answered fails as one that did not reach the server.
    pub async fn ask<T>(&self, part: &str, request: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let failed = |why: String| ApiError::Transport { op: part.to_owned(), source: BoxError::from(why) };
        let held = self.part(part);
        let turn = Instant::now() + SILENCE;
        let mut late = false;
        let mut place = loop {
            let left = held.left.notified();
            let refusal = match held.state.lock().enter(self.places, Instant::now()) {
                Ok(()) => break Place { part: &held, answered: false },
                Err(refusal) => refusal,
            };
            match refusal {
                Refusal::Silent => return Err(failed("it has not answered for a while".into())),
                Refusal::Full if late => return Err(failed("too many requests wait for its answers".into())),
                Refusal::Full => late = tokio::time::timeout_at(turn, left).await.is_err(),
            }
        };
        match tokio::time::timeout(self.patience, request).await {
            Ok(answer) => {
                place.answered = true;
                answer
            }
            Err(_) => Err(failed(format!("it did not answer within {} s", self.patience.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_part_keeps_a_quarter() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut state = State::default();
        for _ in 0..8 {
            assert_eq!(state.enter(8, at(0)), Ok(()));
        }
        assert_eq!(state.enter(8, at(1)), Err(Refusal::Full));
        assert_eq!(state.enter(8, at(2)), Err(Refusal::Silent));
        (0..7).for_each(|_| state.leave(false, at(10)));
        assert_eq!(state.enter(8, at(10)), Ok(()));
        assert_eq!(state.enter(8, at(10)), Err(Refusal::Silent));
        // One answer, and it is trusted again.
        state.leave(true, at(11));
        assert_eq!(state.enter(8, at(12)), Ok(()));
        state.leave(true, at(12));
        state.leave(false, at(12));
        assert_eq!(state.enter(8, at(60)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_silent_is_refused_and_the_rest_served() {
        let gates = Gates::new(4);
        let hang = |gates: Gates| async move { gates.ask("a", std::future::pending::<Result<(), ApiError>>()).await };
        let silent: Vec<_> = (0..9).map(|_| tokio::spawn(hang(gates.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(gates.ask("b", async { Ok(1) }).await.is_ok());
        let mut texts = Vec::new();
        for one in silent {
            texts.push(one.await.expect("ended").expect_err("silence").message());
        }
        texts.sort();
        assert_eq!(texts.iter().filter(|t| t.ends_with("did not answer within 10 s")).count(), 4, "{texts:?}");
        assert_eq!(texts.iter().filter(|t| t.contains("has not answered")).count(), 5, "{texts:?}");
        // One tries; it answers; all are let through.
        let probe = tokio::spawn(hang(gates.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let refused = gates.ask("a", async { Ok(1) }).await.expect_err("one is enough");
        assert!(refused.message().contains("has not answered"), "{refused}");
        probe.abort();
        let _ = probe.await;
        for _ in 0..9 {
            assert!(gates.ask("a", async { Ok(1) }).await.is_ok());
        }
    }
}
