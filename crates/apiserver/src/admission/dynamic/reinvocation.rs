//! The mutating phase is run a second time where a policy or webhook changed what another one had seen before
//! (`admission/reinvocation.go`, `webhook/mutating/reinvocationcontext.go`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::Value;

/// Where the mutating phase of one request stands.
#[derive(Debug, Default)]
pub struct Reinvocation {
    again: AtomicBool,
    wanted: AtomicBool,
    /// What became of webhooks.
    pub webhooks: Mutex<Invoked>,
    /// What became of policies.
    pub policies: Mutex<Invoked>,
}

impl Reinvocation {
    /// Whether this is the second time.
    pub fn is_again(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }

    /// Asks for a second time.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Begins the second time, if it is wanted and this was the first.
    pub fn begin_again(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && !self.again.swap(true, Ordering::Relaxed)
    }
}

/// What one plugin has invoked.
#[derive(Debug, Default)]
pub struct Invoked {
    /// The object as the plugin left it.
    output: Option<Value>,
    /// Invoked, and to be invoked again if something changes after them.
    willing: BTreeSet<String>,
    /// To be invoked again.
    due: BTreeSet<String>,
}

impl Invoked {
    /// Begins a round: where others have changed the object since the last one, all that are willing are due.
    pub fn begin(&mut self, again: bool, object: &Value) {
        if again && self.output.as_ref() != Some(object) {
            self.changed();
        }
    }

    /// Whether a hook is invoked in this round: in the second one only if it is due. One that did not match at first is
    /// not invoked then either.
    pub fn is_due(&self, again: bool, id: &str) -> bool {
        !again || self.due.contains(id)
    }

    /// Something changed the object: all that are willing are due.
    pub fn changed(&mut self) {
        self.due.append(&mut self.willing);
    }

    /// A hook was invoked that is willing to be invoked again.
    pub fn willing(&mut self, id: &str) {
        self.willing.insert(id.to_owned());
    }

    /// Ends a round.
    pub fn end(&mut self, object: &Value) {
        self.output = object.is_object().then(|| object.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_second_time_comes_once_and_if_wanted() {
        let rounds = Reinvocation::default();
        assert!(!rounds.begin_again());
        rounds.want();
        assert!(!rounds.is_again() && rounds.begin_again() && rounds.is_again());
        rounds.want();
        assert!(!rounds.begin_again());
    }

    #[test]
    fn who_saw_what_was_changed_later_is_due() {
        let (one, two) = (json!({"n": 1}), json!({"n": 2}));
        let mut invoked = Invoked::default();
        invoked.begin(false, &one);
        assert!(invoked.is_due(false, "a"));
        invoked.willing("a");
        invoked.changed();
        invoked.willing("b");
        invoked.end(&two);
        // Nobody else has changed it: only the one before the change is due.
        invoked.begin(true, &two);
        assert!(invoked.is_due(true, "a") && !invoked.is_due(true, "b"));
        let mut invoked = Invoked { willing: ["b".to_owned()].into(), output: Some(one), ..Invoked::default() };
        invoked.begin(true, &two);
        assert!(invoked.is_due(true, "b") && !invoked.is_due(true, "c"));
    }
}
