//! Formats of texts.
//!
//! Upstream: `supportedVersionedFormats` of `pkg/apiserver/validation/formats.go` of `k8s.io/apiextensions-apiserver`, and
//! `pkg/validation/strfmt` of `k8s.io/kube-openapi`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use orkd_cel::library::cidr::Cidr;
use orkd_cel::library::url::Url;
use orkd_cel::time::Timestamp;
use regex::Regex;

use crate::names;
use crate::quantity::Quantity;

/// Whether a text matches a constant pattern.
macro_rules! pattern {
    ($text:expr, $pattern:literal) => {{
        static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("constant pattern compiles"));
        PATTERN.is_match($text)
    }};
}

/// A format and the test of it, by its name without dashes.
type Format = (&'static str, fn(&str) -> bool);

const FORMATS: &[Format] = &[
    ("bsonobjectid", |s| s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit())),
    ("byte", |s| base64::engine::general_purpose::STANDARD.decode(s).is_ok()),
    ("cidr", |s| Cidr::parse(s).is_ok()),
    ("creditcard", credit_card),
    ("date", |s| s.len() == 10 && Timestamp::parse(&format!("{s}T00:00:00Z")).is_some()),
    ("datetime", date_time),
    ("duration", duration),
    ("email", email),
    ("hexcolor", |s| pattern!(s, "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$")),
    ("hostname", hostname),
    ("ipv4", |s| s.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |s| s.parse::<Ipv6Addr>().is_ok()),
    ("isbn", |s| isbn10(s) || isbn13(s)),
    ("isbn10", isbn10),
    ("isbn13", isbn13),
    ("k8slongname", |s| names::dns_subdomain(s, false).is_empty()),
    ("k8sshortname", |s| names::dns_label(s, false).is_empty()),
    ("mac", mac),
    ("password", |_| true),
    ("quantity", |s| s.parse::<Quantity>().is_ok()),
    ("rgbcolor", rgb_color),
    ("ssn", |s| pattern!(s, "^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$")),
    ("uri", |s| Url::parse(s).is_ok()),
    ("uuid", |s| uuid(s, None)),
    ("uuid3", |s| uuid(s, Some('3'))),
    ("uuid4", |s| uuid(s, Some('4'))),
    ("uuid5", |s| uuid(s, Some('5'))),
];

fn find(format: &str) -> Option<&'static Format> {
    let name = format.replace('-', "");
    FORMATS.iter().find(|(n, _)| *n == name)
}

/// Whether there is such a format.
pub(super) fn is_known(format: &str) -> bool {
    find(format).is_some()
}

/// Whether a text has a format; one that nobody knows fits always.
pub(super) fn fits(format: &str, text: &str) -> bool {
    find(format).is_none_or(|(_, fits)| fits(text))
}

/// A date and a time, with a zone or without.
fn date_time(s: &str) -> bool {
    let zoned = s.replacen(['t', ' '], "T", 1);
    Timestamp::parse(&zoned).is_some() || Timestamp::parse(&format!("{zoned}Z")).is_some()
}

/// Go's durations, and those with words for the units (`10 minutes`).
fn duration(s: &str) -> bool {
    orkd_cel::time::Duration::parse(s).is_some()
        || pattern!(
            s,
            "^(?:\\s*[0-9]+\\s*(?:ns|nano|nanosecond|us|µs|micro|microsecond|ms|milli|millisecond|s|sec|second|m|min|minute|h|hr|hour|d|day|w|wk|week)s?)+\\s*$"
        )
}

fn email(s: &str) -> bool {
    let address = match (s.rfind('<'), s.strip_suffix('>')) {
        (Some(at), Some(rest)) => &rest[at + 1..],
        _ => s,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let is_atom = |s: &str| {
        !s.is_empty()
            && s.split('.').all(|part| {
                !part.is_empty()
                    && part
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii())
            })
    };
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    (is_atom(local) || quoted) && (is_atom(domain) || domain.starts_with('[') && domain.ends_with(']'))
}

