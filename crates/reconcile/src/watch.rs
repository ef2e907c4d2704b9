//! Watch streams: chunks to lines, lines to frames.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use orkd_base::BoxError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::Status;
use crate::client::Body;

/// The longest line taken; objects are far below.
const MAX_LINE: usize = 64 << 20;

/// The annotation of the bookmark that ends the initial events of a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One event of a watch.
#[derive(Debug)]
pub(crate) enum Frame<T> {
    /// An object is there or has changed.
    Applied(T),
    /// An object is gone; this was its last state.
    Deleted(T),
    /// Nothing happened up to a version.
    Bookmark {
        /// The version.
        resource_version: String,
        /// Whether all initial events have been sent.
        initial_end: bool,
    },
    /// The watch failed and ends.
    Error(Status),
    /// An object that the view cannot be decoded from.
    Undecodable {
        /// Why.
        error: serde_json::Error,
        /// Version of the object; empty if even that cannot be read.
        resource_version: String,
    },
}

#[derive(Deserialize)]
struct RawFrame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BookmarkMeta {
    resource_version: String,
    #[serde(deserialize_with = "crate::null_default")]
    annotations: std::collections::BTreeMap<String, String>,
}

/// Reads one line of a watch.
pub(crate) fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<Frame<T>, serde_json::Error> {
    // Most lines are read in one go. One that is not as expected is read again with more care.
    if let Some((is_deleted, object)) = object_of(line)
        && let Ok(object) = serde_json::from_slice(object)
    {
        return Ok(if is_deleted { Frame::Deleted(object) } else { Frame::Applied(object) });
    }
    let frame: RawFrame<'_> = serde_json::from_slice(line)?;
    let json = frame.object.get();
    Ok(match frame.kind {
        "BOOKMARK" => {
            let bookmark: Bookmark = serde_json::from_str(json)?;
            Frame::Bookmark {
                initial_end: bookmark.metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|v| v == "true"),
                resource_version: bookmark.metadata.resource_version,
            }
        }
        "ERROR" => Frame::Error(serde_json::from_str(json)?),
        kind => match serde_json::from_str(json) {
            Ok(object) if kind == "DELETED" => Frame::Deleted(object),
            Ok(object) => Frame::Applied(object),
            Err(error) => {
                let meta: Bookmark = serde_json::from_str(json).unwrap_or_default();
                Frame::Undecodable { error, resource_version: meta.metadata.resource_version }
            }
        },
    })
}

/// The object of a line that is as API servers write it, and whether it is gone.
fn object_of(line: &[u8]) -> Option<(bool, &[u8])> {
    const HEADS: [(&[u8], bool); 3] = [
        (br#"{"type":"MODIFIED","object":"#, false),
        (br#"{"type":"ADDED","object":"#, false),
        (br#"{"type":"DELETED","object":"#, true),
    ];
    let (rest, is_deleted) = HEADS.iter().find_map(|(head, gone)| Some((line.strip_prefix(*head)?, *gone)))?;
    Some((is_deleted, rest.strip_suffix(b"}")?))
}

/// Cuts chunks into lines. A line within one chunk is not copied.
#[derive(Default)]
pub(crate) struct Lines {
    chunk: Bytes,
    /// The beginning of a line whose end has not come.
    head: BytesMut,
}

impl Lines {
    /// Adds a chunk; lines must have been taken from the last.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), BoxError> {
        if self.head.len() + chunk.len() > MAX_LINE {
            return Err(format!("a line of the watch is longer than {MAX_LINE} bytes").into());
        }
        if !self.chunk.is_empty() {
            self.head.extend_from_slice(&std::mem::take(&mut self.chunk));
        }
        self.chunk = chunk;
        Ok(())
    }

    /// The next whole line, without its end; blank ones are left out.
    pub(crate) fn next_line(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = self.chunk.iter().position(|b| *b == b'\n') else {
                self.head.extend_from_slice(&std::mem::take(&mut self.chunk));
                return None;
            };
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if !self.head.is_empty() {
                self.head.extend_from_slice(&line);
                line = self.head.split().freeze();
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(line);
            }
        }
    }
}

/// A running watch.
pub(crate) struct WatchStream {
    body: Body,
    lines: Lines,
}

impl WatchStream {
    pub(crate) fn new(body: Body) -> Self {
        WatchStream { body, lines: Lines::default() }
    }

    /// The next frame; `None` when the server ended the watch. May be cancelled and called again.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, BoxError> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return Ok(Some(decode(&line)?));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(err)) => return Err(err),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(data)?;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn check_lines(chunks: &[&'static str], expected: &[&str]) {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for chunk in chunks {
            lines.push(Bytes::from_static(chunk.as_bytes())).expect("short");
            while let Some(line) = lines.next_line() {
                got.push(String::from_utf8_lossy(&line).into_owned());
            }
        }
        assert_eq!(got, expected, "{chunks:?}");
    }

    #[test]
    fn chunks_become_lines() {
        check_lines(&["a\nb\n"], &["a", "b"]);
        check_lines(&["a", "b", "c\nd", "\n"], &["abc", "d"]);
        check_lines(&["\n\r\n", "a\n\nb\n"], &["a", "b"]);
        check_lines(&["unfinished"], &[]);
    }

    #[test]
    fn frames_are_told_apart() {
        let frame = |json: &str| decode::<Value>(json.as_bytes());
        assert!(matches!(frame(r#"{"type":"ADDED","object":{"a":1}}"#), Ok(Frame::Applied(_))));
        assert!(matches!(frame(r#"{"object":{"a":1},"type":"DELETED"}"#), Ok(Frame::Deleted(_))));
        assert!(matches!(frame(r#"{"type":"DELETED","object":{"a":1}}"#), Ok(Frame::Deleted(_))));
        assert!(matches!(frame(r#"{"type":"ADDED","object":{"a":1},"more":{}}"#), Ok(Frame::Applied(_))));
        assert!(matches!(
            frame(r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"5",
                "annotations":{"k8s.io/initial-events-end":"true"}}}}"#),
            Ok(Frame::Bookmark { resource_version, initial_end: true }) if resource_version == "5"
        ));
        assert!(matches!(
            frame(r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#),
            Ok(Frame::Error(status)) if status.code == 410
        ));
        assert!(frame("{").is_err());
        assert!(matches!(
            decode::<u8>(br#"{"type":"ADDED","object":{"metadata":{"resourceVersion":"9"}}}"#),
            Ok(Frame::Undecodable { resource_version, .. }) if resource_version == "9"
        ));
    }
}
