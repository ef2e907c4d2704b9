//! Finds places in encoded JSON objects without decoding them.
//!
//! Stored values carry no resourceVersion; it is put in right after `metadata.uid`, where upstream writes it, when
//! a record enters the cache. The scanner trusts nothing: on any surprise it says `None` and the caller decodes.

use bytes::{Bytes, BytesMut};
use orkd_api::codec::json::plain;

/// Where things are in an encoded object that has a resourceVersion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the digits of the resourceVersion and their number.
    pub version: (u32, u32),
    /// Offset of the first field after `kind` and `apiVersion`, when those come first; 0 otherwise.
    pub fields: u32,
}

/// Puts a resourceVersion into an encoded object.
pub fn insert_version(json: &[u8], revision: u64) -> Option<(Bytes, Layout)> {
    insert_between(json, revision, b"", b"")
}

/// The same with something before and after the object; the layout is that of the object.
pub fn insert_between(json: &[u8], revision: u64, before: &[u8], after: &[u8]) -> Option<(Bytes, Layout)> {
    let found = locate(json)?;
    let digits = revision.to_string();
    let mut out = BytesMut::with_capacity(json.len() + 44 + before.len() + after.len());
    out.extend_from_slice(before);
    let layout;
    if let Some((start, end)) = found.version {
        out.extend_from_slice(&json[..start]);
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(&json[end..]);
        layout = Layout { version: (start as u32, digits.len() as u32), fields: found.fields as u32 };
    } else {
        let (at, comma_before, comma_after) = found.insert;
        out.extend_from_slice(&json[..at]);
        if comma_before {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(b"\"resourceVersion\":\"");
        let start = out.len() - before.len();
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(b"\"");
        if comma_after {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(&json[at..]);
        layout = Layout { version: (start as u32, digits.len() as u32), fields: found.fields as u32 };
    }
    out.extend_from_slice(after);
    Some((out.freeze(), layout))
}

/// Where the metadata of an encoded object are.
pub fn metadata_range(json: &[u8]) -> Option<std::ops::Range<usize>> {
    let at = locate(json)?.metadata;
    Some(at..skip_value(json, at)?)
}

/// Replaces the resourceVersion of an encoded object.
pub fn replace_version(json: &[u8], layout: Layout, revision: u64) -> Bytes {
    let (start, len) = (layout.version.0 as usize, layout.version.1 as usize);
    let digits = revision.to_string();
    let mut out = BytesMut::with_capacity(json.len() + 8);
    out.extend_from_slice(&json[..start]);
    out.extend_from_slice(digits.as_bytes());
    out.extend_from_slice(&json[start + len..]);
    out.freeze()
}

struct Found {
    version: Option<(usize, usize)>,
    /// Offset, whether a comma comes before the new field, whether one comes after.
    insert: (usize, bool, bool),
    fields: usize,
    /// Offset of the value of `metadata`.
    metadata: usize,
}

fn locate(json: &[u8]) -> Option<Found> {
    if json.len() > u32::MAX as usize / 2 {
        return None;
    }
    let mut at = expect(json, skip_space(json, 0), b'{')?;
    let mut fields = 0;
    let mut heads = 0;
    loop {
        at = skip_space(json, at);
        let field_start = at;
        let (key, next) = string(json, at)?;
        at = expect(json, skip_space(json, next), b':')?;
        at = skip_space(json, at);
        match key {
            b"kind" | b"apiVersion" if heads < 2 => heads += 1,
            _ => {
                if heads == 2 && fields == 0 {
                    fields = field_start;
                }
                heads = 3;
            }
        }
        if key == b"metadata" {
            let inner = metadata(json, at)?;
            return Some(Found { version: inner.0, insert: inner.1, fields, metadata: at });
        }
        at = skip_space(json, skip_value(json, at)?);
        match json.get(at)? {
            b',' => at += 1,
            _ => return None,
        }
    }
}

type Inner = (Option<(usize, usize)>, (usize, bool, bool));

fn metadata(json: &[u8], at: usize) -> Option<Inner> {
    let start = expect(json, at, b'{')?;
    let mut at = skip_space(json, start);
    if json.get(at)? == &b'}' {
        return Some((None, (start, false, false)));
    }
    // After the last of the fields that come before it; at the very start if there is none of them.
    let mut insert = (start, false, true);
    loop {
        let (key, next) = string(json, skip_space(json, at))?;
        at = skip_space(json, expect(json, skip_space(json, next), b':')?);
        if key == b"resourceVersion" {
            let (text, end) = string(json, at)?;
            return Some((Some((end - 1 - text.len(), end - 1)), insert));
        }
        let end = skip_value(json, at)?;
        if matches!(key, b"name" | b"generateName" | b"namespace" | b"selfLink" | b"uid") {
            insert = (end, true, false);
        }
        at = skip_space(json, end);
        match json.get(at)? {
            b',' => at += 1,
            b'}' => return Some((None, insert)),
            _ => return None,
        }
    }
}

fn expect(json: &[u8], at: usize, byte: u8) -> Option<usize> {
    (json.get(at)? == &byte).then_some(at + 1)
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The raw text of a string and the offset behind its closing quote.
fn string(json: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let start = expect(json, at, b'"')?;
    let mut i = start;
    loop {
        i += plain(json.get(i..)?);
        match json.get(i)? {
            b'"' => return Some((&json[start..i], i + 1)),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
}

fn skip_value(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    let mut open = 0usize;
    loop {
        at = skip_space(json, at);
        match json.get(at)? {
            b'"' => at = string(json, at)?.1,
            b'{' | b'[' => {
                open += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                open = open.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' if open > 0 => {
                at += 1;
                continue;
            }
            b',' | b':' => return None,
            _ => {
                while !matches!(json.get(at), None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')) {
                    at += 1;
                }
            }
        }
        if open == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use orkd_api::codec::json as codec;
    use orkd_api::schema::Type;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(input: &str, expected: &str) {
        let (out, layout) = insert_version(input.as_bytes(), 42).expect("located");
        assert_eq!(std::str::from_utf8(&out).unwrap_or_default(), expected);
        let (start, len) = (layout.version.0 as usize, layout.version.1 as usize);
        assert_eq!(&out[start..start + len], b"42");
        let again = replace_version(&out, layout, 1234);
        assert_eq!(
            std::str::from_utf8(&again).unwrap_or_default(),
            expected.replace("\"resourceVersion\":\"42\"", "\"resourceVersion\":\"1234\"")
        );
    }

    #[test]
    fn goes_after_uid() {
        check(
            r#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a\"b","uid":"u","labels":{"uid":"x"}},"spec":{}}"#,
            r#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a\"b","uid":"u","resourceVersion":"42","labels":{"uid":"x"}},"spec":{}}"#,
        );
        check(r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"42"}}"#);
        check(r#"{"metadata":{"labels":{"a":"b"}}}"#, r#"{"metadata":{"resourceVersion":"42","labels":{"a":"b"}}}"#);
        check(
            r#"{"spec":{"a":[1,{"b":"}"}],"n":-1.5e3},"metadata":{"name":"x"}}"#,
            r#"{"spec":{"a":[1,{"b":"}"}],"n":-1.5e3},"metadata":{"name":"x","resourceVersion":"42"}}"#,
        );
        check(
            r#"{"metadata":{"name":"x","resourceVersion":"7"}}"#,
            r#"{"metadata":{"name":"x","resourceVersion":"42"}}"#,
        );
    }

    #[test]
    fn head_is_found_when_it_comes_first() {
        let text = r#"{"kind":"A","apiVersion":"v1","metadata":{}}"#;
        let (_, layout) = insert_version(text.as_bytes(), 1).expect("located");
        assert_eq!(&text[layout.fields as usize..], r#""metadata":{}}"#);
        let (_, layout) = insert_version(br#"{"apiVersion":"v1","metadata":{},"kind":"A"}"#, 1).expect("located");
        assert_eq!(layout.fields, 0);
    }

    #[test]
    fn surprises_are_none() {
        for bad in
            ["", "{", "[]", "{}", r#"{"metadata":1}"#, r#"{"metadata":{"name":"x""#, r#"{"a":}"#, "nope", "{\"a\\"]
        {
            assert!(insert_version(bad.as_bytes(), 1).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_place_is_that_of_the_schema() {
        let pod = Type::of_kind("", "v1", "Pod").expect("Pod");
        for metadata in [
            json!({"name": "x"}),
            json!({"labels": {"uid": "}{\"\\"}}),
            json!({"name": "a\"},", "uid": "u", "generation": 1}),
            json!({"generateName": "a\\", "namespace": "n", "selfLink": "s", "annotations": {"metadata": "{\"name\":\"x\"}"}}),
        ] {
            let mut o = json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"metadata": {}}});
            let (spliced, _) = insert_version(&codec::to_vec(&o, pod), 42).expect("located");
            o["metadata"]["resourceVersion"] = json!("42");
            assert_eq!(String::from_utf8_lossy(&spliced), String::from_utf8_lossy(&codec::to_vec(&o, pod)));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), tail in "[{}\\[\\]\",:a\\\\]{0,40}") {
            let _ = insert_version(&bytes, 1);
            let _ = metadata_range(&bytes);
            let _ = insert_version(format!("{{\"metadata\":{{{tail}").as_bytes(), 1);
        }
    }
}
