//! orkd-dns
