//! What the operator says about eviction: thresholds as they are written on the command line (pure).
//!
//! Follows `ParseThresholdConfig` of upstream's `pkg/kubelet/eviction/helpers.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use orkd_api::quantity::Quantity;
use orkd_api::time::parse_duration;

/// The hard thresholds of a node that is told none (`DefaultEvictionHard`).
pub const DEFAULT_HARD: [&str; 5] = [
    "memory.available<100Mi",
    "nodefs.available<10%",
    "nodefs.inodesFree<5%",
    "imagefs.available<15%",
    "imagefs.inodesFree<5%",
];

/// Of the file system of containers' layers, which is that of the images: it follows what is said of that.
const FOLLOWING: [&str; 2] = ["containerfs.available", "containerfs.inodesFree"];

/// What is watched. Memory comes first: when it is short, nothing else works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory of the machine.
    Memory,
    /// Memory that is meant for pods.
    PodsMemory,
    /// Bytes where the kubelet's folder is.
    NodeFs,
    /// Files there.
    NodeFsInodes,
    /// Bytes where images are.
    ImageFs,
    /// Files there.
    ImageFsInodes,
    /// Processes.
    Pids,
}

impl Signal {
    const ALL: [Signal; 7] = [
        Signal::Memory,
        Signal::PodsMemory,
        Signal::NodeFs,
        Signal::NodeFsInodes,
        Signal::ImageFs,
        Signal::ImageFsInodes,
        Signal::Pids,
    ];

    /// Its name in thresholds and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Memory => "memory.available",
            Signal::PodsMemory => "allocatableMemory.available",
            Signal::NodeFs => "nodefs.available",
            Signal::NodeFsInodes => "nodefs.inodesFree",
            Signal::ImageFs => "imagefs.available",
            Signal::ImageFsInodes => "imagefs.inodesFree",
            Signal::Pids => "pid.available",
        }
    }

    /// What is short, in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory | Signal::PodsMemory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes | Signal::ImageFsInodes => "inodes",
            Signal::Pids => "pids",
        }
    }

    /// Whether it is memory.
    pub fn is_memory(self) -> bool {
        self.resource() == "memory"
    }

    /// An amount of it, as messages show it.
    pub fn amount(self, number: i64) -> Quantity {
        match self.resource() {
            "inodes" | "pids" => Quantity::from_int(number),
            _ => Quantity::from_bytes(number),
        }
    }

    fn parse(name: &str) -> Result<Signal, String> {
        let found = Signal::ALL.into_iter().find(|s| s.name() == name);
        found.ok_or_else(|| format!("unsupported eviction signal {name}"))
    }
}

/// An amount, as a number or as a share of all there is.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// A number.
    Amount(Quantity),
    /// A share, from 0 to 1.
    Share(f32),
}

impl Value {
    /// How much that is of a capacity (`GetThresholdQuantity`).
    pub fn of(self, capacity: i64) -> Quantity {
        match self {
            Value::Amount(amount) => amount,
            Value::Share(share) => Quantity::from_bytes((capacity as f64 * f64::from(share)) as i64),
        }
    }

    fn parse(text: &str) -> Result<Value, String> {
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().map(Value::Amount).map_err(|e| format!("{text:?}: {e}"));
        };
        let percent = percent.parse::<f32>().ok().filter(|p| p.is_finite());
        percent.map(|p| Value::Share(p / 100.0)).ok_or_else(|| format!("{text:?} is no percentage"))
    }
}

/// A point from which on something is done.
#[derive(Debug, Clone, Copy)]
pub struct Threshold {
    /// What is watched.
    pub signal: Signal,
    /// The least that must be available.
    pub value: Value,
    /// For how long less is borne; zero for a hard threshold.
    pub grace: Duration,
    /// How much more than the least must be available for it to be over.
    pub reclaim: Option<Value>,
}

