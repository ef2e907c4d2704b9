//! orkd-pki
