//! Container logs in CRI format: parsing, tail, following over rotation, rotation.
//!
//! A line is `TIME STREAM TAGS CONTENT`: RFC 3339 with nanoseconds, `stdout` or `stderr`, `F` for a whole line or `P` for
//! a part of one. Follows upstream `staging/src/k8s.io/cri-client/pkg/logs/logs.go`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::jiff::Timestamp;

/// What a reader wants of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Keep going.
    pub follow: bool,
    /// Prefix lines with their time.
    pub timestamps: bool,
    /// Only lines from this time on.
    pub since: Option<Timestamp>,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Only so many bytes.
    pub limit_bytes: Option<usize>,
    /// Only this stream: `Stdout` or `Stderr`.
    pub stream: Option<String>,
}

/// Reads from the end in pieces of this size.
const BLOCK: usize = 64 << 10;

/// A parsed line.
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    content: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let content = parts.next().unwrap_or_default();
    Some(Line { time, stream, partial: tags.split(|b| *b == b':').next() == Some(b"P"), content })
}

/// Renders one raw line for a reader; nothing if the reader does not want it.
pub fn render(line: &[u8], options: &LogOptions, out: &mut Vec<u8>) {
    let Some(parsed) = parse(line) else { return };
    if let Some(since) = options.since
        && parsed.time.parse::<Timestamp>().is_ok_and(|t| t < since)
    {
        return;
    }
    if options.stream.as_deref().is_some_and(|s| !s.eq_ignore_ascii_case(parsed.stream) && s != "All") {
        return;
    }
    if options.timestamps {
        out.extend_from_slice(parsed.time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(parsed.content);
    if !parsed.partial {
        out.push(b'\n');
    }
}

/// Where the last `lines` lines of a file start.
pub fn tail_start(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut found) = (end, 0usize);
    let mut buffer = vec![0u8; BLOCK];
    while at > 0 {
        let size = usize::try_from(at).unwrap_or(BLOCK).min(BLOCK);
        at -= size as u64;
        file.seek(SeekFrom::Start(at))?;
        let block = buffer.get_mut(..size).unwrap_or_default();
        file.read_exact(block)?;
        for (i, byte) in block.iter().enumerate().rev() {
            if *byte == b'\n' && at + i as u64 + 1 != end {
                found += 1;
                if found == lines {
                    return Ok(at + i as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

/// The last lines of a log without their prefixes, for termination messages.
pub fn tail_of(path: &Path, lines: usize, bytes: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = tail_start(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
        let (mut raw, mut out) = (Vec::new(), Vec::new());
        file.take(1 << 20).read_to_end(&mut raw)?;
        for line in raw.split(|b| *b == b'\n') {
            render(line, &LogOptions::default(), &mut out);
        }
        Ok(out)
    };
    let out = read().unwrap_or_default();
    let from = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(out.get(from..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
                       2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    #[test]
    fn lines_are_rendered() {
        let check = |options: LogOptions, expected: &str| {
            let mut out = Vec::new();
            LOG.as_bytes().split(|b| *b == b'\n').for_each(|l| render(l, &options, &mut out));
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        check(LogOptions::default(), "one\ntwo\nthree\n");
        check(LogOptions { stream: Some("Stderr".to_owned()), ..LogOptions::default() }, "two\n");
        let since = "2026-01-01T00:00:02Z".parse().ok();
        check(LogOptions { since, timestamps: true, ..LogOptions::default() }, "2026-01-01T00:00:02Z three\n");
    }

    #[test]
    fn tails_are_found() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG)?;
        assert_eq!(tail_of(&path, 1, 100), "three\n");
        assert_eq!(tail_of(&path, 2, 100), "o\nthree\n");
        assert_eq!(tail_of(&path, 99, 6), "three\n");
        assert_eq!(tail_of(&path, 0, 6), "");
        Ok(())
    }
}
