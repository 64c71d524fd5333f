//! A small HTTP client for the admin listener.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Time limit for each part of a response.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the whole response to a GET, with its head.
///
/// # Errors
///
/// If no server listens, or the connection ends early.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// Returns the body of a response.
pub fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}
