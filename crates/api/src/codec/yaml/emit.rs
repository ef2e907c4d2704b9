//! Writing YAML as upstream's emitter (go-yaml version 2, a port of libyaml) does.
//!
//! What decides is the scalar: plain where it reads back as the same text, literal where it has line ends,
//! else quoted. Long plain and quoted scalars are folded at a space beyond column 80.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Where folding begins.
const WIDTH: usize = 80;

/// A value as a YAML document.
pub fn to_string(value: &Value) -> String {
    let mut emitter = Emitter { out: String::with_capacity(256), column: 0 };
    match value {
        Value::Object(map) if !map.is_empty() => emitter.mapping(map, 0, false),
        Value::Array(list) if !list.is_empty() => emitter.sequence(list, 0, false),
        other => {
            emitter.scalar(other, 2, false);
            emitter.write("\n");
        }
    }
    emitter.out
}

/// The order of keys: numbers inside by value, letters after the rest.
fn natural(a: &str, b: &str) -> Ordering {
    let (ar, br): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    for i in 0..ar.len().min(br.len()) {
        if ar[i] == br[i] {
            continue;
        }
        let (al, bl) = (ar[i].is_alphabetic(), br[i].is_alphabetic());
        if al && bl {
            return ar[i].cmp(&br[i]);
        }
        if al || bl {
            return if bl { Ordering::Less } else { Ordering::Greater };
        }
        let (mut an, mut bn) = (0u64, 0u64);
        if ar[i] == '0' || br[i] == '0' {
            for c in ar[..i].iter().rev().take_while(|c| c.is_ascii_digit()) {
                if *c != '0' {
                    (an, bn) = (1, 1);
                    break;
                }
            }
        }
        let count = |chars: &[char], n: &mut u64| {
            let mut at = i;
            while let Some(d) = chars.get(at).and_then(|c| c.to_digit(10)) {
                *n = n.wrapping_mul(10).wrapping_add(u64::from(d));
                at += 1;
            }
            at
        };
        let (ai, bi) = (count(&ar, &mut an), count(&br, &mut bn));
        return an.cmp(&bn).then(ai.cmp(&bi)).then(ar[i].cmp(&br[i]));
    }
    ar.len().cmp(&br.len())
}

