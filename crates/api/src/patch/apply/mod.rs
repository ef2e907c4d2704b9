//! SSA
pub mod compare;
pub mod field_set;
mod fields_v1;
pub mod path;
pub mod set;
mod walk;
