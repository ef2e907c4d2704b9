//! The row types of the generated table ([`super::generated`]) and their flags.
//!
//! Rows refer to each other by index, so that the table is plain constant data: it costs no start-up time and
//! little compile time.

/// A type: name, first field, number of fields, first and number of entries in `FLAT` and `SORTED`, map type.
#[derive(Debug)]
pub(super) struct Type(pub &'static str, pub u16, pub u16, pub u16, pub u16, pub u8);

/// A field: JSON name, type, flags, protobuf number, index into `EXTRAS`.
#[derive(Debug)]
pub struct Field(pub(super) &'static str, pub(super) u16, pub(super) u16, pub(super) u16, pub(super) u16);

/// What OpenAPI says of a field beyond its type. Shared by all fields of which it says the same.
#[derive(Debug)]
pub(super) struct Extra {
    /// 0 unsaid, 1 atomic, 2 set, 3 map.
    pub list_type: u8,
    pub keys: &'static [&'static str],
    pub strategy: &'static str,
    pub merge_key: &'static str,
    /// 0 unsaid, 1 atomic, 2 granular.
    pub map_type: u8,
    /// JSON text, empty for none.
    pub default: &'static str,
    /// JSON text of the default of a list's or map's elements.
    pub element_default: &'static str,
}

pub(super) const LIST: u16 = 1;
pub(super) const MAP: u16 = 2;
pub(super) const POINTER: u16 = 4;
pub(super) const OMITEMPTY: u16 = 8;
pub(super) const OMITZERO: u16 = 16;
pub(super) const INLINE: u16 = 32;
pub(super) const REQUIRED: u16 = 64;
pub(super) const WRAPPED: u16 = 128;
