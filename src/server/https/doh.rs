//! DNS over HTTPS (RFC 8484), the pure part: validates requests, finds their query, and builds the header fields of
//! responses with their cache lifetime.
//!
//! No sockets and no clock. Not here: HTTP/2 and the reading of bodies (`https/`), and the answer to a query
//! (`headless_dns_core::answer`).

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};

use crate::metrics::Event;
use headless_dns_core::rtype;
use headless_dns_core::wire::{HEADER, MAX_TCP, rcode};

/// Path of the URI template (RFC 8484 section 4.1).
pub const PATH: &str = "/dns-query";
/// Media type of queries and responses (RFC 8484 section 6).
pub const MEDIA_TYPE: &str = "application/dns-message";
/// Limit of the body of a request, in octets: the largest DNS message.
pub const MAX_BODY_BYTES: usize = MAX_TCP;
/// Limit of the parameter `dns`, in characters: a query of 4,096 octets. Longer queries belong into a body.
pub const MAX_PARAMETER_BYTES: usize = (4096_usize * 8).div_ceil(6);

/// Location of the query in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryPlace {
    /// The query from the URI: at least one octet, not parsed yet.
    Parameter(Vec<u8>),
    /// The query is the body.
    Body,
}

/// Reason why a request gets an HTTP error instead of a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DohError {
    /// The path is not [`PATH`].
    Path,
    /// The method is none of GET, HEAD and POST.
    Method,
    /// The body is not of [`MEDIA_TYPE`], or has a content coding.
    MediaType,
    /// The URI has no parameter `dns`, or several.
    NoParameter,
    /// The parameter is not base64url.
    Encoding,
    /// The parameter is too long.
    LongParameter,
    /// The body is too long.
    LongBody,
    /// The body was not complete in time.
    Slow,
    /// The query is empty, shorter than a header, or a response.
    NoQuery,
}

impl DohError {
    /// Returns the status code of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoParameter | Self::Encoding | Self::NoQuery => StatusCode::BAD_REQUEST,
            Self::LongParameter => StatusCode::URI_TOO_LONG,
            Self::LongBody => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// Returns the event to count, one for each status code.
    pub fn event(self) -> Event {
        match self {
            Self::Path => Event::HttpsNotFound,
            Self::Method => Event::HttpsMethodNotAllowed,
            Self::MediaType => Event::HttpsMediaType,
            Self::NoParameter | Self::Encoding | Self::NoQuery => Event::HttpsBadRequest,
            Self::LongParameter => Event::HttpsUriTooLong,
            Self::LongBody => Event::HttpsTooLarge,
            Self::Slow => Event::HttpsTimeout,
        }
    }

    /// Returns the body of the response: one line for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Path => "DNS over HTTPS is at /dns-query\n",
            Self::Method => "ask with GET and the parameter dns, or with POST (RFC 8484 section 4.1)\n",
            Self::MediaType => {
                "a POST has content-type: application/dns-message, and no content-encoding (RFC 8484 section 4.1)\n"
            }
            Self::NoParameter => "a GET has its query in the parameter dns, once (RFC 8484 section 4.1)\n",
            Self::Encoding => "the parameter dns is base64url without padding (RFC 4648 section 5)\n",
            Self::LongParameter => "the parameter dns has at most 5462 characters: ask with POST\n",
            Self::LongBody => "a DNS message has at most 65535 octets\n",
            Self::Slow => "the body took too long\n",
            Self::NoQuery => "that is no DNS query: it is empty, shorter than the header of a message, or a response\n",
        }
    }
}

/// Validates the header section of a request, and finds its query.
///
/// # Errors
///
/// The request gets an HTTP error, whatever its body is.
pub fn read(head: &Parts) -> Result<QueryPlace, DohError> {
    if head.uri.path() != PATH {
        return Err(DohError::Path);
    }
    match head.method {
        Method::GET | Method::HEAD => parameter(&head.uri).map(QueryPlace::Parameter),
        Method::POST => check_body(&head.headers).map(|()| QueryPlace::Body),
        _ => Err(DohError::Method),
    }
}

