//! orkd-proxy
