//! Puts the writes of an HTTP/2 connection together.
//!
//! A change wakes many watchers of one connection, one task each. The task that owns the connection is woken by the
//! first of them and would send what that one has, then wake again for the next: a system call and a TLS record for
//! every event. And HTTP/2's codec flushes behind each frame of data that is not small, so that "flush" does not mean
//! "nothing more comes". So a flush lets all tasks that are ready go first; when the connection has its next turn, all that
//! it writes in that turn is kept, and leaves in one piece at the turn's end ([`Turns`]).
//!
//! It is for HTTP/2 alone, whose connection is polled until it has nothing left to write; what becomes of an HTTP/1
//! connection after an upgrade may be polled by anyone, and its writes go straight through.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held back at most.
const LIMIT: usize = 64 * 1024;
/// Room that an idle connection keeps at most.
const KEPT: usize = 16 * 1024;

/// A stream whose writes wait for the end of a turn. Its connection must be run by [`Coalesce::turns`].
pub struct Coalesce<S>(Arc<Mutex<State<S>>>);

/// Polls the connection of a [`Coalesce`], and sends what it has written at the end of its turn.
pub struct Turns<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    inner: S,
    enabled: bool,
    phase: Phase,
    held: Vec<u8>,
    /// How much of what is held has been written.
    done: usize,
    /// What went wrong at the end of a turn; the connection learns of it when it writes again.
    failed: Option<io::Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing that is held has been flushed.
    Open,
    /// A flush has given way to other tasks.
    Waiting,
    /// They have had their turn: what is held leaves at the end of this one.
    Sending,
}

