//! Sends queries to three servers, many at a time, and reduces the responses to their compared parts.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};

use crate::common;

pub(crate) const SOA: u16 = 6;
/// Number of attempts over UDP: the loopback interface drops datagrams when a buffer is full.
const TRIES: usize = 10;

/// Transport and EDNS of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Edns,
    Tcp,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Edns, Self::Tcp];
}

/// A question: the name in wire form, in the case in which it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) name: Vec<u8>,
    pub(crate) qtype: u16,
}

/// Compared parts of a response. Names are in lower case, records sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rcode: u16,
    pub(crate) aa: bool,
    pub(crate) tc: bool,
    pub(crate) records: Vec<Rr>,
    pub(crate) soa: Vec<Rr>,
}

/// One record: owner, TTL, type, data as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rr {
    pub(crate) owner: String,
    pub(crate) ttl: u32,
    pub(crate) rtype: RecordType,
    pub(crate) data: String,
}

impl Answer {
    /// Panics on an invalid response: another question, or a malformed message.
    pub(crate) fn read(query: &[u8], response: &[u8]) -> Self {
        let question = 12..query.len() - if query[11] == 1 { 11 } else { 0 };
        assert_eq!(response.get(question.clone()), Some(&query[question]), "the question comes back octet by octet");
        let message = Message::from_vec(response).unwrap_or_else(|error| panic!("{error}: {response:?}"));
        let mut records: Vec<Rr> = message.answers.iter().map(Rr::read).collect();
        records.sort_unstable();
        let soa = message.authorities.iter().filter(|record| record.record_type() == RecordType::SOA);
        Self {
            rcode: message.metadata.response_code.into(),
            aa: message.metadata.authoritative,
            tc: message.metadata.truncation,
            soa: soa.map(Rr::read).collect(),
            records,
        }
    }
}

impl Rr {
    fn read(record: &Record) -> Self {
        Self {
            owner: record.name.to_string().to_ascii_lowercase(),
            ttl: record.ttl,
            rtype: record.record_type(),
            data: record.data.to_string().to_ascii_lowercase(),
        }
    }
}

/// A connection of each kind to one server.
pub(crate) struct Client {
    udp: UdpSocket,
    tcp: TcpStream,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        udp.connect(address).unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket2::SockRef::from(&udp).set_recv_buffer_size(1 << 20).unwrap();
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { udp, tcp }
    }

    fn send(&mut self, queries: &[Vec<u8>], mode: Mode) {
        if mode == Mode::Tcp {
            let framed = queries.iter().flat_map(|query| [&(query.len() as u16).to_be_bytes()[..], query].concat());
            self.tcp.write_all(&framed.collect::<Vec<u8>>()).unwrap();
            return;
        }
        for query in queries {
            self.udp.send(query).unwrap();
        }
    }

    /// Returns the responses to `queries`, which have consecutive IDs.
    fn receive(&mut self, queries: &[Vec<u8>], mode: Mode) -> Vec<Vec<u8>> {
        let first = u16::from_be_bytes([queries[0][0], queries[0][1]]);
        let mut responses: Vec<Option<Vec<u8>>> = vec![None; queries.len()];
        let mut tries = 1;
        while let Some(missing) = responses.iter().position(Option::is_none) {
            let Some(response) = self.receive_one(mode) else {
                assert!(mode != Mode::Tcp && tries < TRIES, "no response to {:?}", queries[missing]);
                tries += 1;
                let missing = queries.iter().zip(&responses).filter(|(_, response)| response.is_none());
                let missing: Vec<_> = missing.map(|(query, _)| query.clone()).collect();
                self.send(&missing, mode);
                continue;
            };
            // A duplicate or late response has an ID that is not pending.
            let id = u16::from_be_bytes([response[0], response[1]]);
            if let Some(slot) = responses.get_mut(usize::from(id.wrapping_sub(first))) {
                *slot = Some(response);
            }
        }
        responses.into_iter().flatten().collect()
    }

    fn receive_one(&mut self, mode: Mode) -> Option<Vec<u8>> {
        if mode == Mode::Tcp {
            // Not every server turns Nagle's algorithm off, which waits for delayed acknowledgements.
            socket2::SockRef::from(&self.tcp).set_tcp_quickack(true).unwrap();
            let mut length = [0; 2];
            self.tcp.read_exact(&mut length).ok()?;
            let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
            self.tcp.read_exact(&mut response).ok()?;
            return Some(response);
        }
        let mut buffer = [0; 4096];
        let length = self.udp.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }
}

/// Asks every server every question, and returns each server's answers in the order of the questions.
pub(crate) fn ask<const N: usize>(
    clients: &mut [Client; N],
    questions: &[Question],
    mode: Mode,
    first_id: u16,
) -> [Vec<Answer>; N] {
    let edns = (mode == Mode::Edns).then_some(1232);
    let numbered = questions.iter().zip(0..);
    let queries: Vec<_> = numbered
        .map(|(question, index)| common::query(first_id.wrapping_add(index), &question.name, question.qtype, edns))
        .collect();
    for client in &mut *clients {
        client.send(&queries, mode);
    }
    clients.each_mut().map(|client| {
        let responses = client.receive(&queries, mode);
        queries.iter().zip(&responses).map(|(query, response)| Answer::read(query, response)).collect()
    })
}
