//! `cel.bind(name, value, expression)`: a name for a part of an expression (`ext/bindings.go`).

use super::Library;

/// The library.
pub const LIBRARY: Library = Library::new("cel.lib.ext.cel.bindings", |_| ()).with_syntax(|s| s.macros.bind = true);
