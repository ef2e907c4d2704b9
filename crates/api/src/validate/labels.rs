//! Labels, their names and values. Upstream: `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use crate::field::{ErrorList, Path};
use crate::object::View;

/// The name of a label (a qualified name).
pub fn name(errs: &mut ErrorList, name: &str, path: &Path) {
    for problem in crate::names::qualified_name(name) {
        errs.invalid(path, name, problem);
    }
}

/// The value of a label.
pub fn value(errs: &mut ErrorList, value: &str, path: &Path) {
    for problem in crate::names::label_value(value) {
        errs.invalid(path, value, problem);
    }
}

/// A map of labels; problems are reported at the map.
pub fn labels(errs: &mut ErrorList, map: &View<'_>) {
    for (key, v) in map.entries() {
        name(errs, key, map.path());
        value(errs, v.str(), map.path());
    }
}
