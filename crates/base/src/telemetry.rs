//! Logs: for people on a terminal, as JSON on request.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line for a person, coloured when standard error is a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Environment variable that overrides the filter, in `tracing_subscriber`'s syntax
/// (`info,orkd_reconcile=debug`).
pub const FILTER_ENV: &str = "ORKD_LOG";

/// Installs the process's log output on standard error. `filter` is used unless [`FILTER_ENV`] is set; a filter
/// that cannot be read is replaced by `info`. A second call is an error and changes nothing.
pub fn init(format: Format, filter: &str) -> Result<(), TryInitError> {
    let directives = std::env::var(FILTER_ENV).unwrap_or_else(|_| filter.to_owned());
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Human => {
            let ansi = std::io::stderr().is_terminal();
            registry.with(tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(std::io::stderr)).try_init()
        }
        Format::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init(),
    }
}
