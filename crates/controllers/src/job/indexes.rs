//! Sets of indexes as text: `0-3,5` (`indexed_job_utils.go`).

use std::collections::BTreeSet;

/// Reads a set; what is not below `limit` or cannot be read is left out.
pub fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..=last.min(limit.saturating_sub(1)));
        }
    }
    set
}

/// Writes a set.
pub fn format(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for index in set {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => parts.push((*index, *index)),
        }
    }
    let text = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_indexes_are_text() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-9,x,3-", 5)), "0-4");
        assert!(parse("0-2000000000", 3).len() == 3);
    }
}
