//! Questions about other names go to the servers of the host's `resolv.conf`.
//!
//! The question is sent on as it came, under a random id and from a fresh port, so that an answer can be matched;
//! servers are asked in turn until one answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many questions may be on their way; more are answered with SERVFAIL.
const IN_FLIGHT: usize = 1000;

/// The servers to ask.
#[derive(Clone, Debug)]
pub struct Forwarder {
    servers: Arc<[SocketAddr]>,
    places: Arc<Semaphore>,
}

impl Forwarder {
    /// Asks these servers, in their order.
    pub fn new(servers: Vec<SocketAddr>) -> Forwarder {
        Forwarder { servers: servers.into(), places: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }

    /// Sends a whole query on and gives the whole answer, its id restored; `None` when nobody answers.
    pub async fn ask(&self, query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let _place = self.places.try_acquire().ok()?;
        let id = query.get(..2)?;
        let random: [u8; 2] = rand::random();
        let mut sent = query.to_vec();
        sent[..2].copy_from_slice(&random);
        for server in self.servers.iter() {
            let answer = if over_tcp { tcp(*server, &sent).await } else { udp(*server, &sent).await };
            match answer {
                Ok(mut answer) if answer.len() >= 12 && answer[..2] == random => {
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
    let exchange = async {
        loop {
            let n = socket.recv(&mut buffer).await?;
            if n >= 2 && buffer[..2] == query[..2] {
                return Ok::<usize, std::io::Error>(n);
            }
        }
    };
    let n = timeout(PATIENCE, exchange).await.map_err(|_| late())??;
    buffer.truncate(n);
    Ok(buffer)
}

async fn tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    })
    .await
    .map_err(|_| late())?
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

    #[tokio::test]
    async fn nobody_to_ask_is_no_answer() {
        assert_eq!(Forwarder::new(vec![]).ask(&[0; 20], false).await, None);
        assert_eq!(Forwarder::new(vec![]).ask(&[], false).await, None);
    }
}
