//! orkd-network
