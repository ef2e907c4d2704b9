//! Protobuf (`application/vnd.kubernetes.protobuf`), driven by the schema table.
//!
//! An object on the wire is the prefix `k8s\0` and a `runtime.Unknown` message: type meta, the object's own
//! message, content encoding and content type. Objects inside others ([`Builtin::RawExtension`]) are JSON or,
//! in watch events, again such an envelope.
//!
//! Presence follows Go's generated code: fields that are no pointers are always written, zero or not; pointers
//! only when set; fields in the order of their numbers. Custom resources and tables have no protobuf form.
//!
//! Upstream: `apimachinery/pkg/runtime/serializer/protobuf`, `gogo/protobuf`.
//!
//! [`Builtin::RawExtension`]: crate::schema::Builtin::RawExtension

mod decode;
mod encode;
mod wire;

pub use decode::{decode, identify};
pub use encode::{encode, encode_message, has_form, watch_frame};

/// The first bytes of every object.
pub const PREFIX: &[u8; 4] = b"k8s\0";
