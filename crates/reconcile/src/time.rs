//! Times as the API writes them.

use jiff::Timestamp;

/// `metav1.Time`: seconds, in UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`: microseconds, in UTC.
pub fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_of_upstream() {
        let at: Timestamp = "2026-01-02T03:04:05.12Z".parse().expect("a time");
        assert_eq!(
            (time(at).as_str(), micro_time(at).as_str()),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.120000Z")
        );
    }
}
