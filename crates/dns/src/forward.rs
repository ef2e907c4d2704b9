//! Questions about other names go to the servers of the host's `resolv.conf`.
//!
//! The question is sent on as it came, under a random id and from a fresh port, so that an answer can be matched;
//! servers are asked in turn until one answers, first the one that did so last time. One that refuses, or has a failure of
//! its own, is passed over at once. All of it ends before a client gives up, which is after 5 s (`resolv.conf(5)`; CoreDNS'
//! `forward` waits as long): it is told SERVFAIL then, and knows more than after silence.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long all of them may take together.
const ALL: Duration = Duration::from_millis(4500);

/// Codes of answers that another server may do better: SERVFAIL and REFUSED.
const UNHELPFUL: [u8; 2] = [2, 5];

/// How many questions may be on their way; more are answered with SERVFAIL.
const IN_FLIGHT: usize = 1000;

/// The servers to ask.
#[derive(Clone, Debug)]
pub struct Forwarder {
    servers: Arc<[SocketAddr]>,
    /// Which one answered last.
    first: Arc<AtomicUsize>,
    places: Arc<Semaphore>,
}

impl Forwarder {
    /// Asks these servers, in their order.
    pub fn new(servers: Vec<SocketAddr>) -> Forwarder {
        Forwarder { servers: servers.into(), first: Arc::default(), places: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }

    /// Sends a whole query on and gives the whole answer, its id restored; `None` when nobody answers.
    pub async fn ask(&self, query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let _place = self.places.try_acquire().ok()?;
        let id = query.get(..2)?;
        let random: [u8; 2] = rand::random();
        let mut sent = query.to_vec();
        sent[..2].copy_from_slice(&random);
        let first = self.first.load(Ordering::Relaxed);
        let deadline = Instant::now() + ALL;
        for turn in 0..self.servers.len() {
            let index = (first + turn) % self.servers.len();
            let server = self.servers[index];
            let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
            let asked = async { if over_tcp { tcp(server, &sent).await } else { udp(server, &sent).await } };
            match timeout(patience, asked).await.unwrap_or_else(|_| Err(late())) {
                Ok(mut answer) if answer.len() >= 12 && answer[..2] == random => {
                    if UNHELPFUL.contains(&(answer[3] & 0x0f)) {
                        tracing::debug!(%server, "name server refuses or fails");
                        continue;
                    }
                    self.first.store(index, Ordering::Relaxed);
                    answer[..2].copy_from_slice(id);
                    return Some(answer);
                }
                Ok(_) => tracing::debug!(%server, "answer does not belong to the question"),
                Err(e) => tracing::debug!(%server, error = %e, "name server does not answer"),
            }
        }
        None
    }
}

fn late() -> std::io::Error {
    std::io::ErrorKind::TimedOut.into()
}

async fn udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr =
        if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().map_err(std::io::Error::other)?;
    let socket = UdpSocket::bind(any).await?;
    // A connected socket takes answers of this server only.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65535];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if n >= 2 && buffer[..2] == query[..2] {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The name servers of a `resolv.conf`, `own` addresses left out: a question must not come back to us.
pub fn name_servers(resolv_conf: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(|text| text.split('%').next()?.parse::<IpAddr>().ok())
        .filter(|ip| !own.contains(ip))
        .map(|ip| SocketAddr::new(ip, 53))
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_a_file() {
        let own = "10.43.0.10".parse().expect("an address");
        let text = "# x\nsearch a\nnameserver 10.43.0.10\nnameserver 9.9.9.9\n nameserver fe80::1%eth0\nnameserver x\n";
        let got: Vec<String> = name_servers(text, &[own]).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["9.9.9.9:53", "[fe80::1]:53"]);
    }

    #[tokio::test]
    async fn a_question_comes_back_with_its_own_id() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let addr = server.local_addr().expect("it is bound");
        let echo = async {
            let mut buffer = [0; 512];
            let (n, from) = server.recv_from(&mut buffer).await.expect("a question");
            server.send_to(&buffer[..n], from).await.expect("it is sent");
        };
        let query = [7; 20];
        let forwarder = Forwarder::new(vec![addr]);
        let (answer, ()) = tokio::join!(forwarder.ask(&query, false), echo);
        assert_eq!(answer.as_deref(), Some(&query[..]));
    }

    /// A server that answers each question with a code, or never; counts the questions.
    async fn server(code: Option<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let (addr, asked) = (socket.local_addr().expect("it is bound"), Arc::new(AtomicUsize::new(0)));
        let counted = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
                counted.fetch_add(1, Ordering::SeqCst);
                if let Some(code) = code {
                    buffer[3] = code;
                    let _ = socket.send_to(&buffer[..n], from).await;
                }
            }
        });
        (addr, asked)
    }

    #[tokio::test]
    async fn who_refuses_or_fails_is_passed_over_and_remembered() {
        let (refuses, fails) = (server(Some(5)).await, server(Some(2)).await);
        // Nothing listens there any more.
        let gone = UdpSocket::bind("127.0.0.1:0").await.and_then(|s| s.local_addr()).expect("a port");
        let (knows, asked) = server(Some(3)).await;
        let forwarder = Forwarder::new(vec![refuses.0, fails.0, gone, knows]);
        for _ in 0..3 {
            let answer = forwarder.ask(&[0; 20], false).await.expect("an answer");
            assert_eq!(answer[3], 3, "that there is no such name is an answer");
        }
        let counts = [&refuses.1, &fails.1, &asked].map(|c| c.load(Ordering::SeqCst));
        assert_eq!(counts, [1, 1, 3], "the one that knew is asked first from then on");
        let started = Instant::now();
        assert_eq!(Forwarder::new(vec![refuses.0, fails.0, gone]).ask(&[0; 20], false).await, None);
        assert!(started.elapsed() < PATIENCE, "nobody is waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_waited_for_less_long_than_clients_wait() {
        let (silent, _) = server(None).await;
        let started = Instant::now();
        assert_eq!(Forwarder::new(vec![silent; 3]).ask(&[0; 20], false).await, None);
        let took = started.elapsed();
        assert!(took >= ALL && took < ALL + Duration::from_millis(100), "{took:?}");
    }

    #[tokio::test]
    async fn nobody_to_ask_is_no_answer() {
        assert_eq!(Forwarder::new(vec![]).ask(&[0; 20], false).await, None);
        assert_eq!(Forwarder::new(vec![]).ask(&[], false).await, None);
    }
}
