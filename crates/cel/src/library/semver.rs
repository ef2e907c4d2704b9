//! Semantic versions (`apiserver/pkg/cel/library/semverlib.go`).

use std::cmp::Ordering;

use ::semver::Version;

use super::{Library, Result, opaque, text};
use crate::eval::EvalError;
use crate::functions::{Functions, Native};
use crate::types::Type;
use crate::value::{Opaque, Value, downcast};

/// The library as it was at first.
pub const LIBRARY: Library = Library::new("kubernetes.Semver", declare).with_types(|| vec![ty()]);

/// With `semver(text, normalize)`.
pub const NORMALIZING: Library = Library::new("kubernetes.Semver (1)", declare_normalizing).with_types(|| vec![ty()]);

/// The type.
pub fn ty() -> Type {
    Type::opaque("kubernetes.Semver")
}

/// A version. Build metadata makes no difference.
#[derive(Clone, Debug)]
pub struct Semver(Version);

impl Semver {
    /// Reads a version.
    pub fn parse(text: &str) -> std::result::Result<Semver, String> {
        Version::parse(text).map(Semver).map_err(|e| e.to_string())
    }

    /// Reads a version that may begin with `v`, lack its minor or patch number, or have zeros in front of its numbers.
    pub fn parse_normalized(text: &str) -> std::result::Result<Semver, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(without_zeros).collect();
        if parts.len() < 3 && parts.last().is_some_and(|p| p.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
        Semver::parse(&parts.join("."))
    }

    fn order(&self, other: &Semver) -> Ordering {
        self.0.cmp_precedence(&other.0)
    }
}

fn without_zeros(part: &str) -> String {
    let rest = part.trim_start_matches('0');
    if part.len() > 1 && !rest.starts_with(|c: char| c.is_ascii_digit()) {
        return format!("0{rest}");
    }
    if part.len() > 1 { rest.to_owned() } else { part.to_owned() }
}

impl Opaque for Semver {
    fn ty(&self) -> Type {
        ty()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        downcast::<Semver>(other).is_some_and(|other| self.order(other).is_eq())
    }
}

fn read(a: &[Value<'_>]) -> std::result::Result<std::result::Result<Semver, String>, EvalError> {
    Ok(match a.get(1) {
        Some(Value::Bool(true)) => Semver::parse_normalized(text(a, 0)?),
        _ => Semver::parse(text(a, 0)?),
    })
}

fn compared<'a>(a: &[Value<'a>], f: impl Fn(Ordering) -> Value<'a>) -> Result<'a> {
    Ok(f(opaque::<Semver>(a, 0)?.order(opaque(a, 1)?)))
}

fn number<'a>(a: &[Value<'a>], of: fn(&Version) -> u64) -> Result<'a> {
    Ok(Value::Int(i64::try_from(of(&opaque::<Semver>(a, 0)?.0)).unwrap_or(i64::MAX)))
}

const CONVERT: Native = |a| read(a)?.map(Value::opaque).map_err(EvalError::new);
const TEST: Native = |a| Ok(Value::Bool(read(a)?.is_ok()));

fn declare(f: &mut Functions) {
    f.global("semver", "string_to_semver", [Type::String], ty(), CONVERT);
    f.global("isSemver", "is_semver_string", [Type::String], Type::Bool, TEST);
    f.member("isGreaterThan", "semver_is_greater_than", [ty(), ty()], Type::Bool, |a| {
        compared(a, |o| Value::Bool(o.is_gt()))
    });
    f.member("isLessThan", "semver_is_less_than", [ty(), ty()], Type::Bool, |a| {
        compared(a, |o| Value::Bool(o.is_lt()))
    });
    f.member("compareTo", "semver_compare_to", [ty(), ty()], Type::Int, |a| compared(a, |o| Value::Int(o as i64)));
    f.member("major", "semver_major", [ty()], Type::Int, |a| number(a, |v| v.major));
    f.member("minor", "semver_minor", [ty()], Type::Int, |a| number(a, |v| v.minor));
    f.member("patch", "semver_patch", [ty()], Type::Int, |a| number(a, |v| v.patch));
}

fn declare_normalizing(f: &mut Functions) {
    declare(f);
    f.global("semver", "string_bool_to_semver", [Type::String, Type::Bool], ty(), CONVERT);
    f.global("isSemver", "is_semver_string_bool", [Type::String, Type::Bool], Type::Bool, TEST);
}
