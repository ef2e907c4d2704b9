//! When thresholds are met, for how long, and which conditions that makes (pure; the clock is an argument).
//!
//! Follows `synchronize` of upstream's `pkg/kubelet/eviction/eviction_manager.go` up to the choice of what to reclaim.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::thresholds::{Settings, Signal, Threshold};

/// How much there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// What can still be taken.
    pub available: i64,
    /// All of it.
    pub capacity: i64,
}

/// What was seen at a moment.
pub type Observations = BTreeMap<Signal, Observation>;

/// A condition of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Memory is short.
    Memory,
    /// A disk is full.
    Disk,
    /// There are too many processes.
    Pid,
}

impl Condition {
    /// Its type in the node's status.
    pub fn name(self) -> &'static str {
        match self {
            Condition::Memory => "MemoryPressure",
            Condition::Disk => "DiskPressure",
            Condition::Pid => "PIDPressure",
        }
    }

    fn of(signal: Signal) -> Condition {
        match signal {
            Signal::Memory | Signal::PodsMemory => Condition::Memory,
            Signal::NodeFs | Signal::NodeFsInodes | Signal::ImageFs | Signal::ImageFsInodes => Condition::Disk,
            Signal::Pids => Condition::Pid,
        }
    }
}

/// Which thresholds are met, by their places; with the amount on top that must be reclaimed, if asked for
/// (`thresholdsMet`). What was not observed is not met.
pub fn met(thresholds: &[Threshold], seen: &Observations, with_reclaim: bool) -> Vec<usize> {
    let is_met = |t: &Threshold| {
        let Some(observed) = seen.get(&t.signal) else { return false };
        let least = t.value.of(observed.capacity).value();
        let more = t.reclaim.filter(|_| with_reclaim).map_or(0, |r| r.of(observed.capacity).value());
        observed.available < least.saturating_add(more)
    };
    (0..thresholds.len()).filter(|i| is_met(&thresholds[*i])).collect()
}

/// What is remembered between looks.
#[derive(Debug, Default)]
pub struct State {
    /// Since when thresholds are met.
    since: BTreeMap<usize, Instant>,
    /// Those that something was done about last time.
    acted: Vec<usize>,
    /// When conditions were seen last.
    last: BTreeMap<Condition, Instant>,
    conditions: Vec<Condition>,
}

impl State {
    /// The conditions of the node after the last look.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Takes note of a look. Returns the thresholds that something is to be done about, the most urgent first.
    pub fn observe(&mut self, settings: &Settings, seen: &Observations, now: Instant) -> Vec<usize> {
        let all = &settings.thresholds;
        let mut now_met = met(all, seen, false);
        // What was met before is met until enough was reclaimed.
        for i in met(all, seen, true) {
            if self.acted.contains(&i) && !now_met.contains(&i) {
                now_met.push(i);
            }
        }
        self.since = now_met.iter().map(|i| (*i, self.since.get(i).copied().unwrap_or(now))).collect();
        for i in &now_met {
            self.last.insert(Condition::of(all[*i].signal), now);
        }
        let is_fresh = |at: &Instant| now.duration_since(*at) < settings.transition.max(Duration::from_nanos(1));
        self.last.retain(|_, at| is_fresh(at));
        self.conditions = self.last.keys().copied().collect();
        let lasted = |(i, at): (&usize, &Instant)| (now.duration_since(*at) >= all[*i].grace).then_some(*i);
        self.acted = self.since.iter().filter_map(lasted).collect();
        let mut urgent = self.acted.clone();
        urgent.sort_by_key(|i| !all[*i].signal.is_memory());
        urgent
    }
}

#[cfg(test)]
mod tests {
    use super::super::thresholds::thresholds;
    use super::*;

    fn settings(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Settings {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let thresholds = thresholds(&list(hard), &list(soft), &list(grace), &list(reclaim)).expect("thresholds");
        Settings { thresholds, transition: Duration::from_secs(300), most_grace: 0 }
    }

    fn seen(words: &str) -> Observations {
        let one = |word: &str| {
            let (name, available) = word.split_once('=').expect("NAME=NUMBER");
            let signal = match name {
                "memory" => Signal::Memory,
                "disk" => Signal::NodeFs,
                "images" => Signal::ImageFs,
                _ => Signal::Pids,
            };
            (signal, Observation { available: available.parse().expect("a number"), capacity: 1000 })
        };
        words.split_whitespace().map(one).collect()
    }

    /// Looks at given seconds; what is to be done and the conditions after each.
    fn check(settings: &Settings, looks: &[(u64, &str, &str)]) {
        let (start, mut state) = (Instant::now(), State::default());
        for (at, words, expected) in looks {
            let urgent = state.observe(settings, &seen(words), start + Duration::from_secs(*at));
            let urgent: Vec<&str> = urgent.into_iter().map(|i| settings.thresholds[i].signal.name()).collect();
            let conditions: Vec<&str> = state.conditions().iter().map(|c| c.name()).collect();
            assert_eq!(format!("{} | {}", urgent.join(" "), conditions.join(" ")), *expected, "at {at}: {words}");
        }
    }

    #[test]
    fn hard_thresholds_are_acted_on_at_once_and_conditions_stay_for_a_while() {
        let settings = settings("memory.available<100,nodefs.available<10%", "", "", "");
        check(
            &settings,
            &[
                (0, "memory=100 disk=100", " | "),
                (10, "memory=99 disk=100", "memory.available | MemoryPressure"),
                (20, "memory=99 disk=99", "memory.available nodefs.available | MemoryPressure DiskPressure"),
                (30, "memory=100 disk=100", " | MemoryPressure DiskPressure"),
                // Not observed is not met.
                (319, "", " | MemoryPressure DiskPressure"),
                (320, "", " | "),
            ],
        );
    }

    #[test]
    fn soft_thresholds_wait_for_their_grace() {
        let settings = settings("", "pid.available<10", "pid.available=30s", "");
        check(
            &settings,
            &[
                (0, "pids=5", " | PIDPressure"),
                (20, "pids=5", " | PIDPressure"),
                (30, "pids=5", "pid.available | PIDPressure"),
                // It was over in between: the wait begins anew.
                (40, "pids=50", " | PIDPressure"),
                (50, "pids=5", " | PIDPressure"),
                (79, "pids=5", " | PIDPressure"),
                (80, "pids=5", "pid.available | PIDPressure"),
            ],
        );
    }

    #[test]
    fn enough_must_be_reclaimed_before_it_is_over() {
        let settings = settings("imagefs.available<100", "", "", "imagefs.available=50");
        check(
            &settings,
            &[
                (0, "images=120", " | "),
                (10, "images=99", "imagefs.available | DiskPressure"),
                (20, "images=149", "imagefs.available | DiskPressure"),
                (30, "images=150", " | DiskPressure"),
                (40, "images=120", " | DiskPressure"),
            ],
        );
    }

    #[test]
    fn memory_comes_first() {
        let settings = settings("nodefs.available<100", "memory.available<50", "memory.available=0s", "");
        check(&settings, &[(0, "memory=1 disk=1", "memory.available nodefs.available | MemoryPressure DiskPressure")]);
    }
}
