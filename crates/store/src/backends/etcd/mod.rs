//! The etcd backend: a store that other processes share.
//!
//! # How it maps
//!
//! * A commit is one etcd transaction: compare on `mod_revision`, in its else branch one read per condition.
//! * A life time is a lease shared by what is written within a twentieth of it (at most a minute, as upstream does),
//!   so that events do not cost a lease each ([`leases`]).
//! * Watches: **one** etcd watch over all keys feeds the [`hub`](crate::hub) ([`pump`]). Every revision of etcd
//!   changes some key, so the hub's position follows etcd's revision exactly, and a watcher of any prefix is told of
//!   commits outside it by [`WatchMessage::Progress`](crate::WatchMessage::Progress). That is what makes
//!   [`Store::current_revision`] (the header revision of a linearizable read) reachable for every watcher without
//!   etcd's progress notifications, which cannot be relied on before 3.4.31 and 3.5.13. The etcd user therefore
//!   needs to be able to watch all keys; keys of others are not delivered.
//! * A watch that starts before the hub's window has an etcd watch and a connection of its own until it has caught up.
//! * Every five minutes history older than that is compacted, by one of the API servers that share the etcd
//!   ([`compactor`], upstream's protocol, so that stock API servers may run beside).
//!
//! Reads are repeated when an endpoint fails; commits only when the connection was refused, because otherwise they
//! may have happened.

mod compactor;
mod errors;
mod leases;
mod pump;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, Identity, KeyValue, KvClient,
    PutOptions, TlsOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse, WatchClient,
};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use self::errors::{unavailable, was_not_sent};
use self::leases::Leases;
use crate::hub::{self, Hub};
use crate::{Error, Op, Outcome, RangeRequest, RangeResult, Record, Revision, Store, Txn, WatchStream};

/// Name of the backend.
pub const NAME: &str = "etcd";

/// How many records one request asks for.
const PAGE: usize = 500;
/// etcd's own limit is what one of its messages can hold.
const LARGEST_MESSAGE: usize = i32::MAX as usize;
/// How often a request is tried when an endpoint cannot be reached.
const TRIES: u32 = 5;

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `https://HOST:2379`, one for each member that may be asked.
    pub endpoints: Vec<String>,
    /// File with the certificates of the authorities that signed the members' certificates; needed for `https`.
    pub ca: Option<PathBuf>,
    /// File with the client's certificate.
    pub cert: Option<PathBuf>,
    /// File with the client's key.
    pub key: Option<PathBuf>,
    /// User name and password, where etcd asks for them.
    pub user: Option<(String, String)>,
    /// Put before every key, so that several clusters can share an etcd; empty as upstream's keys begin with
    /// `/registry` anyway.
    pub prefix: String,
    /// How long one request may take.
    pub timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How often history is compacted; `None` leaves that to others.
    pub compaction_interval: Option<Duration>,
    /// Bounds of watches.
    pub hub: hub::Limits,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            prefix: String::new(),
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            compaction_interval: Some(Duration::from_secs(300)),
            hub: hub::Limits::default(),
        }
    }
}

/// A store in an etcd. See the module's documentation.
pub struct Etcd {
    kv: KvClient,
    connector: Connector,
    leases: Leases,
    hub: Arc<Hub>,
    /// History before it is known to be gone.
    floor: AtomicU64,
    prefix: Arc<str>,
    timeout: Duration,
    closed: CancellationToken,
}

impl Etcd {
    /// Connects and checks by a read that etcd answers.
    pub async fn connect(options: EtcdOptions) -> Result<Self, Error> {
        let connector =
            Connector { endpoints: options.endpoints.as_slice().into(), options: connect_options(&options).await? };
        let client = connector.connect().await?;
        let kv = client.kv_client().max_decoding_message_size(LARGEST_MESSAGE);
        let store = Self {
            leases: Leases::new(client.lease_client(), options.timeout),
            // Set to the revision that the first read finds.
            hub: Arc::new(Hub::new(options.hub, 0)),
            kv,
            connector,
            floor: AtomicU64::new(0),
            prefix: options.prefix.as_str().into(),
            timeout: options.timeout,
            closed: CancellationToken::new(),
        };
        let Revision(revision) = store.current_revision().await?;
        store.hub.reset(revision);
        let watch = client.watch_client().max_decoding_message_size(LARGEST_MESSAGE);
        tokio::spawn(store.closed.clone().run_until_cancelled_owned(store.pump().run(watch, revision)));
        if let Some(interval) = options.compaction_interval {
            let compaction = compactor::run(store.kv.clone(), interval, options.timeout);
            tokio::spawn(store.closed.clone().run_until_cancelled_owned(compaction));
        }
        Ok(store)
    }

    fn pump(&self) -> pump::Pump {
        pump::Pump {
            connector: self.connector.clone(),
            hub: self.hub.clone(),
            prefix: self.prefix.clone(),
            timeout: self.timeout,
        }
    }

