//! Histograms over time: how long something stood at which value (`k8s.io/component-base/metrics/prometheusextension`,
//! `TimingHistogram`; `util/flowcontrol/metrics/timing_ratio_histogram.go`). Upstream counts nanoseconds, and so do these.

use std::sync::Arc;

use orkd_base::metrics::Histogram;

/// A value that changes, and the histogram of the time it stood where.
pub struct Timing {
    cell: Arc<Histogram>,
    value: f64,
    /// What the value is divided by.
    whole: f64,
    /// Since when it stands there, in seconds.
    since: f64,
}

impl Timing {
    /// At zero of one.
    pub fn new(cell: Arc<Histogram>, now: f64) -> Self {
        Timing { cell, value: 0.0, whole: 1.0, since: now }
    }

    /// Counts the time until now.
    pub fn count(&mut self, now: f64) {
        // Clocks of several threads meet at the lock in another order than they were read.
        let passed = now - self.since;
        if passed > 0.0 {
            self.cell.observe_many(self.value / self.whole, (passed * 1e9) as u64);
            self.since = now;
        }
    }

    /// From now on it is this.
    pub fn set(&mut self, now: f64, value: f64) {
        if value != self.value {
            self.count(now);
            self.value = value;
        }
    }

    /// From now on it is divided by this.
    pub fn divide_by(&mut self, now: f64, whole: f64) {
        self.count(now);
        self.whole = whole.max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use orkd_base::metrics::Family;

    use super::*;

    static OF_TEST: Family<Histogram> = Family::histogram("of_timing", "A test.", &[], &[0.0, 0.5, 1.0]);

    #[test]
    fn time_is_counted_where_the_value_stood() {
        let mut timing = Timing::new(OF_TEST.with(&[]), 10.0);
        timing.divide_by(10.0, 4.0);
        timing.set(11.0, 2.0);
        timing.set(13.0, 4.0);
        timing.set(12.0, 1.0);
        timing.count(14.0);
        let mut text = String::new();
        orkd_base::metrics::render(&mut text);
        for line in [
            "of_timing_bucket{le=\"0\"} 1000000000\n",
            "of_timing_bucket{le=\"0.5\"} 4000000000\n",
            "of_timing_bucket{le=\"1\"} 4000000000\n",
            "of_timing_sum 1.25e+09\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }
}
