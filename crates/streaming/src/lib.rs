//! Sessions of exec, attach and port-forward that are carried between two protocols: a client's WebSocket messages on
//! one side, SPDY/3.1 on the other ([`remote`], [`spdy`]), and byte for byte where both speak the same ([`pass`]).
//!
//! The API server uses it towards a kubelet, the kubelet towards the runtime's streaming server: containerd 1.6 knows
//! no WebSocket protocol in which the end of standard input can be told. Follows
//! `k8s.io/apimachinery/pkg/util/{httpstream/wsstream,portforward,proxy}`, `k8s.io/apiserver/pkg/util/proxy`.

pub mod pass;
pub mod remote;
pub mod spdy;
