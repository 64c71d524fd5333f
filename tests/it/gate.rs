//! The checks before an answer: dropped packets, refused queries, and the error responses, packet by packet.
//!
//! Each case is a packet, its source address and the outcome: no response, or a response code and the repeated part of the
//! question.

use std::sync::Arc;

use crate::common::{query, wire};
use headless_dns_core::answer::{AccessList, DropReason, Peer, Reply, RequestBatch, Responder, Transport, Worker};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::Message;

const CLIENT: &str = "10.1.2.3:40000";
const SERVER: &str = "10.96.0.53:53";

/// Expected outcome of a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gets {
    /// No response, for this reason.
    Nothing(DropReason),
    /// This rcode with the header alone.
    Header(u16),
    /// This rcode with the header and an OPT record.
    HeaderOpt(u16),
    /// This rcode behind the question; an OPT record if and only if a valid one came.
    Rcode(u16),
}
use Gets::{Header, HeaderOpt, Nothing, Rcode};

const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const NOTAUTH: u16 = 9;
const BADVERS: u16 = 16;

struct Gate {
    responder: Responder,
    zone: Arc<Zone>,
}

impl Gate {
    fn new(access: AccessList, synced: bool) -> Self {
        let apexes = vec![WireName::parse("cluster.local").unwrap()];
        let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        let status = Arc::new(Status::default());
        if synced {
            status.set_synced();
        }
        let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
        Self { responder: Responder::new(Arc::clone(&zone), status, access), zone }
    }

    fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone)
    }

    fn ask(&self, packet: &[u8], from: &str, transport: Transport) -> Result<Vec<u8>, DropReason> {
        let mut buffer = vec![0; 65_535.max(packet.len())];
        buffer[..packet.len()].copy_from_slice(packet);
        let peer = Peer { from: from.parse().unwrap(), to: SERVER.parse().unwrap() };
        let mut requests = RequestBatch::new(transport);
        let request = requests.parse_one(&self.zone, packet);
        match self.responder.respond(request, peer, &mut Worker::default(), &mut buffer) {
            Reply::Response(summary) => {
                let response = &buffer[..summary.length];
                assert_eq!(summary.query_length, packet.len());
                assert_eq!(summary.rcode & 0x0f, u16::from(response[3] & 0x0f), "the summary is the response's");
                assert_eq!(summary.truncated, response[2] & 0x02 != 0);
                Ok(response.to_vec())
            }
            Reply::Drop(reason) => Err(reason),
            Reply::Forward(_) => panic!("nothing is forwarded here"),
        }
    }

    fn check(&self, what: &str, packet: &[u8], from: &str, expected: Gets) {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https, Transport::Quic] {
            let gets = match &self.ask(packet, from, transport) {
                Err(reason) => Nothing(*reason),
                Ok(response) => {
                    let message = Message::from_vec(response).expect("hickory-proto reads it");
                    let rcode = u16::from(message.metadata.response_code);
                    match (message.queries.is_empty(), message.edns.is_some()) {
                        (true, false) => Header(rcode),
                        (true, true) => HeaderOpt(rcode),
                        (false, has_opt) => {
                            assert_eq!(has_opt, packet.windows(3).any(|octets| octets == [0, 0, 41]), "{what}");
                            Rcode(rcode)
                        }
                    }
                }
            };
            assert_eq!(gets, expected, "{what}");
        }
    }
}

fn good() -> Vec<u8> {
    query(7, &wire("cluster.local"), 6, None)
}

fn with(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = good();
    change(&mut packet);
    packet
}

/// Records behind the question, counted in the additional section.
fn additional(records: &[&[u8]]) -> Vec<u8> {
    with(|packet| {
        packet[11] = records.len() as u8;
        records.iter().for_each(|record| packet.extend_from_slice(record));
    })
}

const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
const TSIG: &[u8] = b"\x01k\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x1a\x04hmac\x00\
    \x00\x00\x00\x00\x00\x00\x01\x2c\x00\x04\x01\x02\x03\x04\x00\x02\x00\x00\x00\x00";
const A_RECORD: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1];

