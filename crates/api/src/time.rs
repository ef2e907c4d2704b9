//! Times and durations as the API writes them.
//!
//! `metav1.Time` is RFC 3339 in UTC with seconds, `metav1.MicroTime` the same with six decimals,
//! `metav1.Duration` Go's notation (`1h2m3.5s`). Parsing follows Go's `time.Parse` and `time.ParseDuration`,
//! error texts included.

use std::fmt::Write as _;

/// An instant: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    /// Seconds since 1970-01-01T00:00:00Z; may be negative.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl From<jiff::Timestamp> for Instant {
    fn from(t: jiff::Timestamp) -> Self {
        let (mut seconds, mut nanos) = (t.as_second(), t.subsec_nanosecond());
        if nanos < 0 {
            seconds -= 1;
            nanos += 1_000_000_000;
        }
        Instant { seconds, nanos: nanos.unsigned_abs() }
    }
}

impl Instant {
    /// The same for arithmetic; `None` beyond the years that `jiff` knows.
    pub fn timestamp(self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::new(self.seconds, i32::try_from(self.nanos).ok()?).ok()
    }
}

/// Days since 1970-01-01 of a civil date.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const LAYOUT_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

struct Reader<'a> {
    text: &'a str,
    at: usize,
    layout: &'static str,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn fail(&self, from: usize, element: &str) -> String {
        let rest = self.text.get(from..).unwrap_or("");
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            quote(self.text),
            quote(self.layout),
            quote(rest),
            quote(element)
        )
    }

    fn range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", quote(self.text))
    }

    fn number(&mut self, digits: usize, element: &str) -> Result<i64, String> {
        let bytes = self.text.as_bytes();
        let found = bytes.get(self.at..self.at + digits).filter(|d| d.iter().all(u8::is_ascii_digit));
        let Some(found) = found else { return Err(self.fail(self.at, element)) };
        self.at += digits;
        Ok(found.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        if !self.rest().starts_with(literal) {
            return Err(self.fail(self.at, literal));
        }
        self.at += literal.len();
        Ok(())
    }
}

/// Go's `%q`-like quoting of `time.ParseError`.
fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (c as u32) >= 0x80 => {
                let mut buf = [0; 4];
                for b in c.encode_utf8(&mut buf).bytes() {
                    let _ = write!(out, "\\x{b:02x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn parse(text: &str, layout: &'static str) -> Result<Instant, String> {
    let micro = layout == LAYOUT_MICRO;
    let mut r = Reader { text, at: 0, layout };
    let year = r.number(4, "2006")?;
    r.literal("-")?;
    let month = r.number(2, "01")?;
    if !(1..=12).contains(&month) {
        return Err(r.range("month"));
    }
    r.literal("-")?;
    let day = r.number(2, "02")?;
    r.literal("T")?;
    let hour = r.number(2, "15")?;
    if hour > 23 {
        return Err(r.range("hour"));
    }
    r.literal(":")?;
    let minute = r.number(2, "04")?;
    if minute > 59 {
        return Err(r.range("minute"));
    }
    r.literal(":")?;
    let second = r.number(2, "05")?;
    if second > 59 {
        return Err(r.range("second"));
    }
    let mut nanos = 0u32;
    let from = r.at;
    if matches!(r.rest().as_bytes(), [b'.' | b',', b'0'..=b'9', ..]) {
        let digits = r.rest().as_bytes()[1..].iter().take_while(|b| b.is_ascii_digit()).count();
        let read = if micro { 6 } else { digits };
        if digits < read {
            return Err(r.fail(from, ".000000"));
        }
        for i in 0..9 {
            let digit = if i < read { text.as_bytes()[from + 1 + i] - b'0' } else { 0 };
            nanos = nanos * 10 + u32::from(digit);
        }
        r.at += 1 + read;
    } else if micro {
        return Err(r.fail(from, ".000000"));
    }
    let offset_at = r.at;
    let offset = match r.rest().as_bytes() {
        [b'Z', ..] => {
            r.at += 1;
            0
        }
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2, ..] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
            let two = |a: &u8, b: &u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
            let (h, m, direction) = (two(h1, h2), two(m1, m2), if *sign == b'-' { -60 } else { 60 });
            if h > 24 {
                return Err(r.range("time zone offset hour"));
            }
            if m > 60 {
                return Err(r.range("time zone offset minute"));
            }
            r.at += 6;
            (h * 60 + m) * direction
        }
        _ => return Err(r.fail(offset_at, "Z07:00")),
    };
    if !r.rest().is_empty() {
        return Err(format!("parsing time {}: extra text: {}", quote(text), quote(r.rest())));
    }
    if day < 1 || day > days_in(year, month) {
        return Err(r.range("day"));
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Ok(Instant { seconds, nanos })
}

/// Reads a `metav1.Time` (or any RFC 3339 time).
pub fn parse_time(text: &str) -> Result<Instant, String> {
    parse(text, LAYOUT)
}

/// Reads a `metav1.MicroTime`: exactly six decimals, as upstream insists.
pub fn parse_micro_time(text: &str) -> Result<Instant, String> {
    parse(text, LAYOUT_MICRO)
}

fn format(t: Instant, micro: bool) -> String {
    let days = t.seconds.div_euclid(86_400);
    let (year, month, day) = civil_from_days(days);
    let s = t.seconds.rem_euclid(86_400);
    let mut out = String::with_capacity(28);
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
    if micro {
        let _ = write!(out, ".{:06}", t.nanos / 1000);
    }
    out.push('Z');
    out
}

/// Writes a `metav1.Time`: UTC, seconds, the rest cut off.
pub fn format_time(t: impl Into<Instant>) -> String {
    format(t.into(), false)
}

/// Writes a `metav1.MicroTime`: UTC, six decimals.
pub fn format_micro_time(t: impl Into<Instant>) -> String {
    format(t.into(), true)
}

/// Reads a duration in Go's notation; nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let mut rest = text;
    let negative = rest.starts_with('-');
    if rest.starts_with(['-', '+']) {
        rest = &rest[1..];
    }
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    // Go counts up to 2^63 so that the least value can be read.
    let mut total: u64 = 0;
    const LIMIT: u64 = 1 << 63;
    while !rest.is_empty() {
        let whole = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let mut value: u64 = if whole == 0 { 0 } else { rest[..whole].parse().map_err(|_| invalid())? };
        rest = &rest[whole..];
        let (mut fraction, mut scale, mut decimals) = (0u64, 1f64, 0);
        if let Some(after) = rest.strip_prefix('.') {
            decimals = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            for d in after[..decimals].bytes() {
                if let Some(f) = fraction.checked_mul(10).and_then(|f| f.checked_add(u64::from(d - b'0')))
                    && f < LIMIT
                {
                    fraction = f;
                    scale *= 10.0;
                } else {
                    break;
                }
            }
            rest = &after[decimals..];
        }
        if (whole == 0 && decimals == 0) || value > LIMIT {
            return Err(invalid());
        }
        let unit_len = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_text = &rest[..unit_len];
        let unit: u64 = match unit_text {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => return Err(format!("time: unknown unit {} in duration {}", quote(other), quote(text))),
        };
        rest = &rest[unit_len..];
        value = value.checked_mul(unit).filter(|v| *v <= LIMIT).ok_or_else(invalid)?;
        if fraction > 0 {
            value += (fraction as f64 * (unit as f64 / scale)) as u64;
        }
        total = total.checked_add(value).filter(|t| *t <= LIMIT).ok_or_else(invalid)?;
    }
    if negative {
        return Ok((total as i64).wrapping_neg());
    }
    i64::try_from(total).map_err(|_| invalid())
}

