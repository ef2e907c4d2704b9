//! Backends: each renders a [`crate::ruleset::RuleSet`] for one kernel facility and applies it.

pub mod iptables;
