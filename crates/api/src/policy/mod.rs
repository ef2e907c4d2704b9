//! The API group `policy`.

pub mod eviction;
