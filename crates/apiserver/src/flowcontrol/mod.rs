//! Flow control: API priority and fairness (`k8s.io/apiserver/pkg/util/flowcontrol`), or fixed limits on requests in
//! flight where that is turned off ([`fixed`]).
//!
//! The pure parts are [`rules`] (whose request is it), [`queueset`] (seats and queues of a level), [`seats`] (how many
//! seats a level has) and [`defaults`] (the objects every cluster has); [`control`] puts them behind requests, and
//! [`keeper`] follows the objects. There are no timers: seats are given out anew when somebody has to wait, at most every
//! ten seconds.
//!
//! Beyond upstream's letter: a watch holds its seats until its answer begins, a change holds none for the sake of its
//! watchers, because events cost little here.

pub mod control;
pub mod debug;
pub mod defaults;
pub mod estimate;
pub mod fixed;
pub mod keeper;
mod meters;
pub mod queueset;
pub mod rules;
pub mod seats;
pub mod shuffle;
mod timing;

pub use control::{Control, Permit, Refused, Uids, put_headers};
pub use fixed::Flow;
