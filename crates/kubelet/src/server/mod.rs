//! The node server on port 10250: logs, exec, attach, port-forward, health, for the API server.
//!
//! Being written by the lead (others: leave this folder to them): [`serve`] will take the TLS identity, the client
//! authority, a view of the node's pods and the runtime. Paths are upstream's (`pkg/kubelet/server/server.go`):
//! `/containerLogs/NS/POD/CONTAINER`, `/exec/...`, `/attach/...`, `/portForward/NS/POD`, `/pods`, `/healthz`.
