//! TLS hellos that ask for what nobody should get.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::support::agent::http1_on;
use crate::support::world::{HOST, OTHER};
use crate::support::{Raw, World};

/// A ClientHello of TLS 1.2 or before (RFC 5246 section 7.4.1.2) with these suites and no extension.
fn hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let length = u16::try_from(suites.len()).expect("few").to_be_bytes();
    let body = [&version[..], &[7; 32], &[0], &length, &suites, &[1, 0]].concat();
    let long = |len: usize| u16::try_from(len).expect("short").to_be_bytes();
    let handshake = [&[1, 0][..], &long(body.len()), &body].concat();
    [&[0x16, 3, 1][..], &long(handshake.len()), &handshake].concat()
}

#[tokio::test]
async fn hellos_with_nothing_but_broken_ciphers_get_an_alert() {
    let world = World::start().await;
    let v12 = [3, 3];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no encryption", hello(v12, &[0x0000, 0x0001, 0x0002, 0x003b, 0xc010])),
        ("export", hello(v12, &[0x0003, 0x0006, 0x0008, 0x0014])),
        ("RC4", hello(v12, &[0x0004, 0x0005, 0xc011])),
        ("single and triple DES", hello(v12, &[0x0009, 0x000a, 0xc012])),
        ("anonymous", hello(v12, &[0x0018, 0x0034, 0x00a6, 0xc018])),
        ("CBC", hello(v12, &[0x002f, 0x0035, 0xc009, 0xc013])),
        ("none at all", hello(v12, &[])),
        ("TLS 1.1", hello([3, 2], &[0xc02b, 0xc02f])),
        ("TLS 1.0", hello([3, 1], &[0xc02b, 0xc02f])),
        ("SSL 3", hello([3, 0], &[0x0005])),
        ("a reserved suite", hello(v12, &[0xffff])),
        ("SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80".to_vec()),
        ("a record of 18 KiB", [&[0x16, 3, 1, 0x48, 0][..], &[1; 0x4800]].concat()),
        ("an empty record", vec![0x16, 3, 1, 0, 0]),
    ];
    for (name, bytes) in cases {
        let mut raw = Raw::new(world.agent().connect(&format!("{HOST}:443")).await.expect("a tunnel"));
        raw.send(bytes).await;
        raw.finish().await;
        let got = raw.rest().await;
        // An alert is fatal (RFC 5246 section 7.2), or the connection closes without a word.
        assert!(got.is_empty() || (got[0] == 0x15 && got[5] == 2), "{name}: {got:?}");
    }
    assert_eq!(world.upstream.connections(), 0);
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn early_data_is_not_taken_and_a_resumed_session_is_good_for_its_own_host_alone() {
    let world = World::start().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.agent().ca_pem.as_bytes()).expect("PEM")).expect("a root");
    let mut config = sallyport::tls::trust::client_config(Arc::new(roots), &[b"http/1.1"]).expect("a configuration");
    let of_mine = Arc::make_mut(&mut config);
    of_mine.enable_early_data = true;
    of_mine.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let connect = async |authority: &str| {
        let stream = world.agent().connect(authority).await.expect("a tunnel");
        let name = ServerName::try_from(HOST.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::clone(&config));
        // No ticket of ours lets a client send anything before the handshake's end.
        let early = |client: &mut rustls::ClientConnection| assert!(client.early_data().is_none());
        connector.connect_with(name, stream, early).await.expect("TLS")
    };
    let host = |name: &str| {
        let request = Request::get("/").header("host", name).header("authorization", world.bearer());
        request.body(Full::new(Bytes::new())).expect("a request")
    };
    let here = format!("{HOST}:443");
    let first = connect(&here).await;
    assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(http1_on(first).await.ask(host(HOST)).await.status, 200);
    let resumed = connect(&here).await;
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(http1_on(resumed).await.ask(host(HOST)).await.status, 200);
    // Resumed, so no leaf was looked at; under the name of a host that the tunnel doesn't lead to.
    for name in [HOST, OTHER] {
        let strange = connect(&format!("{OTHER}:443")).await;
        let answer = http1_on(strange).await.ask(host(name)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (421, "authority_mismatch"), "{name}");
    }
    assert_eq!(world.upstream.received().len(), 2);
}
