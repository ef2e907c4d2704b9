//! The API group `resource.k8s.io`: devices, who offers them and who wants them.
//!
//! Upstream: `pkg/apis/resource/validation`. Selectors are compiled, and refused if they may cost too much.

use orkd_cel::k8s;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{ErrorList, Path, Shown};
use crate::kind::Kind;
use crate::object::View;

mod allocation;
pub mod claim;
pub mod claim_template;
pub mod device_class;
mod devices;
mod policy;
mod request;
mod shown;
pub mod slice;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(device_class::DeviceClass),
        Box::new(claim::ResourceClaim),
        Box::new(claim_template::ResourceClaimTemplate),
        Box::new(slice::ResourceSlice),
    ]
}

const GROUP: &str = "resource.k8s.io";

/// Checks the elements of a list, unless there are too many.
fn each<'a>(
    errs: &mut ErrorList,
    list: &View<'a>,
    max: usize,
    mut check: impl FnMut(&mut ErrorList, &View<'a>),
) -> bool {
    if list.len() > max {
        errs.too_many(list.path(), list.len(), max);
        return false;
    }
    for item in list.list() {
        check(errs, &item);
    }
    true
}

/// Checks the elements of a list that is a set by `key`.
fn set<'a, K: Into<Shown>>(
    errs: &mut ErrorList,
    list: &View<'a>,
    max: usize,
    key: impl Fn(&View<'a>) -> K,
    check: impl FnMut(&mut ErrorList, &View<'a>),
) {
    if !each(errs, list, max, check) {
        return;
    }
    let mut seen = BTreeSet::new();
    for item in list.list() {
        let shown: Shown = key(&item).into();
        if !seen.insert(shown.text().to_owned()) {
            errs.duplicate(item.path(), shown);
        }
    }
}

/// A text in full where it is short, its beginning and end where it is not.
fn shortened(key: &str, max: usize) -> String {
    if key.len() <= max {
        return key.to_owned();
    }
    let rest = max - 3;
    let chars: Vec<char> = key.chars().collect();
    let head: String = chars.iter().take(rest.div_ceil(2)).collect();
    let tail: String = chars.iter().skip(chars.len().saturating_sub(rest / 2)).collect();
    format!("{head}...{tail}")
}

/// A C identifier of at most 32 bytes.
fn identifier(errs: &mut ErrorList, id: &str, path: &Path) {
    if id.len() > 32 {
        errs.too_long(path, 32);
    }
    let mut chars = id.chars();
    let starts = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !starts || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        errs.invalid(
            path,
            id,
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
             characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is \
             '[A-Za-z_][A-Za-z0-9_]*')",
        );
    }
}

/// The name of an attribute or capacity, with or without a domain.
fn qualified_name(errs: &mut ErrorList, name: &str, path: &Path) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(errs, id, path),
        [domain, id] => {
            if domain.is_empty() {
                errs.invalid(path, "", "the domain must not be empty");
            } else {
                driver(errs, &View::at(path.clone(), &Value::from(*domain)));
            }
            if id.is_empty() {
                errs.invalid(path, "", "the name must not be empty");
            } else {
                identifier(errs, id, path);
            }
        }
        // More than one slash is not looked at upstream either.
        _ => {}
    }
}