    fn full_key(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.closed.is_cancelled() { Err(Error::Closed) } else { Ok(()) }
    }

    /// A linearizable read, tried again while no endpoint answers.
    async fn read(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Error> {
        self.check_open()?;
        let mut tries = 0;
        loop {
            let mut kv = self.kv.clone();
            let result = tokio::time::timeout(self.timeout, kv.get(key.clone(), Some(options.clone()))).await;
            tries += 1;
            match result {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) if errors::is_transient(&error) && tries < TRIES => {}
                Ok(Err(error)) => return Err(unavailable(error)),
                Err(_) => return Err(timed_out(self.timeout)),
            }
            pause(tries).await;
        }
    }

    /// Sends a transaction; again only where it was certainly not received.
    async fn send(&self, txn: EtcdTxn) -> Result<etcd_client::TxnResponse, Error> {
        let mut tries = 0;
        loop {
            let mut kv = self.kv.clone();
            let result = tokio::time::timeout(self.timeout, kv.txn(txn.clone())).await;
            tries += 1;
            match result {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) if was_not_sent(&error) && tries < TRIES => {}
                Ok(Err(error)) => return Err(unavailable(error)),
                Err(_) => return Err(timed_out(self.timeout)),
            }
            pause(tries).await;
        }
    }

    /// What a read error means when a revision was asked for.
    async fn read_error(&self, error: Error, asked: Option<Revision>) -> Error {
        let (Error::Unavailable(text), Some(asked)) = (&error, asked) else { return error };
        if errors::is_compacted(text) {
            // etcd does not say what is left; the present is.
            let now = self.current_revision().await.unwrap_or(asked);
            return Error::Compacted { asked, oldest: now };
        }
        if errors::is_future(text) { Error::Future(asked) } else { error }
    }

    fn check_floor(&self, revision: Revision) -> Result<(), Error> {
        let floor = Revision(self.floor.load(Ordering::SeqCst));
        if revision < floor { Err(Error::Compacted { asked: revision, oldest: floor }) } else { Ok(()) }
    }
}

/// Makes connections.
#[derive(Clone)]
struct Connector {
    endpoints: Arc<[String]>,
    options: ConnectOptions,
}

impl Connector {
    async fn connect(&self) -> Result<Client, Error> {
        Client::connect(&*self.endpoints, Some(self.options.clone())).await.map_err(unavailable)
    }

    /// For a watch that may be read slowly: on a connection of its own, because what is not read of one stream holds
    /// up all streams of its connection.
    async fn watch_client(&self) -> Result<WatchClient, Error> {
        Ok(self.connect().await?.watch_client().max_decoding_message_size(LARGEST_MESSAGE))
    }
}

async fn connect_options(options: &EtcdOptions) -> Result<ConnectOptions, Error> {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(options.connect_timeout)
        .with_tcp_keepalive(Duration::from_secs(30))
        .with_keep_alive(Duration::from_secs(30), Duration::from_secs(10))
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some((user, password)) = &options.user {
        connect = connect.with_user(user, password);
    }
    let is_tls = options.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    if !is_tls {
        return Ok(connect);
    }
    let Some(ca) = &options.ca else {
        return Err(Error::Invalid("an https endpoint of etcd needs the file of its certificate authority".into()));
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read_file(ca).await?));
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            tls = tls.identity(Identity::from_pem(read_file(cert).await?, read_file(key).await?));
        }
        (None, None) => {}
        _ => return Err(Error::Invalid("etcd's client certificate and its key must be given together".into())),
    }
    Ok(connect.with_tls(tls))
}

async fn read_file(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    let path = path.to_path_buf();
    let shown = path.display().to_string();
    match tokio::task::spawn_blocking(move || std::fs::read(path)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(Error::Unavailable(format!("cannot read {shown}: {error}"))),
        Err(error) => Err(Error::Unavailable(format!("cannot read {shown}: {error}"))),
    }
}

fn timed_out(timeout: Duration) -> Error {
    Error::Unavailable(format!("etcd did not answer within {timeout:?}"))
}

/// Waits before another try, longer each time.
async fn pause(tries: u32) {
    tokio::time::sleep(Duration::from_millis(20 << tries.min(7))).await;
}

/// The end of the range of keys that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // etcd's way to say "to the end".
    vec![0]
}