impl Threshold {
    /// Whether pods go at once, and without their grace period.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// How a node defends itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Thresholds.
    pub thresholds: Vec<Threshold>,
    /// For how long a condition stays after it was seen last.
    pub transition: Duration,
    /// The longest grace period of pods at soft thresholds, in seconds; 0 for their own.
    pub most_grace: i64,
}

impl Default for Settings {
    fn default() -> Self {
        let thresholds = thresholds(&DEFAULT_HARD.map(str::to_owned), &[], &[], &[]).unwrap_or_default();
        Settings { thresholds, transition: Duration::from_secs(300), most_grace: 0 }
    }
}

impl Settings {
    /// How much of a capacity hard thresholds keep away from pods (`hardEvictionReservation`).
    pub fn reserved(&self, signal: Signal, capacity: u64) -> u64 {
        let found = self.thresholds.iter().find(|t| t.signal == signal && t.is_hard());
        let capacity = i64::try_from(capacity).unwrap_or(i64::MAX);
        found.map_or(0, |t| t.value.of(capacity).value().clamp(0, capacity).unsigned_abs())
    }
}

/// Reads thresholds: `hard` and `soft` as `SIGNAL<AMOUNT`, `graces` of the soft ones as `SIGNAL=DURATION`, `reclaims` as
/// `SIGNAL=AMOUNT`. Empty texts are left out: with one, a list can be said to be empty.
///
/// # Errors
/// What is wrong with a text; a soft threshold has no grace period.
pub fn thresholds(
    hard: &[String],
    soft: &[String],
    graces: &[String],
    reclaims: &[String],
) -> Result<Vec<Threshold>, String> {
    let mut all = statements(hard)?;
    let graces = pairs(graces, '=', |text| {
        let nanos = u64::try_from(parse_duration(text)?)
            .map_err(|_| format!("invalid eviction grace period specified: {text}, must be a positive value"))?;
        Ok(Duration::from_nanos(nanos))
    })?;
    let reclaims = pairs(reclaims, '=', |text| match Value::parse(text)? {
        Value::Amount(q) if q.sign() < 0 => Err(format!("negative eviction minimum reclaim specified: {text}")),
        Value::Share(share) if share <= 0.0 => Err(format!("percentage minimum reclaim must be positive: {text}")),
        value => Ok(value),
    })?;
    for mut threshold in statements(soft)? {
        let name = threshold.signal.name();
        let missing = || format!("grace period must be specified for the soft eviction threshold {name}");
        threshold.grace = *graces.get(name).ok_or_else(missing)?;
        all.push(threshold);
    }
    for threshold in &mut all {
        threshold.reclaim = reclaims.get(threshold.signal.name()).copied();
    }
    // What holds for the machine's memory holds for that of its pods.
    let memory = all.iter().find(|t| t.signal == Signal::Memory && t.is_hard()).copied();
    all.extend(memory.map(|t| Threshold { signal: Signal::PodsMemory, ..t }));
    Ok(all)
}

/// Reads `SIGNAL<AMOUNT` texts (`parseThresholdStatements`).
fn statements(texts: &[String]) -> Result<Vec<Threshold>, String> {
    let said = pairs(texts, '<', |text| match Value::parse(text)? {
        Value::Amount(q) if q.sign() <= 0 => Err(format!("eviction threshold must be positive: {text}")),
        Value::Share(share) if share < 0.0 => Err(format!("eviction percentage threshold must be >= 0%: {text}")),
        Value::Share(share) if share > 1.0 => Err(format!("eviction percentage threshold must be <= 100%: {text}")),
        // Never met, or always: no thresholds.
        Value::Share(0.0 | 1.0) => Ok(None),
        value => Ok(Some(value)),
    })?;
    let mut all = Vec::new();
    for (name, value) in said {
        let signal = Signal::parse(&name)?;
        all.extend(value.map(|value| Threshold { signal, value, grace: Duration::ZERO, reclaim: None }));
    }
    all.sort_by_key(|t| t.signal);
    Ok(all)
}

