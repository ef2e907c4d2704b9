//! The Common Expression Language as Kubernetes speaks it.
//!
//! [`Env`] says what an expression may use and compiles it to a [`Program`]: parsed, checked, its cost estimated. The
//! program is evaluated with [`Bindings`] within a [`Budget`]. Data is borrowed: JSON as it is, the caller's own through
//! [`Fields`]. Environments of Kubernetes stand in [`k8s`].
//!
//! Messages and costs are those of cel-go v0.26 and Kubernetes v1.36: what the API accepts depends on both. Why this
//! engine is our own: `docs/decisions/0006-cel-engine.md`.
//!
//! Invariant: no async, no clock, and no IO but the look-up of a named time zone, which `getHours('Europe/Berlin')` asks
//! for.
//!
//! Invariant: every recursion is bounded by [`parser::MAX_DEPTH`], every evaluation by its budget; no input panics.
//!
//! Start reading at [`env`], then in the order of the modules.

mod ast;
mod check;
pub mod cost;
pub mod env;
mod eval;
mod functions;
pub mod k8s;
mod lexer;
pub mod library;
mod macros;
pub mod names;
mod number;
mod parser;
mod plan;
pub mod quantity;
mod source;
#[cfg(test)]
mod tests;
pub mod time;
pub mod types;
mod unify;
mod validate;
pub mod value;

pub use cost::range::Cost;
pub use env::{Env, EnvBuilder, Program};
pub use eval::{Bindings, Budget, EvalError};
pub use parser::is_identifier;
pub use source::{Issue, Issues, Location};
pub use types::{Shape, Type};
pub use value::{Fields, Key, Value};
