//! A watch: history from disk until the hub's window is reached, then the hub.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{Shared, blocking};
use crate::hub::Subscription;
use crate::{Error, Event, WatchMessage, WatchStream};

enum State {
    /// Everything up to `reached` is delivered, the rest is on disk; the consumer knows it up to `told`.
    Behind {
        reached: u64,
        told: u64,
    },
    Live(Subscription),
    Ended,
}

/// The events after `from`.
pub(super) fn stream(shared: Arc<Shared>, prefix: String, from: u64) -> WatchStream {
    let state = match shared.hub.subscribe(&prefix, from, from) {
        Ok(subscription) => State::Live(subscription),
        Err(_) => State::Behind { reached: from, told: from },
    };
    stream::unfold((state, shared, prefix), |(mut state, shared, prefix)| async move {
        loop {
            match state {
                State::Behind { reached, told } => match shared.hub.subscribe(&prefix, reached, told) {
                    Ok(subscription) => state = State::Live(subscription),
                    Err(_) => match read(shared.clone(), prefix.clone(), reached).await {
                        Ok((events, reached)) => match events.last() {
                            None => state = State::Behind { reached, told },
                            Some(last) => {
                                let told = last.record.mod_revision.0;
                                let message = WatchMessage::Events(events);
                                return Some((Ok(message), (State::Behind { reached, told }, shared, prefix)));
                            }
                        },
                        Err(error) => return Some((Err(error), (State::Ended, shared, prefix))),
                    },
                },
                State::Live(mut subscription) => {
                    let message = subscription.next().await?;
                    return Some((message, (State::Live(subscription), shared, prefix)));
                }
                State::Ended => return None,
            }
        }
    })
    .boxed()
}

/// Events after a revision, of whole commits, and up to where history was read.
async fn read(shared: Arc<Shared>, prefix: String, after: u64) -> Result<(Vec<Event>, u64), Error> {
    blocking(move || shared.snapshot_from(after)?.events(&prefix, after)).await
}
