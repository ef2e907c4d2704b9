//! Two connections of one protocol, joined byte for byte.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read at once.
const CHUNK: usize = 32 << 10;

/// Copies both ways until both ends have ended.
///
/// # Errors
/// A connection that breaks.
pub async fn join<A: AsyncRead + AsyncWrite, B: AsyncRead + AsyncWrite>(a: A, b: B) -> io::Result<()> {
    let ((from_a, to_a), (from_b, to_b)) = (tokio::io::split(a), tokio::io::split(b));
    tokio::try_join!(copy(from_a, to_b), copy(from_b, to_a)).map(drop)
}

/// Copies one way, and passes the end on. An end without TLS's farewell is an end all the same: what came before it is
/// delivered, and the other way goes on.
async fn copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(mut from: R, mut to: W) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        match from.read_buf(&mut buffer).await {
            Ok(0) => return to.shutdown().await,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return to.shutdown().await,
            Err(e) => return Err(e),
        }
        to.write_all_buf(&mut buffer).await?;
        to.flush().await?;
        buffer.reserve(CHUNK);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    #[tokio::test]
    async fn a_backend_that_ends_without_farewell_has_its_last_words_delivered() {
        let (mut near, far) = tokio::io::duplex(64);
        let session = tokio::spawn(join(far, rude()));
        let mut got = String::new();
        near.read_to_string(&mut got).await.expect("the end is a plain one");
        assert_eq!(got, "last words");
        near.shutdown().await.expect("still taken");
        session.await.expect("no panic").expect("no error");
    }

    /// Says its words, and then ends as TLS does without close_notify.
    fn rude() -> impl AsyncRead + AsyncWrite {
        struct Rude(&'static [u8]);
        impl AsyncRead for Rude {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                if self.0.is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                buf.put_slice(std::mem::take(&mut self.0));
                Poll::Ready(Ok(()))
            }
        }
        tokio::io::join(Rude(b"last words"), tokio::io::sink())
    }
}