/// Has the task polled again when all tasks that are ready have had their turn.
fn give_way(cx: &mut Context<'_>) {
    // It leaves the waker with the scheduler and is pending, once.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    /// Wraps a stream; one that is not `enabled` is left as it is.
    pub fn new(inner: S, enabled: bool) -> Self {
        let state = State { inner, enabled, phase: Phase::Open, held: Vec::new(), done: 0, failed: None };
        Coalesce(Arc::new(Mutex::new(state)))
    }

    /// What the connection is to be run by.
    pub fn turns(&self) -> Turns<S> {
        Turns(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Turns<S> {
    /// Runs the connection to its end.
    pub async fn run<F: Future>(self, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        std::future::poll_fn(|cx| {
            self.0.lock().begin();
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() {
                self.0.lock().end(cx);
            }
            polled
        })
        .await
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// A turn begins.
    fn begin(&mut self) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Sending;
        }
    }

    /// A turn ends; the connection waits for something.
    fn end(&mut self, cx: &mut Context<'_>) {
        if self.phase != Phase::Sending {
            return;
        }
        let sent = match self.drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_flush(cx),
            other => other,
        };
        match sent {
            // The peer does not read: there will be another turn when it does.
            Poll::Pending => return,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                self.failed = Some(error);
                cx.waker().wake_by_ref();
            }
        }
        self.phase = Phase::Open;
        // Connections are many, and most are idle.
        if self.held.capacity() > KEPT {
            self.held = Vec::new();
        }
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
        self.held.clear();
        Poll::Ready(Ok(()))
    }

    /// Holds as much of the slices as there is room for; some of it, if there is any.
    fn hold(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.held.len() >= LIMIT {
            ready!(self.drain(cx))?;
        }
        let before = self.held.len();
        for buf in bufs {
            let taken = buf.len().min(LIMIT - self.held.len());
            self.held.extend_from_slice(&buf[..taken]);
            if taken < buf.len() {
                break;
            }
        }
        Poll::Ready(Ok(self.held.len() - before))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if !self.enabled || self.held.is_empty() {
            return Pin::new(&mut self.inner).poll_flush(cx);
        }
        match self.phase {
            Phase::Open => {
                self.phase = Phase::Waiting;
                give_way(cx);
                Poll::Pending
            }
            Phase::Waiting => Poll::Pending,
            Phase::Sending => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if state.enabled {
            state.hold(cx, &[io::IoSlice::new(buf)])
        } else {
            Pin::new(&mut state.inner).poll_write(cx, buf)
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if state.enabled { state.hold(cx, bufs) } else { Pin::new(&mut state.inner).poll_write_vectored(cx, bufs) }
    }

    fn is_write_vectored(&self) -> bool {
        let state = self.0.lock();
        state.enabled || state.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        ready!(state.drain(cx))?;
        Pin::new(&mut state.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Notes the sizes of the writes that reach it, and fails after some.
    struct Noted<S> {
        inner: S,
        writes: Arc<Mutex<Vec<usize>>>,
        most: usize,
    }

    impl<S> Noted<S> {
        fn new(inner: S) -> (Self, Arc<Mutex<Vec<usize>>>) {
            let writes = Arc::<Mutex<Vec<usize>>>::default();
            (Noted { inner, writes: writes.clone(), most: usize::MAX }, writes)
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(cx, buf)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if self.writes.lock().len() >= self.most {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
            self.writes.lock().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn the_writes_of_a_turn_leave_in_one() {
        let (noted, writes) = Noted::new(tokio::io::sink());
        let mut stream = Coalesce::new(noted, true);
        stream
            .turns()
            .run(async {
                for _ in 0..10 {
                    stream.write_all(&[1; 100]).await.expect("written");
                }
                assert!(writes.lock().is_empty());
                // It has given way, and takes along what is written in its next turn.
                stream.flush().await.expect("flushed");
                let slices = [io::IoSlice::new(&[2; 10]), io::IoSlice::new(&[]), io::IoSlice::new(&[3; 20])];
                assert_eq!(stream.write_vectored(&slices).await.expect("written"), 30);
                stream.flush().await.expect("flushed");
                assert!(writes.lock().is_empty());
                tokio::task::yield_now().await;
                assert_eq!(writes.lock().split_off(0), [1030]);
                stream.write_all(&[1; LIMIT + 5]).await.expect("written");
                stream.shutdown().await.expect("shut down");
                assert_eq!(writes.lock().split_off(0), [LIMIT, 5]);
            })
            .await;
        let (noted, writes) = Noted::new(tokio::io::sink());
        let mut plain = Coalesce::new(noted, false);
        plain.write_all(&[1; 5]).await.expect("written");
        assert_eq!(writes.lock().split_off(0), [5]);
    }

    #[tokio::test]
    async fn what_fails_at_the_end_of_a_turn_is_told() {
        let (mut noted, _) = Noted::new(tokio::io::sink());
        noted.most = 0;
        let mut stream = Coalesce::new(noted, true);
        let told = stream.turns().run(async {
            stream.write_all(&[1; 100]).await?;
            stream.flush().await?;
            tokio::task::yield_now().await;
            stream.flush().await
        });
        assert_eq!(told.await.map_err(|e| e.kind()), Err(io::ErrorKind::BrokenPipe));
    }

    #[tokio::test]
    async fn a_full_peer_holds_the_writer_back_and_loses_nothing() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            let mut stream = Coalesce::new(ours, true);
            let turns = stream.turns();
            turns
                .run(async move {
                    for (i, chunk) in sent.chunks(777).enumerate() {
                        stream.write_all(chunk).await.expect("written");
                        if i % 10 == 0 {
                            stream.flush().await.expect("flushed");
                        }
                    }
                    stream.shutdown().await.expect("shut down");
                })
                .await;
        });
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.expect("read");
        writer.await.expect("joins");
        assert!(got == expected);
    }

    /// A change that many streams of a connection are told of is one write, or two: not one for each.
    #[tokio::test]
    async fn streams_that_write_at_once_share_a_write() {
        const STREAMS: usize = 25;
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (noted, writes) = Noted::new(ours);
        let go = Arc::new(tokio::sync::Notify::new());
        let told = go.clone();
        tokio::spawn(async move {
            let stream = Coalesce::new(noted, true);
            let turns = stream.turns();
            turns
                .run(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("a handshake");
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let told = told.clone();
                        tokio::spawn(async move {
                            let mut body = respond.send_response(http::Response::new(()), false).expect("answered");
                            told.notified().await;
                            body.send_data(Bytes::from_static(&[b'x'; 1200]), true).expect("sent");
                        });
                    }
                })
                .await;
        });
        let (mut requests, connection) = h2::client::handshake(theirs).await.expect("a handshake");
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..STREAMS {
            let (answer, _) = requests.send_request(http::Request::new(()), true).expect("sent");
            answers.push(answer);
        }
        let mut bodies = Vec::new();
        for answer in answers {
            bodies.push(answer.await.expect("answered").into_body());
        }
        let before = writes.lock().len();
        go.notify_waiters();
        for mut body in bodies {
            let mut got = 0;
            while let Some(data) = body.data().await {
                got += data.expect("data").len();
            }
            assert_eq!(got, 1200);
        }
        let writes = writes.lock().split_off(before);
        assert!(writes.len() <= 3, "{writes:?}");
    }
}
