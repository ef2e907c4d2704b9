//! DNS over UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use parking_lot::RwLock;
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::forward::Forwarder;
use crate::zone::{Answer, Zone};

/// Largest answer over UDP without EDNS, and the largest that EDNS gets.
const UDP_PLAIN: u16 = 512;
const UDP_MOST: u16 = 1232;

/// How many TCP connections may be open, and how long one may be silent.
const CONNECTIONS: usize = 256;
const SILENCE: Duration = Duration::from_secs(10);

/// A bound server; nothing is answered before [`Server::run`].
pub struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    responder: Responder,
}

#[derive(Clone)]
struct Responder {
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
}

impl Server {
    /// Binds both sockets. With port 0 a number is looked for that is free in both.
    ///
    /// # Errors
    /// The address is not this machine's or is taken.
    pub async fn bind(addr: SocketAddr, zone: Arc<RwLock<Zone>>, forwarder: Forwarder) -> io::Result<Server> {
        let mut tries = if addr.port() == 0 { 32 } else { 1 };
        loop {
            tries -= 1;
            let udp = UdpSocket::bind(addr).await?;
            match TcpListener::bind(udp.local_addr()?).await {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                tcp => return Ok(Server { udp: Arc::new(udp), tcp: tcp?, responder: Responder { zone, forwarder } }),
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                received = self.udp.recv_from(&mut buffer) => match received {
                    Ok((n, from)) => self.datagram(&buffer[..n], from).await,
                    // An earlier answer could not be delivered: not this socket's fault.
                    Err(e) => tracing::debug!(error = %e, "cannot receive"),
                },
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, _)) => {
                        if let Ok(place) = places.clone().try_acquire_owned() {
                            let responder = self.responder.clone();
                            let stop = stop.clone();
                            tokio::spawn(async move {
                                let _place = place;
                                tokio::select! {
                                    () = stop.cancelled() => {}
                                    _ = responder.connection(stream) => {}
                                }
                            });
                        }
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    /// Answers at once what is in memory; what must be asked for elsewhere gets a task of its own, bounded by the
    /// forwarder.
    async fn datagram(&self, query: &[u8], from: SocketAddr) {
        match self.responder.respond(query, false) {
            Reply::Ready(answer) => {
                let _ = self.udp.send_to(&answer, from).await;
            }
            Reply::Elsewhere(ask) => {
                let (responder, socket) = (self.responder.clone(), self.udp.clone());
                tokio::spawn(async move {
                    let answer = responder.elsewhere(*ask, false).await;
                    let _ = socket.send_to(&answer, from).await;
                });
            }
            Reply::Nothing => {}
        }
    }
}

/// A question for others.
struct Elsewhere {
    query: Message,
    bytes: Vec<u8>,
    /// Aliases already found; what the last one stands for is to be asked.
    alias: Option<(Vec<Record>, Name)>,
}

enum Reply {
    Ready(Vec<u8>),
    Elsewhere(Box<Elsewhere>),
    Nothing,
}

impl Responder {
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = timeout(SILENCE, stream.read_u16()).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let mut query = vec![0; length.into()];
            timeout(SILENCE, stream.read_exact(&mut query)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let answer = match self.respond(&query, true) {
                Reply::Ready(answer) => answer,
                Reply::Elsewhere(ask) => self.elsewhere(*ask, true).await,
                Reply::Nothing => return Ok(()),
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
        }
    }

    fn respond(&self, bytes: &[u8], tcp: bool) -> Reply {
        let Ok(query) = Message::from_vec(bytes) else {
            // Only what has an id can be answered.
            return match bytes.get(..2) {
                Some(id) => {
                    let id = u16::from_be_bytes([id[0], id[1]]);
                    Reply::Ready(
                        Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().unwrap_or_default(),
                    )
                }
                None => Reply::Nothing,
            };
        };
        if query.metadata.message_type == MessageType::Response {
            return Reply::Nothing;
        }
        if query.metadata.op_code != OpCode::Query {
            return Reply::Ready(finish(answer_to(&query, ResponseCode::NotImp), &query, tcp));
        }
        let [question] = query.queries.as_slice() else {
            return Reply::Ready(finish(answer_to(&query, ResponseCode::FormErr), &query, tcp));
        };
        if question.query_class() != DNSClass::IN {
            return Reply::Ready(finish(answer_to(&query, ResponseCode::Refused), &query, tcp));
        }
        let zone = self.zone.read();
        let mut answer = answer_to(&query, ResponseCode::NoError);
        answer.metadata.authoritative = true;
        match zone.answer(question.name(), question.query_type()) {
            Answer::Found(mut records) => {
                if records.is_empty() {
                    answer.add_authority(zone.soa());
                }
                // Clients take the first address: each gets another one. Aliases lead there, in their order.
                let aliases = records.iter().take_while(|r| r.record_type() == RecordType::CNAME).count();
                records[aliases..].shuffle(&mut rand::rng());
                answer.add_answers(records);
            }
            Answer::NoSuchName => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(zone.soa());
            }
            Answer::Alias(way, target) => {
                drop(zone);
                let alias = Some((way, target));
                return Reply::Elsewhere(Box::new(Elsewhere { query, bytes: bytes.to_vec(), alias }));
            }
            Answer::NotOurs => {
                drop(zone);
                return Reply::Elsewhere(Box::new(Elsewhere { query, bytes: bytes.to_vec(), alias: None }));
            }
        }
        Reply::Ready(finish(answer, &query, tcp))
    }

    async fn elsewhere(&self, ask: Elsewhere, tcp: bool) -> Vec<u8> {
        let Some((way, target)) = ask.alias else {
            return match self.forwarder.ask(&ask.bytes, tcp).await {
                Some(answer) => answer,
                None => finish(answer_to(&ask.query, ResponseCode::ServFail), &ask.query, tcp),
            };
        };
        let mut answer = answer_to(&ask.query, ResponseCode::NoError);
        answer.metadata.authoritative = true;
        answer.add_answers(way);
        let mut inner = ask.query.clone();
        if let Some(question) = inner.queries.first_mut() {
            question.set_name(target);
        }
        let found = match inner.to_vec() {
            Ok(bytes) => self.forwarder.ask(&bytes, tcp).await,
            Err(_) => None,
        };
        if let Some(found) = found.and_then(|bytes| Message::from_vec(&bytes).ok()) {
            answer.add_answers(found.answers);
        }
        finish(answer, &ask.query, tcp)
    }
}

/// An empty answer to a query.
fn answer_to(query: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(query.queries.iter().cloned());
    answer
}

/// The bytes of an answer; over UDP cut to what the client takes, with the mark that tells it to come by TCP.
fn finish(mut answer: Message, query: &Message, tcp: bool) -> Vec<u8> {
    let limit = match &query.edns {
        Some(edns) => {
            let mut ours = Edns::new();
            ours.set_max_payload(UDP_MOST);
            answer.set_edns(ours);
            edns.max_payload().clamp(UDP_PLAIN, UDP_MOST)
        }
        None => UDP_PLAIN,
    };
    let bytes = answer.to_vec().unwrap_or_default();
    if tcp || bytes.len() <= usize::from(limit) {
        return bytes;
    }
    answer.metadata.truncation = true;
    while !answer.answers.is_empty() {
        let keep = answer.answers.len() * 3 / 4;
        answer.answers.truncate(keep);
        let bytes = answer.to_vec().unwrap_or_default();
        if bytes.len() <= usize::from(limit) {
            return bytes;
        }
    }
    answer.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_proto::op::Query;

    use super::*;
    use crate::zone::ServiceNames;

    async fn serve(services: usize) -> (SocketAddr, CancellationToken) {
        let mut zone = Zone::new("cluster.local").expect("a domain");
        let endpoints = (0..services)
            .map(|i| crate::zone::Endpoint { ip: IpAddr::from([10, 42, 0, i as u8]), hostname: None, ports: vec![] })
            .collect();
        zone.set("default", "db", Some(ServiceNames { endpoints, ..Default::default() }));
        let addr = "127.0.0.1:0".parse().expect("an address");
        let server =
            Server::bind(addr, Arc::new(RwLock::new(zone)), Forwarder::new(vec![])).await.expect("a free port");
        let addr = server.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        (addr, stop)
    }

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        message.to_vec().expect("it can be written")
    }

