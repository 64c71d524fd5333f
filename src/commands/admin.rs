//! HTTP client of the commands for the admin listener of a running server. Not here: the listener (`admin`).

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// Timeout of a response, and of each part of its body.
const READ_TIMEOUT: Duration = Duration::from_secs(35);
/// Maximum length of the error text that is repeated, in octets.
const MAX_ERROR_BYTES: usize = 1024;

/// Requests `path` with these parameters from `server`, and writes the body of the response to `to`.
///
/// # Errors
///
/// If the server does not answer, or refuses: then its text.
pub(super) fn copy(
    server: SocketAddr,
    path: &str,
    query: &[(&str, Option<&str>)],
    to: &mut impl Write,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let target = format!("http://{server}{path}?{}", encode_query(query));
    runtime.block_on(copied(&target, to)).with_context(|| format!("cannot query http://{server}"))
}

async fn copied(target: &str, to: &mut impl Write) -> anyhow::Result<()> {
    let late = || format!("no response within {} s", READ_TIMEOUT.as_secs());
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let request = Request::get(target).body(Empty::new())?;
    let response = timeout(READ_TIMEOUT, client.request(request)).await.with_context(late)??;
    let (head, mut body) = response.into_parts();
    let mut refusal = Vec::new();
    while let Some(frame) = timeout(READ_TIMEOUT, body.frame()).await.with_context(late)? {
        let Ok(octets) = frame?.into_data() else { continue };
        if head.status == StatusCode::OK {
            to.write_all(&octets)?;
        } else if refusal.len() < MAX_ERROR_BYTES {
            refusal.extend_from_slice(&octets[..octets.len().min(MAX_ERROR_BYTES - refusal.len())]);
        }
    }
    if head.status != StatusCode::OK {
        let said = String::from_utf8_lossy(&refusal);
        bail!("the response is {}: {}", head.status.as_u16(), said.lines().collect::<Vec<_>>().join("; "));
    }
    Ok(to.flush()?)
}

/// Encodes the parameters that have a value (application/x-www-form-urlencoded).
fn encode_query(query: &[(&str, Option<&str>)]) -> String {
    let given = query.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_queries() {
        assert_eq!(
            encode_query(&[("a", None), ("name", Some("_http._tcp.a b&c=é"))]),
            "name=_http._tcp.a+b%26c%3D%C3%A9"
        );
        assert_eq!(encode_query(&[("a", None)]), "");
    }
}
