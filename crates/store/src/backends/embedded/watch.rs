//! A watch: history from disk until the hub's window is reached, then the hub.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{Shared, blocking};
use crate::hub::Subscription;
use crate::{Error, Revision, WatchMessage, WatchStream};

enum State {
    /// Everything up to `told` is delivered; the rest is on disk.
    Behind {
        told: u64,
    },
    Live(Subscription),
    Ended,
}

/// The events after `from`.
pub(super) fn stream(shared: Arc<Shared>, prefix: String, from: u64) -> WatchStream {
    let state = match shared.hub.subscribe(&prefix, from) {
        Ok(subscription) => State::Live(subscription),
        Err(_) => State::Behind { told: from },
    };
    stream::unfold((state, shared, prefix), |(mut state, shared, prefix)| async move {
        loop {
            match state {
                State::Behind { told } => match shared.hub.subscribe(&prefix, told) {
                    Ok(subscription) => state = State::Live(subscription),
                    Err(_) => match read(shared.clone(), prefix.clone(), told).await {
                        Ok((message, told)) => {
                            state = State::Behind { told };
                            return Some((Ok(message), (state, shared, prefix)));
                        }
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

async fn read(shared: Arc<Shared>, prefix: String, told: u64) -> Result<(WatchMessage, u64), Error> {
    blocking(move || {
        let (events, read_to) = shared.snapshot_from(told)?.events(&prefix, told)?;
        let message = match events.is_empty() {
            true => WatchMessage::Progress(Revision(read_to)),
            false => WatchMessage::Events(events),
        };
        Ok((message, read_to))
    })
    .await
}
