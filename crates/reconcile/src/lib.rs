//! What every loop is built of: shared informers, a de-duplicating rate-limited work queue, the controller
//! harness (observe, plan, act), an event recorder and leader election. Everything goes through
//! [`kube::Client`], in process or over HTTPS alike.
//!
//! Invariant: a loop gets keys, not events; `plan` is pure; a restart and the first run are the same path.
//!
//! Invariant: objects are cached as trimmed views ([`View`]) of what loops read, never as whole typed objects;
//! loops write by patch, apply, create and delete, they never PUT a view back.
