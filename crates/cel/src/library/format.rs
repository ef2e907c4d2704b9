//! Named formats of text (`apiserver/pkg/cel/library/format.go`).

use base64::Engine as _;

use super::url::Url;
use super::{Library, Result, opaque, text};
use crate::functions::{Functions, Native};
use crate::names;
use crate::time::Timestamp;
use crate::types::Type;
use crate::value::{Opaque, Value, downcast};

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.format", declare).with_types(|| vec![ty()]);

/// The longest pattern of a format that has a name, for costs (`MaxNameFormatRegexSize`).
pub(crate) const MAX_NAME_PATTERN: u64 = 128;

/// The type.
pub fn ty() -> Type {
    Type::opaque("kubernetes.NamedFormat")
}

/// A format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    name: &'static str,
    /// How long the pattern is, for costs.
    pub(crate) max_pattern: u64,
    /// What is wrong with a text.
    validate: fn(&str) -> Vec<String>,
}

impl Opaque for Format {
    fn ty(&self) -> Type {
        ty()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        downcast::<Format>(other).is_some_and(|other| self.name == other.name)
    }
}

/// Lengths of the patterns of `strfmt` and `govalidator`.
const DATE_TIME_PATTERN: u64 = 85;
const URL_PATTERN: u64 = 1006;
const UUID_PATTERN: u64 = 76;
const BASE64_PATTERN: u64 = 78;

/// One line each: the function that gives the format, the format, and the same as a native function.
macro_rules! formats {
    ($($function:literal, $name:literal, $pattern:expr, $validate:expr;)*) => {
        /// The formats by the functions that give them.
        const FORMATS: &[(&str, Format, Native)] = &[$((
            $function,
            Format { name: $name, max_pattern: $pattern, validate: $validate },
            |_| Ok(Value::opaque(Format { name: $name, max_pattern: $pattern, validate: $validate })),
        ),)*];
    };
}

formats! {
    "format.dns1123Label", "DNS1123Label", 30, |s| names::dns_label(s, false);
    "format.dns1123Subdomain", "DNS1123Subdomain", 60, |s| names::dns_subdomain(s, false);
    "format.dns1035Label", "DNS1035Label", 30, |s| names::dns1035_label(s, false);
    "format.qualifiedName", "QualifiedName", 60, names::qualified_name;
    "format.dns1123LabelPrefix", "DNS1123LabelPrefix", 30, |s| names::dns_label(s, true);
    "format.dns1123SubdomainPrefix", "DNS1123SubdomainPrefix", 60, |s| names::dns_subdomain(s, true);
    "format.dns1035LabelPrefix", "DNS1035LabelPrefix", 30, |s| names::dns1035_label(s, true);
    "format.labelValue", "LabelValue", 40, names::label_value;
    "format.uri", "URI", URL_PATTERN, |s| Url::parse(s).err().into_iter().collect();
    "format.uuid", "uuid", UUID_PATTERN, |s| unless(is_uuid(s), "does not match the UUID format");
    "format.byte", "byte", BASE64_PATTERN, |s| unless(is_base64(s), "invalid base64");
    "format.date", "date", DATE_TIME_PATTERN, |s| unless(is_date(s), "invalid date");
    "format.datetime", "datetime", DATE_TIME_PATTERN, |s| unless(Timestamp::parse(s).is_some(), "invalid datetime");
}

fn unless(valid: bool, message: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

/// Hexadecimal digits in groups of 8, 4, 4, 4 and 12, with dashes between them or none at all.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let hexadecimal = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    hexadecimal && (groups == [8, 4, 4, 4, 12] || groups == [32])
}

fn is_base64(text: &str) -> bool {
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && Timestamp::parse(&format!("{text}T00:00:00Z")).is_some()
}

fn validate<'a>(args: &[Value<'a>]) -> Result<'a> {
    let problems = (opaque::<Format>(args, 0)?.validate)(text(args, 1)?);
    if problems.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(problems.into_iter().map(Value::from).collect::<Vec<_>>().into()))
}

fn named<'a>(args: &[Value<'a>]) -> Result<'a> {
    let name = format!("format.{}", text(args, 0)?);
    let found = FORMATS.iter().find(|(function, ..)| *function == name);
    Ok(found.map_or(Value::Optional(None), |(_, format, _)| Value::some(Value::opaque(*format))))
}

fn declare(f: &mut Functions) {
    for (function, _, native) in FORMATS {
        f.global(function, function, [], ty(), *native);
    }
    f.global("format.named", "format-named", [Type::String], Type::optional(ty()), named);
    let problems = Type::optional(Type::list(Type::String));
    f.member("validate", "format-validate", [ty(), Type::String], problems, validate);
}