/// The name of an attribute with its domain.
fn full_name(errs: &mut ErrorList, v: &View<'_>) {
    qualified_name(errs, v.str(), v.path());
    if !v.str().contains('/') {
        errs.invalid(v.path(), v.str(), "a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// The name of a driver, as that of a CSI driver.
fn driver(errs: &mut ErrorList, v: &View<'_>) {
    crate::validate::pod_spec::volumes::driver_name(errs, v);
}

/// The name of a pool: subdomains between slashes.
fn pool_name(errs: &mut ErrorList, v: &View<'_>) {
    if v.str().is_empty() {
        errs.required(v.path(), "");
        return;
    }
    if v.len() > 253 {
        errs.too_long(v.path(), 253);
    }
    for part in v.str().split('/') {
        for problem in crate::names::dns_subdomain(part, false) {
            errs.invalid(v.path(), part, problem);
        }
    }
}

/// Opaque parameters: a JSON object of a limited size.
fn raw_object(errs: &mut ErrorList, v: &View<'_>, stored: bool) {
    const MAX: usize = 10 * 1024;
    if !v.is_set() {
        errs.required(v.path(), "");
    } else if !stored && v.value().to_string().len() > MAX {
        errs.too_long(v.path(), MAX);
    } else if !v.value().is_object() {
        errs.invalid(v.path(), "<value omitted>", "must be a valid JSON object");
    }
}

/// Where the parameters of a driver are.
fn configuration(errs: &mut ErrorList, v: &View<'_>, stored: bool) {
    let opaque = v.get("opaque");
    if !opaque.is_set() {
        errs.required(opaque.path(), "");
        return;
    }
    driver(errs, &opaque.get("driver"));
    raw_object(errs, &opaque.get("parameters"), stored);
}

/// Selectors of devices.
fn selectors(errs: &mut ErrorList, list: &View<'_>, stored: bool) {
    const MAX: usize = 10 * 1024;
    each(errs, list, 32, |errs, selector| {
        let cel = selector.get("cel");
        if !cel.is_set() {
            errs.required(cel.path(), "");
            return;
        }
        let expression = cel.get("expression");
        if !stored && expression.len() > MAX {
            errs.too_long(expression.path(), MAX);
        } else if !stored {
            selector_expression(errs, &expression);
        }
    });
}

/// An expression that selects devices.
fn selector_expression(errs: &mut ErrorList, v: &View<'_>) {
    match k8s::compile_device_selector(v.str()) {
        Err(message) => errs.invalid(v.path(), v.str(), message),
        Ok(program) if program.estimate().max > k8s::DEVICE_COST_LIMIT => {
            errs.forbidden(v.path(), "too complex, exceeds cost limit");
        }
        Ok(_) => {}
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

fn label_value(errs: &mut ErrorList, v: &View<'_>) {
    crate::validate::labels::value(errs, v.str(), v.path());
}

/// A taint of a device.
fn taint(errs: &mut ErrorList, v: &View<'_>) {
    let (key, effect) = (v.get("key"), v.get("effect"));
    crate::validate::labels::name(errs, key.str(), key.path());
    label_value(errs, &v.get("value"));
    crate::validate::one_of(errs, &effect, &EFFECTS);
}

/// Tolerations of taints of devices. Upstream does not count them.
fn tolerations(errs: &mut ErrorList, list: &View<'_>) {
    each(errs, list, usize::MAX, |errs, v| {
        let (key, operator, value, effect) = (v.get("key"), v.get("operator"), v.get("value"), v.get("effect"));
        if !key.is_empty() {
            crate::validate::labels::name(errs, key.str(), key.path());
        }
        match operator.str() {
            "Exists" => {
                if !value.is_empty() {
                    errs.invalid(value.path(), value.str(), "must be empty for operator `Exists`");
                }
            }
            "Equal" => label_value(errs, &value),
            "" => errs.required(operator.path(), ""),
            other => errs.not_supported(operator.path(), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect.str()) {
            errs.not_supported(effect.path(), effect.str(), &EFFECTS);
        }
    });
}

/// The conditions that must and must not hold for a device before a pod is bound.
fn binding_conditions(errs: &mut ErrorList, v: &View<'_>) {
    let (wanted, failures) = (v.get("bindingConditions"), v.get("bindingFailureConditions"));
    for list in [&wanted, &failures] {
        each(errs, list, 4, |errs, name| crate::validate::labels::name(errs, name.str(), name.path()));
    }
    let mut seen = BTreeSet::new();
    for name in wanted.list() {
        if !seen.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
    }
    let mut seen_failures = BTreeSet::new();
    for name in failures.list() {
        if !seen_failures.insert(name.str()) {
            errs.duplicate(name.path(), name.str());
        }
        if seen.contains(name.str()) {
            errs.invalid(name.path(), name.str(), "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
    let shown = |v: &View<'_>| if v.is_set() { Shown::from(v.value()) } else { Shown::raw("null") };
    if wanted.is_empty() && !failures.is_empty() {
        errs.invalid(wanted.path(), shown(&wanted), "bindingConditions are required to use bindingFailureConditions");
    }
    if failures.is_empty() && !wanted.is_empty() {
        errs.invalid(
            failures.path(),
            shown(&failures),
            "bindingFailureConditions are required to use bindingConditions",
        );
    }
}

/// A UUID in its normal form. Upstream: `validateUID`, `uuid.Validate` of `github.com/google/uuid`.
fn uuid(errs: &mut ErrorList, v: &View<'_>) {
    let text = v.str();
    let well_formed = |text: &str| {
        let parts: Vec<&str> = text.split('-').collect();
        parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
            && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    // Other forms are read, too, but not taken.
    let (is_uuid, format) = match text.len() {
        36 => (well_formed(text), "invalid UUID format".to_owned()),
        45 if !text.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("urn:uuid:")) => {
            let start: String = text.chars().take(9).collect();
            (false, format!("invalid urn prefix: {}", crate::field::quote(&start)))
        }
        45 => (text.get(9..).is_some_and(well_formed), "invalid UUID format".to_owned()),
        38 => match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(inner) => (well_formed(inner), "invalid UUID format".to_owned()),
            None => (false, "invalid bracketed UUID format".to_owned()),
        },
        32 => (text.bytes().all(|b| b.is_ascii_hexdigit()), "invalid UUID format".to_owned()),
        n => (false, format!("invalid UUID length: {n}")),
    };
    if !is_uuid {
        errs.invalid(v.path(), text, format!("error validating uid: {format}"));
    } else if text.len() != 36 || text != text.to_lowercase() {
        errs.invalid(
            v.path(),
            text,
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
             hexadecimal characters",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::Path;
    use crate::validate::testing::texts;

    #[test]
    fn uuids_have_one_form() {
        const GOOD: &str = "12345678-1234-1234-1234-123456789abc";
        let check = |text: &str, expected: &str| {
            let (mut errs, value) = (ErrorList::new(), json!(text));
            uuid(&mut errs, &View::at(Path::new("u"), &value));
            let found = texts(&errs).join(" ");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{text}: {found}");
        };
        check(GOOD, "");
        check("x", "error validating uid: invalid UUID length: 1");
        check(&GOOD.replace('a', "g"), "error validating uid: invalid UUID format");
        for other in [GOOD.to_uppercase(), GOOD.replace('-', ""), format!("{{{GOOD}}}"), format!("urn:uuid:{GOOD}")] {
            check(&other, "uid must be in RFC 4122 normalized form");
        }
        check(&format!("[{GOOD}]"), "invalid bracketed UUID format");
        check(&format!("urn:xxxx:{GOOD}"), "invalid urn prefix: \"urn:xxxx:\"");
    }
}
