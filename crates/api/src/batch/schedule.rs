//! The grammar of cron expressions, with the problem texts of the parser upstream uses (`robfig/cron`).
//!
//! Five fields (minute, hour, day of month, month, day of week), after a time zone (`TZ=UTC`) or none, each `*`, `?`, numbers, names, ranges, steps and lists
//! of these; or a word such as `@daily`, or `@every` and a duration.

/// Bounds of a field and the names it knows, counted from the lower bound.
struct Bounds(u32, u32, &'static [&'static str]);

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Bounds; 5] =
    [Bounds(0, 59, &[]), Bounds(0, 23, &[]), Bounds(1, 31, &[]), Bounds(1, 12, MONTHS), Bounds(0, 6, DAYS)];

/// Whether a text is a cron expression; the problem if not.
pub fn check(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("empty spec string".into());
    }
    let text = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
        None => text,
        Some(rest) => {
            let (zone, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            if !matches!(zone, "" | "UTC" | "Local") && !orkd_cel::time::is_zone(zone) {
                return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
            }
            rest.trim()
        }
    };
    if text.starts_with('@') {
        return descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(field, bounds)| {
        field.split(',').filter(|part| !part.is_empty()).try_for_each(|part| range(part, bounds))
    })
}

fn descriptor(text: &str) -> Result<(), String> {
    match text {
        "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly" => Ok(()),
        _ => match text.strip_prefix("@every ") {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(duration) => Err(format!(
                "failed to parse duration {text}: time: invalid duration {}",
                crate::field::quote(duration)
            )),
            None => Err(format!("unrecognized descriptor: {text}")),
        },
    }
}

/// Go's durations: `1h30m`, `90s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let Some(unit) = ["ns", "us", "ms", "s", "m", "h"]
            .iter()
            .filter(|u| rest.get(digits..).is_some_and(|tail| tail.starts_with(**u)))
            .max_by_key(|u| u.len())
        else {
            return false;
        };
        if digits == 0 {
            return false;
        }
        rest = rest.get(digits + unit.len()..).unwrap_or_default();
    }
    !text.is_empty()
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    if let Some(i) = bounds.2.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(bounds.0 + i as u32);
    }
    if text.starts_with('-') {
        return Err(format!("negative number ({text}) not allowed: {text}"));
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax", crate::field::quote(text))
    })
}

fn range(text: &str, bounds: &Bounds) -> Result<(), String> {
    let (span, step) = match text.split('/').collect::<Vec<_>>().as_slice() {
        [span] => (*span, None),
        [span, step] => (*span, Some(*step)),
        _ => return Err(format!("too many slashes: {text}")),
    };
    let parts: Vec<&str> = span.split('-').collect();
    let (start, end) = match parts.as_slice() {
        ["*" | "?"] => (bounds.0, bounds.1),
        [one] => {
            let n = number(one, bounds)?;
            (n, if step.is_some() { bounds.1 } else { n })
        }
        [a, b] => (number(a, bounds)?, number(b, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = step.map_or(Ok(1), |s| number(s, &Bounds(0, u32::MAX, &[])))?;
    if start < bounds.0 {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.0));
    }
    if end > bounds.1 {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.1));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_taken_or_refused_with_a_reason() {
        for good in
            ["*/5 * * * *", "0 0 1 jan sun", "@daily", "@every 1h30m", "0-30/2,45 ? * * 1-5", "TZ=UTC 0 * * * *"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, problem) in [
            ("hello", "expected exactly 5 fields, found 1: [hello]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("CRON_TZ=Mars/X 0 * * * *", "provided bad location Mars/X: unknown time zone Mars/X"),
            ("TZ=UTC hello", "expected exactly 5 fields, found 1: [hello]"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ] {
            assert_eq!(check(bad), Err(problem.into()), "{bad}");
        }
    }
}