/// Decodes the query in the parameter `dns`. Other parameters are ignored.
fn parameter(uri: &Uri) -> Result<Vec<u8>, DohError> {
    let parameters = uri.query().unwrap_or_default().split('&');
    let mut values = parameters.filter_map(|parameter| parameter.strip_prefix("dns="));
    // With two of them, a proxy and this server could see different queries.
    let (Some(value), None) = (values.next(), values.next()) else { return Err(DohError::NoParameter) };
    if value.len() > MAX_PARAMETER_BYTES {
        return Err(DohError::LongParameter);
    }
    let query = base64url(value.as_bytes()).ok_or(DohError::Encoding)?;
    if query.is_empty() { Err(DohError::NoQuery) } else { Ok(query) }
}

/// Decodes base64url (RFC 4648 section 5) without padding (RFC 8484 section 6). The unused bits of the last character
/// must be zero, so that each query has one URI, and one entry in an HTTP cache.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len() * 3 / 4);
    let (mut held, mut bits) = (0_u16, 0);
    for &character in text {
        held = held << 6 | u16::from(sextet(character)?);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            octets.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (bits < 6 && held == 0).then_some(octets)
}

fn sextet(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

/// Checks the header fields of a request with a body: media type, content coding and length.
fn check_body(headers: &HeaderMap) -> Result<(), DohError> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default().trim());
    // RFC 9110 section 8.3.1: parameters may follow, and the media type is case-insensitive.
    let media_type = text(CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default();
    let plain = text(CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"));
    if !media_type.trim_end().eq_ignore_ascii_case(MEDIA_TYPE) || !plain {
        return Err(DohError::MediaType);
    }
    let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES as u64) { Err(DohError::LongBody) } else { Ok(()) }
}

/// Builds the header section for `response`, a DNS message of any RCODE (RFC 8484 section 4.2.1). `date` is the current
/// time.
pub fn head(response: &[u8], date: &HeaderValue) -> Response<()> {
    let cache_control =
        freshness(response).and_then(|seconds| HeaderValue::try_from(format!("max-age={seconds}")).ok());
    let cache_control = cache_control.unwrap_or(NO_STORE);
    with_fields(StatusCode::OK, HeaderValue::from_static(MEDIA_TYPE), response.len(), cache_control, date)
}

/// Builds the header section of an error. `date` is the current time.
pub fn refusal_head(refusal: DohError, date: &HeaderValue) -> Response<()> {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut head = with_fields(refusal.status(), text, refusal.text().len(), NO_STORE, date);
    if refusal == DohError::Method {
        // RFC 9110 section 15.5.6: a 405 lists the allowed methods.
        head.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    head
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

fn with_fields(
    status: StatusCode,
    media_type: HeaderValue,
    length: usize,
    cache_control: HeaderValue,
    date: &HeaderValue,
) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    let fields = [
        (CONTENT_TYPE, media_type),
        (CONTENT_LENGTH, HeaderValue::from(length)),
        (CACHE_CONTROL, cache_control),
        // RFC 9110 section 6.6.1: a server with a clock sends Date, from which caches compute the age.
        (DATE, date.clone()),
    ];
    head.headers_mut().extend(fields);
    head
}

/// Returns the freshness lifetime of a response, in seconds (RFC 8484 section 5.1): the smallest TTL of the answer
/// section and, in a negative response, of the SOA record (RFC 2308 section 5). `None`: the response must not be
/// stored.
pub fn freshness(response: &[u8]) -> Option<u32> {
    let header = response.first_chunk::<HEADER>()?;
    if !matches!(u16::from(header[3] & 0x0f), rcode::NOERROR | rcode::NXDOMAIN) {
        return None;
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let mut rest = MessageCursor(&response[HEADER..]);
    for _ in 0..count(4) {
        rest.name()?;
        rest.take(4)?;
    }
    let mut least = None;
    let mut keep = |seconds: u32| least = Some(least.map_or(seconds, |least: u32| least.min(seconds)));
    for _ in 0..count(6) {
        keep(rest.record()?.ttl);
    }
    for _ in 0..count(8) {
        let record = rest.record()?;
        if record.rtype == rtype::SOA {
            // MINIMUM is the last field (RFC 1035 section 3.3.13).
            keep(record.ttl.min(u32::from_be_bytes(*record.data.last_chunk()?)));
        }
    }
    least
}

/// Cursor over a DNS message: the octets not read yet.
struct MessageCursor<'m>(&'m [u8]);

struct MessageRecord<'m> {
    rtype: u16,
    ttl: u32,
    data: &'m [u8],
}

