//! Instants and spans of time (`common/types/timestamp.go`, `duration.go`): the years 1 to 9999, and nanoseconds in 64
//! bits; written and read as Go does.

use std::fmt;

/// An instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970.
    seconds: i64,
    nanos: u32,
}

/// A span of time in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

const SECOND: i64 = 1_000_000_000;
const MIN_SECONDS: i64 = -62_135_596_800;
const MAX_SECONDS: i64 = 253_402_300_799;

/// The parts of an instant in a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    /// From 1.
    pub(crate) month: i64,
    /// From 1.
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
    pub(crate) milli: i64,
    /// From 0.
    pub(crate) day_of_year: i64,
    /// Sunday is 0.
    pub(crate) weekday: i64,
}

/// Days since 1970-01-01 of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z - era * 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let mp = (5 * of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * mp + 2) / 5 + 1)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

impl Timestamp {
    /// An instant; `None` outside the years 1 to 9999.
    pub fn new(seconds: i64, nanos: u32) -> Option<Timestamp> {
        ((MIN_SECONDS..=MAX_SECONDS).contains(&seconds) && nanos < 1_000_000_000)
            .then_some(Timestamp { seconds, nanos })
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    fn total(self) -> i128 {
        i128::from(self.seconds) * i128::from(SECOND) + i128::from(self.nanos)
    }

    pub(crate) fn add(self, d: Duration) -> Option<Timestamp> {
        let total = self.total() + i128::from(d.0);
        let nanos = u32::try_from(total.rem_euclid(i128::from(SECOND))).ok()?;
        Timestamp::new(i64::try_from(total.div_euclid(i128::from(SECOND))).ok()?, nanos)
    }

    pub(crate) fn since(self, other: Timestamp) -> Option<Duration> {
        i64::try_from(self.total() - other.total()).ok().map(Duration)
    }

    /// RFC 3339.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let b = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<i64> {
            let part = text.get(from..to)?;
            part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
        };
        let is = |at: usize, sign: u8| b.get(at) == Some(&sign);
        if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let valid = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        if !valid || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let mut at = 19;
        let mut nanos = 0;
        if is(at, b'.') || is(at, b',') {
            let digits = b[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let shown: String = text[at + 1..].chars().take(digits.min(9)).collect();
            nanos = format!("{shown:0<9}").parse().ok()?;
            at += 1 + digits;
        }
        let offset = match text.get(at..)? {
            "Z" => 0,
            zone if zone.len() == 6 && is(at + 3, b':') => {
                let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
                let seconds = (hours * 60 + minutes) * 60;
                match b[at] {
                    b'+' if hours <= 24 && minutes < 60 => seconds,
                    b'-' if hours <= 24 && minutes < 60 => -seconds,
                    _ => return None,
                }
            }
            _ => return None,
        };
        Timestamp::new(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos)
    }

    /// The parts in a zone: `UTC`, `+hh:mm`, `-hh:mm`, or a name of the zone database.
    pub(crate) fn civil(self, zone: &str) -> Result<Civil, String> {
        let offset = self.offset(zone)?;
        let local = self.seconds + offset;
        let (day, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, of_month) = date(day);
        Ok(Civil {
            year,
            month,
            day: of_month,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            milli: i64::from(self.nanos / 1_000_000),
            day_of_year: day - days(year, 1, 1),
            weekday: (day + 4).rem_euclid(7),
        })
    }

    /// Seconds east of UTC (`inTimeZone` of `cel/library.go`).
    fn offset(self, zone: &str) -> Result<i64, String> {
        if matches!(zone, "" | "UTC") {
            return Ok(0);
        }
        let unknown = || format!("unknown time zone {zone}");
        if let Some((hours, minutes)) = zone.split_once(':') {
            let number = |text: &str| text.parse::<i64>().ok().filter(|n| n.abs() < 100).ok_or_else(unknown);
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            let minutes = if zone.starts_with('-') { hours * 60 - minutes } else { hours * 60 + minutes };
            return Ok(minutes * 60);
        }
        let at = jiff::Timestamp::from_second(self.seconds).map_err(|_| unknown())?;
        let zone = jiff::tz::TimeZone::get(zone).map_err(|_| unknown())?;
        Ok(i64::from(zone.to_offset(at).seconds()))
    }
}

