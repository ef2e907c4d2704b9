//! The webhook of audit: batches of events posted as an `EventList` (`k8s.io/apiserver/plugin/pkg/audit/webhook`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;

use crate::outbound::Endpoint;

/// Where batches are posted to.
#[async_trait]
pub trait Receiver: Send + Sync + 'static {
    /// Posts JSON; the HTTP status.
    async fn post(&self, body: String) -> Result<u16, String>;
}

#[async_trait]
impl Receiver for Endpoint {
    async fn post(&self, body: String) -> Result<u16, String> {
        self.post_text(body).await.map(|answer| answer.status)
    }
}

/// The server of a kubeconfig's current context.
pub fn from_kubeconfig(path: &Path) -> Result<Arc<dyn Receiver>, String> {
    Ok(Arc::new(Endpoint::from_kubeconfig(path, TIMEOUT)?))
}

/// One try takes no longer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A batch is tried so often.
const TRIES: u32 = 5;

/// The body of a batch. The events carry no type of their own, as the items of any list.
pub fn event_list(events: &[String]) -> String {
    let mut out =
        String::from("{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[");
    for (i, event) in events.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        match event.strip_prefix("{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",") {
            Some(rest) => {
                out.push('{');
                out.push_str(rest);
            }
            None => out.push_str(event),
        }
    }
    out.push_str("]}");
    out
}

/// Posts a batch, again and again after any failure with growing pauses. The error is the last one.
pub async fn send(receiver: &dyn Receiver, events: &[String], first_pause: Duration) -> Result<(), String> {
    let body = event_list(events);
    let mut pause = first_pause;
    for left in (0..TRIES).rev() {
        let error = match receiver.post(body.clone()).await {
            Ok(200..=299) => return Ok(()),
            Ok(code) => format!("the webhook answers {code}"),
            Err(error) => error,
        };
        if left == 0 {
            return Err(error);
        }
        let jitter = 1.0 + rand::rng().random::<f64>() * 0.2;
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = pause.mul_f64(1.5);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    struct Fails(Mutex<Vec<Result<u16, String>>>);

    #[async_trait]
    impl Receiver for Fails {
        async fn post(&self, body: String) -> Result<u16, String> {
            assert_eq!(
                body,
                "{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[{\"level\":\"None\"},{}]}"
            );
            self.0.lock().pop().unwrap_or(Ok(200))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_tried_five_times() {
        let events =
            ["{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"None\"}".to_owned(), "{}".into()];
        let receiver = Fails(Mutex::new(vec![Ok(500), Err("refused".into())]));
        let begun = tokio::time::Instant::now();
        send(&receiver, &events, Duration::from_secs(10)).await.expect("the third try succeeds");
        assert!((25..=31).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        let receiver = Fails(Mutex::new(vec![Ok(503); 5]));
        assert_eq!(send(&receiver, &events, Duration::from_secs(1)).await, Err("the webhook answers 503".into()));
    }
}
