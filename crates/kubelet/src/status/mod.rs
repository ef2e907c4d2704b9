//! The status of a pod, as the API shows it: generated (pure) in [`generate`], sent by [`manager`].

pub mod conditions;
pub mod generate;
pub mod manager;