/// Writes a duration of nanoseconds in Go's notation.
pub fn format_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let with_fraction = |whole: u64, fraction: u64, digits: usize| {
        let mut out = whole.to_string();
        if fraction > 0 {
            let _ = write!(out, ".{fraction:0digits$}");
            out.truncate(out.trim_end_matches('0').len());
        }
        out
    };
    if n < 1_000 {
        return format!("{sign}{n}ns");
    }
    if n < 1_000_000 {
        return format!("{sign}{}µs", with_fraction(n / 1_000, n % 1_000, 3));
    }
    if n < 1_000_000_000 {
        return format!("{sign}{}ms", with_fraction(n / 1_000_000, n % 1_000_000, 6));
    }
    let seconds = n / 1_000_000_000;
    let tail = with_fraction(seconds % 60, n % 1_000_000_000, 9);
    match (seconds / 3600, seconds / 60) {
        (0, 0) => format!("{sign}{tail}s"),
        (0, m) => format!("{sign}{m}m{tail}s"),
        (h, m) => format!("{sign}{h}h{}m{tail}s", m % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_normalised() {
        for (text, want) in [
            ("2026-11-21T05:45:00Z", "2026-11-21T05:45:00Z"),
            ("2026-11-21T05:45:00.999Z", "2026-11-21T05:45:00Z"),
            ("2026-11-21T05:45:00+02:00", "2026-11-21T03:45:00Z"),
            ("2026-02-30T00:00:00Z", "parsing time \"2026-02-30T00:00:00Z\": day out of range"),
            ("x", "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\""),
            ("2026-11-21", "parsing time \"2026-11-21\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\""),
        ] {
            assert_eq!(parse_time(text).map_or_else(|e| e, format_time), want);
        }
        let micro = parse_micro_time("2026-11-21T05:45:00.123456Z").expect("micro");
        assert_eq!(format_micro_time(micro), "2026-11-21T05:45:00.123456Z");
        assert!(parse_micro_time("2026-11-21T05:45:00Z").is_err());
        let now: jiff::Timestamp = "1969-12-31T23:59:59.5Z".parse().expect("timestamp");
        assert_eq!(format_micro_time(now), "1969-12-31T23:59:59.500000Z");
        assert_eq!(Instant::from(now).timestamp(), Some(now));
    }

    #[test]
    fn durations_are_gos() {
        for (text, want) in [
            ("0", "0s"),
            ("1h2m3.5s", "1h2m3.5s"),
            ("90s", "1m30s"),
            ("3600s", "1h0m0s"),
            ("1.5ms", "1.5ms"),
            ("-1s", "-1s"),
            ("1500us", "1.5ms"),
            ("1", "time: missing unit in duration \"1\""),
            ("1x", "time: unknown unit \"x\" in duration \"1x\""),
            ("", "time: invalid duration \"\""),
            ("999999999h", "time: invalid duration \"999999999h\""),
        ] {
            assert_eq!(parse_duration(text).map_or_else(|e| e, format_duration), want, "{text}");
        }
        assert_eq!(parse_duration("-9223372036854775808ns"), Ok(i64::MIN));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = (parse_time(&text), parse_micro_time(&text), parse_duration(&text));
        }

        #[test]
        fn instants_round_trip(seconds in -62_135_596_800i64..253_402_300_799, micros in 0u32..1_000_000) {
            let t = Instant { seconds, nanos: micros * 1000 };
            prop_assert_eq!(parse_micro_time(&format_micro_time(t)), Ok(t));
        }

        #[test]
        fn durations_round_trip(nanos in proptest::num::i64::ANY) {
            prop_assert_eq!(parse_duration(&format_duration(nanos)).map_err(|e| (nanos, e)), Ok(nanos));
        }
    }
}
