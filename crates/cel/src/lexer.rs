//! Text to tokens (`parser/gen/CEL.g4` of cel-go).

use crate::source::Issue;

/// What a token is. The text is a slice of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The end of the text.
    Eof,
    Ident,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    /// An operator, a bracket, or one of the words `in`, `true`, `false`, `null`.
    Sign(&'static str),
}

/// A token and its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

const WORDS: [&str; 4] = ["in", "true", "false", "null"];

/// Longer ones first.
const SIGNS: [&str; 28] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", ".", ",", "+", "-", "*", "/", "%", "[", "]", "{", "}",
    "(", ")", "=", "&", "|", "~",
];

/// The tokens of a text, the last one being [`Kind::Eof`], or the first part that is none.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Issue> {
    let mut all = Vec::new();
    let mut lexer = Lexer { text, at: 0 };
    loop {
        lexer.skip_blanks();
        let start = lexer.at;
        let kind = lexer.next().map_err(|()| {
            let rest: String = lexer.text[start..].chars().take(lexer.bad(start)).collect();
            Issue::at(text, start, format!("Syntax error: token recognition error at: '{rest}'"))
        })?;
        all.push(Token { kind, start, end: lexer.at });
        if kind == Kind::Eof {
            return Ok(all);
        }
    }
}

struct Lexer<'s> {
    text: &'s str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blanks(&mut self) {
        loop {
            match self.byte(0) {
                b' ' | b'\t' | b'\r' | b'\n' | 0x0c => self.at += 1,
                b'/' if self.byte(1) == b'/' => {
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                }
                _ => return,
            }
        }
    }

    /// How many characters of a bad token are shown: all of an open string, else one.
    fn bad(&self, start: usize) -> usize {
        let first = self.text[start..].trim_start_matches(['b', 'B', 'r', 'R']);
        if first.starts_with(['"', '\'']) { usize::MAX } else { 1 }
    }

    fn next(&mut self) -> Result<Kind, ()> {
        let first = self.byte(0);
        match first {
            _ if self.rest().is_empty() => Ok(Kind::Eof),
            b'"' | b'\'' => self.string(Kind::String, 0),
            b'r' | b'R' if matches!(self.byte(1), b'"' | b'\'') => self.string(Kind::String, 1),
            b'b' | b'B' if matches!(self.byte(1), b'"' | b'\'') => self.string(Kind::Bytes, 1),
            b'b' | b'B' if matches!(self.byte(1), b'r' | b'R') && matches!(self.byte(2), b'"' | b'\'') => {
                self.string(Kind::Bytes, 2)
            }
            b'0'..=b'9' => Ok(self.number()),
            b'.' if self.byte(1).is_ascii_digit() => Ok(self.number()),
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => Ok(self.word()),
            _ => {
                let sign = SIGNS.iter().find(|s| self.rest().starts_with(**s)).ok_or(())?;
                if matches!(*sign, "=" | "&" | "|" | "~") {
                    return Err(());
                }
                self.at += sign.len();
                Ok(Kind::Sign(sign))
            }
        }
    }

    fn word(&mut self) -> Kind {
        let length = self.rest().bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let word = &self.text[self.at..self.at + length];
        self.at += length;
        WORDS.iter().find(|w| **w == word).map_or(Kind::Ident, |w| Kind::Sign(w))
    }

    fn digits(&mut self) -> usize {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += count;
        count
    }

    fn number(&mut self) -> Kind {
        let mut kind = Kind::Int;
        if self.byte(0) == b'0' && self.byte(1) == b'x' && self.byte(2).is_ascii_hexdigit() {
            self.at += 2 + self.rest()[2..].bytes().take_while(u8::is_ascii_hexdigit).count();
        } else {
            self.digits();
            if self.byte(0) == b'.' && self.byte(1).is_ascii_digit() {
                self.at += 1;
                self.digits();
                kind = Kind::Float;
            }
            let sign = usize::from(matches!(self.byte(1), b'+' | b'-'));
            if matches!(self.byte(0), b'e' | b'E') && self.byte(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.digits();
                kind = Kind::Float;
            }
        }
        if kind == Kind::Int && matches!(self.byte(0), b'u' | b'U') {
            self.at += 1;
            kind = Kind::Uint;
        }
        kind
    }

    /// A literal whose quote stands after `prefix` letters.
    fn string(&mut self, kind: Kind, prefix: usize) -> Result<Kind, ()> {
        let raw = self.rest()[..prefix].contains(['r', 'R']);
        let quote = self.byte(prefix);
        let long = self.byte(prefix + 1) == quote && self.byte(prefix + 2) == quote;
        let mut at = self.at + prefix + if long { 3 } else { 1 };
        let bytes = self.text.as_bytes();
        loop {
            match *bytes.get(at).ok_or(())? {
                b'\\' if !raw => at += 2,
                b'\n' | b'\r' if !long => return Err(()),
                b if b == quote && !long => break,
                b if b == quote && bytes[at..].starts_with(&[quote; 3]) => {
                    at += 2;
                    break;
                }
                _ => at += 1,
            }
        }
        self.at = at + 1;
        Ok(kind)
    }
}