fn hostname(s: &str) -> bool {
    s.len() <= 255
        && s.split('.').all(|part| part.len() <= 63)
        && pattern!(
            s,
            "^([a-zA-Z0-9\\p{S}\\p{L}]((-?[a-zA-Z0-9\\p{S}\\p{L}]{0,62})?)|([a-zA-Z0-9\\p{S}\\p{L}](([a-zA-Z0-9-\\p{S}\\p{L}]{0,61}[a-zA-Z0-9\\p{S}\\p{L}])?)(\\.)){1,}([a-zA-Z0-9\\p{S}\\p{L}])(-?[a-zA-Z0-9\\p{S}\\p{L}]){1,62})$"
        )
}

/// `net.ParseMAC`: 6, 8 or 20 bytes.
fn mac(s: &str) -> bool {
    let bytes = |separator: char, digits: usize| {
        let parts: Vec<&str> = s.split(separator).collect();
        let good = parts.iter().all(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_hexdigit()));
        good && [6, 8, 20].contains(&(parts.len() * digits / 2))
    };
    bytes(':', 2) || bytes('-', 2) || bytes('.', 4)
}

fn uuid(s: &str, version: Option<char>) -> bool {
    let digits: String = s.chars().filter(|c| *c != '-').collect();
    let shaped = pattern!(s, "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$");
    let at = |n: usize| digits.chars().nth(n).map(|c| c.to_ascii_lowercase());
    shaped
        && version.is_none_or(|v| {
            at(12) == Some(v) && (v == '3' || at(16).is_some_and(|c| matches!(c, '8' | '9' | 'a' | 'b')))
        })
}

fn rgb_color(s: &str) -> bool {
    let Some(inner) = s.strip_prefix("rgb(").and_then(|s| s.strip_suffix(')')) else { return false };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|p| p.parse::<u8>().is_ok_and(|n| n.to_string() == *p))
}

fn credit_card(s: &str) -> bool {
    let digits: String = s.chars().filter(char::is_ascii_digit).collect();
    let known = pattern!(
        &digits,
        "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$"
    );
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let n = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
            if n > 9 { n - 9 } else { n }
        })
        .sum();
    known && sum.is_multiple_of(10)
}

fn without_dashes(s: &str) -> String {
    s.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn isbn10(s: &str) -> bool {
    let s = without_dashes(s);
    if !pattern!(&s, "^(?:[0-9]{9}X|[0-9]{10})$") {
        return false;
    }
    let sum: u32 = (1..).zip(s.bytes()).map(|(i, b)| i * if b == b'X' { 10 } else { u32::from(b - b'0') }).sum();
    sum.is_multiple_of(11)
}

fn isbn13(s: &str) -> bool {
    let s = without_dashes(s);
    if !pattern!(&s, "^[0-9]{13}$") {
        return false;
    }
    let sum: u32 = s.bytes().enumerate().map(|(i, b)| u32::from(b - b'0') * if i % 2 == 0 { 1 } else { 3 }).sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("byte", "aGVsbG8=", "a"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("date", "2020-02-29", "2021-02-29"),
            ("date-time", "2020-01-01T00:00:00.5+01:00", "2020-01-01"),
            ("duration", "1h30m", "soon"),
            ("duration", "10 minutes", "10 parsecs"),
            ("email", "a.b@example.com", "a@"),
            ("hexcolor", "#FFF", "#FF"),
            ("hostname", "node-1.example.com", "-x"),
            ("ipv4", "192.168.0.1", "::1"),
            ("ipv6", "::1", "192.168.0.1"),
            ("isbn", "978-0321751041", "978-0321751042"),
            ("isbn10", "0321751043", "0321751044"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("quantity", "10Gi", "10Gx"),
            ("rgbcolor", "rgb(0, 10, 255)", "rgb(0,10,256)"),
            ("ssn", "111-11-1111", "11-11"),
            ("uri", "https://example.com/a", "x y"),
            ("uuid", "A8098C1A-F86E-11DA-BD1A-00112444BE1E", "a8098c1a"),
            ("uuid4", "025b0d74-00a2-4048-bf57-227c5111bb34", "025b0d74-00a2-3048-bf57-227c5111bb34"),
        ] {
            assert!(is_known(format) && fits(format, good), "{format} {good}");
            assert!(!fits(format, bad), "{format} {bad}");
        }
        assert!(!is_known("unheard-of") && is_known("datetime"));
    }
}
