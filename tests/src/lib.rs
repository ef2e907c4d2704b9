//! orkd