/// The value of a string or bytes token: prefixes and quotes removed, escapes resolved. Code points above 127 of a
/// bytes literal stand for their UTF-8; `\x` and octal escapes stand for bytes there and for code points in strings.
pub(crate) fn unquote(token: &str, bytes: bool) -> Result<Vec<u8>, String> {
    let quote_at = token.find(['"', '\'']).unwrap_or(0);
    let raw = token[..quote_at].contains(['r', 'R']);
    let body = &token[quote_at..];
    let width = if body.len() >= 6 && body.as_bytes()[..3].iter().all(|b| *b == body.as_bytes()[0]) { 3 } else { 1 };
    let body = &body[width..body.len() - width];
    if raw || !body.contains('\\') {
        return Ok(body.replace("\r\n", "\n").into_bytes());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let bad = || "unable to unescape string, invalid escape".to_owned();
        let escape = chars.next().ok_or_else(bad)?;
        let mut number = |first: Option<char>, count: usize, radix: u32| {
            let text: String = first.into_iter().chain(chars.by_ref().take(count)).collect();
            let whole = text.len() == count + usize::from(first.is_some());
            u32::from_str_radix(&text, radix).ok().filter(|_| whole && !text.starts_with('+')).ok_or_else(bad)
        };
        let (code, byte) = match escape {
            'a' => (7, true),
            'b' => (8, true),
            'f' => (12, true),
            'n' => (10, true),
            'r' => (13, true),
            't' => (9, true),
            'v' => (11, true),
            '\\' | '\'' | '"' | '`' | '?' => (escape as u32, true),
            'x' | 'X' => (number(None, 2, 16)?, true),
            'u' if !bytes => (number(None, 4, 16)?, false),
            'U' if !bytes => (number(None, 8, 16)?, false),
            '0'..='3' => (number(Some(escape), 2, 8)?, true),
            _ => return Err(bad()),
        };
        match (bytes && byte, u8::try_from(code), char::from_u32(code)) {
            (true, Ok(b), _) => out.push(b),
            (_, _, Some(c)) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            _ => return Err(bad()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_tokens() {
        let check = |text: &str, want: &str| {
            let got = match tokens(text) {
                Err(issue) => issue.message,
                Ok(all) => {
                    let show = |t: &Token| match t.kind {
                        Kind::Sign(s) => s.to_owned(),
                        kind => format!("{kind:?}:{}", &text[t.start..t.end]),
                    };
                    all[..all.len() - 1].iter().map(show).collect::<Vec<_>>().join(" ")
                }
            };
            assert_eq!(got, want, "{text}");
        };
        check("a.b(1) // c\n==0x1F", "Ident:a . Ident:b ( Int:1 ) == Int:0x1F");
        check("1.5 .5 1e3 2u 0xFu 1.e", "Float:1.5 Float:.5 Float:1e3 Uint:2u Uint:0xFu Int:1 . Ident:e");
        check("x in y?.z", "Ident:x in Ident:y ? . Ident:z");
        check(
            r#"'a\'b' "" '''x'y''' r'\' b"z" bR'\'"#,
            r#"String:'a\'b' String:"" String:'''x'y''' String:r'\' Bytes:b"z" Bytes:bR'\'"#,
        );
        check("a @", "Syntax error: token recognition error at: '@'");
        check("a | b", "Syntax error: token recognition error at: '|'");
        check("'abc", "Syntax error: token recognition error at: ''abc'");
        check("'a\\", "Syntax error: token recognition error at: ''a\\'");
        check("é", "Syntax error: token recognition error at: 'é'");
    }

    #[test]
    fn literals_are_unquoted() {
        let check = |token: &str, bytes: bool, want: Result<&[u8], ()>| {
            assert_eq!(unquote(token, bytes).map_err(|_| ()).as_deref(), want.as_deref(), "{token}");
        };
        check(r"'a\tb\\\x41\101'", false, Ok(b"a\tb\\AA"));
        check(r"'\u00fc\U0001F600'", false, Ok("ü😀".as_bytes()));
        check(r"'\xff'", false, Ok("ÿ".as_bytes()));
        check(r"b'\xff\377ü'", true, Ok(b"\xff\xff\xc3\xbc"));
        check(r"r'\n'", false, Ok(br"\n"));
        check("'''a\n'b'''", false, Ok(b"a\n'b"));
        for bad in [r"'\q'", r"'\x4'", r"'\u12'", r"'\ud800'", r"'\U00110000'", r"'\8'"] {
            check(bad, false, Err(()));
        }
        check(r"b'\u00fc'", true, Err(()));
    }
}
