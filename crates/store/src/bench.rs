//! Measures the embedded store beside its budget: `cargo bench -p orkd-store`, or [`run`] from another bench.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backends::embedded::{Embedded, Options};
use crate::{Condition, Error, Op, Outcome, Revision, Store, Txn};

/// One measured number and what it should be.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// How much.
    pub measured: f64,
    /// Unit of both numbers.
    pub unit: &'static str,
    /// The budget, where there is one.
    pub budget: Option<Budget>,
}

/// What a figure must keep to.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this.
    AtMost(f64),
}

impl Figure {
    /// Whether the budget, if any, is kept.
    pub fn is_kept(&self) -> bool {
        match self.budget {
            None => true,
            Some(Budget::AtLeast(limit)) => self.measured >= limit,
            Some(Budget::AtMost(limit)) => self.measured <= limit,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<58} {:>10.1} {:<14}", self.what, self.measured, self.unit)?;
        match self.budget {
            None => Ok(()),
            Some(Budget::AtLeast(limit)) => write!(f, "budget >= {limit}"),
            Some(Budget::AtMost(limit)) => write!(f, "budget <= {limit}"),
        }?;
        if self.is_kept() { Ok(()) } else { write!(f, "  MISSED") }
    }
}

const KEYS: u64 = 20_000;
const VALUE_BYTES: usize = 1024;

/// Measures in a new directory below `directory`, which should be on the disk that counts.
pub async fn run(directory: &Path, each: Duration) -> Result<Vec<Figure>, Error> {
    let directory = directory.join(format!("orkd-store-bench-{}", std::process::id()));
    let figures = measure(&directory, each).await;
    if let Err(error) = std::fs::remove_dir_all(&directory) {
        tracing::warn!(%error, directory = %directory.display(), "the bench leaves its directory behind");
    }
    figures
}

async fn measure(directory: &Path, each: Duration) -> Result<Vec<Figure>, Error> {
    let resident = resident_kib();
    let store = Arc::new(Embedded::open(directory, Options::default())?);
    for number in 0..2000 {
        update(&store, number, number).await?;
    }
    let mut figures = vec![Figure {
        what: "memory of a store of 2,000 records".to_string(),
        measured: (resident_kib() - resident) / 1024.0,
        unit: "MiB",
        budget: None,
    }];
    for (clients, rate_budget, syncs_budget) in [
        (1, None, Some(Budget::AtMost(2.0))),
        (16, None, None),
        (64, None, None),
        (256, Some(Budget::AtLeast(50_000.0)), None),
    ] {
        let (writes, seconds, syncs) = load(&store, clients, each).await?;
        let what = if clients == 1 { "1 client".to_string() } else { format!("{clients} clients") };
        figures.push(Figure {
            what: format!("durable writes of {VALUE_BYTES} bytes, {what}"),
            measured: writes as f64 / seconds,
            unit: "writes/s",
            budget: rate_budget,
        });
        figures.push(Figure {
            what: format!("fsyncs per write, {what}"),
            measured: syncs as f64 / writes.max(1) as f64,
            unit: "fsyncs/write",
            budget: syncs_budget,
        });
    }
    let (_, idle) = (store.syncs(), store.syncs());
    tokio::time::sleep(each).await;
    figures.push(Figure {
        what: "fsyncs while idle".to_string(),
        measured: (store.syncs() - idle) as f64 / each.as_secs_f64(),
        unit: "fsyncs/s",
        budget: Some(Budget::AtMost(1.0)),
    });
    store.close().await;
    let started = Instant::now();
    let store = Embedded::open(directory, Options::default())?;
    figures.push(Figure {
        what: "opening again".to_string(),
        measured: started.elapsed().as_secs_f64() * 1000.0,
        unit: "ms",
        budget: None,
    });
    store.close().await;
    let bytes: u64 = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum();
    figures.push(Figure {
        what: "files after that".to_string(),
        measured: bytes as f64 / f64::from(1 << 20),
        unit: "MiB",
        budget: None,
    });
    Ok(figures)
}

/// Resident memory of this process.
fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}

/// Conditional updates of random keys by so many clients at once.
async fn load(store: &Arc<Embedded>, clients: u64, each: Duration) -> Result<(u64, f64, u64), Error> {
    let written = Arc::new(AtomicU64::new(0));
    let (started, syncs) = (Instant::now(), store.syncs());
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (store, written) = (store.clone(), written.clone());
            tokio::spawn(async move {
                let mut random = client.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                while started.elapsed() < each {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // Each client has keys of its own, so that its condition can hold.
                    let number = (random >> 33) % (KEYS / clients).max(1) * clients + client;
                    update(&store, number, random).await?;
                    written.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| Error::Unavailable(error.to_string()))??;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok((written.load(Ordering::Relaxed), seconds, store.syncs() - syncs))
}

/// What an update of the API server is: a write on condition of the revision that was read.
async fn update(store: &Embedded, number: u64, random: u64) -> Result<(), Error> {
    let key = format!("/registry/pods/namespace-{}/pod-{number:06}", number % 100);
    let mod_revision = store.get(&key).await?.map_or(Revision(0), |record| record.mod_revision);
    let conditions = vec![Condition { key: key.clone(), mod_revision }];
    let ops = vec![Op::Put { key, value: value(random).into(), ttl_seconds: None }];
    match store.commit(Txn { conditions, ops }).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Failed(_) => Err(Error::Invalid("nobody else writes this key".to_string())),
    }
}

/// A value that compresses about as JSON does.
fn value(mut random: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES + 64);
    while value.len() < VALUE_BYTES {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        value.extend_from_slice(
            format!("{{\"name\":\"field-{:x}\",\"value\":\"{:x}\"}},", random >> 60, random).as_bytes(),
        );
    }
    value.truncate(VALUE_BYTES);
    value
}
