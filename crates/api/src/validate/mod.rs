//! Validation shared by kinds.
