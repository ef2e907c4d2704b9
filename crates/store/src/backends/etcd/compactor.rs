//! Forgets old history, in upstream's way (`apiserver/pkg/storage/etcd3/compact.go`): all API servers that share an
//! etcd agree by the version of one key on who compacts, and each compacts only what it saw an interval ago.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, KvClient, Txn, TxnOp, TxnOpResponse};

use super::errors::{self, unavailable};
use super::timed_out;
use crate::Error;

/// Upstream's key for it, outside of any prefix.
const KEY: &str = "compact_rev_key";

/// What was seen an interval ago.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// How often the key had been written.
    version: i64,
    /// Revision of the store; 0 for not known.
    revision: i64,
}

/// Compacts for ever.
pub(super) async fn run(kv: KvClient, interval: Duration, timeout: Duration) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(interval).await;
        match tokio::time::timeout(timeout, round(kv.clone(), seen)).await.unwrap_or_else(|_| Err(timed_out(timeout))) {
            Ok(now) => seen = now,
            Err(error) => tracing::warn!(%error, "history was not compacted, trying again later"),
        }
    }
}

/// If nobody has compacted since `seen`, this process does.
async fn round(mut kv: KvClient, seen: Seen) -> Result<Seen, Error> {
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, seen.version)])
        .and_then([TxnOp::put(KEY, seen.revision.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let response = kv.txn(txn).await.map_err(unavailable)?;
    let revision = response.header().map_or(0, |header| header.revision());
    if !response.succeeded() {
        let version = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut response) => response.take_kvs().pop().map(|kv| kv.version()),
            _ => None,
        });
        return Ok(Seen { version: version.unwrap_or(0), revision });
    }
    if seen.revision > 0 {
        match kv.compact(seen.revision, None).await.map_err(unavailable) {
            Ok(_) => tracing::debug!(revision = seen.revision, "compacted etcd"),
            Err(Error::Unavailable(text)) if errors::is_compacted(&text) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Seen { version: seen.version + 1, revision })
}
