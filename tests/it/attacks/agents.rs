//! What an agent can send.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::World;
use crate::support::agent::drain;
use crate::support::world::HOST;

/// Requests that two parsers could read differently. Each has a hidden request in it where that makes
/// sense; `{auth}` stands for the credential.
const SMUGGLED: &[(&str, &str)] = &[
    (
        "CL.TE",
        "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: {h}\r\n{auth}\r\n",
    ),
    (
        "TE.CL",
        "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n5c\r\nGET /hidden HTTP/1.1\r\n\r\n0\r\n\r\n",
    ),
    (
        "space before colon",
        "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}transfer-encoding : chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked, identity",
        "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "two codings",
        "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    ("folded coding", "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
    ("list of lengths", "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}content-length: 5, 6\r\n\r\nhello!"),
    ("hex length", "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}content-length: 0x5\r\n\r\nhello"),
    ("negative length", "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}content-length: -1\r\n\r\nhello"),
    ("signed length", "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}content-length: +5\r\n\r\nhello"),
    (
        "length that overflows",
        "POST / HTTP/1.1\r\nhost: {h}\r\n{auth}content-length: 18446744073709551621\r\n\r\nhello",
    ),
    ("NUL in a value", "GET / HTTP/1.1\r\nhost: {h}\r\n{auth}x: a\0b\r\n\r\n"),
    ("NUL in a name", "GET / HTTP/1.1\r\nhost: {h}\r\n{auth}x\0y: a\r\n\r\n"),
    ("empty name", "GET / HTTP/1.1\r\nhost: {h}\r\n{auth}: a\r\n\r\n"),
    ("folded field", "GET / HTTP/1.1\r\nhost: {h}\r\n{auth}x: a\r\n b\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nhost: {h}\r\nhost: evil.test\r\n{auth}\r\n"),
    ("no host", "GET / HTTP/1.1\r\n{auth}\r\n"),
    ("HTTP/2.0 in text", "GET / HTTP/2.0\r\nhost: {h}\r\n{auth}\r\n"),
    ("HTTP/0.9", "GET /\r\n"),
    ("space in the target", "GET /a b HTTP/1.1\r\nhost: {h}\r\n{auth}\r\n"),
    ("control byte in the method", "G\u{1}T / HTTP/1.1\r\nhost: {h}\r\n{auth}\r\n"),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("CONNECT in a tunnel", "CONNECT evil.test:443 HTTP/1.1\r\nhost: evil.test:443\r\n{auth}\r\n"),
    ("TRACE", "TRACE / HTTP/1.1\r\nhost: {h}\r\n{auth}\r\n"),
    (
        "upgrade to h2c",
        "GET / HTTP/1.1\r\nhost: {h}\r\n{auth}connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
    ),
];

/// Those that RFC 9112 section 6.3 lets a server read in one way, if it closes the connection after.
const MAY_PASS: &[&str] = &["CL.TE", "TE.CL"];

#[tokio::test]
async fn ambiguous_requests_are_refused_and_nothing_of_them_reaches_the_upstream() {
    let world = World::start().await;
    let auth = format!("authorization: {}\r\n", world.bearer());
    let mut passed = 0;
    for (name, template) in SMUGGLED {
        let bytes = template.replace("{h}", HOST).replace("{auth}", &auth);
        let got = world.agent().raw(HOST, bytes.as_bytes()).await;
        assert!(got.matches("HTTP/1.1 ").count() <= 1, "{name}: one answer, then closed: {got}");
        let received = world.upstream.received();
        if let Some(other) = received.get(passed) {
            // Read in one way and written anew, without the ambiguity; what was hidden never runs.
            passed += 1;
            assert_eq!(other.path, "/", "{name}");
            let framings = ["content-length", "transfer-encoding"].map(|n| other.headers.get_all(n).iter().count());
            assert!(framings.iter().sum::<usize>() <= 1, "{name}: {other:?}");
            assert!(got.to_ascii_lowercase().contains("connection: close"), "{name}: {got}");
            assert!(MAY_PASS.contains(name), "{name} was let through");
        } else {
            let coded = got.starts_with("HTTP/1.1 4") && got.contains("sallyport-error: ");
            assert!(got.is_empty() || coded, "{name}: {got}");
        }
        assert_eq!(received.len(), passed, "{name}: {received:?}");
    }
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn broken_chunks_never_become_a_whole_request() {
    let world = World::start().await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        world.bearer()
    );
    for (name, body) in [
        ("hex prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("overflow", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("longer than its size", "5\r\nhello!!\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ] {
        let got = world.agent().raw(HOST, format!("{head}{body}").as_bytes()).await;
        assert!(!got.starts_with("HTTP/1.1 2"), "{name}: {got}");
        assert!(world.upstream.received().is_empty(), "{name}: {:?}", world.upstream.received());
    }
}

#[tokio::test]
async fn body_of_a_get_stays_a_body() {
    let world = World::start().await;
    let hidden = "GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";
    let bytes = format!(
        "GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n{hidden}",
        world.bearer(),
        hidden.len()
    );
    let got = world.agent().raw(HOST, bytes.as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    assert_eq!(world.upstream.only().body, hidden);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_each_is_checked() {
    let world = World::build().answer(|r| crate::support::Reply::text(format!("<{}>", r.path))).start().await;
    let one = |path: &str, auth: &str| format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {auth}\r\n\r\n");
    let bytes =
        [one("/1", &world.bearer()), one("/2", "Bearer sk-stray-real-key"), one("/3", &world.bearer())].concat();
    let got = world.agent().raw(HOST, bytes.as_bytes()).await;
    let at = |text: &str| got.find(text).unwrap_or_else(|| panic!("no {text} in {got}"));
    assert!(at("</1>") < at("credential_unregistered") && at("credential_unregistered") < at("</3>"), "{got}");
    let paths: Vec<_> = world.upstream.received().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/1", "/3"]);
}

#[tokio::test]
async fn malformed_connects_and_garbage_are_refused_and_close() {
    let world = World::start().await;
    let long = format!("CONNECT {}:443 HTTP/1.1\r\n\r\n", "a".repeat(70_000));
    let cases: Vec<Vec<u8>> = vec![
        b"CONNECT api.upstream.test:443 HTTP/1.1\r\nhost: api.upstream.test:443\r\ncontent-length: 5\r\n\r\nhello"
            .to_vec(),
        b"CONNECT api.upstream.test:443 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        b"CONNECT api.upstream.test:443 HTTP/1.1\r\nproxy-authorization: a\r\nproxy-authorization: b\r\n\r\n".to_vec(),
        b"CONNECT api.upstream.test:443 HTTP/1.1\r\nhost: evil.test:443\r\n\r\n".to_vec(),
        b"CONNECT \x01\x02:443 HTTP/1.1\r\n\r\n".to_vec(),
        b"CONNECT api.upstream.test:443\r\n\r\n".to_vec(),
        b"CONNECT api.upstream.test:443 HTTP/1.1\r\n bad\r\n\r\n".to_vec(),
        "CONNECT \u{440}\u{443}.test:443 HTTP/1.1\r\n\r\n".as_bytes().to_vec(),
        long.into_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: api.upstream.test\r\n\r\n".to_vec(),
        b"\0\0\0\0\0\0\0\0".to_vec(),
    ];
    for bytes in cases {
        let mut stream = TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected");
        let _ = stream.write_all(&bytes).await;
        let got = drain(&mut stream).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 4"), "{shown}: {got}");
    }
    assert_eq!(world.upstream.connections(), 0);
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn random_bytes_on_every_listener_break_nothing() {
    let world = World::build().settings(|s| {
        let any = Some(([127, 0, 0, 1], 0).into());
        (s.gateway, s.gateway_tls, s.forward_tls) = (any, any, any);
    });
    let world = world.start().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let ports = [world.node.forward, world.node.gateway, world.node.gateway_tls, world.node.forward_tls];
    for port in ports.into_iter().flatten() {
        for _ in 0..60 {
            let bytes: Vec<u8> = (0..next() % 300).map(|_| next().to_be_bytes()[0]).collect();
            let mut stream = TcpStream::connect(port).await.expect("connected");
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
    }
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn old_tls_and_strange_hellos_get_an_alert_and_no_connection_upstream() {
    let world = World::start().await;
    let openssl = async |arguments: &[&str]| {
        let proxy = world.node.forward.expect("it listens").to_string();
        let mut all = vec!["s_client", "-proxy", &proxy, "-connect", "api.upstream.test:443"];
        if !arguments.contains(&"-noservername") {
            all.extend_from_slice(&["-servername", HOST]);
        }
        all.extend_from_slice(arguments);
        let output =
            tokio::process::Command::new("openssl").args(all).stdin(std::process::Stdio::null()).output().await;
        let output = output.expect("openssl runs");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    for old in [&["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..], &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]] {
        let said = openssl(old).await;
        assert!(said.contains("protocol version") || said.contains("alert"), "{old:?}: {said}");
    }
    let said = openssl(&["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"]).await;
    assert!(said.contains("handshake failure"), "{said}");
    let said = openssl(&["-alpn", "gopher"]).await;
    assert!(said.contains("no application protocol") || said.contains("alert"), "{said}");
    assert_eq!(world.upstream.connections(), 0);
    let said = openssl(&["-noservername", "-tls1_3"]).await;
    assert!(said.contains("subject=") && said.contains("api.upstream.test"), "without a name CONNECT's counts: {said}");
}

#[tokio::test]
async fn half_closed_and_abandoned_connections_leave_nothing_behind() {
    let world = World::start().await;
    for _ in 0..50 {
        let mut stream = world.agent().tls(&format!("{HOST}:443"), HOST, &[b"http/1.1"]).await;
        let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
        stream.write_all(head.as_bytes()).await.expect("written");
        drop(stream);
    }
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    let connections = || {
        let text = world.node.metrics();
        let line = text.lines().find(|l| l.starts_with("sallyport_connections{side=\"agent\"}")).map(str::to_owned);
        line.and_then(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).expect("the gauge")
    };
    let settled = async {
        while connections() > 1 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), settled).await.expect("connections are given back");
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn leaf_has_one_name_a_short_life_and_a_key_of_its_own() {
    use x509_parser::prelude::*;
    let world = World::start().await;
    let mut serials = std::collections::HashSet::new();
    for host in [HOST, crate::support::world::OTHER, "203.0.113.9"] {
        let stream = world.agent().tls(&format!("{host}:443"), host, &[b"http/1.1"]).await;
        let der = stream.get_ref().1.peer_certificates().expect("a chain")[0].to_vec();
        let (_, leaf) = X509Certificate::from_der(&der).expect("a certificate");
        let names = &leaf.subject_alternative_name().expect("well-formed").expect("names").value.general_names;
        match names.as_slice() {
            [GeneralName::DNSName(name)] => assert_eq!(*name, host),
            [GeneralName::IPAddress(ip)] => assert_eq!(*ip, [203, 0, 113, 9]),
            other => panic!("{other:?}"),
        }
        let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert!(life <= 30 * 86_400, "{life} s");
        assert!(!leaf.basic_constraints().expect("well-formed").is_some_and(|b| b.value.ca));
        let (_, block) = x509_parser::pem::parse_x509_pem(world.home.ca_pem().as_bytes()).expect("PEM");
        let ca = block.parse_x509().expect("a certificate");
        assert_ne!(leaf.public_key().raw, ca.public_key().raw);
        let of = |cert: &X509Certificate<'_>, wanted: &oid_registry::Oid<'_>| {
            cert.get_extension_unique(wanted).expect("once").map(|e| e.parsed_extension().clone().to_owned_key())
        };
        let issuer = of(&leaf, &oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER).flatten();
        let subject = of(&ca, &oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER).flatten();
        assert!(issuer.is_some() && issuer == subject, "{issuer:?} {subject:?}");
        assert!(serials.insert(leaf.raw_serial().to_vec()), "serials differ");
        assert!(leaf.raw_serial().len() >= 15);
    }
}

trait KeyIdentifier {
    fn to_owned_key(&self) -> Option<Vec<u8>>;
}

impl KeyIdentifier for x509_parser::extensions::ParsedExtension<'_> {
    fn to_owned_key(&self) -> Option<Vec<u8>> {
        match self {
            Self::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0.to_vec()),
            Self::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        }
    }
}
