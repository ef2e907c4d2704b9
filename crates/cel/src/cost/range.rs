//! Ranges of costs and sizes, whose arithmetic stays at the greatest number instead of wrapping.

/// At least and at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

/// How large a value is: characters, bytes, items, entries.
pub(crate) type Size = Cost;

impl Cost {
    /// Anything.
    pub(crate) const UNKNOWN: Cost = Cost { min: 0, max: u64::MAX };

    /// Exactly this.
    pub(crate) fn fixed(n: u64) -> Cost {
        Cost { min: n, max: n }
    }

    pub(crate) fn plus(self, other: Cost) -> Cost {
        Cost { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Cost) -> Cost {
        Cost { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Rounded up.
    pub(crate) fn scaled(self, factor: f64) -> Cost {
        Cost { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    /// What covers both.
    pub(crate) fn union(self, other: Cost) -> Cost {
        Cost { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// A number times a factor, rounded up.
pub(crate) fn scale(n: u64, factor: f64) -> u64 {
    // A float beyond the range becomes the end of the range.
    (n as f64 * factor).ceil() as u64
}
