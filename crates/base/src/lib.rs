//! What every process of orkd stands on: the supervisor of tasks with its ordered shutdown, the clock,
//! back-off, telemetry, the registry of metrics and error printing.
//!
//! Invariant: tasks are spawned by [`Supervisor`] and nowhere else; every task has a kind, a name, a span and a
//! policy for its errors.
//!
//! Invariant: nothing here knows of Kubernetes.
//!
//! Start reading at [`Supervisor`].

mod backoff;
mod clock;
mod error;
pub mod metrics;
mod supervisor;
pub mod telemetry;

pub use backoff::Backoff;
pub use clock::Clock;
pub use error::{BoxError, chain};
pub use supervisor::{Fatal, OnError, RunningTask, Stage, Supervisor, TaskHandle, TaskKind};
/// Cancellation as a tree; the tokens tasks are given.
pub use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub use tracing as __tracing;