/// Reads texts of a signal, a sign and something else. Of several for a signal the last counts.
fn pairs<T>(
    texts: &[String],
    sign: char,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeMap<String, T>, String> {
    let mut all = BTreeMap::new();
    for text in texts.iter().filter(|t| !t.trim().is_empty()) {
        let (name, value) = text.split_once(sign).ok_or_else(|| format!("{text}: expected SIGNAL{sign}VALUE"))?;
        let (name, value) = (name.trim(), value.trim());
        let parsed = parse(value).map_err(|why| format!("{name}: {why}"))?;
        if FOLLOWING.contains(&name) {
            continue;
        }
        Signal::parse(name)?;
        all.insert(name.to_owned(), parsed);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(thresholds: &[Threshold]) -> String {
        let one = |t: &Threshold| {
            let grace = if t.is_hard() { String::new() } else { format!(" for {:?}", t.grace) };
            let reclaim = t.reclaim.map_or(String::new(), |r| format!(" +{}", r.of(1000)));
            format!("{}<{}{grace}{reclaim}", t.signal.name(), t.value.of(1000))
        };
        thresholds.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn check(said: [&str; 4], expected: &str) {
        let lists = said.map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>());
        let got = match thresholds(&lists[0], &lists[1], &lists[2], &lists[3]) {
            Ok(all) => told(&all),
            Err(why) => why,
        };
        assert_eq!(got, expected, "{said:?}");
    }

    #[test]
    fn thresholds_are_read_as_upstream_reads_them() {
        check(["", "", "", ""], "");
        check(["nodefs.available<100", "", "", ""], "nodefs.available<100");
        let hard_and_soft = "memory.available<1Gi, memory.available<2Gi for 90s +1Ki, allocatableMemory.available<1Gi";
        check(
            ["memory.available<1Gi", "memory.available<2Gi", "memory.available=1m30s", "memory.available=1Ki"],
            &hard_and_soft.replace("<1Gi", "<1Gi +1Ki"),
        );
        check(["pid.available<10%,imagefs.inodesFree<5%", "", "", ""], "imagefs.inodesFree<50, pid.available<100");
        // Shares that are never or always met are none; the file system of containers follows that of images.
        check(["nodefs.available<0%,imagefs.available<100%,containerfs.available<5%", "", "", ""], "");
        check(["disk<1", "", "", ""], "unsupported eviction signal disk");
        check(["memory.available=1", "", "", ""], "memory.available=1: expected SIGNAL<VALUE");
        check(["memory.available<0", "", "", ""], "memory.available: eviction threshold must be positive: 0");
        check(
            ["memory.available<101%", "", "", ""],
            "memory.available: eviction percentage threshold must be <= 100%: 101%",
        );
        check(
            ["", "memory.available<1Gi", "", ""],
            "grace period must be specified for the soft eviction threshold memory.available",
        );
        check(["memory.available<x", "", "", ""], &{
            let why = "x".parse::<Quantity>().expect_err("no quantity");
            format!("memory.available: \"x\": {why}")
        });
        check(["memory.available<x%", "", "", ""], "memory.available: \"x%\" is no percentage");
    }

    #[test]
    fn what_is_kept_from_pods_is_what_hard_thresholds_say() {
        let defaults = Settings::default();
        assert_eq!(defaults.thresholds.len(), 6, "five and the memory of pods");
        assert_eq!(defaults.reserved(Signal::Memory, 1 << 30), 100 << 20);
        assert_eq!(defaults.reserved(Signal::Memory, 1 << 20), 1 << 20, "never more than there is");
        assert_eq!(defaults.reserved(Signal::NodeFs, 1000), 100);
        let soft = thresholds(&[], &["memory.available<1Gi".into()], &["memory.available=1m".into()], &[]);
        let soft = Settings { thresholds: soft.expect("read"), ..Settings::default() };
        assert_eq!(soft.reserved(Signal::Memory, 1 << 40), 0);
    }
}
