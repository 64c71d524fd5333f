//! A server on real sockets with one headless Service, and clients that send one query after the other.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use headless_dns::metrics::{ExpositionFormat, Metrics, ZoneFigures};
use headless_dns::server::{ConnectionLimits, Listeners, Shutdown};
use headless_dns::source::{Input, ManifestSource, Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::WAIT_TIMEOUT;
use super::scrape::Scrape;

pub(crate) const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  clusterIP: None
  selector: { app: web }
  ports: [{ name: http, port: 80 }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, labels: { kubernetes.io/service-name: web }, uid: "1" }
addressType: IPv4
ports: [{ name: http, port: 80, protocol: TCP }]
endpoints:
- { addresses: [10.0.0.1], hostname: web-0, conditions: { ready: true } }
- { addresses: [10.0.0.2], hostname: web-1, conditions: { ready: true } }
- { addresses: [no address], hostname: web-2, conditions: { ready: true } }
"#;

pub(crate) struct Server {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: Arc<Status>,
    pub(crate) zone: Arc<Zone>,
    stop: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    #[allow(clippy::disallowed_methods, reason = "`stopped` awaits it")]
    pub(crate) fn start(addresses: &[&str], workers: usize) -> Self {
        let apexes = ["cluster.local", "cluster.internal"].map(|apex| WireName::parse(apex).unwrap());
        let metrics = Arc::new(Metrics::new(&apexes.each_ref().map(ToString::to_string)));
        let settings = Settings { apexes: apexes.into(), ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
        let reverse = ["10.0.0.0/16", "fd00::/16"].map(|network| network.parse().unwrap());
        let options = PublisherOptions { reverse: reverse.into(), ..PublisherOptions::default() };
        let publisher = Publisher::new(Arc::clone(&zone), options);
        let source = ManifestSource::new(Input::Text("manifest", MANIFEST), "default", None, publisher);
        let reading = source.counting(Arc::clone(&metrics)).load();
        assert_eq!(reading.reports.len(), 1, "one address is none");
        let status = Arc::new(Status::default());
        status.set_synced();
        let responder = Responder::new(Arc::clone(&zone), Arc::clone(&status), AccessList::default());
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let listeners = Listeners::bind(&addresses, workers).unwrap();
        let (addresses, stop) = (listeners.addresses(), Shutdown::default());
        let serving =
            listeners.serve(Arc::new(responder), Arc::clone(&metrics), ConnectionLimits::default(), stop.clone());
        Self { addresses, metrics, status, zone, stop, running: tokio::spawn(serving) }
    }

    pub(crate) fn scrape(&self, format: ExpositionFormat) -> Scrape {
        Scrape::read(&render(&self.metrics, &self.status, &self.zone, format), format)
    }

    /// Stops the server and returns its final metrics, after the last event was counted.
    pub(crate) async fn stopped(self) -> Scrape {
        self.stop.drain();
        timeout(WAIT_TIMEOUT, self.running).await.expect("stops in time").unwrap().unwrap();
        Scrape::read(&render(&self.metrics, &self.status, &self.zone, ExpositionFormat::Text), ExpositionFormat::Text)
    }
}

fn render(metrics: &Metrics, status: &Status, zone: &Zone, format: ExpositionFormat) -> String {
    let (services, reverse_addresses) = zone.size();
    let figures = ZoneFigures { services, endpoints: zone.endpoints(), reverse_addresses, serial: zone.serial() };
    metrics.render(status, figures, format)
}

/// Asks by datagrams.
pub(crate) struct Udp(UdpSocket);

impl Udp {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind((if address.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        Self(socket)
    }

    /// Returns the length of the response.
    pub(crate) fn ask(&mut self, message: &[u8]) -> usize {
        self.0.send(message).unwrap();
        self.0.recv(&mut [0; 4096]).unwrap()
    }
}

/// Asks over one connection.
pub(crate) struct Tcp(TcpStream);

impl Tcp {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        Self(stream)
    }

    /// Returns the length of the response.
    pub(crate) fn ask(&mut self, message: &[u8]) -> usize {
        let framed = [&(message.len() as u16).to_be_bytes(), message].concat();
        self.0.write_all(&framed).unwrap();
        let mut length = [0; 2];
        self.0.read_exact(&mut length).unwrap();
        let length = usize::from(u16::from_be_bytes(length));
        self.0.read_exact(&mut vec![0; length]).unwrap();
        length
    }
}
