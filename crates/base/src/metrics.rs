//! A lean registry of metrics in the Prometheus text form (`k8s.io/component-base/metrics/legacyregistry`).
//!
//! A metric is a `static` [`Family`]; it joins the registry when it is first used. Cells are atomics, looked up by
//! the values of their labels; whoever counts often keeps the `Arc` of his cell. What has no value of its own until
//! it is asked for (the process, stores) is written by whoever renders.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

/// Series of one family; more are counted nowhere, so that no client makes the registry grow for ever.
const MAX_SERIES: usize = 10_000;

/// One value, or one set of values, of a family.
pub trait Cell: Send + Sync + 'static {
    /// `counter`, `gauge` or `histogram`.
    const TYPE: &'static str;
    /// A cell at zero. `bounds` are those of the family.
    fn make(bounds: &'static [f64]) -> Self;
    /// Writes the lines of a series. `labels` are written already, without braces.
    fn write(&self, out: &mut String, name: &str, labels: &str);
}

/// Counts up.
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Some more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Cell for Counter {
    const TYPE: &'static str = "counter";

    fn make(_: &'static [f64]) -> Self {
        Counter(AtomicU64::new(0))
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, &self.get().to_string());
    }
}

/// A value that goes up and down.
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Changes it.
    pub fn add(&self, delta: f64) {
        add(&self.0, delta);
    }

    /// What it is.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

fn add(bits: &AtomicU64, delta: f64) {
    // The function always returns a value, so this cannot fail.
    let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |b| Some((f64::from_bits(b) + delta).to_bits()));
}

impl Cell for Gauge {
    const TYPE: &'static str = "gauge";

    fn make(_: &'static [f64]) -> Self {
        Gauge(AtomicU64::new(0))
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, &float(self.get()));
    }
}

/// Counts observations in buckets.
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Counts an observation.
    pub fn observe(&self, value: f64) {
        self.observe_many(value, 1);
    }

    /// Counts the same observation so many times.
    pub fn observe_many(&self, value: f64, times: u64) {
        let at = self.bounds.iter().position(|b| value <= *b).unwrap_or(self.bounds.len());
        self.buckets[at].fetch_add(times, Ordering::Relaxed);
        add(&self.sum, value * times as f64);
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum()
    }
}

impl Cell for Histogram {
    const TYPE: &'static str = "histogram";

    fn make(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0) }
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (i, bucket) in self.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let bound = self.bounds.get(i).map_or_else(|| "+Inf".to_owned(), |b| float(*b));
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        sample(out, &format!("{name}_sum"), labels, &float(f64::from_bits(self.sum.load(Ordering::Relaxed))));
        sample(out, &format!("{name}_count"), labels, &total.to_string());
    }
}

fn sample(out: &mut String, name: &str, labels: &str, value: &str) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

/// A number as Go's encoder of the format writes it.
fn float(value: f64) -> String {
    if value != 0.0 && (value.abs() >= 1e6 || value.abs() < 1e-4) && value.is_finite() {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    match value {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        v => v.to_string(),
    }
}

struct Series<C> {
    values: Box<[Box<str>]>,
    cell: Arc<C>,
}

/// A metric with its label names: one series for each combination of values seen.
pub struct Family<C: Cell> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    series: RwLock<BTreeMap<u64, Vec<Series<C>>>>,
    registered: AtomicBool,
}

trait Collect: Sync {
    fn collect(&self, out: &mut String);
}

static ALL: Mutex<BTreeMap<&'static str, &'static dyn Collect>> = Mutex::new(BTreeMap::new());

type Update = Box<dyn Fn() -> bool + Send>;

static UPDATES: Mutex<Vec<Update>> = Mutex::new(Vec::new());

/// Has something called each time before values are shown: it sets gauges that grow by themselves. It is forgotten when it
/// returns false, and must not ask for values to be shown.
pub fn before_render(update: impl Fn() -> bool + Send + 'static) {
    UPDATES.lock().push(Box::new(update));
}

/// Every family that was used, in the order of names.
pub fn render(out: &mut String) {
    UPDATES.lock().retain(|update| update());
    let all: Vec<&'static dyn Collect> = ALL.lock().values().copied().collect();
    for family in all {
        family.collect(out);
    }
}

/// Writes the head of a metric, for values that are known only when they are asked for. `kind` is `gauge` or `counter`.
pub fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Writes one value of such a metric; labels in the order they are to appear.
pub fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    sample(out, name, &joined(labels), &float(value));
}

/// The same for a value that was measured at a time, in milliseconds since 1970.
pub fn line_at(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64, millis: i64) {
    sample(out, name, &joined(labels), &format!("{} {millis}", float(value)));
}

