//! JSON: decoding by schema in one pass, encoding in the order of the schema.
//!
//! Decoding follows `sigs.k8s.io/json` (case matters, integers are kept, what is wrong is worded as Go does).
//! Encoding follows Go's `encoding/json`: fields in order, map keys sorted, `<`, `>` and `&` escaped.

mod decode;
mod lexer;
mod outline;
mod scan;
mod write;

pub(in crate::codec) use decode::schema_type;
pub use decode::{decode, decode_untyped, identify};
pub use outline::Outline;
pub use scan::plain;
pub use write::{encode, encode_untyped, pretty, to_string, to_vec};
