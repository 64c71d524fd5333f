//! The built server in a process of its own, for tests that ask it over sockets.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

/// A running server: its process, and where it listens. It ends with the value.
pub(crate) struct Server(pub(crate) Child, pub(crate) SocketAddr);

impl Server {
    /// `options`: those of `serve`, with blanks between. It listens on a port that is free.
    pub(crate) fn start(options: &str) -> Self {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("headless-dns"));
        let words = ["serve", "--listen", "127.0.0.1:0", "--log", "off"].into_iter().chain(options.split_whitespace());
        command.env_clear().current_dir(env!("CARGO_MANIFEST_DIR")).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listen = lines.find_map(|line| Some(line.unwrap().strip_prefix("listen  ")?.to_owned())).unwrap();
        let address = listen.split([' ', ',']).next().unwrap().parse().unwrap();
        Self(child, address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
