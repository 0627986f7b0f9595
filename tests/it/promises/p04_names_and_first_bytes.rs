//! 4. What is checked is what is sent: the names in a TLS hello, and bytes that come too early.

use std::sync::Arc;

use http_body_util::Full;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::support::agent::{Answer, basic, http1_on};
use crate::support::world::{HOST, OTHER};
use crate::support::{Raw, World};

/// An agent that takes any certificate, to see what is behind it.
#[derive(Debug)]
struct Careless;

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        sallyport::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A GET with the token in a tunnel to `authority`, under `name` in the hello (none, if empty).
async fn ask(world: &World, authority: &str, name: &str, host: &str) -> Answer {
    let builder = rustls::ClientConfig::builder_with_provider(sallyport::tls::provider());
    let builder = builder.with_safe_default_protocol_versions().expect("versions").dangerous();
    let mut config = builder.with_custom_certificate_verifier(Arc::new(Careless)).with_no_client_auth();
    config.enable_sni = !name.is_empty();
    let name = if name.is_empty() { HOST } else { name };
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let stream = world.agent().connect(authority).await.expect("a tunnel");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    let mut request = world.get("/");
    request.headers_mut().insert("host", host.parse().expect("a value"));
    http1_on::<_, Full<bytes::Bytes>>(stream).await.ask(request).await
}

#[tokio::test]
async fn name_in_the_hello_has_to_be_that_of_the_tunnel() {
    let world = World::start().await;
    let (here, there) = (format!("{HOST}:443"), format!("{OTHER}:443"));
    for (authority, name, host) in [
        (&here, OTHER, HOST),
        (&here, OTHER, OTHER),
        (&here, "sub.api.upstream.test", HOST),
        (&there, HOST, HOST),
        (&there, HOST, OTHER),
        (&there, OTHER, HOST),
        (&here, "", OTHER),
    ] {
        let answer = ask(&world, authority, name, host).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (421, "authority_mismatch"), "{authority} {name} {host}");
    }
    assert_eq!(world.upstream.connections(), 0);
    for (name, host) in [(HOST, HOST), ("API.Upstream.Test", HOST), ("", HOST)] {
        let answer = ask(&world, &here, name, host).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    assert!(world.upstream.received().iter().all(|r| r.authority == HOST));
}

#[tokio::test]
async fn bytes_behind_a_refused_connect_are_never_a_request() {
    let world = World::build().settings(|s| s.proxy.require_auth = true).start().await;
    let credentials = basic(&world.started.session.id.to_string(), world.started.secret.expose());
    let behind = format!(
        "GET https://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\nproxy-authorization: {credentials}\r\n\r\n",
        world.bearer()
    );
    for (connect, status) in [
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n"), 407),
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {OTHER}:443\r\n\r\n"), 421),
        ("CONNECT :443 HTTP/1.1\r\n\r\n".to_owned(), 400),
    ] {
        let mut raw = world.agent().bare().await;
        raw.send(format!("{connect}{behind}")).await;
        assert_eq!(raw.reply().await.expect("an answer").status, status, "{connect}");
        assert_eq!(raw.rest().await, b"", "{connect}: closed");
    }
    assert!(world.upstream.received().is_empty(), "{:?}", world.upstream.received());
    // The retry with credentials goes on the same connection, as reactive clients do it.
    let mut raw = world.agent().bare().await;
    raw.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n")).await;
    assert_eq!(raw.reply().await.expect("an answer").code, "proxy_auth_required");
    raw.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nproxy-authorization: {credentials}\r\n\r\n")).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn session_that_is_over_opens_no_tunnel_and_serves_no_open_one() {
    let world = World::build().settings(|s| s.proxy.require_auth = true).start().await;
    let mut open = world.known_agent().http1::<Full<bytes::Bytes>>(OTHER).await;
    world.node.revoke_session(&world.started.session, "test");
    let refused = world.known_agent().connect(&format!("{HOST}:443")).await.expect_err("refused");
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("session_revoked"), "{refused}");
    let mut request = world.get("/");
    request.headers_mut().remove("authorization");
    request.headers_mut().insert("host", OTHER.parse().expect("a value"));
    let answer = open.ask(request).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "session_revoked"));
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn lines_that_parsers_end_differently_arrive_in_one_form_or_not_at_all() {
    let world = World::start().await;
    let auth = format!("authorization: {}", world.bearer());
    let chunked = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{auth}\r\ntransfer-encoding: chunked\r\n\r\n");
    for (name, bytes) in [
        ("bare LF everywhere", format!("GET / HTTP/1.1\nhost: {HOST}\n{auth}\n\n")),
        ("bare LF before a field", format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx: 1\n{auth}\r\n\r\n")),
        ("bare CR in a value", format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx: a\rb: c\r\n{auth}\r\n\r\n")),
        ("bare LF behind a size", format!("{chunked}5\nhello\r\n0\r\n\r\n")),
        ("bare LF behind a chunk", format!("{chunked}5\r\nhello\n0\r\n\r\n")),
        ("two spaces", format!("GET  / HTTP/1.1\r\nhost: {HOST}\r\n{auth}\r\n\r\n")),
        ("a space in front", format!(" GET / HTTP/1.1\r\nhost: {HOST}\r\n{auth}\r\n\r\n")),
        ("HTTP/1.0 in chunks", chunked.replace("1.1", "1.0") + "5\r\nhello\r\n0\r\n\r\n"),
        ("a quoted extension", format!("{chunked}5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n")),
        ("long extensions", format!("{chunked}{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "e".repeat(4000)).repeat(1000))),
    ] {
        let before = world.upstream.received().len();
        let mut raw: Raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(bytes).await;
        let status = raw.reply().await.map_or(0, |reply| reply.status);
        let arrived = world.upstream.received().split_off(before);
        match arrived.as_slice() {
            [] => assert!(status == 0 || (400..500).contains(&status), "{name}: {status}"),
            [one] => {
                assert_eq!((status, one.path.as_str(), one.authority.as_str()), (200, "/", HOST), "{name}");
                assert!(one.body.is_empty() || one.body == "hello", "{name}: {one:?}");
                assert!(!one.headers.contains_key("b"), "{name}: {one:?}");
            }
            more => panic!("{name}: {more:?}"),
        }
    }
}
