//! Events that are too large for a backend: they lose the objects they carry, and are lost themselves where that is not
//! enough (`k8s.io/apiserver/plugin/pkg/audit/truncate`).

use std::cell::OnceCell;

/// The annotation of an event that lost its objects.
pub const ANNOTATION: &str = "audit.k8s.io/truncated";

/// What a backend takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest event.
    pub event: usize,
    /// The largest batch; of one event it may be what that is.
    pub batch: usize,
}

impl Default for Limits {
    /// Upstream's.
    fn default() -> Self {
        Limits { event: 100 << 10, batch: 10 << 20 }
    }
}

/// An event on its way to backends. Without its objects it is made only if one of them needs it so.
pub struct Event<F> {
    whole: String,
    short: OnceCell<Option<String>>,
    shorten: F,
}

impl<F: Fn() -> Option<String>> Event<F> {
    /// An event as it is; `shorten` makes it anew without objects, `None` where it has none.
    pub fn new(whole: String, shorten: F) -> Self {
        Event { whole, short: OnceCell::new(), shorten }
    }

    /// The event as a backend with these limits takes it; `None` where it takes none of it.
    pub fn within(&self, limits: Option<Limits>) -> Option<&String> {
        match limits {
            Some(limits) if self.whole.len() >= limits.event => {
                let short = self.short.get_or_init(&self.shorten).as_ref();
                short.filter(|short| short.len() < limits.event)
            }
            _ => Some(&self.whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_events_are_shortened_or_lost() {
        let check = |short: Option<&str>, limit: Option<usize>, expected: Option<&str>| {
            let event = Event::new("0123456789".into(), || short.map(str::to_owned));
            let limits = limit.map(|event| Limits { event, batch: event });
            assert_eq!(event.within(limits).map(String::as_str), expected);
        };
        check(Some("short"), None, Some("0123456789"));
        // The end of the line counts.
        check(Some("short"), Some(11), Some("0123456789"));
        check(Some("short"), Some(10), Some("short"));
        check(Some("short"), Some(5), None);
        check(None, Some(10), None);
    }
}
