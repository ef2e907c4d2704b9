//! `'%s is %d'.format([name, count])` (`ext/formatting.go`).

use super::super::{Result, items, text};
use super::quote;
use crate::eval::EvalError;
use crate::value::Value;

/// More decimals are not written.
const MAX_PRECISION: usize = 1000;

/// Writes the arguments where the clauses of the text say.
pub(super) fn format<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (template, values) = (text(args, 0)?, items(args, 1)?);
    let mut values = values.iter().enumerate();
    let mut out = String::new();
    let mut rest = template;
    while let Some((plain, after)) = rest.split_once('%') {
        out.push_str(plain);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, after) = precision(after)?;
        let mut letters = after.chars();
        let clause = letters.next().ok_or_else(|| failed("unexpected end of string"))?;
        rest = letters.as_str();
        let count = args.get(1).map_or(0, Value::size);
        let (_, value) = values.next().ok_or_else(|| failed(&format!("index {count} out of range")))?;
        out.push_str(&clause_text(clause, precision, value)?);
    }
    out.push_str(rest);
    Ok(out.into())
}

fn failed(why: &str) -> EvalError {
    EvalError::new(format!("error during formatting: {why}"))
}

fn precision(text: &str) -> std::result::Result<(Option<usize>, &str), EvalError> {
    let Some(after) = text.strip_prefix('.') else { return Ok((None, text)) };
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let digits: usize = after[..end].parse().map_err(|_| failed("error while parsing precision"))?;
    if digits > MAX_PRECISION {
        return Err(failed(&format!("precision exceeds maximum allowed: {MAX_PRECISION}")));
    }
    Ok((Some(digits), &after[end..]))
}

fn clause_text(clause: char, precision: Option<usize>, value: &Value<'_>) -> std::result::Result<String, EvalError> {
    let digits = precision.unwrap_or(6);
    let name = value.ty();
    let wrong = |wants: &str| Err(failed(&format!("{wants}, was given {}", name.name())));
    match (clause, value) {
        ('s', value) => Ok(shown(value)),
        ('d', Value::Int(n)) => Ok(n.to_string()),
        ('d', Value::Uint(n)) => Ok(n.to_string()),
        ('d', _) => wrong("decimal clause can only be used on integers"),
        ('f', Value::Double(d)) => Ok(special(*d).unwrap_or_else(|| format!("{d:.digits$}"))),
        ('f', Value::Int(n)) => Ok(format!("{:.digits$}", *n as f64)),
        ('f', Value::Uint(n)) => Ok(format!("{:.digits$}", *n as f64)),
        ('f', _) => wrong("fixed-point clause can only be used on doubles"),
        ('e', Value::Double(d)) => Ok(special(*d).unwrap_or_else(|| scientific(*d, digits))),
        ('e', Value::Int(n)) => Ok(scientific(*n as f64, digits)),
        ('e', Value::Uint(n)) => Ok(scientific(*n as f64, digits)),
        ('e', _) => wrong("scientific clause can only be used on doubles"),
        ('b', Value::Int(n)) => Ok(signed(*n, |n| format!("{n:b}"))),
        ('b', Value::Uint(n)) => Ok(format!("{n:b}")),
        ('b', Value::Bool(b)) => Ok(u8::from(*b).to_string()),
        ('b', _) => wrong("only integers and bools can be formatted as binary"),
        ('o', Value::Int(n)) => Ok(signed(*n, |n| format!("{n:o}"))),
        ('o', Value::Uint(n)) => Ok(format!("{n:o}")),
        ('o', _) => wrong("octal clause can only be used on integers"),
        ('x' | 'X', value) => {
            let lower = match value {
                Value::Int(n) => signed(*n, |n| format!("{n:x}")),
                Value::Uint(n) => format!("{n:x}"),
                Value::String(s) => s.bytes().map(|b| format!("{b:02x}")).collect(),
                Value::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return wrong("only integers, byte buffers, and strings can be formatted as hex"),
            };
            Ok(if clause == 'X' { lower.to_uppercase() } else { lower })
        }
        (other, _) => Err(EvalError::new(format!(
            "could not parse formatting clause: unrecognized formatting clause \"{other}\""
        ))),
    }
}

fn signed(n: i64, write: impl Fn(u64) -> String) -> String {
    format!("{}{}", if n < 0 { "-" } else { "" }, write(n.unsigned_abs()))
}

fn special(d: f64) -> Option<String> {
    match d {
        d if d.is_nan() => Some("NaN".to_owned()),
        f64::INFINITY => Some("Infinity".to_owned()),
        f64::NEG_INFINITY => Some("-Infinity".to_owned()),
        _ => None,
    }
}

/// `1.500000e+02`.
fn scientific(d: f64, digits: usize) -> String {
    let text = format!("{d:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{mantissa}e{sign}{exponent:0>2}")
}

/// `%s`: any value; text within lists and maps is quoted.
fn shown(value: &Value<'_>) -> String {
    let inner = |v: &Value<'_>| match v {
        Value::String(s) => quote(s),
        other => shown(other),
    };
    match value {
        Value::List(list) => format!("[{}]", list.iter().map(|v| inner(&v)).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let entries = map.entries().unwrap_or_default();
            let one = |(k, v): &(Value<'_>, Value<'_>)| format!("{}: {}", inner(k), inner(v));
            format!("{{{}}}", entries.iter().map(one).collect::<Vec<_>>().join(", "))
        }
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Double(d) => special(*d).unwrap_or_else(|| value.to_string()),
        other => other.to_string(),
    }
}
