//! Logs: for people on a terminal, as JSON on request.

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
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

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of the filter is neither a level nor a target with one.
    #[error(
        "{part:?} of {filter:?} is neither a level (off, error, warn, info, debug, trace) nor TARGET=LEVEL, such as \
         orkd_kubelet=debug"
    )]
    Filter {
        /// The whole filter.
        filter: String,
        /// The part that cannot be read.
        part: String,
    },
    /// Logs have been set up already.
    #[error("logs have been set up already")]
    Again(#[source] TryInitError),
}

/// Installs the process's log output on standard error. `filter` is used unless [`FILTER_ENV`] is set.
///
/// # Errors
/// A filter that cannot be read; a second call. Nothing has changed then.
pub fn init(format: Format, filter: &str) -> Result<(), Error> {
    let filter = match std::env::var(FILTER_ENV) {
        Ok(own) => parse(&own),
        Err(_) => parse(filter),
    }?;
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
    .map_err(Error::Again)
}

/// Reads a filter. [`EnvFilter`] takes a word it does not know for a target, and no level for `error`: with `inf` nothing
/// would be said at all. Here a level is always one.
fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let bad = |part: &str| Error::Filter { filter: filter.to_owned(), part: part.to_owned() };
    for part in filter.split(',') {
        // `target[span{field=value}]` has an equals sign of its own.
        let tail = part.rsplit_once(']').map_or(part, |(_, tail)| tail);
        let level = tail.rsplit_once('=').map_or(tail, |(_, level)| level).trim();
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(bad(part));
        }
    }
    EnvFilter::try_new(filter).map_err(|_| bad(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels() {
        for filter in
            ["info", "INFO", "off", "info,orkd=debug", "orkd_kubelet::worker=trace,h2=warn", "[round{key=a}]=debug"]
        {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for (filter, part) in [
            ("nonsense=", "nonsense="),
            ("inf", "inf"),
            ("", ""),
            ("info,", ""),
            ("info,orkd_kubelet", "orkd_kubelet"),
            ("info,orkd=loud", "orkd=loud"),
        ] {
            let error = parse(filter).expect_err(filter).to_string();
            assert!(error.starts_with(&format!("{part:?} of {filter:?} is neither a level")), "{error}");
        }
    }
}
