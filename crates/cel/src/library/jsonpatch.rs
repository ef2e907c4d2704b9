//! `jsonpatch.escapeKey`: a key as part of a JSON pointer (`apiserver/pkg/cel/library/jsonpatch.go`).

use super::{Library, text};
use crate::functions::Functions;
use crate::types::Type;

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.jsonpatch", declare);

fn declare(f: &mut Functions) {
    f.global("jsonpatch.escapeKey", "string_jsonpatch_escapeKey_string", [Type::String], Type::String, |a| {
        Ok(text(a, 0)?.replace('~', "~0").replace('/', "~1").into())
    });
}
