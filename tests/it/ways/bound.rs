//! Sessions that are bound to networks or to a client certificate: what leaked is of no use elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use sallyport::config::Config;
use sallyport::model::Fingerprint;
use sallyport::store::Settings;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::agent::{Answer, basic, head_of, http1_on};
use crate::support::door::{Door, text};
use crate::support::postgres::Database;
use crate::support::world::HOST;
use crate::support::{World, soon};

/// A session of the admin API with a token in it.
struct Bound {
    session: serde_json::Value,
    token: String,
}

impl Bound {
    fn credentials(&self) -> String {
        basic(&text(&self.session, "proxyUser"), &text(&self.session, "proxyPassword"))
    }

    fn request(&self, path: &str) -> Request<Full<bytes::Bytes>> {
        let request = Request::get(path).header("host", HOST).header("authorization", format!("Bearer {}", self.token));
        request.body(Full::default()).expect("a request")
    }
}

/// A world with a session that is bound like this. Other keys and sessions are in it too.
async fn scene(store: Settings, bounds: serde_json::Value) -> (World, Door, Bound) {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let build = World::build().store(store.clone()).settings(move |s| {
        (s.forward_tls, s.gateway, s.gateway_tls) = (Some(any), Some(any), Some(any));
    });
    let world = build.start().await;
    let door = Door::open(&world.home, &Config { store, ..Config::default() }).await;
    let key = json!({"name": "stored", "value": "sk-stored-0123456789", "hosts": [HOST]});
    door.call("POST", "/api/v1/api-keys", &key).await;
    let mut wanted = json!({"keys": ["stored"]});
    wanted.as_object_mut().expect("a map").extend(bounds.as_object().expect("a map").clone());
    let session = door.call("POST", "/api/v1/mcp/sessions", &wanted).await;
    let path = format!("/api/v1/mcp/sessions/{}/keys/stored/proxy-token", text(&session, "id"));
    let token = text(&door.call("POST", &path, &json!({})).await, "value");
    let mut reached = world.node.reached();
    let registry = Arc::clone(&world.node.shared().registry);
    let hash = sallyport::model::TokenHash::find(token.as_bytes()).expect("a token").1;
    let there = async {
        while registry.token(&hash).is_none() {
            reached.changed().await.expect("the node runs");
        }
    };
    soon("the token to be known", there).await;
    (world, door, Bound { session, token })
}

async fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{address}:0").parse().expect("an address")).expect("bound");
    socket.connect(to).await.expect("connected")
}

/// Asks with the token alone, from this address.
async fn ask_from(world: &World, address: &str, bound: &Bound) -> Answer {
    let mut stream = from(address, world.node.forward.expect("it listens")).await;
    stream.write_all(format!("CONNECT {HOST}:443 HTTP/1.1\r\n\r\n").as_bytes()).await.expect("written");
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 200"));
    let stream = world.agent().tls_on(stream, HOST, &[b"http/1.1"]).await.expect("TLS");
    http1_on(stream).await.ask(bound.request("/")).await
}

async fn networks(store: Settings) {
    let (world, door, bound) = scene(store, json!({"sources": ["127.0.0.7", "10.0.0.0/8"]})).await;
    assert_eq!(ask_from(&world, "127.0.0.7", &bound).await.status, 200);
    assert_eq!(world.upstream.only().header("authorization"), "Bearer sk-stored-0123456789");
    let answer = ask_from(&world, "127.0.0.8", &bound).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "token_misplaced"), "{}", answer.text());
    assert!(answer.text().contains("other networks"), "{}", answer.text());
    // Nor are the proxy's credentials of use there, in whatever way they are shown.
    let connect = format!("CONNECT {HOST}:443 HTTP/1.1\r\nproxy-authorization: {}\r\n\r\n", bound.credentials());
    let absolute =
        format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nproxy-authorization: {}\r\n\r\n", bound.credentials());
    for head in [connect, absolute] {
        let mut stream = from("127.0.0.8", world.node.forward.expect("it listens")).await;
        stream.write_all(head.as_bytes()).await.expect("written");
        let answer = head_of(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("token_misplaced"), "{answer}");
    }
    // The gateway looks as well.
    for (address, status) in [("127.0.0.7", 200), ("127.0.0.8", 403)] {
        let stream = from(address, world.node.gateway.expect("it listens")).await;
        let answer = http1_on(stream).await.ask(bound.request("/upstream/")).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    assert_eq!(world.upstream.received().len(), 2);
    let events = world.node.metrics();
    assert!(events.contains("sallyport_security_events_total{kind=\"session_misplaced\"} 4"), "{events}");
    // A session without bounds is used from everywhere.
    let stream = from("127.0.0.9", world.node.gateway.expect("it listens")).await;
    assert_eq!(http1_on(stream).await.ask(world.get("/upstream/")).await.status, 200);
    let shown = door.call("GET", &format!("/api/v1/mcp/sessions/{}", text(&bound.session, "id")), &json!({})).await;
    assert_eq!(shown["sources"], json!(["127.0.0.7/32", "10.0.0.0/8"]));
    let home = world.home.audit_dir();
    world.node.stop(std::time::Duration::from_secs(5)).await;
    let filter = sallyport::audit::Filter { limit: 10_000, ..Default::default() };
    let records = sallyport::audit::query(&home, &filter).expect("readable");
    let misplaced: Vec<_> = records.iter().filter(|r| r["action"] == "session_misplaced").collect();
    assert_eq!(misplaced.len(), 4, "{records:?}");
    assert_eq!(misplaced[0]["subject"], bound.session["id"]);
    assert!(misplaced[0]["principal"].as_str().is_some_and(|at| at.starts_with("127.0.0.8:")), "{misplaced:?}");
}

