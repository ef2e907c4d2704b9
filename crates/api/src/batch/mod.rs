//! The API group `batch`.

use crate::kind::Kind;

pub mod cron_job;
pub mod job;
mod job_status;
pub mod schedule;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(job::Job), Box::new(cron_job::CronJob)]
}
