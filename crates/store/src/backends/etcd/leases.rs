//! Leases for records with a life time, shared by those that are written at about the same time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use etcd_client::LeaseClient;
use tokio::sync::Mutex;

use super::errors::unavailable;
use super::timed_out;
use crate::Error;

/// So many records share a lease at most (upstream's default), so that none is dear to expire.
const RECORDS_PER_LEASE: u32 = 1000;

/// The lease in use for each life time.
pub(super) struct Leases {
    client: LeaseClient,
    timeout: Duration,
    current: Mutex<HashMap<u64, Lease>>,
}

struct Lease {
    id: i64,
    usable_until: Instant,
    uses: u32,
}

/// For how long a lease is shared: a twentieth of the life time, at most a minute. The lease lives that much longer,
/// so that no record dies early.
fn shared_seconds(ttl_seconds: u64) -> u64 {
    (ttl_seconds / 20).min(60)
}

impl Leases {
    pub fn new(client: LeaseClient, timeout: Duration) -> Self {
        Self { client, timeout, current: Mutex::default() }
    }

    /// A lease under which a record lives at least so long.
    pub async fn lease_for(&self, ttl_seconds: u64) -> Result<i64, Error> {
        let ttl_seconds = ttl_seconds.max(1);
        // Held over the request: whoever comes meanwhile wants the same lease.
        let mut current = self.current.lock().await;
        let now = Instant::now();
        if let Some(lease) = current.get_mut(&ttl_seconds)
            && now < lease.usable_until
            && lease.uses < RECORDS_PER_LEASE
        {
            lease.uses += 1;
            return Ok(lease.id);
        }
        current.retain(|_, lease| now < lease.usable_until);
        let shared = shared_seconds(ttl_seconds);
        let ttl = i64::try_from(ttl_seconds.saturating_add(shared)).unwrap_or(i64::MAX);
        let mut client = self.client.clone();
        let granted = match tokio::time::timeout(self.timeout, client.grant(ttl, None)).await {
            Ok(granted) => granted.map_err(unavailable)?,
            Err(_) => return Err(timed_out(self.timeout)),
        };
        let usable_until = now + Duration::from_secs(shared);
        current.insert(ttl_seconds, Lease { id: granted.id(), usable_until, uses: 1 });
        Ok(granted.id())
    }
}

#[cfg(test)]
mod tests {
    use super::shared_seconds;

    #[test]
    fn leases_are_shared_for_a_twentieth_and_at_most_a_minute() {
        assert_eq!([1, 19, 20, 600, 1200, 3600].map(shared_seconds), [0, 0, 1, 30, 60, 60]);
    }
}