/// Whether the zone database knows a zone by exactly this name.
pub fn is_zone(name: &str) -> bool {
    jiff::tz::TimeZone::get(name).is_ok_and(|zone| zone.iana_name() == Some(name))
}

/// RFC 3339 in UTC, with as many decimals as count.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, second) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        let (year, month, of_month) = date(day);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{second:02}")?;
        if self.nanos > 0 {
            write!(f, ".{}", format!("{:09}", self.nanos).trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl Duration {
    /// Go's notation: `1h2m3.5s`.
    pub fn parse(text: &str) -> Option<Duration> {
        let negative = text.starts_with('-');
        let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        if rest == "0" {
            return Some(Duration(0));
        }
        if rest.is_empty() {
            return None;
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(end);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
                return None;
            }
            let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let unit: i128 = match &tail[..end] {
                "ns" => 1,
                "us" | "µs" | "μs" => 1000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return None,
            };
            rest = &tail[end..];
            let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
            let digits = &fraction[..fraction.len().min(18)];
            let part: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
            total += whole * unit + part * unit / 10i128.pow(digits.len() as u32);
            if total > i128::from(i64::MAX) + 1 {
                return None;
            }
        }
        i64::try_from(if negative { -total } else { total }).ok().map(Duration)
    }
}

/// Seconds, with as many decimals as count: `90.5s`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let total = self.0.unsigned_abs();
        let (seconds, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
        write!(f, "{sign}{seconds}")?;
        if nanos > 0 {
            write!(f, ".{}", format!("{nanos:09}").trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_and_written() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(Timestamp::parse(text).map(|t| t.to_string()).as_deref(), want, "{text}");
        };
        check("2026-11-21T12:00:00Z", Some("2026-11-21T12:00:00Z"));
        check("2026-11-21T12:00:00.120+01:30", Some("2026-11-21T10:30:00.12Z"));
        check("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z"));
        check("9999-12-31T23:59:59.999999999Z", Some("9999-12-31T23:59:59.999999999Z"));
        check("0001-01-01T00:00:00+00:01", None);
        check("2023-02-29T00:00:00Z", None);
        check("2024-02-29T00:00:00Z", Some("2024-02-29T00:00:00Z"));
        for bad in ["", "2026-11-21", "2026-11-21T12:00:00", "2026-11-21 12:00:00Z", "2026-11-21T12:00:60Z", "é"] {
            check(bad, None);
        }
    }

    #[test]
    fn spans_are_read_and_written() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(Duration::parse(text).map(|t| t.to_string()).as_deref(), want, "{text}");
        };
        check("1h2m3.5s", Some("3723.5s"));
        check("-1.5h", Some("-5400s"));
        check("100ms", Some("0.1s"));
        check("1us2ns", Some("0.000001002s"));
        check("0", Some("0s"));
        check(".5s", Some("0.5s"));
        for bad in ["", "-", "1", "s", "1x", "1.2.3s", "99999999999h", "."] {
            check(bad, None);
        }
    }

    #[test]
    fn parts_are_told_in_a_zone() {
        let t = Timestamp::parse("2009-02-13T23:31:30.123Z").expect("an instant");
        let utc = t.civil("").expect("UTC");
        assert_eq!((utc.year, utc.month, utc.day, utc.hour, utc.milli), (2009, 2, 13, 23, 123));
        assert_eq!((utc.weekday, utc.day_of_year), (5, 43));
        let east = t.civil("+01:00").expect("an offset");
        assert_eq!((east.day, east.hour, east.weekday), (14, 0, 6));
        assert_eq!(t.civil("-02:30").map(|c| (c.hour, c.minute)), Ok((21, 1)));
        assert_eq!(t.civil("Nowhere/City"), Err("unknown time zone Nowhere/City".to_owned()));
    }
}
