//! Encryption at rest: a store that encrypts what it hands to another store and decrypts what it reads from it.
//!
//! Follows `k8s.io/apiserver/pkg/storage/value` and `pkg/server/options/encryptionconfig` upstream, so that the data of
//! a stock cluster can be taken over: the same configuration file, the same prefixes (`k8s:enc:aescbc:v1:key1:`), the
//! key as associated data. Which resource a key belongs to is told by composition ([`Resources`]).
//!
//! Start reading at [`Encrypted`]; [`config`] reads the file, [`chain`] chooses a transformation, [`ciphers`] and
//! [`kms`] are the transformations.

pub mod chain;
pub mod ciphers;
pub mod config;
#[allow(missing_docs, clippy::all, clippy::unwrap_used, reason = "generated")]
#[rustfmt::skip]
#[path = "gen/v2.rs"]
pub mod proto;
pub mod kms;
mod kms_meters;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::RwLock;

pub use chain::Chain;
pub use config::Rules;
pub use kms_meters::hash;

use crate::{
    Error, Event, EventKind, Op, Outcome, RangeRequest, RangeResult, Record, Revision, Store, Txn, WatchMessage,
    WatchStream,
};

/// All keys of objects begin with this.
const ROOT: &str = "/registry/";

/// Which resource is stored below which part of `/registry/`.
#[derive(Clone, Debug, Default)]
pub struct Resources(HashMap<String, GroupResource>);

/// A resource by its group and plural.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupResource {
    /// Group; empty for the core group.
    pub group: String,
    /// Plural.
    pub resource: String,
}

impl Resources {
    /// From storage prefix (`secrets`, `services/specs`), group and plural. The first of one prefix counts.
    pub fn new(all: impl IntoIterator<Item = (String, String, String)>) -> Self {
        let mut map = HashMap::new();
        for (prefix, group, resource) in all {
            map.entry(prefix).or_insert(GroupResource { group, resource });
        }
        Resources(map)
    }

    /// The resource of a key; `None` for what is no object. Custom resources are stored below group and plural.
    pub fn of(&self, key: &str) -> Option<GroupResource> {
        let rest = key.strip_prefix(ROOT)?;
        let first = rest.find('/')?;
        if let Some(found) = self.0.get(&rest[..first]) {
            return Some(found.clone());
        }
        let (group, below) = (&rest[..first], &rest[first + 1..]);
        let (second, _) = below.split_once('/')?;
        if let Some(found) = self.0.get(&rest[..first + 1 + second.len()]) {
            return Some(found.clone());
        }
        group.contains('.').then(|| GroupResource { group: group.into(), resource: second.into() })
    }
}

/// A store whose values are encrypted in the store behind it.
pub struct Encrypted {
    core: Arc<Core>,
    inner: Arc<dyn Store>,
}

/// What the watch streams share with the store.
struct Core {
    resources: Resources,
    rules: RwLock<Arc<Rules>>,
}

impl Encrypted {
    /// Encrypts by `rules` what is written to `inner`.
    pub fn new(inner: Arc<dyn Store>, resources: Resources, rules: Rules) -> Self {
        Encrypted { core: Arc::new(Core { resources, rules: RwLock::new(Arc::new(rules)) }), inner }
    }

    /// Takes other rules from now on.
    pub fn reload(&self, rules: Rules) {
        *self.core.rules.write() = Arc::new(rules);
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.core.rules.read().clone()
    }
}

impl Core {
    fn chain(&self, key: &str) -> Option<Arc<Chain>> {
        let resource = self.resources.of(key)?;
        Some(self.rules.read().chain(&resource))
    }

    /// The value in the clear, and whether it ought to be written anew.
    async fn open(&self, key: &str, value: &Bytes) -> Result<(Bytes, bool), Error> {
        match self.chain(key) {
            None => Ok((value.clone(), false)),
            Some(chain) => chain.open(key, value).await.map_err(|why| {
                Error::Corrupt(format!("unable to transform key {key:?}: {why} (see --encryption-provider-config)"))
            }),
        }
    }

