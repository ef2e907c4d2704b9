//! The single checks of values, for whoever validates defaults of definitions.

use serde_json::Value;

use super::meta::{self, Malformed};
use super::{Schema, Structural, pruning, rules, validation};
use crate::field::{ErrorList, FieldError, Path};

/// Brings the metadata of embedded objects into normal form; the error says what does not fit.
pub(crate) fn coerced(path: &Path, value: &mut Value, schema: Schema<'_>) -> Result<(), FieldError> {
    meta::of_embedded(path, value, schema, Malformed::Refuse, false).map(|_| ())
}

/// The problems of embedded objects.
pub(crate) fn embedded(path: &Path, value: &Value, schema: Schema<'_>) -> ErrorList {
    let mut errs = ErrorList::new();
    meta::validate(&mut errs, path, value, schema);
    errs
}

/// The problems of a value.
pub(crate) fn value(path: &Path, value: &Value, schema: Schema<'_>) -> ErrorList {
    validation::validate(path, value, None, schema)
}

/// The problems that rules find in a value that stays as it is.
pub(crate) fn rules(path: &Path, value: &Value, schema: Schema<'_>, of: &Structural) -> ErrorList {
    rules::validate_again(of.compiled(), path, value, schema)
}

/// Whether a value holds only what a schema names.
pub(crate) fn is_pruned(value: &Value, schema: Schema<'_>) -> bool {
    let mut pruned = value.clone();
    pruning::prune(&mut pruned, schema, false);
    pruned == *value
}
