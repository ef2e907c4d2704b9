//! Bootstrap tokens that have expired are removed.
//!
//! Follows `pkg/controller/bootstrap/tokencleaner.go`.

use std::time::Duration;

use base64::Engine;
use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{DeleteOptions, Informer, Key, Meta, Options, Outcome, Queue, Resource, View, work};
use serde::Deserialize;

use crate::views::view;
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "token-cleaner-controller",
    service_account: "token-cleaner",
    run: |cx| Box::pin(start(cx)),
};

const TOKEN: &str = "bootstrap.kubernetes.io/token";

/// A bootstrap token, without its secret.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenSecret {
    metadata: Meta,
    #[serde(rename = "type")]
    kind: String,
    data: TokenData,
}
view!(TokenSecret, "", "v1", "Secret", "secrets");

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TokenData {
    expiration: String,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let options = Options::fields(format!("type={TOKEN}")).namespace("kube-system");
    let tokens: Informer<TokenSecret> = cx.informers.informer_with(options);
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        tokens.subscribe(move |event| {
            if !event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    tokens.synced().await;
    let (api, tokens, clock) = (&cx.api, &tokens, &cx.clock);
    work(queue, 1, cx.stop, |key| async move {
        let Some(token) = tokens.get(&key).filter(|t| t.kind == TOKEN) else { return Ok(Outcome::Done) };
        match seconds_left(&token.data.expiration, clock.now()) {
            None => Ok(Outcome::Done),
            Some(left) if left > 0 => Ok(Outcome::RequeueAfter(Duration::from_secs(left.unsigned_abs()))),
            Some(_) => {
                let target = Resource::of::<TokenSecret>().at(&key.namespace, &key.name);
                match api.delete(&target, &DeleteOptions::default().uid(&token.metadata.uid)).await {
                    Err(err) if err.is_not_found() || err.is_conflict() => {}
                    other => other?,
                }
                Ok(Outcome::Done)
            }
        }
    })
    .await;
    Ok(())
}

/// For how long a token is valid; `None` for ever. A time that cannot be read has passed, as upstream has it.
fn seconds_left(expiration: &str, now: Timestamp) -> Option<i64> {
    if expiration.is_empty() {
        return None;
    }
    let text = base64::engine::general_purpose::STANDARD.decode(expiration).unwrap_or_default();
    let at: Option<Timestamp> = std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok());
    Some(at.map_or(0, |at| at.as_second() - now.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_at_their_time() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        assert_eq!(seconds_left("", now), None);
        assert_eq!(seconds_left(&encode("2026-01-01T00:00:10Z"), now), Some(10));
        assert_eq!(seconds_left(&encode("2026-01-01T02:00:00+02:00"), now), Some(0));
        assert_eq!(seconds_left(&encode("soon"), now), Some(0));
    }
}