impl<'m> MessageCursor<'m> {
    fn take(&mut self, length: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Skips a name, which ends with the root or a compression pointer (RFC 1035 section 4.1.4).
    fn name(&mut self) -> Option<()> {
        loop {
            match *self.take(1)?.first()? {
                0 => return Some(()),
                length @ 1..=63 => _ = self.take(usize::from(length))?,
                192.. => return self.take(1).map(|_| ()),
                _ => return None,
            }
        }
    }

    fn record(&mut self) -> Option<MessageRecord<'m>> {
        self.name()?;
        let &[type_high, type_low, _, _, t0, t1, t2, t3, length_high, length_low] = self.take(10)?.first_chunk()?;
        let ttl = u32::from_be_bytes([t0, t1, t2, t3]);
        Some(MessageRecord {
            rtype: u16::from_be_bytes([type_high, type_low]),
            // RFC 2181 section 8: a TTL with the most significant bit set counts as zero.
            ttl: if ttl >> 31 == 0 { ttl } else { 0 },
            data: self.take(usize::from(u16::from_be_bytes([length_high, length_low])))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// `example.test A`, ID 0.
    const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x07example\x04test\0\0\x01\0\x01";

    /// Encodes octets in base64url, as a client does.
    fn encoded(octets: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for chunk in octets.chunks(3) {
            let bits = chunk.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - chunk.len()));
            for character in 0..=chunk.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * character)) as usize & 63]));
            }
        }
        text
    }

    type Fields<'f> = &'f [(&'f str, &'f str)];

    fn ask(method: &str, uri: &str, fields: Fields<'_>) -> Result<QueryPlace, DohError> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        read(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn maps_requests_to_status() {
        let get = format!("/dns-query?dns={}", encoded(QUERY));
        let here = || Ok(QueryPlace::Parameter(QUERY.into()));
        let (dns, long) = (("content-type", MEDIA_TYPE), "A".repeat(MAX_PARAMETER_BYTES));
        let cases: &[(&str, &str, Fields<'_>, Result<QueryPlace, DohError>)] = &[
            ("GET", &get, &[], here()),
            ("GET", &format!("https://dns.test:8443{get}"), &[("accept", "text/html")], here()),
            ("GET", &format!("{get}&x=y"), &[dns], here()),
            ("GET", &get.replace("dns=", "ct=x&dns="), &[], here()),
            ("HEAD", &get, &[], here()),
            ("POST", "/dns-query", &[dns], Ok(QueryPlace::Body)),
            ("POST", "/dns-query?dns=%", &[dns, ("content-length", "65535")], Ok(QueryPlace::Body)),
            ("POST", "/dns-query", &[("content-type", "Application/DNS-Message ; x=y")], Ok(QueryPlace::Body)),
            ("POST", "/dns-query", &[dns, ("content-encoding", "identity")], Ok(QueryPlace::Body)),
            // 400.
            ("GET", "/dns-query", &[], Err(DohError::NoParameter)),
            ("GET", "/dns-query?", &[], Err(DohError::NoParameter)),
            ("GET", "/dns-query?dns", &[], Err(DohError::NoParameter)),
            ("GET", "/dns-query?DNS=AAAA", &[], Err(DohError::NoParameter)),
            ("GET", "/dns-query?xdns=AAAA", &[], Err(DohError::NoParameter)),
            ("GET", "/dns-query?dns=AAAA&dns=AAAA", &[], Err(DohError::NoParameter)),
            ("GET", "/dns-query?dns=", &[], Err(DohError::NoQuery)),
            ("HEAD", "/dns-query?dns=", &[], Err(DohError::NoQuery)),
            ("GET", "/dns-query?dns=A", &[], Err(DohError::Encoding)),
            ("GET", "/dns-query?dns=AAA=", &[], Err(DohError::Encoding)),
            ("GET", "/dns-query?dns=AB", &[], Err(DohError::Encoding)),
            ("GET", "/dns-query?dns=AA+A", &[], Err(DohError::Encoding)),
            ("GET", "/dns-query?dns=AA/A", &[], Err(DohError::Encoding)),
            ("GET", "/dns-query?dns=AA%41A", &[], Err(DohError::Encoding)),
            // 404.
            ("GET", "/", &[], Err(DohError::Path)),
            ("GET", "*", &[], Err(DohError::Path)),
            ("GET", &get.replace("query", "query/"), &[], Err(DohError::Path)),
            ("GET", &get.replace("dns-query", "DNS-query"), &[], Err(DohError::Path)),
            ("POST", "/resolve", &[dns], Err(DohError::Path)),
            ("DELETE", "/elsewhere", &[], Err(DohError::Path)),
            ("CONNECT", "dns.test:443", &[], Err(DohError::Path)),
            // 405.
            ("PUT", "/dns-query", &[dns], Err(DohError::Method)),
            ("OPTIONS", &get, &[], Err(DohError::Method)),
            ("get", &get, &[], Err(DohError::Method)),
            // 413.
            ("POST", "/dns-query", &[dns, ("content-length", "65536")], Err(DohError::LongBody)),
            ("POST", "/dns-query", &[dns, ("content-length", "18446744073709551615")], Err(DohError::LongBody)),
            // 414.
            ("GET", &format!("/dns-query?dns={long}A"), &[], Err(DohError::LongParameter)),
            // 415.
            ("POST", "/dns-query", &[], Err(DohError::MediaType)),
            ("POST", "/dns-query", &[("content-type", "application/dns-json")], Err(DohError::MediaType)),
            ("POST", "/dns-query", &[("content-type", "application/dns-messages")], Err(DohError::MediaType)),
            ("POST", "/dns-query", &[dns, ("content-encoding", "gzip")], Err(DohError::MediaType)),
        ];
        for (method, uri, fields, expected) in cases {
            assert_eq!(ask(method, uri, fields), *expected, "{method} {uri} {fields:?}");
        }
        assert!(ask("GET", &format!("/dns-query?dns={long}"), &[]).is_ok(), "the longest");
    }

    #[test]
    fn rejections_have_status_and_one_line() {
        let date = HeaderValue::from_static("Sat, 01 Jan 2022 00:00:00 GMT");
        for (refusal, status) in [
            (DohError::Path, 404),
            (DohError::Method, 405),
            (DohError::MediaType, 415),
            (DohError::NoParameter, 400),
            (DohError::Encoding, 400),
            (DohError::LongParameter, 414),
            (DohError::LongBody, 413),
            (DohError::Slow, 408),
            (DohError::NoQuery, 400),
        ] {
            let head = refusal_head(refusal, &date);
            assert_eq!(head.status(), status, "{refusal:?}");
            assert_eq!(refusal.event().label(), format!("https {status}"), "{refusal:?}");
            assert_eq!(head.headers()["cache-control"], "no-store");
            assert_eq!(head.headers().contains_key("allow"), status == 405);
            assert_eq!(refusal.text().matches('\n').count(), 1);
            assert!(refusal.text().ends_with('\n'));
        }
        assert!(DohError::LongParameter.text().contains(&MAX_PARAMETER_BYTES.to_string()));
    }

    #[test]
    fn base64url_round_trips() {
        // RFC 4648 section 10, and the example of RFC 8484 section 4.1.1.
        for (octets, text) in [
            (&b""[..], ""),
            (b"f", "Zg"),
            (b"fo", "Zm8"),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg"),
            (b"fooba", "Zm9vYmE"),
            (b"foobar", "Zm9vYmFy"),
            (b"\xfb\xff\xbf", "-_-_"),
            (
                b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01",
                "AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB",
            ),
        ] {
            assert_eq!(base64url(text.as_bytes()).as_deref(), Some(octets), "{text}");
            assert_eq!(encoded(octets), text);
        }
        // One encoding for each query: each text of two or three characters that decodes is its own encoding.
        let characters: Vec<u8> = (0..=255).collect();
        let mut read = 0;
        for &one in &characters {
            for &two in &characters {
                if let Some(octets) = base64url(&[one, two]) {
                    assert_eq!(encoded(&octets).as_bytes(), [one, two]);
                    read += 1;
                }
                if let Some(octets) = base64url(&[b'A', one, two]) {
                    assert_eq!(encoded(&octets).as_bytes(), [b'A', one, two]);
                }
            }
        }
        assert_eq!(read, 256, "as many as there are octets");
    }

    /// Builds a response of an RCODE and the records of both sections: type, TTL and data.
    fn response(rcode: u8, answer: &[(u16, u32, &[u8])], authority: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut message = QUERY.to_vec();
        (message[2], message[3]) = (0x85, rcode);
        (message[7], message[9]) = (answer.len() as u8, authority.len() as u8);
        for (rtype, ttl, data) in answer.iter().chain(authority) {
            message.extend_from_slice(if *rtype == 6 { b"\x07example\xc0\x14" } else { b"\xc0\x0c" });
            message.extend_from_slice(&rtype.to_be_bytes());
            message.extend_from_slice(&[0, 1]);
            message.extend_from_slice(&ttl.to_be_bytes());
            message.extend_from_slice(&(data.len() as u16).to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }

    #[test]
    fn computes_freshness_lifetime() {
        let soa: &[u8] = &[&[0; 18][..], &30_u32.to_be_bytes()].concat();
        let a = |ttl| (1, ttl, &[10, 0, 0, 1][..]);
        for (what, message, expected) in [
            ("one record", response(0, &[a(5)], &[]), Some(5)),
            ("the smallest of several", response(0, &[a(60), a(5), a(30)], &[]), Some(5)),
            ("none at all", response(0, &[a(0)], &[]), Some(0)),
            ("a TTL with the first bit set", response(0, &[a(1 << 31)], &[]), Some(0)),
            ("NXDOMAIN, the SOA's TTL", response(3, &[], &[(6, 5, soa)]), Some(5)),
            ("NXDOMAIN, MINIMUM", response(3, &[], &[(6, 3600, soa)]), Some(30)),
            ("NODATA", response(0, &[], &[(6, 5, soa)]), Some(5)),
            ("an alias to nothing", response(3, &[a(60)], &[(6, 5, soa)]), Some(5)),
            ("an alias to nothing, the other way", response(3, &[a(2)], &[(6, 5, soa)]), Some(2)),
            ("other authorities do not count", response(0, &[a(60)], &[(2, 5, b"\0")]), Some(60)),
            ("NODATA without an SOA", response(0, &[], &[]), None),
            ("a referral", response(0, &[], &[(2, 5, b"\0")]), None),
            ("SERVFAIL", response(2, &[a(5)], &[(6, 5, soa)]), None),
            ("REFUSED", response(5, &[], &[]), None),
            ("an SOA that is too short", response(0, &[], &[(6, 5, b"\0\0")]), None),
            ("a lone header", response(0, &[], &[])[..12].to_vec(), None),
            ("no header", Vec::new(), None),
        ] {
            assert_eq!(freshness(&message), expected, "{what}");
        }
        // A response that is cut off anywhere must not be stored.
        let whole = response(3, &[a(60), a(5)], &[(6, 5, soa)]);
        for length in 0..whole.len() {
            assert_eq!(freshness(&whole[..length]), None, "{length} octets");
        }
    }

    #[test]
    fn writes_response_head() {
        let date = HeaderValue::from_static("Sat, 01 Jan 2022 00:00:00 GMT");
        let cacheable = response(0, &[(1, 7, &[10, 0, 0, 1])], &[]);
        let length = cacheable.len().to_string();
        let shown = |head: &Response<()>| {
            let fields = head.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            (head.status().as_u16(), fields.collect::<Vec<_>>())
        };
        let common = ["content-type: application/dns-message".to_owned(), format!("content-length: {length}")];
        let expected = [&common[..], &["cache-control: max-age=7".into(), format!("date: {}", date.to_str().unwrap())]];
        assert_eq!(shown(&head(&cacheable, &date)), (200, expected.concat()));
        let failed = head(&response(2, &[], &[]), &date);
        assert_eq!((failed.status().as_u16(), &failed.headers()["cache-control"]), (200, &NO_STORE));
    }
}
