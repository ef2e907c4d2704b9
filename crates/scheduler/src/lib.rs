//! orkd-scheduler