/// Go's shortest form of a float (`%g`).
fn float(f: f64) -> String {
    let size = f.abs();
    if f == 0.0 || (1e-4..1e21).contains(&size) {
        return format!("{f}");
    }
    let text = format!("{f:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |d| ("-", d));
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn number(n: &Number) -> String {
    if n.is_f64() { float(n.as_f64().unwrap_or_default()) } else { n.to_string() }
}

/// Whether a plain scalar of this text would be read as something else than this text.
fn resolves_to_other(s: &str) -> bool {
    let Some(first) = s.chars().next() else { return true };
    match first {
        '+' | '-' | '0'..='9' | '.' => is_number(s) || is_timestamp(s) || is_base60(s),
        '<' => s == "<<",
        _ => is_word(s),
    }
}

fn is_word(s: &str) -> bool {
    const LOWER: [&str; 9] = ["y", "yes", "n", "no", "on", "off", "true", "false", "null"];
    if s == "~" {
        return true;
    }
    let lower = s.to_ascii_lowercase();
    if !LOWER.contains(&lower.as_str()) {
        return false;
    }
    let rest = &s[1..];
    // true, True and TRUE, but not tRUE.
    s == lower || s == lower.to_ascii_uppercase() || (rest == &lower[1..] && s.starts_with(|c: char| c.is_uppercase()))
}

fn is_number(s: &str) -> bool {
    if matches!(
        s,
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF"
    ) {
        return true;
    }
    let plain: String = s.chars().filter(|c| *c != '_').collect();
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let digits = |rest: &str, radix: u32| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
    let with_prefix = |prefixes: [&str; 2], radix| {
        prefixes.iter().any(|p| unsigned.strip_prefix(p).is_some_and(|rest| digits(rest, radix)))
    };
    if with_prefix(["0x", "0X"], 16) || with_prefix(["0b", "0B"], 2) || with_prefix(["0o", "0O"], 8) {
        return true;
    }
    // A float, or an integer in decimal or old octal notation (a float where it has an 8 or 9).
    let mut rest = unsigned.as_bytes();
    let mut take = |accept: fn(&u8) -> bool| {
        let n = rest.iter().take_while(|b| accept(b)).count();
        rest = &rest[n..];
        n
    };
    let whole = take(u8::is_ascii_digit);
    let point = take(|b| *b == b'.');
    let fraction = take(u8::is_ascii_digit);
    if point > 1 || (whole == 0 && (point == 0 || fraction == 0)) {
        return false;
    }
    match rest {
        [] => true,
        [b'e' | b'E', exponent @ ..] => {
            let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
            !exponent.is_empty() && exponent.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// A date, or a date and a time of day.
fn is_timestamp(s: &str) -> bool {
    let bytes = s.as_bytes();
    if bytes.len() < 8 || !bytes[..4].iter().all(u8::is_ascii_digit) || bytes[4] != b'-' {
        return false;
    }
    fn digits(rest: &str, most: usize) -> Option<(u32, &str)> {
        let n = rest.bytes().take_while(u8::is_ascii_digit).take(most).count();
        Some((rest[..n].parse().ok()?, &rest[n..]))
    }
    let parse = || -> Option<bool> {
        let (month, rest) = digits(&s[5..], 2)?;
        let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Some(false);
        }
        if rest.is_empty() {
            return Some(true);
        }
        let spaced = rest.starts_with(' ');
        let (hour, rest) = digits(rest.strip_prefix(['T', 't', ' '])?, 2)?;
        let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
        let (second, mut rest) = digits(rest.strip_prefix(':')?, 2)?;
        if hour > 23 || minute > 59 || second > 59 {
            return Some(false);
        }
        if let Some(fraction) = rest.strip_prefix('.') {
            rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        if spaced {
            return Some(rest.is_empty());
        }
        let offset = rest.strip_prefix(['+', '-']).is_some_and(|o| {
            o.len() == 5 && o.bytes().enumerate().all(|(i, b)| if i == 2 { b == b':' } else { b.is_ascii_digit() })
        });
        Some(rest == "Z" || offset)
    };
    parse().unwrap_or(false)
}

/// YAML 1.1's numbers to the base of 60, such as `12:30:45`.
fn is_base60(s: &str) -> bool {
    let unsigned = s.strip_prefix(['+', '-']).unwrap_or(s);
    let mut parts = unsigned.split(':');
    let head = parts.next().unwrap_or_default();
    let mut rest: Vec<&str> = parts.collect();
    let Some(last) = rest.last_mut() else { return false };
    if let Some((whole, fraction)) = last.split_once('.') {
        if !fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
            return false;
        }
        *last = whole;
    }
    head.starts_with(|c: char| c.is_ascii_digit())
        && head.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && rest.iter().all(|p| match p.as_bytes() {
            [d] => d.is_ascii_digit(),
            [tens, d] => (b'0'..=b'5').contains(tens) && d.is_ascii_digit(),
            _ => false,
        })
}

/// What the characters of a text allow.
struct Analysis {
    plain: bool,
    single: bool,
    literal: bool,
}

fn printable(c: char) -> bool {
    matches!(c, '\n' | '\u{20}'..='\u{7e}' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn analyze(s: &str) -> Analysis {
    let chars: Vec<char> = s.chars().collect();
    let mut indicators = s.starts_with("---") || s.starts_with("...");
    let (mut edge, mut trailing_space, mut break_space, mut space_break) = (false, false, false, false);
    let (mut special, mut breaks) = (false, false);
    let (mut after_white, mut previous_space, mut previous_break) = (true, false, false);
    for (i, &c) in chars.iter().enumerate() {
        let before_white = chars.get(i + 1).is_none_or(|n| matches!(n, ' ' | '\t') || is_break(*n));
        let (first, last) = (i == 0, i + 1 == chars.len());
        indicators |= match c {
            '#' => after_white,
            ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => first,
            '?' | '-' => first && before_white,
            ':' => before_white,
            _ => false,
        };
        special |= !printable(c);
        let space = c == ' ';
        if space {
            edge |= first || last;
            trailing_space |= last;
            break_space |= previous_break;
        } else if is_break(c) {
            breaks = true;
            edge |= first || last;
            space_break |= previous_space;
        }
        (previous_space, previous_break) = (space, is_break(c));
        after_white = matches!(c, ' ' | '\t') || is_break(c);
    }
    let unsafe_text = space_break || special;
    Analysis {
        plain: !(indicators || edge || break_space || breaks || unsafe_text),
        single: !(break_space || unsafe_text),
        literal: !(trailing_space || unsafe_text || s.is_empty()),
    }
}

struct Emitter {
    out: String,
    column: usize,
}

impl Emitter {
    fn write(&mut self, text: &str) {
        for c in text.chars() {
            self.put(c);
        }
    }

    fn put(&mut self, c: char) {
        self.out.push(c);
        self.column = if c == '\n' { 0 } else { self.column + 1 };
    }

    fn line(&mut self, indent: usize) {
        self.put('\n');
        for _ in 0..indent {
            self.put(' ');
        }
    }

    /// A mapping whose keys stand at `indent`; the first goes on the line that is open when `inline`.
    fn mapping(&mut self, map: &crate::Map, indent: usize, inline: bool) {
        let mut entries: Vec<(&String, &Value)> = map.iter().collect();
        entries.sort_by(|a, b| natural(a.0, b.0));
        for (i, (key, value)) in entries.into_iter().enumerate() {
            if i > 0 || !inline {
                for _ in self.column..indent {
                    self.put(' ');
                }
            }
            // A long key or one of several lines is written explicitly.
            let simple = key.len() <= 128;
            if simple {
                self.text(key, indent + 2, true);
                self.write(":");
                self.value(value, indent);
            } else {
                self.write("? ");
                self.text(key, indent + 2, false);
                self.line(indent);
                self.write(":");
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        self.write(" ");
                        self.mapping(map, indent + 2, true);
                    }
                    Value::Array(list) if !list.is_empty() => {
                        self.write(" ");
                        self.sequence(list, indent + 2, true);
                    }
                    other => self.value(other, indent),
                }
            }
        }
    }

    /// The value after a key and its colon.
    fn value(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                self.put('\n');
                self.mapping(map, indent + 2, false);
            }
            Value::Array(list) if !list.is_empty() => {
                self.put('\n');
                self.sequence(list, indent, false);
            }
            other => {
                self.write(" ");
                self.scalar(other, indent + 2, false);
                self.put('\n');
            }
        }
    }

    fn sequence(&mut self, list: &[Value], indent: usize, inline: bool) {
        for (i, value) in list.iter().enumerate() {
            if i > 0 || !inline {
                for _ in self.column..indent {
                    self.put(' ');
                }
            }
            self.write("- ");
            match value {
                Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, true),
                Value::Array(list) if !list.is_empty() => self.sequence(list, indent + 2, true),
                other => {
                    self.scalar(other, indent + 2, false);
                    self.put('\n');
                }
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize, key: bool) {
        match value {
            Value::Null => self.write("null"),
            Value::Bool(b) => self.write(if *b { "true" } else { "false" }),
            Value::Number(n) => self.write(&number(n)),
            Value::String(s) => self.text(s, indent, key),
            Value::Array(_) => self.write("[]"),
            Value::Object(_) => self.write("{}"),
        }
    }

    /// A text; its further lines stand at `indent`.
    fn text(&mut self, s: &str, indent: usize, key: bool) {
        let allowed = analyze(s);
        if s.contains('\n') {
            if !key && allowed.literal { self.literal(s, indent) } else { self.double(s, indent, key) }
        } else if resolves_to_other(s) {
            self.double(s, indent, key);
        } else if allowed.plain {
            self.folded(s, indent, key);
        } else if allowed.single {
            self.put('\'');
            self.folded(&s.replace('\'', "''"), indent, key);
            self.put('\'');
        } else {
            self.double(s, indent, key);
        }
    }

    /// The characters of a text without line ends, a single space beyond the width turned into a line end.
    fn folded(&mut self, s: &str, indent: usize, key: bool) {
        let chars: Vec<char> = s.chars().collect();
        let mut after_space = false;
        for (i, &c) in chars.iter().enumerate() {
            let inside = i > 0 && i + 1 < chars.len();
            if c == ' ' && !key && !after_space && inside && self.column > WIDTH && chars.get(i + 1) != Some(&' ') {
                self.line(indent);
            } else {
                self.put(c);
            }
            after_space = c == ' ';
        }
    }

    fn double(&mut self, s: &str, indent: usize, key: bool) {
        self.put('"');
        let chars: Vec<char> = s.chars().collect();
        let mut after_space = false;
        for (i, &c) in chars.iter().enumerate() {
            if c == ' ' {
                let inside = i > 0 && i + 1 < chars.len();
                if !key && !after_space && self.column > WIDTH && inside {
                    self.line(indent);
                    if chars.get(i + 1) == Some(&' ') {
                        self.put('\\');
                    }
                } else {
                    self.put(' ');
                }
                after_space = true;
                continue;
            }
            after_space = false;
            match c {
                '"' => self.write("\\\""),
                '\\' => self.write("\\\\"),
                '\u{0}' => self.write("\\0"),
                '\u{7}' => self.write("\\a"),
                '\u{8}' => self.write("\\b"),
                '\t' => self.write("\\t"),
                '\n' => self.write("\\n"),
                '\u{b}' => self.write("\\v"),
                '\u{c}' => self.write("\\f"),
                '\r' => self.write("\\r"),
                '\u{1b}' => self.write("\\e"),
                '\u{85}' => self.write("\\N"),
                '\u{a0}' => self.write("\\_"),
                '\u{2028}' => self.write("\\L"),
                '\u{2029}' => self.write("\\P"),
                c if printable(c) && c != '\u{feff}' => self.put(c),
                c if (c as u32) <= 0xff => self.write(&format!("\\x{:02X}", c as u32)),
                c if (c as u32) <= 0xffff => self.write(&format!("\\u{:04X}", c as u32)),
                c => self.write(&format!("\\U{:08X}", c as u32)),
            }
        }
        self.put('"');
    }

    fn literal(&mut self, s: &str, indent: usize) {
        self.put('|');
        if s.starts_with([' ', '\n']) {
            self.put('2');
        }
        match s.strip_suffix('\n') {
            None => self.put('-'),
            Some(body) if body.is_empty() || body.ends_with('\n') => self.put('+'),
            Some(_) => {}
        }
        let body = s.strip_suffix('\n').unwrap_or(s);
        for line in body.split('\n') {
            self.put('\n');
            if !line.is_empty() {
                for _ in 0..indent {
                    self.put(' ');
                }
                self.write(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value, want: &str) {
        assert_eq!(to_string(&value), want);
    }

    #[test]
    fn scalars_are_quoted_where_they_must() {
        for (text, want) in [
            ("a", "a"),
            ("", "\"\""),
            ("true", "\"true\""),
            ("Yes", "\"Yes\""),
            ("nO", "nO"),
            ("null", "\"null\""),
            ("1", "\"1\""),
            ("1.5", "\"1.5\""),
            ("1e3", "\"1e3\""),
            ("0x1f", "\"0x1f\""),
            ("1.2.3", "1.2.3"),
            ("10Gi", "10Gi"),
            ("2026-11-21T05:45:00Z", "\"2026-11-21T05:45:00Z\""),
            ("12:30:45", "\"12:30:45\""),
            ("a: b", "'a: b'"),
            ("a:b", "a:b"),
            ("it's", "it's"),
            ("'q'", "'''q'''"),
            ("*x", "'*x'"),
            (" x", "' x'"),
            ("a #b", "'a #b'"),
            ("- a", "'- a'"),
            ("-a", "-a"),
            ("a\tb", "\"a\\tb\""),
            ("{}", "'{}'"),
            ("é", "é"),
        ] {
            check(json!(text), &format!("{want}\n"));
        }
    }

    #[test]
    fn structures_are_laid_out_as_upstream() {
        check(
            json!({"b": [{"x": 1, "y": [[1, 2], []]}, {}], "a10": null, "a9": {"k": "l1\nl2\n"}, "t": "x\ny", "e": "\n"}),
            "a9:\n  k: |\n    l1\n    l2\na10: null\nb:\n- x: 1\n  \"y\":\n  - - 1\n    - 2\n  - []\n- {}\ne: |2+\n\nt: |-\n  x\n  y\n",
        );
    }

    #[test]
    fn long_texts_are_folded() {
        let words = "word ".repeat(30);
        check(
            json!({"message": words.trim_end()}),
            &format!("message: {}\n  {}\n", "word ".repeat(15).trim_end(), "word ".repeat(15).trim_end()),
        );
    }
}
