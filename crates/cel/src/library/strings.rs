//! Functions of text (`ext/strings.go`, version 2). Places are counted in code points.

mod format;

use super::{Library, Result, int, items, text};
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;
use crate::value::Value;

/// The library.
pub const LIBRARY: Library = Library::new("cel.lib.ext.strings", declare);

fn out_of_range(n: i64) -> EvalError {
    EvalError::new(format!("index out of range: {n}"))
}

/// The byte at which the `n`th code point begins, the end of the text included.
fn byte_of(text: &str, n: i64) -> Option<usize> {
    let n = usize::try_from(n).ok()?;
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(n)
}

fn place<'a>(text: &str, at: Option<usize>) -> Value<'a> {
    Value::Int(at.map_or(-1, |at| text[..at].chars().count() as i64))
}

fn char_at<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (s, n) = (text(args, 0)?, int(args, 1)?);
    let at = byte_of(s, n).ok_or_else(|| out_of_range(n))?;
    Ok(s[at..].chars().next().map(String::from).unwrap_or_default().into())
}

/// From a place on, the beginning if none is given.
fn index_of<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (s, wanted) = (text(args, 0)?, text(args, 1)?);
    let from = if args.len() > 2 { int(args, 2)? } else { 0 };
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Some(start) = byte_of(s, from) else { return Ok(Value::Int(-1)) };
    Ok(place(s, s[start..].find(wanted).map(|at| start + at)))
}

/// The last that begins at a place or before it.
fn last_index_of<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (s, wanted) = (text(args, 0)?, text(args, 1)?);
    let length = s.chars().count() as i64;
    let from = if args.len() > 2 { int(args, 2)? } else { length };
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    if args.len() > 2 && from >= length {
        return Ok(Value::Int(-1));
    }
    let start = byte_of(s, from).unwrap_or(s.len());
    let end = s.len().min(start.saturating_add(wanted.len()));
    let head = s.get(..end).unwrap_or_else(|| s.get(..start).unwrap_or(s));
    Ok(place(s, head.rfind(wanted)))
}

fn join<'a>(args: &[Value<'a>]) -> Result<'a> {
    let between = if args.len() > 1 { text(args, 1)? } else { "" };
    let all = items(args, 0)?;
    let parts = all.iter().map(|v| v.as_str().ok_or_else(EvalError::no_such_overload));
    let parts = parts.collect::<std::result::Result<Vec<_>, _>>()?;
    let length = parts.iter().map(|p| p.len()).sum::<usize>();
    within_limit(length.saturating_add(between.len().saturating_mul(parts.len())))?;
    Ok(parts.join(between).into())
}

/// What is made of two texts may be as long as their product; upstream has no limit here.
const MAX_RESULT: usize = 16 << 20;

fn within_limit(length: usize) -> std::result::Result<(), EvalError> {
    if length <= MAX_RESULT { Ok(()) } else { Err(EvalError::new("the resulting string is too long")) }
}

fn substring<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (s, start) = (text(args, 0)?, int(args, 1)?);
    let length = s.chars().count() as i64;
    let end = if args.len() > 2 { int(args, 2)? } else { length };
    if start > end {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let from = byte_of(s, start).ok_or_else(|| out_of_range(start))?;
    let to = byte_of(s, end).ok_or_else(|| out_of_range(end))?;
    Ok(s[from..to].to_owned().into())
}

/// How many at most; all, if the number is negative.
fn limit(args: &[Value<'_>], n: usize) -> std::result::Result<usize, EvalError> {
    Ok(if args.len() > n { usize::try_from(int(args, n)?).unwrap_or(usize::MAX) } else { usize::MAX })
}

fn replace<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (s, from, to, most) = (text(args, 0)?, text(args, 1)?, text(args, 2)?, limit(args, 3)?);
    let count = s.matches(from).take(most).count();
    within_limit(s.len().saturating_add(count.saturating_mul(to.len())))?;
    Ok(s.replacen(from, to, most).into())
}

fn split<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (s, separator, most) = (text(args, 0)?, text(args, 1)?, limit(args, 2)?);
    let parts: Vec<&str> = if most == 0 {
        Vec::new()
    } else if separator.is_empty() {
        // Every character by itself, the last part having what is left.
        let mut places: Vec<usize> = s.char_indices().map(|(at, _)| at).take(most).collect();
        places.push(s.len());
        places.windows(2).map(|w| &s[w[0]..w[1]]).collect()
    } else {
        s.splitn(most, separator).collect()
    };
    Ok(parts.into_iter().map(|p| Value::from(p.to_owned())).collect::<Vec<_>>().into())
}

/// As a literal of the language.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn declare(f: &mut Functions) {
    use Type::{Int, String};
    let list = || Type::list(String);
    f.member("charAt", "string_char_at_int", [String, Int], String, char_at);
    f.member("indexOf", "string_index_of_string", [String, String], Int, index_of);
    f.member("indexOf", "string_index_of_string_int", [String, String, Int], Int, index_of);
    f.member("lastIndexOf", "string_last_index_of_string", [String, String], Int, last_index_of);
    f.member("lastIndexOf", "string_last_index_of_string_int", [String, String, Int], Int, last_index_of);
    f.member("join", "list_join", [list()], String, join);
    f.member("join", "list_join_string", [list(), String], String, join);
    f.member("lowerAscii", "string_lower_ascii", [String], String, |a| Ok(text(a, 0)?.to_ascii_lowercase().into()));
    f.member("upperAscii", "string_upper_ascii", [String], String, |a| Ok(text(a, 0)?.to_ascii_uppercase().into()));
    f.member("replace", "string_replace_string_string", [String, String, String], String, replace);
    f.member("replace", "string_replace_string_string_int", [String, String, String, Int], String, replace);
    f.member("split", "string_split_string", [String, String], list(), split);
    f.member("split", "string_split_string_int", [String, String, Int], list(), split);
    f.member("substring", "string_substring_int", [String, Int], String, substring);
    f.member("substring", "string_substring_int_int", [String, Int, Int], String, substring);
    f.member("trim", "string_trim", [String], String, |a| Ok(text(a, 0)?.trim().to_owned().into()));
    f.member("format", "string_format", [String, Type::list(Type::Dyn)], String, format::format);
    f.global("strings.quote", "strings_quote", [String], String, |a| Ok(quote(text(a, 0)?).into()));
}
