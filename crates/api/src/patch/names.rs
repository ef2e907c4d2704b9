//! Names of field managers, and the checks of `metadata.managedFields` as a field.
//!
//! Follows `apimachinery/pkg/apis/meta/v1/validation` (`ValidateFieldManager`, `ValidateManagedFields`) and
//! `apiserver/pkg/endpoints/handlers/create.go` (`prefixFromUserAgent`).

use serde_json::Value;

use crate::field::{ErrorList, Path, is_print};

/// Bytes of a manager's name.
pub const MAX_MANAGER: usize = 128;
/// Bytes of a subresource's name.
const MAX_SUBRESOURCE: usize = 256;

/// The manager of a client that named none: what stands before the first slash of its user agent.
pub fn manager_from_user_agent(user_agent: &str) -> String {
    let mut out = String::new();
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| is_print(*c)) {
        if out.len() + c.len_utf8() > MAX_MANAGER {
            break;
        }
        out.push(c);
    }
    out
}

/// Checks the name of a manager.
pub fn validate_manager(path: &Path, name: &str, errors: &mut ErrorList) {
    if name.len() > MAX_MANAGER {
        errors.too_long(path, MAX_MANAGER);
    }
    for (i, c) in name.char_indices().filter(|(_, c)| !is_print(*c)) {
        errors.invalid(path, name, format!("invalid character U+{:04X} (at position {i})", u32::from(c)));
    }
}

/// Checks the managed fields of an object; `path` is that of the list.
pub fn validate_managed_fields(path: &Path, list: &Value, errors: &mut ErrorList) {
    for (i, entry) in list.as_array().into_iter().flatten().enumerate() {
        let path = path.index(i);
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            errors.invalid(&path.child("operation"), text("operation"), "must be `Apply` or `Update`");
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            errors.invalid(&path.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`");
        }
        validate_manager(&path.child("manager"), text("manager"), errors);
        if text("subresource").len() > MAX_SUBRESOURCE {
            errors.too_long(&path.child("subresource"), MAX_SUBRESOURCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managers_of_user_agents() {
        let check = |agent: &str, want: &str| assert_eq!(manager_from_user_agent(agent), want);
        check("kubectl/v1.36.0 (linux/amd64) kubernetes/abc", "kubectl");
        check("", "");
        check("a\u{7}b\u{200b}c", "abc");
        check(&"é".repeat(100), &"é".repeat(64));
    }

    #[test]
    fn problems_are_upstreams() {
        let mut errors = ErrorList::new();
        let list = json!([
            {"operation": "Apply", "fieldsType": "FieldsV1", "manager": "fine é"},
            {"operation": "Steal", "fieldsType": "FieldsV2", "manager": "a\n", "subresource": "s".repeat(257)},
        ]);
        validate_managed_fields(&Path::new("metadata").child("managedFields"), &list, &mut errors);
        let text: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "metadata.managedFields[1].operation: Invalid value: \"Steal\": must be `Apply` or `Update`",
                "metadata.managedFields[1].fieldsType: Invalid value: \"FieldsV2\": must be `FieldsV1`",
                "metadata.managedFields[1].manager: Invalid value: \"a\\n\": invalid character U+000A (at position 1)",
                "metadata.managedFields[1].subresource: Too long: may not be more than 256 bytes",
            ]
        );
    }
}
