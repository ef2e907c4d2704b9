//! Reading a container's log for a client: the lines that are there, and those that come.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::logs::{LogOptions, render, tail_start};

/// How often a file that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How often it is asked whether the container that writes it still runs.
const ASK: Duration = Duration::from_millis(500);

/// A longer line is passed on in pieces.
const PIECE: usize = 64 << 10;

/// Opens a log and puts it where the reader wants to begin.
///
/// # Errors
/// There is no such log.
pub fn open(path: &Path, options: &LogOptions) -> std::io::Result<File> {
    let mut file = File::open(path)?;
    let start = match options.tail {
        Some(lines) => tail_start(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start))?;
    Ok(file)
}

/// Sends the log to `out` until its end, or while it is followed until `is_running` says no and nothing is left, the
/// reader is gone, or its limit is reached.
pub async fn send(
    mut file: File,
    path: PathBuf,
    options: LogOptions,
    out: mpsc::Sender<Bytes>,
    is_running: impl Fn() -> BoxFuture<'static, bool> + Send,
) {
    let mut left = options.limit_bytes.unwrap_or(usize::MAX);
    let mut rest: Vec<u8> = Vec::new();
    let mut block = vec![0; PIECE];
    let mut last_look = false;
    let mut asked = Instant::now();
    loop {
        // Reads of files the page cache has are too short to be worth a thread.
        let n = match file.read(&mut block) {
            Ok(n) => n,
            Err(_) => return,
        };
        if n > 0 {
            last_look = false;
            rest.extend_from_slice(&block[..n]);
            let whole = match rest.iter().rposition(|b| *b == b'\n') {
                Some(at) => at + 1,
                None if rest.len() > PIECE => rest.len(),
                None => continue,
            };
            let mut rendered = Vec::with_capacity(whole);
            for line in rest[..whole].split(|b| *b == b'\n') {
                render(line, &options, &mut rendered);
            }
            rest.drain(..whole);
            rendered.truncate(left);
            left -= rendered.len();
            if !rendered.is_empty() && out.send(rendered.into()).await.is_err() {
                return;
            }
            if left == 0 {
                return;
            }
            continue;
        }
        if !options.follow || last_look {
            return;
        }
        if let Some(next) = rotated(&file, &path) {
            file = next;
            continue;
        }
        if asked.elapsed() >= ASK {
            asked = Instant::now();
            if !is_running().await {
                // What was written before the end is read once more.
                last_look = true;
                continue;
            }
        }
        tokio::select! {
            () = out.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The file that stands at the path now, if it is another one.
fn rotated(file: &File, path: &Path) -> Option<File> {
    let (open, there) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
    if open.ino() == there.ino() && open.dev() == there.dev() {
        return None;
    }
    File::open(path).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn read(path: &Path, options: LogOptions) -> String {
        let (out, mut lines) = mpsc::channel(16);
        let file = open(path, &options).expect("there is a log");
        let path = path.to_owned();
        tokio::spawn(async move { send(file, path, options, out, || Box::pin(std::future::ready(false))).await });
        let mut text = Vec::new();
        while let Some(bytes) = lines.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn tail_limit_and_following_to_the_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        let mut file = File::create(&path).expect("a file");
        for i in 0..5 {
            writeln!(file, "2026-01-01T00:00:0{i}Z stdout F line {i}").expect("it is written");
        }
        let with = |tail, limit_bytes, follow| LogOptions { tail, limit_bytes, follow, ..LogOptions::default() };
        assert_eq!(read(&path, with(Some(2), None, false)).await, "line 3\nline 4\n");
        assert_eq!(read(&path, with(None, Some(9), false)).await, "line 0\nli");
        assert_eq!(read(&path, with(Some(1), None, true)).await, "line 4\n");
    }
}
