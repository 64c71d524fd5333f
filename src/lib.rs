//! An authoritative DNS server for Kubernetes headless Services and StatefulSet Pods.
//!
//! This page is the map of the code. What the server is for, and how to use it, is the README.
//!
//! ```text
//!    objects                                                                     questions
//!       │                                                                            │
//!   source ─▶ simulate                                              serve (UDP, TCP, TLS, HTTPS, QUIC)
//!       │  one owner of                                                              │ a message, in its buffer
//!       ▼                                                                            ▼
//!    cluster ──▶ dirty contributors ──▶ records ──▶ zone.publish     zone.look_up ◀── answer ◀──▶ wire
//!    (what is known)                   (columns)        └────── zone ──────┘          │
//!                                                                                     ▼
//!                                                                       the response, in the same buffer
//! ```
//!
//! # One event
//!
//! [`source`] reads objects, from files or a cluster's API server, and hands them to the one [`cluster::Cluster`], which
//! says whom each touches: its [`cluster::Contributor`]s. [`records`] turns each one's view into its contribution, one
//! immutable value, and [`zone::Zone::publish`] replaces what that contributor gave before. Replaced is by contributor
//! and never by name: two Services can give one PTR RRset.
//!
//! # One question
//!
//! [`serve`] reads a batch of datagrams, or one message of a stream. [`answer::RequestBatch::parse`] parses each message once
//! ([`wire`]: header check, question, EDNS) and prefetches the memory that their look-ups will read, so that their cache
//! misses overlap. [`answer::Responder::respond`] then answers each [`answer::Request`]: [`zone::Zone::look_up`] finds the
//! Service by its two labels and, inside its records, the endpoint by one more, and the answer is written behind the
//! question, in the buffer that it came in. [`serve`] sends it, counts it and logs it from its
//! [`answer::ResponseSummary`]. What others have to answer waits in [`serve::forward`], where nobody waits for it.
//! Where there is no answer, [`explain::Asker`] may say why: it looks at the cluster, and never waits for who changes it.
//!
//! # Invariants
//!
//! Held by `tests/tidy.rs` where a reader of the source can hold them.
//!
//! 1. One engine answers for the zones, whatever the transport and whoever parsed the request.
//! 2. The pure files ([`names`], [`rtype`], [`objects`], [`rules`], [`cluster`], [`records`], [`simulate`], [`zone`], [`wire`],
//!    [`answer`], [`explain`], [`status`], [`transport`]) hold no `async`, no clock, no socket, no file and no logging. They do not
//!    fail: they return a value and a list of what was skipped. The engine counts and logs nothing: the server does, from
//!    the summary of a response. No value of one message survives into the next.
//! 3. The index, its maps and their locks are in [`zone`] only, and no guard leaves it. Services are read without a lock.
//!    One thread publishes. The cluster has one lock and one writer, which holds it for an object at a time; who answers
//!    tries it, and never waits.
//! 4. One answer shows one state of a Service, and of a PTR RRset. Across Services there is no common instant: a chased
//!    CNAME can show an older Service behind a newer one.
//! 5. A bad object makes a report and no record; it never stops anything.
//! 6. Nothing writes to a Kubernetes API server.
//! 7. Every task and thread has a parent that waits for its end.
//! 8. `unsafe` is for system calls, in `serve/sys.rs` and `serve/fds.rs`.
//! 9. Whatever ends before it was told is started again, or ends the process: counted, and with a line in the log.
//! 10. Every text from outside that is written for people passes [`escape`]; every path from outside is opened by
//!     [`regular_file`].
//!
//! # Reading order
//!
//! [`names`] (what a name can be), [`records`] (what a Service answers), [`zone`] (how it is found), [`answer`] (what
//! goes out); then [`cluster`] and [`source`] (where it comes from), [`explain`] (why not), [`serve`] (sockets); [`admin`] (who
//! looks at it), [`show`] (what is shown).
//! `tests/rows.md` is the table of rules whose ids the code cites, `tests/scenarios/` shows each; `tests/causes.md` and
//! `tests/causes/` are the same for reasons; `tests/shapes/` holds manifests in the shape of popular charts and operators.
//!
//! # Libraries, and what each is for
//!
//! | crate | for |
//! |---|---|
//! | hickory-proto | reads the messages that the fast parser declines (`wire`); the oracle for every response in the tests |
//! | hickory-server | its pool of name servers asks upstreams: retries, TCP, TLS (`serve/forward/resolver.rs`) |
//! | rustls, rustls-native-certs | the certificate authorities that it judges an upstream by; our own certificate (`serve/encrypted/certificates.rs`) |
//! | tokio-rustls | DNS over TLS, and under HTTPS: the handshake, then a stream like any other (feature `tls`) |
//! | h2 | DNS over HTTPS: frames and header fields, and nothing of what they mean (feature `https`) |
//! | bytes, httpdate | beside it: how h2 takes a body, and how a date is written (feature `https`) |
//! | x509-cert | until when our certificate is good (features `tls` and `quic`) |
//! | quinn, quinn-proto | DNS over QUIC: packets, streams, loss; the session that bounds a handshake (feature `quic`) |
//! | dashmap | namespaces and their Pods in the record index (`zone`); Services were in one until `benches/index` showed what a hot name costs on two cores |
//! | hashbrown | the tables of Services, and those of numbers inside a Service's records (`zone`) |
//! | foldhash | seeded hashes for all of them |
//! | arc-swap | values that are read without a lock and swapped whole: the tree of Services, apex addresses, reverse zones, a sentence |
//! | tokio | TCP, signals; UDP has its own threads |
//! | libc, socket2 | `recvmmsg` and `sendmmsg`; socket options |
//! | serde, serde_json, serde-saphyr | manifests: JSON, YAML |
//! | notify | says when a manifest changed |
//! | hyper | HTTP for probes and people (`admin`) |
//! | kube | configuration, authentication and TLS of a Kubernetes API server (`source/kubernetes/`) |
//! | k8s-openapi | kube does not build without a version of it; nothing of it is named |
//! | http, http-body-util, hyper-util, tower | the requests under kube, without its retry and trace layers; those of commands to a server |
//! | jiff | times as RFC 3339 writes them |
//! | fastrand | jitter of pauses and deadlines |
//! | ipnet | networks in options and reverse zones |
//! | clap, clap_complete, toml | flags, completions, the configuration file |
//! | sd-notify | what the service manager is told, and the sockets that it gives |
//! | tracing, tracing-subscriber | the server's log |
//! | prometheus-client | how metrics are written (`metrics/exposition.rs`) |
//! | anyhow | errors for people, with the thing they are about |
//!
//! hickory-server is not used for our zones: its request path costs three times what the sockets cost, and it has no
//! door for prepared octets. Nor are its listeners (0.26.3) for what is encrypted: a response goes through its encoder,
//! which compresses 120 names at the most, so that 4,090 addresses do not fit; HTTPS has no GET; QUIC does one handshake
//! after the other, and a packet that was sent again held the next client for 4.8 s; nothing bounds connections, and
//! without file descriptors the loops spin. kube's watcher and stores are not used: `source/kubernetes/mod.rs` says why.

pub mod admin;
pub mod answer;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod duration;
pub mod escape;
pub mod explain;
pub mod liveness;
pub mod log;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod panics;
pub mod records;
pub mod regular_file;
pub mod rtype;
pub mod rules;
pub mod serve;
pub mod show;
pub mod simulate;
pub mod source;
pub mod status;
pub mod transport;
pub mod wire;
pub mod zone;