#[tokio::test]
async fn session_of_a_network_is_of_no_use_outside_of_it() {
    networks(Settings::default()).await;
}

#[tokio::test]
async fn session_of_a_network_is_of_no_use_outside_of_it_with_postgresql() {
    let Some(database) = Database::fresh().await else { return };
    networks(database.settings()).await;
}

/// A client's certificate and key; who signed it says nothing.
fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().expect("a key");
    let signed = CertificateParams::new(vec!["agent".to_owned()]).expect("parameters").self_signed(&key);
    let der = CertificateDer::from(signed.expect("a certificate").der().to_vec());
    (der, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
}

/// TLS to a listener, with a certificate or without.
async fn tls(
    world: &World,
    to: SocketAddr,
    shown: Option<&(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    version: &'static rustls::SupportedProtocolVersion,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.home.ca_pem().as_bytes()).expect("PEM")).expect("a root");
    let builder = rustls::ClientConfig::builder_with_provider(sallyport::tls::provider());
    let builder = builder.with_protocol_versions(&[version]).expect("versions").with_root_certificates(roots);
    let config = match shown {
        Some((certificate, key)) => {
            builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(to).await.expect("connected");
    let name = ServerName::try_from("proxy.test").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS")
}

#[tokio::test]
async fn session_of_a_certificate_is_of_no_use_without_its_key() {
    let (mine, other) = (certificate(), certificate());
    let fingerprint = Fingerprint::of(&mine.0).to_string().to_ascii_uppercase();
    let (world, door, bound) = scene(Settings::default(), json!({"clientCertificate": fingerprint})).await;
    let (gateway, proxy) = (world.node.gateway_tls.expect("it listens"), world.node.forward_tls.expect("it listens"));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (shown, expected) in [(Some(&mine), 200), (Some(&other), 403), (None, 403)] {
            let stream = tls(&world, gateway, shown, version).await;
            let answer = http1_on(stream).await.ask(bound.request("/upstream/")).await;
            assert_eq!(answer.status, expected, "{}", answer.text());
            assert_eq!(answer.code(), if expected == 200 { "" } else { "token_misplaced" });
            // Through the proxy: by the credentials of CONNECT, and all that comes in its tunnel.
            let mut stream = tls(&world, proxy, shown, version).await;
            let connect =
                format!("CONNECT {HOST}:443 HTTP/1.1\r\nproxy-authorization: {}\r\n\r\n", bound.credentials());
            stream.write_all(connect.as_bytes()).await.expect("written");
            let head = head_of(&mut stream).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {expected}")), "{head}");
            if expected == 200 {
                let inside = world.agent().tls_on(stream, HOST, &[b"http/1.1"]).await.expect("TLS");
                assert_eq!(http1_on(inside).await.ask(bound.request("/")).await.status, 200);
            }
        }
    }
    // In clear nobody can show one.
    assert_eq!(ask_from(&world, "127.0.0.1", &bound).await.code(), "token_misplaced");
    let shown = door.call("GET", &format!("/api/v1/mcp/sessions/{}", text(&bound.session, "id")), &json!({})).await;
    assert_eq!(shown["clientCertificate"], Fingerprint::of(&mine.0).to_string());
    // Whoever has none is served as ever where nothing is bound.
    let stream = tls(&world, gateway, None, &rustls::version::TLS13).await;
    assert_eq!(http1_on(stream).await.ask(world.get("/upstream/")).await.status, 200);
}

#[tokio::test]
async fn bounds_that_can_not_be_read_start_no_session() {
    let world = World::start().await;
    let door = Door::open(&world.home, &Config::default()).await;
    let key = json!({"name": "stored", "value": "sk-stored-0123456789", "hosts": [HOST]});
    door.call("POST", "/api/v1/api-keys", &key).await;
    for (bounds, field) in [
        (json!({"sources": ["here"]}), "sources"),
        (json!({"sources": ["10.0.0.0/99"]}), "sources"),
        (json!({"sources": vec!["10.0.0.1"; 51]}), "sources"),
        (json!({"clientCertificate": "abcd"}), "clientCertificate"),
    ] {
        let mut wanted = json!({"keys": ["stored"]});
        wanted.as_object_mut().expect("a map").extend(bounds.as_object().expect("a map").clone());
        let (status, why) = door.ask("POST", "/api/v1/mcp/sessions", &wanted).await;
        assert!((400..500).contains(&status) && why.to_string().contains(field), "{bounds}: {status} {why}");
    }
}

#[tokio::test]
async fn row_whose_bounds_were_changed_is_refused() {
    use sqlx::Connection as _;
    let (world, door, bound) = scene(Settings::default(), json!({"sources": ["127.0.0.7"]})).await;
    let file = world.home.dir().join("sallyport.db");
    let mut database = sqlx::SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.expect("open");
    let id = text(&bound.session, "id");
    let change = format!("update sessions set sources = '[]' where id = '{id}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut database).await.expect("done");
    let (status, why) = door.ask("GET", &format!("/api/v1/mcp/sessions/{id}"), &json!({})).await;
    assert_eq!((status, text(&why, "code").as_str()), (409, "tampered"), "{why}");
}
