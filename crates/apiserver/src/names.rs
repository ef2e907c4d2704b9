//! Names in URLs.

/// Whether a text may stand as one segment of a path (`path.IsValidPathSegmentName`).
pub fn is_path_segment(name: &str) -> bool {
    name != "." && name != ".." && !name.contains(['/', '%'])
}
