//! The store's tests that need files, processes or a real etcd: one binary.

mod crash;
mod embedded;
mod envelope;
mod etcd;
mod etcd_server;
mod fake_kms;
mod history;
