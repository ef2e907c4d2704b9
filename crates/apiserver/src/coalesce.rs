//! Puts the writes of an HTTP/2 connection together.
//!
//! A change wakes many watchers of one connection, one task each. The task that owns the connection is woken by the
//! first of them and would send what that one has, then wake again for the next: a system call and a TLS record for
//! every event. So a flush lets the tasks that are ready go first, once, and sends what has come together by then.
//! It is for HTTP/2 alone, whose writer flushes whenever it has nothing left to write; what becomes of an HTTP/1
//! connection after an upgrade may not flush at all, and its writes go straight through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held back at most.
const LIMIT: usize = 64 * 1024;
/// What is so large is sent as it is.
const LARGE: usize = 16 * 1024;

/// A stream whose small writes wait for the next flush.
pub struct Coalesce<S> {
    inner: S,
    enabled: bool,
    held: Vec<u8>,
    /// How much of what is held has been written.
    done: usize,
    /// Others have had their turn since the last flush.
    yielded: bool,
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    /// Wraps a stream; one that is not `enabled` is left as it is.
    pub fn new(inner: S, enabled: bool) -> Self {
        Coalesce { inner, enabled, held: Vec::new(), done: 0, yielded: false }
    }

    /// Writes what is held.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.done < self.held.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held[self.done..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.done += written;
        }
        self.done = 0;
        // Connections are many, and most are idle.
        if self.held.capacity() > LARGE {
            self.held = Vec::new()
        } else {
            self.held.clear()
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.enabled {
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        }
        if this.held.len() >= LIMIT || buf.len() >= LARGE {
            ready!(this.drain(cx))?;
            if buf.len() >= LARGE {
                return Pin::new(&mut this.inner).poll_write(cx, buf);
            }
        }
        let taken = buf.len().min(LIMIT - this.held.len().min(LIMIT));
        this.held.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.enabled {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        let mut taken = 0;
        for buf in bufs.iter().filter(|b| !b.is_empty()) {
            match self.as_mut().poll_write(cx, buf) {
                Poll::Ready(Ok(n)) => {
                    taken += n;
                    if n < buf.len() {
                        break;
                    }
                }
                // What was taken is told first; the rest is tried again.
                _ if taken > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.enabled || self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.enabled {
            if !this.yielded && !this.held.is_empty() && this.held.len() < LIMIT / 2 {
                this.yielded = true;
                // A task that wakes itself goes to the end of the queue.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(this.drain(cx))?;
            this.yielded = false;
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts the writes that reach it.
    struct Counted<'c>(&'c std::cell::RefCell<Vec<usize>>);

    impl AsyncWrite for Counted<'_> {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.borrow_mut().push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_writes_are_one_and_large_ones_go_through() {
        let writes = std::cell::RefCell::new(Vec::new());
        let mut stream = Coalesce::new(Counted(&writes), true);
        for _ in 0..10 {
            stream.write_all(&[1; 100]).await.expect("written");
        }
        assert!(writes.borrow().is_empty());
        stream.flush().await.expect("flushed");
        assert_eq!(writes.take(), [1000]);
        stream.write_all(&[1; 100]).await.expect("written");
        stream.write_all(&[1; LARGE]).await.expect("written");
        assert_eq!(writes.take(), [100, LARGE], "in their order");
        let slices = [io::IoSlice::new(&[2; 10]), io::IoSlice::new(&[]), io::IoSlice::new(&[3; 20])];
        assert_eq!(stream.write_vectored(&slices).await.expect("written"), 30);
        stream.shutdown().await.expect("shut down");
        assert_eq!(writes.take(), [30]);
        let mut plain = Coalesce::new(Counted(&writes), false);
        plain.write_all(&[1; 5]).await.expect("written");
        assert_eq!(writes.take(), [5]);
    }

    #[tokio::test]
    async fn a_full_peer_holds_the_writer_back_and_loses_nothing() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            let mut stream = Coalesce::new(ours, true);
            for chunk in sent.chunks(777) {
                stream.write_all(chunk).await.expect("written");
            }
            stream.shutdown().await.expect("shut down");
        });
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.expect("read");
        writer.await.expect("joins");
        assert!(got == expected);
    }
}
