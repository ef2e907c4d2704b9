//! The store's tests that need files, processes or a real etcd: one binary.

mod embedded;
