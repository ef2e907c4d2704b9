//! Addresses of the web (`apiserver/pkg/cel/library/urls.go`), read as Go's `url.ParseRequestURI` does.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Library, Result, opaque, text};
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;
use crate::value::{Key, Opaque, Str, Value, downcast};

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.urls", declare).with_types(|| vec![ty()]);

/// The type.
pub fn ty() -> Type {
    Type::opaque("kubernetes.URL")
}

/// An address of the web: absolute, or an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    /// With the port.
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// Reads an address.
    pub fn parse(text: &str) -> std::result::Result<Url, String> {
        parts(text).map_err(|e| format!("parse {text:?}: {e}"))
    }

    /// The host without brackets, and the port.
    fn host_and_port(&self) -> (&str, &str) {
        let (host, port) = match self.host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (self.host.as_str(), ""),
        };
        (host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host), port)
    }
}

fn parts(text: &str) -> std::result::Result<Url, String> {
    if text.is_empty() {
        return Err("empty url".to_owned());
    }
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let (scheme, rest) = scheme(text)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut host, mut path) = (String::new(), rest);
    if !rest.starts_with('/') {
        if scheme.is_empty() {
            return Err("invalid URI for request".to_owned());
        }
        path = "";
    } else if let Some(authority) = rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        let end = authority.find('/').unwrap_or(authority.len());
        path = &authority[end..];
        host = host_of(&authority[..end])?;
    }
    unescape(path, false)?;
    let owned = str::to_owned;
    Ok(Url { text: owned(text), scheme: scheme.to_ascii_lowercase(), host, path: owned(path), query: owned(query) })
}

fn scheme(text: &str) -> std::result::Result<(&str, &str), String> {
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn host_of(authority: &str) -> std::result::Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let after = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("missing ']' in host")?.1,
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    if !after.is_empty() && !after.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("invalid port {after:?} after host"));
    }
    if let Some(bad) = host.chars().find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')) {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    unescape(host, false).map(Cow::into_owned)
}

/// Resolves `%41`, and `+` where it stands for a blank.
fn unescape(text: &str, plus: bool) -> std::result::Result<Cow<'_, str>, String> {
    let escaped = text.contains('%') || (plus && text.contains('+'));
    if !escaped {
        return Ok(text.into());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let code = std::str::from_utf8(&digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let code = code.filter(|d| d.len() == 2).and_then(|d| u8::from_str_radix(d, 16).ok());
                out.push(code.ok_or_else(|| format!("invalid URL escape \"%{}\"", String::from_utf8_lossy(&digits)))?);
            }
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned().into())
}

impl Opaque for Url {
    fn ty(&self) -> Type {
        ty()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        downcast::<Url>(other).is_some_and(|other| self.text == other.text)
    }
}

/// The values of the query by their names; what cannot be read is left out.
fn query<'a>(url: &Url) -> Value<'a> {
    let mut all: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Ok(name), Ok(value)) = (unescape(name, true), unescape(value, true)) {
            all.entry(name.into_owned()).or_default().push(value.into_owned().into());
        }
    }
    all.into_iter().map(|(name, values)| (Key::String(Str::Shared(name.into())), values.into())).collect()
}

fn part<'a>(args: &[Value<'a>], part: fn(&Url) -> String) -> Result<'a> {
    Ok(part(opaque(args, 0)?).into())
}

fn declare(f: &mut Functions) {
    f.global("url", "string_to_url", [Type::String], ty(), |a| {
        let message = |e| EvalError::new(format!("URL parse error during conversion from string: {e}"));
        Url::parse(text(a, 0)?).map(Value::opaque).map_err(message)
    });
    f.global("isURL", "is_url", [Type::String], Type::Bool, |a| Ok(Value::Bool(Url::parse(text(a, 0)?).is_ok())));
    f.member("getScheme", "url_get_scheme", [ty()], Type::String, |a| part(a, |u| u.scheme.clone()));
    f.member("getHost", "url_get_host", [ty()], Type::String, |a| part(a, |u| u.host.clone()));
    f.member("getHostname", "url_get_hostname", [ty()], Type::String, |a| part(a, |u| u.host_and_port().0.to_owned()));
    f.member("getPort", "url_get_port", [ty()], Type::String, |a| part(a, |u| u.host_and_port().1.to_owned()));
    f.member("getEscapedPath", "url_get_escaped_path", [ty()], Type::String, |a| {
        part(a, |u| u.path.replace(' ', "%20"))
    });
    let map = Type::map(Type::String, Type::list(Type::String));
    f.member("getQuery", "url_get_query", [ty()], map, |a| Ok(query(opaque(a, 0)?)));
}
