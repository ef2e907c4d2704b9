//! Patterns, as Go's `regexp` takes them.
//!
//! A compiled pattern is large beside its text, and most are asked for seldom: so many of the last used are kept for all
//! schemas together.

use std::collections::VecDeque;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};

/// Patterns kept.
const KEPT: usize = 64;
/// Bytes that a compiled pattern may take.
const MOST: usize = 1 << 20;

/// The last used first; nothing for what our parser does not take.
type Cache = VecDeque<(String, Option<Regex>)>;

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

/// Whether a text matches. One that our parser does not take is let through: the definition was refused if Go's does
/// not take it either.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    compiled(pattern).is_none_or(|regex| regex.is_match(text))
}

fn compiled(pattern: &str) -> Option<Regex> {
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = cache.iter().position(|(p, _)| p == pattern) {
        let found = cache.remove(at)?;
        let regex = found.1.clone();
        cache.push_front(found);
        return regex;
    }
    drop(cache);
    let regex = RegexBuilder::new(&ascii_classes(pattern)).size_limit(MOST).build().ok();
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    cache.truncate(KEPT - 1);
    cache.push_front((pattern.to_owned(), regex.clone()));
    regex
}

/// Go's `\d`, `\s` and `\w` know ASCII only.
fn ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut chars, mut in_class) = (pattern.chars(), false);
    while let Some(c) = chars.next() {
        match c {
            '\\' => match (chars.next(), in_class) {
                (Some('d'), _) => out.push_str("[0-9]"),
                (Some('w'), _) => out.push_str("[0-9A-Za-z_]"),
                (Some('s'), _) => out.push_str("[\\t\\n\\f\\r ]"),
                (Some('D'), _) => out.push_str("[^0-9]"),
                (Some('W'), _) => out.push_str("[^0-9A-Za-z_]"),
                (Some('S'), _) => out.push_str("[^\\t\\n\\f\\r ]"),
                (Some('b'), false) => out.push_str("(?-u:\\b)"),
                (Some('B'), false) => out.push_str("(?-u:\\B)"),
                (Some('z'), false) => out.push_str("\\z"),
                (Some(other), _) => out.extend(['\\', other]),
                (None, _) => out.push('\\'),
            },
            // Ours nests classes where Go has a bracket.
            '[' if in_class && !chars.as_str().starts_with(':') => out.push_str("\\["),
            '[' => {
                in_class = true;
                out.push(c);
                if let Some(rest) = chars.as_str().strip_prefix('^') {
                    out.push('^');
                    chars = rest.chars();
                }
                if let Some(rest) = chars.as_str().strip_prefix(']') {
                    out.push_str("\\]");
                    chars = rest.chars();
                }
            }
            ':' if in_class && chars.as_str().starts_with(']') && out_has_named(&out) => {
                out.push_str(":]");
                chars.next();
            }
            ']' => {
                in_class = false;
                out.push(c);
            }
            '&' | '~' if in_class => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

/// Whether a named class (`[:alpha:]`) is open at the end.
fn out_has_named(out: &str) -> bool {
    out.rfind("[:").is_some_and(|at| !out[at..].contains(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_go() {
        for (pattern, text, expected) in [
            ("^\\d+$", "12", true),
            ("^\\d+$", "\u{663}", false),
            ("^[\\w-]+$", "a_-9", true),
            ("^[\\w-]+$", "ä", false),
            ("^[^[/]*$", "abc", true),
            ("^[^[/]*$", "a[", false),
            ("^[[:alpha:]&&]+$", "a&", true),
            ("^[]a]+$", "]a", true),
            ("^\\S+$", "a b", false),
            ("^.{1,3}$", "äöü", true),
            ("(?i)^abc$", "ABC", true),
            ("a", "bab", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn bombs_are_let_through() {
        assert!(matches("(((a{1000}){1000}){1000}){1000}", "b"));
        assert!(matches("(", "b"));
        for i in 0..2 * KEPT {
            assert!(matches(&format!("^{i}$"), &i.to_string()));
        }
        assert!(CACHE.lock().unwrap_or_else(PoisonError::into_inner).len() <= KEPT);
    }
}
