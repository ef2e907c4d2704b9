//! Cron schedules: when is the next time? (`robfig/cron`, standard parser)

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Five fields.
    Fields(Box<Fields>),
    /// `@every` so often.
    Every(SignedDuration),
}

/// The fields of a schedule as sets of bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month or of the week were left open: then both must fit, otherwise one.
    open: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule; `None` for one that makes no sense.
    pub fn parse(text: &str) -> Option<Schedule> {
        let text = text.trim();
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        if let Some(every) = text.strip_prefix("@every ") {
            let nanos = orkd_api::time::parse_duration(every.trim()).ok()?;
            // Not below a second, and whole seconds, as upstream.
            return Some(Schedule::Every(SignedDuration::from_secs((nanos / 1_000_000_000).max(1))));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else { return None };
        let open = |field: &str| {
            // With a step it is a choice.
            let every = |part: &str| part.split_once('/').is_none_or(|(_, step)| step.parse() == Ok(1_u32));
            field.split(',').any(|part| part.starts_with(['*', '?']) && every(part))
        };
        Some(Schedule::Fields(Box::new(Fields {
            minutes: bits(minutes, 0, 59, &[])?,
            hours: bits(hours, 0, 23, &[])?,
            days: bits(days, 1, 31, &[])?,
            months: bits(months, 1, 12, &MONTHS)?,
            weekdays: bits(weekdays, 0, 6, &WEEKDAYS)?,
            open: open(days) || open(weekdays),
        })))
    }

    /// The first time after `after`; `None` if there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(every) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*every).ok(),
            Schedule::Fields(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let found = self.from(start.checked_add(1.minute()).ok()?, after, zone);
        // Where the clocks go back an hour comes twice, and what is due in it is due twice.
        let end = found.unwrap_or(Timestamp::MAX);
        let back = zone.following(after).take_while(|t| t.timestamp() <= end).take(12).find(|transition| {
            let before = transition.timestamp().checked_sub(1.nanosecond());
            before.is_ok_and(|at| zone.to_offset(at) > transition.offset())
        });
        let again = back.and_then(|transition| {
            let at = transition.timestamp();
            self.from(at.to_zoned(zone.clone()).datetime(), at.checked_sub(1.nanosecond()).ok()?, zone)
        });
        found.into_iter().chain(again).min()
    }

    /// The first time after `after` of which the clock shows `start` or later.
    fn from(&self, start: DateTime, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut at = start.date().at(start.hour(), start.minute(), 0, 0);
        let last = i32::from(start.year()) + 5;
        while i32::from(at.year()) <= last {
            if !has(self.months, at.month()) {
                let first: Date = at.date().first_of_month();
                at = first.checked_add(1.month()).ok()?.at(0, 0, 0, 0);
            } else if !self.is_day(at.date()) {
                at = at.date().tomorrow().ok()?.at(0, 0, 0, 0);
            } else if !has(self.hours, at.hour()) {
                at = whole_hour(at).checked_add(1.hour()).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                let ambiguous = zone.to_ambiguous_timestamp(at);
                // A time that the clocks skip is skipped.
                let gap = matches!(ambiguous.offset(), jiff::tz::AmbiguousOffset::Gap { .. });
                let both = [ambiguous.earlier(), ambiguous.later()];
                match both.into_iter().flatten().find(|time| !gap && *time > after) {
                    Some(time) => return Some(time),
                    None => at = at.checked_add(1.minute()).ok()?,
                }
            }
        }
        None
    }

    fn is_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        if self.open { day && weekday } else { day || weekday }
    }
}

fn whole_hour(at: DateTime) -> DateTime {
    at.date().at(at.hour(), 0, 0, 0)
}

fn has(bits: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| bits >> n & 1 == 1)
}

/// One field: a list of `*`, numbers or names, ranges, each with a step.
fn bits(field: &str, min: u32, max: u32, names: &[&str]) -> Option<u64> {
    let number = |text: &str| -> Option<u32> {
        let named = names.iter().position(|n| n.eq_ignore_ascii_case(text)).and_then(|i| u32::try_from(i).ok());
        named.map(|i| i + min).or_else(|| text.parse().ok())
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|s| *s > 0)?)),
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => (min, max),
            _ => match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                // `5/15` goes on to the end.
                None => (number(range)?, if step.is_some() { max } else { number(range)? }),
            },
        };
        if first < min || last > max || first > last {
            return None;
        }
        (first..=last).step_by(step.unwrap_or(1) as usize).for_each(|n| set |= 1 << n);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, zone: &str, after: &str, expected: &str) {
        let zone = if zone == "UTC" { TimeZone::UTC } else { TimeZone::get(zone).expect("a zone") };
        let schedule = Schedule::parse(schedule).expect("a schedule");
        let next = schedule.next(after.parse().expect("a time"), &zone);
        assert_eq!(next.map(|t| t.to_string()).unwrap_or_default(), expected, "{schedule:?}");
    }

    #[test]
    fn the_next_time_is_found() {
        let utc = "UTC";
        check("*/15 * * * *", utc, "2026-01-01T00:07:30Z", "2026-01-01T00:15:00Z");
        check("5/15 * * * *", utc, "2026-01-01T00:05:00Z", "2026-01-01T00:20:00Z");
        check("0 0 1 * *", utc, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        check("30 6 * * mon-fri", utc, "2026-01-02T07:00:00Z", "2026-01-05T06:30:00Z");
        check("0 0 13 * fri", utc, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        check("0 0 */10 * wed", utc, "2026-01-01T00:00:00Z", "2026-01-07T00:00:00Z");
        check("0 0 29 feb *", utc, "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
        check("0 0 31 feb *", utc, "2026-01-01T00:00:00Z", "");
        check("@hourly", utc, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z");
        check("@every 1h30m", utc, "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z");
        for bad in ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "@every x", "5-1 * * * *"] {
            assert_eq!(Schedule::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn clocks_that_change_are_minded() {
        check("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z");
        // 02:30 does not exist on the last Sunday of March.
        check("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z");
        check("30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z");
    }

    #[test]
    fn an_hour_that_comes_twice_is_served_twice() {
        // In New York 01:00 to 02:00 comes again at 06:00 UTC on the first of November.
        let zone = "America/New_York";
        check("*/30 * * * *", zone, "2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z");
        check("*/30 * * * *", zone, "2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z");
        check("*/30 * * * *", zone, "2026-11-01T06:00:00Z", "2026-11-01T06:30:00Z");
        check("*/30 * * * *", zone, "2026-11-01T06:30:00Z", "2026-11-01T07:00:00Z");
        check("30 1 * * *", zone, "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z");
        check("30 1 * * *", zone, "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z");
        check("0 3 * * *", zone, "2026-10-31T12:00:00Z", "2026-11-01T08:00:00Z");
    }
}