/// Our record of etcd's; `None` for a key that is not ours.
fn record(kv: KeyValue, prefix: &str) -> Option<Record> {
    let (create_revision, mod_revision) = (revision(kv.create_revision()), revision(kv.mod_revision()));
    let (key, value) = kv.into_key_value();
    let key = String::from_utf8(key).ok()?.strip_prefix(prefix)?.to_string();
    Some(Record { key, value: Bytes::from(value), create_revision, mod_revision })
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// etcd counts in signed numbers.
fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for Etcd {
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.check_open()?;
        txn.check()?;
        let compares: Vec<Compare> = txn
            .conditions
            .iter()
            .map(|condition| {
                let key = self.full_key(&condition.key);
                Compare::mod_revision(key, CompareOp::Equal, signed(condition.mod_revision))
            })
            .collect();
        let mut ops = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            ops.push(match op {
                Op::Put { key, value, ttl_seconds } => {
                    let options = match ttl_seconds {
                        Some(ttl) => Some(PutOptions::new().with_lease(self.leases.lease_for(ttl).await?)),
                        None => None,
                    };
                    TxnOp::put(self.full_key(&key), value, options)
                }
                Op::Delete { key } => TxnOp::delete(self.full_key(&key), None),
            });
        }
        let reads: Vec<TxnOp> =
            txn.conditions.iter().map(|condition| TxnOp::get(self.full_key(&condition.key), None)).collect();
        let response = self.send(EtcdTxn::new().when(compares).and_then(ops).or_else(reads)).await?;
        if response.succeeded() {
            let header = response.header().map_or(0, |header| header.revision());
            return Ok(Outcome::Committed(revision(header)));
        }
        let found = response.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut response) => response.take_kvs().pop().and_then(|kv| record(kv, &self.prefix)),
            _ => None,
        });
        Ok(Outcome::Failed(found.collect()))
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, Error> {
        let mut response = self.read(self.full_key(key), GetOptions::new()).await?;
        Ok(response.take_kvs().pop().and_then(|kv| record(kv, &self.prefix)))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResult, Error> {
        if let Some(revision) = request.revision {
            self.check_floor(revision)?;
        }
        let end = prefix_end(&self.full_key(&request.prefix));
        let mut start = self.full_key(request.start.as_str().max(request.prefix.as_str()));
        let mut result = RangeResult { records: Vec::new(), revision: Revision(0), more: false, count: 0 };
        // An etcd without any write stands at revision 1, and 0 means "now" to it.
        let mut at = request.revision.map(|revision| revision.max(Revision(1)));
        if start >= end && end != [0] {
            start.clone_from(&end);
        }
        loop {
            let left = if request.limit == 0 { usize::MAX } else { request.limit - result.records.len() };
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(left.min(PAGE)).unwrap_or(i64::MAX))
                .with_revision(at.map_or(0, signed));
            let mut response = match self.read(start.clone(), options).await {
                Ok(response) => response,
                Err(error) => return Err(self.read_error(error, at.or(request.revision)).await),
            };
            if result.records.is_empty() {
                let now = revision(response.header().map_or(0, |header| header.revision()));
                result.revision = request.revision.unwrap_or(now);
                result.count = usize::try_from(response.count()).unwrap_or(0);
                at.get_or_insert(now);
            }
            let more = response.more();
            let kvs = response.take_kvs();
            if let Some(last) = kvs.last() {
                start = [last.key(), &[0]].concat();
            }
            let was_empty = kvs.is_empty();
            result.records.extend(kvs.into_iter().filter_map(|kv| record(kv, &self.prefix)));
            result.more = more;
            if !more || was_empty || (request.limit != 0 && result.records.len() >= request.limit) {
                return Ok(result);
            }
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.check_open()?;
        self.check_floor(from)?;
        if let Ok(subscription) = self.hub.subscribe(prefix, from.0, from.0) {
            return Ok(subscription.boxed());
        }
        Ok(self.pump().catch_up(prefix.to_string(), from.0))
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        let options = GetOptions::new().with_keys_only().with_limit(1);
        let response = self.read(self.full_key("/registry"), options).await?;
        Ok(revision(response.header().map_or(0, |header| header.revision())))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.check_open()?;
        let mut kv = self.kv.clone();
        match tokio::time::timeout(self.timeout, kv.compact(signed(revision), None)).await {
            Ok(Ok(_)) => {
                self.floor.fetch_max(revision.0, Ordering::SeqCst);
                Ok(())
            }
            Ok(Err(error)) => match unavailable(error) {
                Error::Unavailable(text) if errors::is_compacted(&text) => Ok(()),
                Error::Unavailable(text) if errors::is_future(&text) => Err(Error::Future(revision)),
                error => Err(error),
            },
            Err(_) => Err(timed_out(self.timeout)),
        }
    }

    async fn close(&self) {
        self.closed.cancel();
        self.hub.close(None);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.closed.cancel();
        self.hub.close(None);
    }
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[track_caller]
    fn check(prefix: &[u8], expected: &[u8]) {
        assert_eq!(prefix_end(prefix), expected);
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        check(b"/registry/", b"/registry0");
        check(b"a\xff", b"b");
        check(b"\xff\xff", b"\0");
        check(b"", b"\0");
    }
}
