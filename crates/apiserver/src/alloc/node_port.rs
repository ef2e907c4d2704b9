//! Node ports: a bitmap in one record of the store (`pkg/registry/core/service/{portallocator,allocator}`).
//!
//! The record is upstream's `/registry/ranges/servicenodeports`, a `RangeAllocation` in JSON. A protobuf record of a
//! stock server is not read yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_api::status::Status;
use orkd_store::{Condition, Op, Outcome, Record, Revision, Store, Txn};
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::registry::store_error;

const KEY: &str = "/registry/ranges/servicenodeports";

/// How often a lost race is tried again.
const ATTEMPTS: usize = 64;

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        PortRange { first: 30000, last: 32767 }
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Why a port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Someone has it.
    #[error("provided port is already allocated")]
    Taken,
    /// Not one of ours.
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    OutOfRange(PortRange),
    /// All are taken.
    #[error("range is full")]
    Full,
}

/// Which ports are taken: the state a transaction works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    range: PortRange,
    taken: BTreeSet<u16>,
    /// Ports this dry run has handed out; `None` for a real one.
    dry: Option<Vec<u16>>,
}

impl Ports {
    /// Takes a port.
    pub fn take(&mut self, port: i64) -> Result<u16, Refusal> {
        let in_range = |p: &u16| (self.range.first..=self.range.last).contains(p);
        let port = u16::try_from(port).ok().filter(in_range).ok_or(Refusal::OutOfRange(self.range))?;
        if !self.taken.insert(port) {
            return Err(Refusal::Taken);
        }
        if let Some(dry) = &mut self.dry {
            dry.push(port);
        }
        Ok(port)
    }

    /// Takes any port: from the upper part of the range while there is one, so that ports which people choose by hand,
    /// mostly low ones, stay free. A dry run invents one.
    pub fn take_any(&mut self) -> Result<u16, Refusal> {
        if let Some(dry) = &mut self.dry {
            let port = dry.iter().max().map_or(32768, |p| *p).saturating_add(1);
            dry.push(port);
            return Ok(port);
        }
        let size = u32::from(self.range.last - self.range.first) + 1;
        let reserved = (size / 32).clamp(16, 128).min(size);
        let upper = (reserved..size, size - reserved);
        let lower = (0..reserved, reserved);
        for (band, len) in [upper, lower] {
            if len == 0 {
                continue;
            }
            let start = rand::rng().random_range(0..len);
            for i in 0..len {
                let offset = band.start + (start + i) % len;
                let port = self.range.first + offset as u16;
                if self.taken.insert(port) {
                    return Ok(port);
                }
            }
        }
        Err(Refusal::Full)
    }

    /// Gives a port back.
    pub fn give_back(&mut self, port: i64) {
        if let Ok(port) = u16::try_from(port) {
            self.taken.remove(&port);
        }
    }

    /// The ports that are taken.
    pub fn taken(&self) -> &BTreeSet<u16> {
        &self.taken
    }

    fn encode(&self) -> Value {
        let size = usize::from(self.range.last - self.range.first) + 1;
        // A big-endian number whose bit N is port FIRST+N.
        let mut bytes = vec![0u8; size.div_ceil(8)];
        let len = bytes.len();
        for port in &self.taken {
            let offset = usize::from(port - self.range.first);
            bytes[len - 1 - offset / 8] |= 1 << (offset % 8);
        }
        let significant: Vec<u8> = bytes.into_iter().skip_while(|b| *b == 0).collect();
        json!({
            "kind": "RangeAllocation", "apiVersion": "v1", "metadata": { "creationTimestamp": null },
            "range": self.range.to_string(), "data": STANDARD.encode(significant),
        })
    }

    /// Reads a record. Of another range what lies in this one is kept: the range may be reconfigured.
    fn decode(range: PortRange, value: &[u8]) -> Result<Self, Status> {
        let unreadable = || Status::internal("the record of node ports cannot be read");
        let value: Value = serde_json::from_slice(value).map_err(|_| unreadable())?;
        let first = value["range"].as_str().and_then(|r| r.split('-').next()?.parse::<u32>().ok());
        let first = first.ok_or_else(unreadable)?;
        let data = STANDARD.decode(value["data"].as_str().unwrap_or_default()).map_err(|_| unreadable())?;
        let bits = data.iter().rev().enumerate().flat_map(|(i, byte)| {
            (0..8u32).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| i as u32 * 8 + bit)
        });
        let ports = bits.filter_map(|offset| u16::try_from(first.checked_add(offset)?).ok());
        let taken = ports.filter(|p| (range.first..=range.last).contains(p)).collect();
        Ok(Ports { range, taken, dry: None })
    }
}