    async fn ask_udp(addr: SocketAddr, bytes: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.send_to(bytes, addr).await.expect("it is sent");
        let mut buffer = [0; 4096];
        let n = timeout(SILENCE, socket.recv(&mut buffer)).await.expect("an answer in time").expect("an answer");
        Message::from_vec(&buffer[..n]).expect("a message")
    }

    #[tokio::test]
    async fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
        let (addr, stop) = serve(100).await;
        let bytes = query("db.default.svc.cluster.local.");
        let cut = ask_udp(addr, &bytes).await;
        assert!(cut.metadata.truncation && cut.answers.len() < 100 && !cut.answers.is_empty());

        let mut stream = TcpStream::connect(addr).await.expect("it listens");
        stream.write_all(&[&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()).await.expect("it is sent");
        let mut answer = vec![0; stream.read_u16().await.expect("an answer").into()];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(Message::from_vec(&answer).expect("a message").answers.len(), 100);
        stop.cancel();
    }

    #[tokio::test]
    async fn what_is_unknown_or_no_question_gets_a_code() {
        let (addr, stop) = serve(1).await;
        let code = |m: Message| m.metadata.response_code;
        assert_eq!(code(ask_udp(addr, &query("x.default.svc.cluster.local.")).await), ResponseCode::NXDomain);
        assert_eq!(code(ask_udp(addr, &query("example.com.")).await), ResponseCode::ServFail);
        assert_eq!(code(ask_udp(addr, &[0, 7, 1, 0, 0, 9]).await), ResponseCode::FormErr);
        stop.cancel();
    }
}