    async fn open_record(&self, mut record: Record) -> Result<Record, Error> {
        record.value = self.open(&record.key, &record.value).await?.0;
        Ok(record)
    }

    async fn seal(&self, op: Op) -> Result<Op, Error> {
        match op {
            Op::Put { key, value, ttl_seconds } => {
                let value = match self.chain(&key) {
                    None => value,
                    Some(chain) => chain.seal(&key, value).await.map_err(Error::Sealing)?,
                };
                Ok(Op::Put { key, value, ttl_seconds })
            }
            delete => Ok(delete),
        }
    }

    /// An event in the clear. What cannot be read is passed on as it is: the reader leaves it out, and later events
    /// are not held up by it.
    async fn open_event(&self, mut event: Event) -> Event {
        let value = match self.open(&event.record.key, &event.record.value).await {
            Ok((value, _)) => value,
            Err(_) if event.kind == EventKind::Delete => Bytes::new(),
            Err(error) => {
                tracing::error!(%error, "a change that was watched cannot be decrypted");
                event.record.value.clone()
            }
        };
        event.record.value = value;
        if let Some(prev) = event.prev.take() {
            event.prev = self.open(&event.record.key, &prev).await.ok().map(|(value, _)| value);
        }
        event
    }
}

#[async_trait]
impl Store for Encrypted {
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        let mut ops = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            ops.push(self.core.seal(op).await?);
        }
        match self.inner.commit(Txn { conditions: txn.conditions, ops }).await? {
            Outcome::Failed(records) => {
                let mut clear = Vec::with_capacity(records.len());
                for record in records {
                    clear.push(match record {
                        Some(record) => Some(self.core.open_record(record).await?),
                        None => None,
                    });
                }
                Ok(Outcome::Failed(clear))
            }
            done => Ok(done),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, Error> {
        match self.inner.get(key).await? {
            Some(record) => self.core.open_record(record).await.map(Some),
            None => Ok(None),
        }
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResult, Error> {
        let mut result = self.inner.range(request).await?;
        for record in &mut result.records {
            record.value = self.core.open(&record.key, &record.value).await?.0;
        }
        Ok(result)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let core = self.core.clone();
        let stream = self.inner.watch(prefix, from).await?.then(move |message| {
            let core = core.clone();
            async move {
                match message {
                    Ok(WatchMessage::Events(events)) => {
                        let mut clear = Vec::with_capacity(events.len());
                        for event in events {
                            clear.push(core.open_event(event).await);
                        }
                        Ok(WatchMessage::Events(clear))
                    }
                    other => other,
                }
            }
        });
        Ok(stream.boxed())
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.inner.current_revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn is_stale(&self, key: &str) -> Result<bool, Error> {
        match self.inner.get(key).await? {
            Some(record) => self.core.open(key, &record.value).await.map(|(_, stale)| stale),
            None => Ok(false),
        }
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_resources() {
        let table =
            [("secrets", "", "secrets"), ("services/specs", "", "services"), ("deployments", "apps", "deployments")];
        let resources = Resources::new(table.map(|(p, g, r)| (p.to_owned(), g.to_owned(), r.to_owned())));
        let check = |key: &str, expected: Option<(&str, &str)>| {
            let found = resources.of(key);
            let found = found.as_ref().map(|r| (r.group.as_str(), r.resource.as_str()));
            assert_eq!(found, expected, "{key}");
        };
        check("/registry/secrets/default/a", Some(("", "secrets")));
        check("/registry/services/specs/default/a", Some(("", "services")));
        check("/registry/services/endpoints/default/a", None);
        check("/registry/deployments/default/a", Some(("apps", "deployments")));
        check("/registry/example.com/pandas/default/a", Some(("example.com", "pandas")));
        check("/registry/ranges/serviceips", None);
        check("/other/secrets/a", None);
    }
}
