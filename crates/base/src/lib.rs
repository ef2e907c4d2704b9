//! orkd-base
