//! orkd-cri
