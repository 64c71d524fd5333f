//! A plain query allocates nothing: neither its response, nor its metrics, nor the check for an explanation.
//!
//! The example is queried for one name of each kind, over UDP and TCP, with and without explanations, by a worker that has
//! answered and prefetched before. The explanation of a near miss may allocate; the number of explanations is bounded.

#![allow(unsafe_code, reason = "an allocator is unsafe by its signature; this one hands everything on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use headless_dns::cli::{self, Invocation};
use headless_dns::commands::open_manifests;
use headless_dns::metrics::{Metrics, ResponseCounters};
use headless_dns_core::answer::{AccessList, Peer, Reply, RequestBatch, Responder, Transport, Worker};
use headless_dns_core::rtype;
use headless_dns_core::status::Status;

use crate::common::{query, wire};

thread_local! {
    /// Number of allocations by this thread.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

struct CountingAllocator;

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Queries, and the response code of each.
const PLAIN: &[(&str, u16, u8)] = &[
    ("web.default.svc.cluster.local", rtype::A, 0),
    ("web.default.svc.cluster.local", rtype::AAAA, 0),
    ("web.default.svc.cluster.local", rtype::SRV, 0),
    ("_http._tcp.web.default.svc.cluster.local", rtype::SRV, 0),
    ("web-0.web.default.svc.cluster.local", rtype::A, 0),
    ("default.svc.cluster.local", rtype::A, 0),
    ("cluster.local", rtype::SOA, 0),
    ("cluster.local", rtype::NS, 0),
    ("dns-version.cluster.local", rtype::TXT, 0),
    ("1.0.96.10.in-addr.arpa", rtype::SOA, 3),
    ("www.example.com.default.svc.cluster.local", rtype::A, 3),
    ("www.example.com.svc.cluster.local", rtype::AAAA, 3),
    ("www.example.com.cluster.local", rtype::A, 3),
    ("www.example.com", rtype::A, 5),
];

/// Returns the number of allocations of 100 calls, after one call that is not counted.
fn allocations(mut ask: impl FnMut()) -> u64 {
    ask();
    let before = ASKED.get();
    (0..100).for_each(|_| ask());
    ASKED.get() - before
}

#[test]
fn plain_query_allocates_nothing() {
    let Ok(Invocation::Serve(config)) = cli::read(["headless-dns", "serve", "--demo"].map(Into::into)) else {
        panic!("it is a command line")
    };
    let mut source = open_manifests(&config, &[]);
    source.load();
    for explained in [false, true] {
        let status = Arc::new(Status::default());
        status.set_synced();
        let mut responder = Responder::new(source.zone(), status, AccessList::default());
        if explained {
            responder = responder.with_explanations(source.asker(), config.explain_to.clone());
        }
        let zones: Vec<String> = config.zones().map(ToString::to_string).collect();
        let metrics = Metrics::new(&zones);
        let mut worker = Worker::default();
        let mut message = vec![0; 65_535];
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            let mut requests = RequestBatch::new(transport);
            let counters = ResponseCounters::new(metrics.worker(), transport);
            for (name, qtype, rcode) in PLAIN {
                for edns in [None, Some(1232)] {
                    let query = query(7, &wire(name), *qtype, edns);
                    let peer = Peer { from: "127.0.0.1:40000".parse().unwrap(), to: "127.0.0.1:53".parse().unwrap() };
                    let mut length = 0;
                    let made = allocations(|| {
                        let now = Instant::now();
                        worker.begin_batch(now);
                        for request in requests.parse(responder.zone(), [&query[..], &query].into_iter()) {
                            message[..query.len()].copy_from_slice(&query);
                            let reply = responder.respond(request, peer, &mut worker, &mut message);
                            let Reply::Response(summary) = reply else { panic!("{name}: {reply:?}") };
                            counters.responded(&summary);
                            length = summary.length;
                        }
                        counters.observe_latency(now.elapsed());
                    });
                    assert!(length >= 12 && message[3] & 0x0f == *rcode, "{name} {qtype}: {:?}", &message[..length]);
                    assert_eq!(made, 0, "{name} {qtype} {transport:?} {edns:?} explained: {explained}");
                }
            }
        }
    }
}

#[test]
fn counts_allocations() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1_u8)))), 100);
}
