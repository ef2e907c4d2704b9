//! The words of JSON, with Go's error texts.

use std::borrow::Cow;

use serde_json::Value;

use super::super::rules::{self, MAX_DEPTH};
use super::super::{DecodeError, StrictErrors};
use super::scan;
use crate::Map;

pub(super) type Result<T> = std::result::Result<T, DecodeError>;

/// A reader over a whole document.
pub(super) struct Lexer<'a> {
    text: &'a str,
    /// The bytes before bad UTF-8 was replaced, for error texts.
    raw: &'a [u8],
    at: usize,
    depth: usize,
}

/// Go's `quoteChar`.
fn quote_char(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        _ => {
            let quoted = crate::field::quote(&char::from(byte).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

impl<'a> Lexer<'a> {
    /// `text` is `raw` as UTF-8, bad sequences replaced.
    pub fn new(text: &'a str, raw: &'a [u8]) -> Self {
        Lexer { text, raw, at: 0, depth: 0 }
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The error at the current byte.
    pub fn unexpected<T>(&self, context: &str) -> Result<T> {
        Err(match self.bytes().get(self.at) {
            None => DecodeError::syntax("unexpected end of JSON input"),
            Some(&byte) => {
                let byte = if self.text.as_ptr() == self.raw.as_ptr() {
                    byte
                } else {
                    self.raw.get(self.at).copied().unwrap_or(byte)
                };
                DecodeError::syntax(format!("invalid character {} {context}", quote_char(byte)))
            }
        })
    }

    /// The next byte that is no white space; stays before it.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.bytes();
        while let Some(&b) = bytes.get(self.at) {
            if !matches!(b, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(b);
            }
            self.at += 1;
        }
        None
    }

    /// Nothing may follow the document.
    pub fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.unexpected("after top-level value"),
        }
    }

    fn enter(&mut self) -> Result<()> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(DecodeError::syntax(rules::TOO_DEEP)) } else { Ok(()) }
    }

    fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Enters an object; the next byte is its `{`. True when it is not empty; then a key follows.
    pub fn begin_object(&mut self) -> Result<bool> {
        self.enter()?;
        if self.peek() == Some(b'}') {
            self.leave();
            return Ok(false);
        }
        Ok(true)
    }

    /// A key and its colon.
    pub fn key(&mut self) -> Result<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return self.unexpected("looking for beginning of object key string");
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return self.unexpected("after object key");
        }
        self.at += 1;
        Ok(key)
    }

    /// After a value of an object: true when another key follows.
    pub fn more_object(&mut self) -> Result<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b'}') => {
                self.leave();
                Ok(false)
            }
            _ => self.unexpected("after object key:value pair"),
        }
    }

    /// Enters a list; the next byte is its `[`. True when it is not empty.
    pub fn begin_array(&mut self) -> Result<bool> {
        self.enter()?;
        if self.peek() == Some(b']') {
            self.leave();
            return Ok(false);
        }
        Ok(true)
    }

    /// After an element: true when another follows.
    pub fn more_array(&mut self) -> Result<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b']') => {
                self.leave();
                Ok(false)
            }
            _ => self.unexpected("after array element"),
        }
    }

    /// `true`, `false` or `null`; the next byte is its first.
    pub fn literal(&mut self, word: &str) -> Result<()> {
        for want in word.bytes() {
            if self.bytes().get(self.at) != Some(&want) {
                return self.unexpected(&format!("in literal {word} (expecting {})", quote_char(want)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self, context: &str) -> Result<()> {
        let bytes = self.bytes();
        if !bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            return self.unexpected(context);
        }
        while bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }

    /// A number; the next byte is its first.
    pub fn number(&mut self) -> Result<&'a str> {
        let bytes = self.bytes();
        let start = self.at;
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(&self.text[start..self.at])
    }

    /// A string; the next byte is its quote.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        let bytes = self.bytes();
        self.at += 1;
        let start = self.at;
        self.run();
        match bytes.get(self.at) {
            Some(b'"') => {
                self.at += 1;
                return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
            }
            Some(b'\\') => {}
            _ => return self.unexpected("in string literal"),
        }
        let mut out = String::with_capacity(self.at - start + 16);
        out.push_str(&self.text[start..self.at]);
        loop {
            let run = self.at;
            self.run();
            out.push_str(&self.text[run..self.at]);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                _ => return self.unexpected("in string literal"),
            }
        }
    }

    /// Passes over what means itself inside a string.
    #[inline]
    fn run(&mut self) {
        self.at += scan::plain(self.bytes().get(self.at..).unwrap_or_default());
    }

    /// Passes over a string; the next byte is its quote.
    fn skip_string(&mut self) -> Result<()> {
        self.at += 1;
        loop {
            self.run();
            match self.bytes().get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                _ => return self.unexpected("in string literal"),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let c = match self.bytes().get(self.at) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.hex4()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return Ok(char::from_u32(first).unwrap_or('\u{fffd}'));
                }
                // A pair of surrogates is one character; a lonely one becomes U+FFFD.
                if self.bytes().get(self.at..self.at + 2) == Some(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let second = self.hex4()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
                    }
                    self.at = back;
                }
                return Ok('\u{fffd}');
            }
            _ => return self.unexpected("in string escape code"),
        };
        self.at += 1;
        Ok(c)
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut code = 0;
        for _ in 0..4 {
            match self.bytes().get(self.at).and_then(|b| char::from(*b).to_digit(16)) {
                Some(d) => code = code * 16 + d,
                None => return self.unexpected("in \\u hexadecimal character escape"),
            }
            self.at += 1;
        }
        Ok(code)
    }

    /// Passes over a value.
    pub fn skip(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'{') => {
                let mut more = self.begin_object()?;
                while more {
                    if self.peek() != Some(b'"') {
                        return self.unexpected("looking for beginning of object key string");
                    }
                    self.skip_string()?;
                    if self.peek() != Some(b':') {
                        return self.unexpected("after object key");
                    }
                    self.at += 1;
                    self.skip()?;
                    more = self.more_object()?;
                }
            }
            Some(b'[') => {
                let mut more = self.begin_array()?;
                while more {
                    self.skip()?;
                    more = self.more_array()?;
                }
            }
            Some(b'"') => self.skip_string()?,
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            Some(b'n') => self.literal("null")?,
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
            }
            _ => return self.unexpected("looking for beginning of value"),
        }
        Ok(())
    }

    /// Passes over a value that was encoded here: its text. Brackets and strings are looked at, and nothing else.
    pub fn pass(&mut self) -> Result<&'a str> {
        self.peek();
        let (start, bytes) = (self.at, self.bytes());
        let mut depth = 0usize;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    self.run();
                    while bytes.get(self.at) == Some(&b'\\') {
                        self.at += 2;
                        self.run();
                    }
                    if bytes.get(self.at) != Some(&b'"') {
                        return self.unexpected("in string literal");
                    }
                    self.at += 1;
                }
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                // A word or number ends before what follows it.
                Some(b',' | b'}' | b']') if depth == 0 && self.at > start => {}
                Some(b'}' | b']' | b',') if depth == 0 => {
                    return self.unexpected("looking for beginning of value");
                }
                Some(_) => {
                    self.at += 1;
                    continue;
                }
                None if depth == 0 && self.at > start => {}
                None => return self.unexpected(""),
            }
            if depth == 0 {
                return Ok(&self.text[start..self.at]);
            }
        }
    }

    /// A value of any kind. Keys that occur twice are reported below `path`, where there is one.
    pub fn any(&mut self, mut strict: Option<(&mut StrictErrors, &mut String)>) -> Result<Value> {
        Ok(match self.peek() {
            Some(b'{') => {
                let mut map = Map::new();
                let mut more = self.begin_object()?;
                while more {
                    let key = self.key()?;
                    let value = match &mut strict {
                        None => self.any(None)?,
                        Some((errors, path)) => {
                            let len = path.len();
                            if len > 0 {
                                path.push('.');
                            }
                            path.push_str(&key);
                            if map.contains_key(key.as_ref()) {
                                errors.push(format!("duplicate field {}", crate::field::quote(path)));
                            }
                            let value = self.any(Some((errors, path)))?;
                            path.truncate(len);
                            value
                        }
                    };
                    map.insert(key.into_owned(), value);
                    more = self.more_object()?;
                }
                Value::Object(map)
            }
            Some(b'[') => {
                let mut list = Vec::new();
                let mut more = self.begin_array()?;
                while more {
                    let value = match &mut strict {
                        None => self.any(None)?,
                        Some((errors, path)) => {
                            let len = path.len();
                            path.push_str(&format!("[{}]", list.len()));
                            let value = self.any(Some((errors, path)))?;
                            path.truncate(len);
                            value
                        }
                    };
                    list.push(value);
                    more = self.more_array()?;
                }
                Value::Array(list)
            }
            Some(b'"') => Value::String(self.string()?.into_owned()),
            Some(b't') => self.literal("true").map(|()| Value::Bool(true))?,
            Some(b'f') => self.literal("false").map(|()| Value::Bool(false))?,
            Some(b'n') => self.literal("null").map(|()| Value::Null)?,
            Some(b'-' | b'0'..=b'9') => {
                let text = self.number()?;
                match rules::number(text) {
                    Some(n) => Value::Number(n),
                    None => {
                        return Err(DecodeError::content(format!(
                            "json: cannot unmarshal number {text} into Go value of type float64"
                        )));
                    }
                }
            }
            _ => return self.unexpected("looking for beginning of value"),
        })
    }
}
