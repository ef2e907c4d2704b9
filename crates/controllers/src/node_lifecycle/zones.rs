//! How fast nodes of a zone may be given up.
//!
//! Follows `nodelifecycle` (`ComputeZoneState`, `handleDisruption`): one node in ten seconds while a zone is well; where
//! more than half of a zone is not ready, one in a hundred seconds if it is large and none if it is small; a zone that is
//! down as a whole is given up at the usual rate, as long as another is well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::views::Node;

/// From which share of nodes that are not ready a zone is not well.
const UNHEALTHY: f64 = 0.55;
/// Above how many nodes a zone is large.
const LARGE: usize = 50;
/// Seconds between two nodes of a zone that is well, and of a large one that is not.
const RATES: (i64, i64) = (10, 100);

/// How a zone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

/// When each zone may give up its next node.
#[derive(Default)]
pub struct Zones(HashMap<String, Timestamp>);

fn zone(node: &Node) -> String {
    let label = |key| node.metadata.label(key).unwrap_or("");
    format!("{}:\x00:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

fn state(ready: usize, not_ready: usize) -> State {
    let all = ready + not_ready;
    if ready == 0 && not_ready > 0 {
        State::Full
    } else if not_ready > 2 && not_ready as f64 / all as f64 >= UNHEALTHY {
        State::Partial
    } else {
        State::Normal
    }
}

impl Zones {
    /// Takes the right to give up a node, or says when to ask again.
    pub fn take(&mut self, nodes: &[Arc<Node>], node: &Node, now: Timestamp) -> Result<(), Duration> {
        let zone_of_node = zone(node);
        let in_zone = || nodes.iter().filter(|n| zone(n) == zone_of_node);
        let ready = in_zone().filter(|n| super::ready(n) == "True").count();
        let all = in_zone().count();
        let every = match state(ready, all - ready) {
            State::Normal | State::Full => RATES.0,
            State::Partial if all > LARGE => RATES.1,
            // Asked again when the zone may be another.
            State::Partial => return Err(Duration::from_secs(RATES.0.unsigned_abs())),
        };
        if let Some(next) = self.0.get(&zone_of_node).filter(|next| **next > now) {
            return Err(Duration::from_secs((next.as_second() - now.as_second()).max(1).unsigned_abs()));
        }
        if let Ok(next) = Timestamp::from_second(now.as_second() + every) {
            self.0.retain(|_, next| *next > now);
            self.0.insert(zone_of_node, next);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nodes(zone: &str, ready: usize, not_ready: usize) -> Vec<Arc<Node>> {
        let node = |n: usize| {
            let status = if n < ready { "True" } else { "Unknown" };
            let json = json!({"metadata": {"name": format!("{zone}-{n}"),
                "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": status}]}});
            Arc::new(serde_json::from_value(json).expect("a node"))
        };
        (0..ready + not_ready).map(node).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn check(ready: usize, not_ready: usize, then: i64, expected: [bool; 2]) {
        let mut all = nodes("a", ready, not_ready);
        all.extend(nodes("b", 3, 0));
        let (mut zones, last) = (Zones::default(), all[ready + not_ready - 1].clone());
        let mut take = |now| zones.take(&all, &last, at(now)).is_ok();
        assert_eq!([take(0), take(then)], expected, "{ready} ready, {not_ready} not");
    }

    #[test]
    fn a_zone_that_is_not_well_gives_up_less() {
        check(9, 1, 5, [true, false]);
        check(9, 1, 10, [true, true]);
        check(4, 6, 1000, [false, false]);
        check(40, 60, 50, [true, false]);
        check(40, 60, 100, [true, true]);
        check(0, 5, 10, [true, true]);
        check(1, 2, 10, [true, true]);
    }

    #[test]
    fn zones_do_not_wait_for_each_other() {
        let mut all = nodes("a", 5, 1);
        all.extend(nodes("b", 5, 1));
        let mut zones = Zones::default();
        assert!(zones.take(&all, &all[5], at(0)).is_ok());
        assert!(zones.take(&all, &all[11], at(0)).is_ok());
        assert_eq!(zones.take(&all, &all[5], at(4)), Err(Duration::from_secs(6)));
    }
}