fn joined(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        label(&mut text, name, value);
    }
    text
}

fn label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn hash(values: &[&str]) -> u64 {
    // FNV-1a: short texts, no attacker (the number of series is bounded).
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for value in values {
        for byte in value.bytes().chain([0xff]) {
            h = (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    h
}

impl<C: Cell> Family<C> {
    const fn make(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        Family { name, help, labels, bounds, series: RwLock::new(BTreeMap::new()), registered: AtomicBool::new(false) }
    }

    /// The cell of label values, in the order of the names.
    pub fn with(&'static self, values: &[&str]) -> Arc<C> {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let key = hash(values);
        let same = |s: &&Series<C>| s.values.iter().map(|v| &**v).eq(values.iter().copied());
        if let Some(found) = self.series.read().get(&key).and_then(|all| all.iter().find(same)) {
            return Arc::clone(&found.cell);
        }
        if !self.registered.swap(true, Ordering::AcqRel) {
            ALL.lock().insert(self.name, self);
        }
        let mut series = self.series.write();
        if let Some(found) = series.get(&key).and_then(|all| all.iter().find(same)) {
            return Arc::clone(&found.cell);
        }
        let cell = Arc::new(C::make(self.bounds));
        if series.len() < MAX_SERIES {
            let values = values.iter().map(|v| Box::from(*v)).collect();
            series.entry(key).or_default().push(Series { values, cell: Arc::clone(&cell) });
        }
        cell
    }

    /// Forgets every series of which a label has a value.
    pub fn forget(&'static self, name: &str, value: &str) {
        let Some(at) = self.labels.iter().position(|l| *l == name) else { return };
        let mut series = self.series.write();
        for all in series.values_mut() {
            all.retain(|s| &*s.values[at] != value);
        }
        series.retain(|_, all| !all.is_empty());
    }
}

impl Family<Counter> {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Family::make(name, help, labels, &[])
    }
}

impl Family<Gauge> {
    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Family::make(name, help, labels, &[])
    }
}

impl Family<Histogram> {
    /// A histogram with the upper bounds of its buckets.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        Family::make(name, help, labels, bounds)
    }
}

impl<C: Cell> Collect for Family<C> {
    fn collect(&self, out: &mut String) {
        head(out, self.name, self.help, C::TYPE);
        let series = self.series.read();
        let mut sorted: Vec<&Series<C>> = series.values().flatten().collect();
        sorted.sort_by(|a, b| a.values.cmp(&b.values));
        for one in sorted {
            let mut labels = String::new();
            for (name, value) in self.labels.iter().zip(&one.values) {
                label(&mut labels, name, value);
            }
            one.cell.write(out, self.name, &labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNT: Family<Counter> = Family::counter("test_total", "[ALPHA] Things.", &["a", "b"]);
    static TIME: Family<Histogram> = Family::histogram("test_seconds", "[ALPHA] Time.", &[], &[0.5, 1.0, 1e6]);
    static LEVEL: Family<Gauge> = Family::gauge("test_level", "[ALPHA] Level.", &["x"]);

    #[test]
    fn families_are_written_in_the_text_form() {
        COUNT.with(&["1", "\"quoted\"\n"]).inc();
        COUNT.with(&["1", "\"quoted\"\n"]).add(2);
        COUNT.with(&["0", ""]).inc();
        for value in [0.25, 0.75, 5.0] {
            TIME.with(&[]).observe(value);
        }
        LEVEL.with(&["gone"]).set(1.0);
        LEVEL.with(&["kept"]).add(2.5);
        LEVEL.forget("x", "gone");
        let mut out = String::new();
        render(&mut out);
        let expected = "# HELP test_level [ALPHA] Level.\n# TYPE test_level gauge\ntest_level{x=\"kept\"} 2.5\n\
            # HELP test_seconds [ALPHA] Time.\n# TYPE test_seconds histogram\n\
            test_seconds_bucket{le=\"0.5\"} 1\ntest_seconds_bucket{le=\"1\"} 2\ntest_seconds_bucket{le=\"1e+06\"} 3\n\
            test_seconds_bucket{le=\"+Inf\"} 3\ntest_seconds_sum 6\ntest_seconds_count 3\n\
            # HELP test_total [ALPHA] Things.\n# TYPE test_total counter\ntest_total{a=\"0\",b=\"\"} 1\n\
            test_total{a=\"1\",b=\"\\\"quoted\\\"\\n\"} 3\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn numbers_are_gos() {
        for (value, text) in [(0.005, "0.005"), (60.0, "60"), (1e9, "1e+09"), (0.0, "0"), (1.5e-7, "1.5e-07")] {
            assert_eq!(float(value), text);
        }
    }
}
