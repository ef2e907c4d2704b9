//! The 409 of an apply that would change what others own.
//!
//! Follows `apimachinery/pkg/util/managedfields/internal/conflict.go`.

use super::managed::ManagerId;
use super::set::{Set, path_text};
use crate::status::{Cause, Details, Status};

/// Fields in conflict with one manager.
#[derive(Clone, Debug)]
pub(super) struct Conflict {
    /// Who owns them.
    pub id: ManagerId,
    /// What the apply would change. Not empty.
    pub fields: Set,
}

/// The answer for some conflicts. There is at least one.
pub(super) fn status(mut conflicts: Vec<Conflict>) -> Status {
    conflicts.sort_by_cached_key(|c| c.id.identifier());
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for conflict in &conflicts {
        let manager = conflict.id.to_string();
        lines.push(format!("conflicts with {manager}:"));
        for path in conflict.fields.paths() {
            let path = path_text(&path);
            lines.push(format!("- {path}"));
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {manager}"),
                field: path,
            });
        }
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        all => format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n")),
    };
    Status { details: Some(Details { causes, ..Details::default() }), ..Status::new(409, "Conflict", message) }
}