#[test]
fn accepts_or_rejects_each_packet() {
    let gate = Gate::new(AccessList::default(), true);
    let mut long_label = query(7, &wire("cluster.local"), 1, None);
    long_label[12] = 64;
    let mut long_name = query(7, &[&b"\x01a".repeat(128)[..], &[0]].concat(), 1, None);
    long_name[5] = 1;
    let cases: Vec<(&str, Vec<u8>, Gets)> = vec![
        ("a good query", good(), Rcode(NOERROR)),
        ("nothing", vec![], Nothing(DropReason::Short)),
        ("eleven octets", vec![0; 11], Nothing(DropReason::Short)),
        ("a response", with(|packet| packet[2] |= 0x80), Nothing(DropReason::Response)),
        ("a response of another opcode", with(|packet| packet[2] |= 0xa8), Nothing(DropReason::Response)),
        ("a lone header", vec![0; 12], Header(FORMERR)),
        ("IQUERY", with(|packet| packet[2] |= 1 << 3), Header(NOTIMP)),
        ("STATUS", with(|packet| packet[2] |= 2 << 3), Header(NOTIMP)),
        ("NOTIFY", with(|packet| packet[2] |= 4 << 3), Header(NOTIMP)),
        ("UPDATE", with(|packet| packet[2] |= 5 << 3), Header(NOTIMP)),
        ("DSO", with(|packet| packet[2] |= 6 << 3), Header(NOTIMP)),
        ("an unknown opcode", with(|packet| packet[2] |= 15 << 3), Header(NOTIMP)),
        ("no question", with(|packet| packet[5] = 0), Header(FORMERR)),
        ("two questions", with(|packet| packet[5] = 2), Header(FORMERR)),
        ("65,535 questions", with(|packet| packet[4..6].fill(255)), Header(FORMERR)),
        ("an answer in a query", with(|packet| packet[7] = 1), Header(FORMERR)),
        ("an authority in a query", with(|packet| packet[9] = 1), Header(FORMERR)),
        ("three additional records", additional(&[OPT, OPT, OPT]), Header(FORMERR)),
        ("a counted record that is missing", with(|packet| packet[11] = 1), Header(FORMERR)),
        ("octets left over", with(|packet| packet.push(0)), Header(FORMERR)),
        (
            "octets left over behind OPT",
            with(|packet| {
                packet[11] = 1;
                packet.extend_from_slice(OPT);
                packet.push(0);
            }),
            HeaderOpt(FORMERR),
        ),
        ("a pointer to itself", with(|packet| packet[12..14].copy_from_slice(&[0xc0, 12])), Header(FORMERR)),
        ("a pointer to the header", with(|packet| packet[12..14].copy_from_slice(&[0xc0, 0])), Header(FORMERR)),
        ("a label of 64 octets", long_label, Header(FORMERR)),
        ("a name of 257 octets", long_name, Header(FORMERR)),
        ("a cut name", with(|packet| packet.truncate(20)), Header(FORMERR)),
        ("a cut question", with(|packet| packet.truncate(packet.len() - 1)), Header(FORMERR)),
        ("OPT as a type", query(7, &wire("cluster.local"), 41, None), Header(FORMERR)),
        ("one OPT", additional(&[OPT]), Rcode(NOERROR)),
        ("two OPTs", additional(&[OPT, OPT]), Header(FORMERR)),
        ("an OPT below a name", additional(&[&[&[1, b'a'], OPT].concat()]), Header(FORMERR)),
        ("an OPT with a broken option", additional(&[&[&OPT[..10], &[4, 0, 10, 0, 8]].concat()]), Header(FORMERR)),
        (
            "an OPT with a cookie",
            additional(&[&[&OPT[..10], &[12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]].concat()]),
            Rcode(NOERROR),
        ),
        (
            "an OPT with flags that nobody knows",
            additional(&[&[0, 0, 41, 4, 208, 0, 0, 0x7f, 0xff, 0, 0]]),
            Rcode(NOERROR),
        ),
        ("EDNS version 1", additional(&[&[0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0]]), Rcode(BADVERS)),
        ("a record that is no OPT", additional(&[A_RECORD]), Header(FORMERR)),
        ("a record beside an OPT", additional(&[A_RECORD, OPT]), HeaderOpt(FORMERR)),
        ("a signature", additional(&[TSIG]), Rcode(NOTAUTH)),
        ("a signature behind an OPT", additional(&[OPT, TSIG]), Rcode(NOTAUTH)),
        ("a signature in front of an OPT", additional(&[TSIG, OPT]), HeaderOpt(FORMERR)),
        ("class CH", with(|packet| *packet.last_mut().unwrap() = 3), Rcode(REFUSED)),
        ("class NONE", with(|packet| *packet.last_mut().unwrap() = 254), Rcode(REFUSED)),
        ("class ANY", with(|packet| *packet.last_mut().unwrap() = 255), Rcode(REFUSED)),
        ("the root", query(7, &wire("."), 2, None), Rcode(REFUSED)),
        ("outside", query(7, &wire("example.test"), 1, None), Rcode(REFUSED)),
        ("AXFR", query(7, &wire("cluster.local"), 252, None), Rcode(REFUSED)),
        ("IXFR without its SOA", query(7, &wire("cluster.local"), 251, None), Rcode(REFUSED)),
        (
            "IXFR",
            {
                let mut packet = query(7, &wire("cluster.local"), 251, None);
                packet[9] = 1;
                packet.extend_from_slice(b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x16\x00\x00");
                packet.extend_from_slice(&[0; 20]);
                packet
            },
            Rcode(REFUSED),
        ),
        ("type 65535", query(7, &wire("cluster.local"), 65_535, None), Rcode(NOERROR)),
        ("a name that is not there", query(7, &wire("x.cluster.local"), 1, None), Rcode(NXDOMAIN)),
    ];
    for (what, packet, expected) in cases {
        gate.check(what, &packet, CLIENT, expected);
    }
}

#[test]
fn drops_queries_with_invalid_source_address() {
    let gate = Gate::new(AccessList::default(), true);
    for (from, expected) in [
        (CLIENT, Rcode(NOERROR)),
        ("10.1.2.3:0", Nothing(DropReason::Source)),
        ("0.0.0.0:5000", Nothing(DropReason::Source)),
        ("224.0.0.251:5353", Nothing(DropReason::Source)),
        ("[ff02::fb]:5353", Nothing(DropReason::Source)),
        (SERVER, Nothing(DropReason::Source)),
        // A dig on the same host comes from our own address.
        ("10.96.0.53:40000", Rcode(NOERROR)),
    ] {
        gate.check(from, &good(), from, expected);
    }
    // Before any other check, also for an invalid source address.
    gate.check("a response from us", &with(|packet| packet[2] |= 0x80), SERVER, Nothing(DropReason::Response));
}

#[test]
fn refuses_or_drops_denied_clients() {
    let networks = || vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let refusing = Gate::new(AccessList { allow: networks(), silent: false }, true);
    let silent = Gate::new(AccessList { allow: networks(), silent: true }, true);
    for (from, allowed) in [
        (CLIENT, true),
        ("[::ffff:10.1.2.3]:40000", true),
        ("[fd00::1]:40000", true),
        ("192.0.2.1:40000", false),
        ("[2001:db8::1]:40000", false),
    ] {
        refusing.check(from, &good(), from, Rcode(if allowed { NOERROR } else { REFUSED }));
        silent.check(from, &good(), from, if allowed { Rcode(NOERROR) } else { Nothing(DropReason::NotAllowed) });
    }
    let broken = with(|packet| packet.push(0));
    refusing.check("a broken query from outside", &broken, "192.0.2.1:40000", Header(REFUSED));
    for opcode in [0, 4] {
        let mut broken = additional(&[OPT]);
        broken[2] |= opcode << 3;
        broken.push(0);
        refusing.check("the same with an OPT record", &broken, "192.0.2.1:40000", HeaderOpt(REFUSED));
    }
}

/// RFC 6891 section 6.1.1: a response has an OPT record if the query has a valid one, whatever is refused.
#[test]
fn error_responses_have_opt_record() {
    let gate = Gate::new(AccessList::default(), true);
    let opt_of = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = additional(&[OPT]);
        change(&mut packet);
        packet
    };
    let mut cases: Vec<(String, Vec<u8>, Gets)> = (1..=15)
        .map(|opcode| (format!("opcode {opcode}"), opt_of(&|packet| packet[2] |= opcode << 3), HeaderOpt(NOTIMP)))
        .collect();
    // UPDATE (RFC 2136) has records in each section, NOTIFY (RFC 1996) an answer; names may be compressed.
    let with_records = |opcode: u8, counts: [u8; 3], last: &[u8]| {
        let mut packet = good();
        packet[2] |= opcode << 3;
        (packet[7], packet[9], packet[11]) = (counts[0], counts[1], counts[2]);
        (0..counts[0] + counts[1]).for_each(|_| packet.extend_from_slice(A_RECORD));
        packet.extend_from_slice(last);
        packet
    };
    let opt_bad = [&OPT[..10], &[4, 0, 10, 0, 8]].concat();
    let opt_named = [&[1, b'a'], OPT].concat();
    for (what, packet, expected) in [
        ("UPDATE with an OPT record", with_records(5, [2, 3, 1], OPT), HeaderOpt(NOTIMP)),
        ("NOTIFY with an OPT record", with_records(4, [1, 0, 1], OPT), HeaderOpt(NOTIMP)),
        ("UPDATE without one", with_records(5, [2, 3, 0], &[]), Header(NOTIMP)),
        ("UPDATE with two", with_records(5, [1, 0, 2], &[OPT, OPT].concat()), Header(NOTIMP)),
        ("UPDATE with an OPT record below a name", with_records(5, [1, 0, 1], &opt_named), Header(NOTIMP)),
        ("UPDATE with a broken option", with_records(5, [1, 0, 1], &opt_bad), Header(NOTIMP)),
        ("UPDATE whose records are missing", with_records(5, [0, 0, 1], &[]), Header(NOTIMP)),
        ("an answer in a query", with_records(0, [1, 0, 1], OPT), HeaderOpt(FORMERR)),
        ("an authority in a query", with_records(0, [0, 1, 1], OPT), HeaderOpt(FORMERR)),
        ("no question", [&[0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1], OPT].concat(), HeaderOpt(FORMERR)),
        ("two questions", [&opt_of(&|packet| packet[5] = 2)[..]].concat(), Header(FORMERR)),
        ("two questions that are there", two_questions(), HeaderOpt(FORMERR)),
        ("OPT as a type", query(7, &wire("cluster.local"), 41, Some(1232)), HeaderOpt(FORMERR)),
        ("a compressed question", compressed_question(), HeaderOpt(FORMERR)),
        ("three additional records", additional(&[OPT, A_RECORD, A_RECORD]), HeaderOpt(FORMERR)),
    ] {
        cases.push((what.to_owned(), packet, expected));
    }
    for (what, packet, expected) in cases {
        gate.check(&what, &packet, CLIENT, expected);
    }
    // The OPT record of an error is this server's, with the query's DO bit.
    let mut packet = opt_of(&|packet| packet[2] |= 4 << 3);
    let flags = packet.len() - 4;
    packet[flags] = 0x80;
    let response = gate.ask(&packet, CLIENT, Transport::Udp).unwrap();
    assert_eq!(response[12..], [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
}

fn two_questions() -> Vec<u8> {
    let mut packet = good();
    packet[5] = 2;
    let question = packet[12..].to_vec();
    packet.extend_from_slice(&question);
    packet[11] = 1;
    packet.extend_from_slice(OPT);
    packet
}

fn compressed_question() -> Vec<u8> {
    let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    [&header[..], &[0xc0, 0, 0, 1, 0, 1], OPT].concat()
}

#[test]
fn denies_no_name_before_sync() {
    let gate = Gate::new(AccessList::default(), false);
    for name in ["cluster.local", "x.cluster.local", "web.default.svc.cluster.local"] {
        gate.check(name, &query(7, &wire(name), 1, Some(1232)), CLIENT, Rcode(SERVFAIL));
    }
    gate.check("outside", &query(7, &wire("example.test"), 1, None), CLIENT, Rcode(REFUSED));
    let response = gate.ask(&query(7, &wire("x.cluster.local"), 1, Some(1232)), CLIENT, Transport::Udp);
    let message = Message::from_vec(&response.unwrap()).unwrap();
    let codes: Vec<u16> = message.edns.unwrap().options().options.iter().map(|(code, _)| u16::from(*code)).collect();
    assert_eq!(codes, [15], "an extended error says why");
}

#[test]
fn marks_stale_answers() {
    let status = Arc::new(Status::default());
    status.set_synced();
    let mut gate = Gate::new(AccessList::default(), true);
    gate.responder = Responder::new(gate.zone(), Arc::clone(&status), AccessList::default());
    let code = |name: &str| {
        let response = gate.ask(&query(7, &wire(name), 6, Some(1232)), CLIENT, Transport::Udp);
        let edns = Message::from_vec(&response.unwrap()).unwrap().edns.unwrap();
        let options = edns.options().options.iter();
        options.map(|(_, option)| Vec::<u8>::try_from(option).unwrap()[1]).next()
    };
    for (cut_off, exists, does_not) in [(false, None, None), (true, Some(3), Some(19)), (false, None, None)] {
        status.set_cut_off(cut_off);
        assert_eq!((code("cluster.local"), code("x.cluster.local")), (exists, does_not));
        assert_eq!(code("svc.cluster.local"), exists, "no data at a name that exists");
    }
    status.set_cut_off(true);
    gate.check("outside", &query(7, &wire("example.test"), 1, None), CLIENT, Rcode(REFUSED));
}

#[test]
fn sets_header_flags() {
    let gate = Gate::new(AccessList::default(), true);
    // RD set, Z, AD and CD set, DNSSEC OK set.
    let mut packet = query(0xabcd, &wire("cLuStEr.LoCaL"), 6, Some(4096));
    packet[3] = 0x70;
    let at = packet.len() - 4;
    packet[at] = 0x80;
    // The helper makes names in lower case: this one must keep its case.
    packet[12..27].copy_from_slice(b"\x07cLuStEr\x05LoCaL\x00");
    let response = gate.ask(&packet, CLIENT, Transport::Udp);
    let response = response.unwrap();
    assert_eq!(response[..4], [0xab, 0xcd, 0x85, 0x00], "QR, AA and RD, nothing else");
    assert_eq!(response[12..31], packet[12..31], "the question as it came");
    let opt = &response[response.len() - 11..];
    assert_eq!(opt, [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0], "our size, and the copied DO bit");
    let mut packet = good();
    packet[2] = 0;
    let response = gate.ask(&packet, CLIENT, Transport::Udp);
    assert_eq!(response.unwrap()[2], 0x84, "RD stays clear");
}

// rows: A11
#[test]
fn answers_nsid() {
    let access = || AccessList { allow: vec!["10.0.0.0/8".parse().unwrap()], silent: false };
    let named = |nsid: &str, synced| {
        let mut gate = Gate::new(access(), synced);
        let status = Arc::new(Status::default());
        if synced {
            status.set_synced();
        }
        gate.responder = Responder::new(gate.zone(), status, access()).with_nsid(nsid);
        gate
    };
    let asking = |name: &[u8], options: &[u8]| {
        let mut packet = query(7, name, 6, Some(1232));
        *packet.last_mut().unwrap() = options.len() as u8;
        packet.extend_from_slice(options);
        packet
    };
    let nsid: &[u8] = &[0, 3, 0, 0];
    let apex = wire("cluster.local");
    // RFC 1035 section 2.3.4: the longest name, of 255 octets.
    let longest = [&[&[63][..], &[b'a'; 63]].concat().repeat(3)[..], &[61], &[b'a'; 61], &[0]].concat();
    let version_1 = {
        let mut packet = asking(&apex, nsid);
        let at = packet.len() - nsid.len() - 5;
        packet[at] = 1;
        packet
    };
    // A signature makes hickory-proto read the message.
    let signed = {
        let mut packet = [asking(&apex, nsid), TSIG.to_vec()].concat();
        packet[11] = 2;
        packet
    };
    let long = "n".repeat(255);
    let (pod, ours, theirs) = ("headless-dns-7c9-x2x4z", CLIENT, "192.0.2.1:40000");
    // The case, the responder, whether it is synced, the packet, the client, and the options of the response.
    type Case<'c> = (&'c str, &'c str, bool, Vec<u8>, &'c str, &'c [u16]);
    let cases: &[Case<'_>] = &[
        ("who asks is told", pod, true, asking(&apex, nsid), ours, &[3]),
        ("who does not ask is not", pod, true, asking(&apex, &[]), ours, &[]),
        ("what is sent with it is ignored", pod, true, asking(&apex, &[0, 3, 0, 2, 1, 2]), ours, &[3]),
        ("beside a cookie", pod, true, asking(&apex, &[0, 10, 0, 1, 9, 0, 3, 0, 0]), ours, &[3]),
        ("asked twice, told once", pod, true, asking(&apex, &nsid.repeat(2)), ours, &[3]),
        ("a server without a name", "", true, asking(&apex, nsid), ours, &[]),
        ("strangers are not told", pod, true, asking(&apex, nsid), theirs, &[15]),
        ("a refusal has it, and says why", pod, true, asking(&wire("example.test"), nsid), ours, &[3, 15]),
        ("a failure too", pod, false, asking(&apex, nsid), ours, &[3, 15]),
        ("another version of EDNS too", pod, true, version_1, ours, &[3]),
        ("a signature too", pod, true, signed, ours, &[3]),
        ("the longest fits", &long, true, asking(&apex, nsid), ours, &[3]),
        ("what has no room is left out", &long, true, asking(&longest, nsid), ours, &[15]),
    ];
    for (what, name, synced, packet, from, expected) in cases {
        let response = named(name, *synced).ask(packet, from, Transport::Udp);
        let message = Message::from_vec(&response.unwrap()).unwrap();
        assert!(!message.metadata.truncation, "{what}");
        let edns = message.edns.unwrap();
        let options: Vec<(u16, Vec<u8>)> =
            edns.options().options.iter().map(|(code, data)| ((*code).into(), data.try_into().unwrap())).collect();
        assert_eq!(options.iter().map(|(code, _)| *code).collect::<Vec<_>>(), *expected, "{what}");
        let told = options.iter().find(|(code, _)| *code == 3);
        assert!(told.is_none_or(|(_, said)| said == name.as_bytes()), "{what}: {options:?}");
    }
}