/// Hands out node ports. Cheap to clone.
#[derive(Clone)]
pub struct NodePorts {
    store: Arc<dyn Store>,
    range: PortRange,
    /// What this server knows of the record; held while a transaction is under way, so that requests of one server do
    /// not race each other.
    known: Arc<Mutex<Option<(Ports, Revision)>>>,
}

impl NodePorts {
    /// Keeps its record in `store`.
    pub fn new(store: Arc<dyn Store>, range: PortRange) -> Self {
        NodePorts { store, range, known: Arc::default() }
    }

    /// The range.
    pub fn range(&self) -> PortRange {
        self.range
    }

    /// Changes what is taken, all or nothing: `change` runs on the ports as they stand, again when another server was
    /// faster. With `dry_run` nothing is kept.
    pub async fn transact<T, E: From<Status>>(
        &self,
        dry_run: bool,
        change: impl Fn(&mut Ports) -> Result<T, E> + Send + Sync,
    ) -> Result<T, E> {
        let mut known = self.known.lock().await;
        for _ in 0..ATTEMPTS {
            let (mut ports, revision) = match known.clone() {
                Some(state) => state,
                None => self.read().await?,
            };
            if dry_run {
                ports.dry = Some(Vec::new());
                return change(&mut ports);
            }
            let before = ports.taken.clone();
            let result = match change(&mut ports) {
                Ok(result) => result,
                Err(e) if known.is_none() => return Err(e),
                Err(_) => {
                    // The refusal may rest on what was known from before.
                    *known = None;
                    continue;
                }
            };
            if ports.taken == before {
                return Ok(result);
            }
            let value = ports.encode().to_string().into_bytes().into();
            let txn = Txn {
                conditions: vec![Condition { key: KEY.into(), mod_revision: revision }],
                ops: vec![Op::Put { key: KEY.into(), value, ttl_seconds: None }],
            };
            // Until the answer is known nothing is known.
            *known = None;
            match self.store.commit(txn).await.map_err(|e| store_error(&e))? {
                Outcome::Committed(revision) => {
                    *known = Some((ports, revision));
                    return Ok(result);
                }
                Outcome::Failed(_) => {}
            }
        }
        Err(E::from(Status::server_timeout("node ports are changed too quickly by others", 1)))
    }

    async fn read(&self) -> Result<(Ports, Revision), Status> {
        let record: Option<Record> = self.store.get(KEY).await.map_err(|e| store_error(&e))?;
        match record {
            None => Ok((Ports { range: self.range, taken: BTreeSet::new(), dry: None }, Revision(0))),
            Some(record) => Ok((Ports::decode(self.range, &record.value)?, record.mod_revision)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(range: PortRange) -> Ports {
        Ports { range, taken: BTreeSet::new(), dry: None }
    }

    #[test]
    fn ports_are_taken_once_and_only_in_range() {
        let mut ports = empty(PortRange::default());
        assert_eq!(ports.take(30080), Ok(30080));
        assert_eq!(ports.take(30080), Err(Refusal::Taken));
        let text = "provided port is not in the valid range. The range of valid ports is 30000-32767";
        for bad in [80, 32768, -1, 100_000] {
            assert_eq!(ports.take(bad).expect_err("bad").to_string(), text);
        }
        let any = ports.take_any().expect("one is free");
        assert!(any >= 30086, "{any}");
        let mut small = empty(PortRange { first: 10, last: 29 });
        let all: BTreeSet<u16> = (0..20).map(|_| small.take_any().expect("free")).collect();
        assert_eq!(all.len(), 20);
        assert_eq!(small.take_any(), Err(Refusal::Full));
        small.give_back(12);
        assert_eq!(small.take_any(), Ok(12));
    }

    #[test]
    fn the_record_survives_text_and_a_new_range() {
        let mut ports = empty(PortRange::default());
        for port in [30000, 30007, 30008, 32767] {
            ports.take(port).expect("free");
        }
        let bytes = ports.encode().to_string();
        assert_eq!(Ports::decode(PortRange::default(), bytes.as_bytes()).expect("read"), ports);
        let other = Ports::decode(PortRange { first: 30005, last: 31000 }, bytes.as_bytes()).expect("read");
        assert_eq!(other.taken.into_iter().collect::<Vec<_>>(), [30007, 30008]);
        assert!(Ports::decode(PortRange::default(), b"x").is_err());
    }

    #[test]
    fn dry_runs_invent_ports_as_upstream_does() {
        let mut ports = Ports { dry: Some(Vec::new()), ..empty(PortRange::default()) };
        assert_eq!([ports.take_any(), ports.take_any(), ports.take_any()], [Ok(32769), Ok(32770), Ok(32771)]);
        assert!(ports.taken.is_empty());
    }
}
