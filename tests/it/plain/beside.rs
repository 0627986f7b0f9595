//! The plain way beside the full one: what is decided and what is sent don't depend on the way.

use bytes::Bytes;
use http::HeaderValue;

use crate::support::world::HOST;
use crate::support::{Received, World};

/// The request line without the version, fields and a body.
type Case = (&'static str, &'static str, &'static str);

const CASES: &[Case] = &[
    ("GET /", "", ""),
    ("get /", "", ""),
    ("PURGE /%41%2fb?c=%20#d", "", ""),
    ("OPTIONS *", "", ""),
    ("HEAD /../a/./b;c=d?e=/../f", "", ""),
    ("GET //other.upstream.test/a", "", ""),
    ("GET http://other.upstream.test/a", "", ""),
    ("GET /\"<>{}|\\^`", "", ""),
    ("POST /", "", ""),
    ("POST /", "Content-Length: 3\r\n", "abc"),
    ("POST /", "Content-Length: 003\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n", "abc"),
    ("POST /", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
    ("POST /", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ("DELETE /", "Content-Length: 3\r\nContent-Encoding: gzip\r\n", "abc"),
    ("GET /", "Accept-Encoding: gzip, br;q=0.5\r\n", ""),
    ("GET /", "Accept-Encoding: lzma, *\r\n", ""),
    ("GET /", "Accept-Encoding: *;q=0\r\n", ""),
    ("GET /", "Accept-Encoding:\r\n", ""),
    ("GET /", "Accept-Encoding: gzip\r\nAccept-Encoding: br\r\n", ""),
    ("GET /", "Cookie: a=b; c=d\r\n", ""),
    ("GET /", "Cookie: a=b\r\nCookie: c=d\r\n", ""),
    ("GET /", "Range: bytes=0-5\r\nIf-Range: \"a\"\r\n", ""),
    ("GET /", "If-Match: W/\"a\"\r\nIf-None-Match: \"b\"\r\n", ""),
    ("GET /", "Via: 1.1 a\r\nForwarded: for=b\r\nX-Forwarded-For: c\r\nMax-Forwards: 0\r\n", ""),
    ("GET /", "Origin: https://a.test\r\nSec-Fetch-Site: cross-site\r\n", ""),
    ("GET /", "Upgrade-Insecure-Requests: 1\r\nPriority: u=1\r\nEarly-Data: 1\r\n", ""),
    ("GET /", "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n", ""),
    ("GET /", "Proxy-Authorization: Basic YTpi\r\nProxy-Authenticate: Basic\r\n", ""),
    ("GET /", "X-HTTP-Method-Override: DELETE\r\n", ""),
    ("GET /", "X_HTTP_Method_Override: DELETE\r\n", ""),
    ("GET /", "X-Original-URL: /admin\r\n", ""),
    ("GET /", "Upgrade: h2c\r\nHTTP2-Settings: AAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n", ""),
    ("GET /", "X-Odd!#$%&'*+.^_`|~: a\r\n", ""),
    ("GET /", "X-Space:   a  b \t \r\n", ""),
    ("GET /", "X-Twice: a\r\nx-twice: b\r\n", ""),
    ("GET /", "Authorization: Bearer sk-another\r\n", ""),
    ("GET /", "Alt-Svc: h2=\":443\"\r\nSallyport-Error: none\r\nDate: today\r\n", ""),
];

/// No plain exchange has the second.
const WAYS: [&str; 2] = ["X-Way: plain", "TE: trailers"];

/// What is the same on both ways: method, path, fields sorted by their names, body.
type Sent = (String, String, Vec<(String, HeaderValue)>, Bytes);

fn sent(request: &Received) -> Sent {
    let fields = request.headers.iter().map(|(name, value)| (name.to_string(), value.clone()));
    // A length of 0 says the same as none.
    let says = |name: &str, value: &HeaderValue| {
        name != "x-way" && name != "te" && (name, value.as_bytes()) != ("content-length", b"0")
    };
    let mut fields: Vec<_> = fields.filter(|(name, value)| says(name, value)).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    (request.method.clone(), request.path.clone(), fields, request.body.clone())
}

#[tokio::test]
async fn requests_are_decided_on_and_sent_alike_on_both_ways() {
    let world = World::start().await;
    let (mut seen, mut differ) = (0, Vec::new());
    for (line, fields, body) in CASES {
        let mut outcomes = Vec::new();
        for way in WAYS {
            let mut raw = world.agent().inside(HOST, b"http/1.1").await;
            let token = world.bearer();
            raw.send(format!(
                "{line} HTTP/1.1\r\nHost: {HOST}\r\n{way}\r\n{fields}AUTHORIZATION: {token}\r\n\r\n{body}"
            ))
            .await;
            let status = raw.head().await.get(..12).unwrap_or_default().to_owned();
            let received = world.upstream.received();
            outcomes.push((status, received[seen..].iter().map(sent).collect::<Vec<_>>()));
            seen = received.len();
        }
        if outcomes[0] != outcomes[1] {
            differ.push(format!("{line} {fields}\n{:?}\n{:?}\n", outcomes[0], outcomes[1]));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(seen > CASES.len(), "{seen}");
}
