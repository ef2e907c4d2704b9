//! Named formats of text (`apiserver/pkg/cel/library/format.go`).

use crate::types::Type;
use crate::value::{Opaque, downcast};

/// The longest pattern of a format that has a name, for costs (`MaxNameFormatRegexSize`).
pub(crate) const MAX_NAME_PATTERN: u64 = 128;

/// The type.
pub fn ty() -> Type {
    Type::opaque("kubernetes.NamedFormat")
}

/// A format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub(crate) name: &'static str,
    /// How long the pattern is, for costs.
    pub(crate) max_pattern: u64,
}

impl Opaque for Format {
    fn ty(&self) -> Type {
        ty()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        downcast::<Format>(other).is_some_and(|other| self.name == other.name)
    }
}
