//! A client certificate that is shown to upstreams which want one.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use sallyport::model::KeyKind;

use super::Computed;
use crate::support::binary::Place;
use crate::support::upstream::Clients;
use crate::support::world::{Build, OTHER};
use crate::support::{Reply, World, emitted};

/// Who signs the certificates of clients.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A client's certificate and key.
pub struct Client {
    pub der: CertificateDer<'static>,
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn client(&self, change: impl FnOnce(&mut CertificateParams)) -> Client {
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).expect("parameters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Client { der: certificate.der().clone(), certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Client {
    /// As it is stored.
    pub fn pem(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }

    /// The private key in base64, on one line.
    pub fn base64(&self) -> String {
        self.key.lines().filter(|line| !line.starts_with("---")).collect()
    }
}

/// An upstream that takes these clients.
pub fn build(clients: Clients) -> Build {
    World::build().upstream(|setup| {
        setup.host = OTHER.to_owned();
        setup.clients = clients;
    })
}

pub fn get(token: &str) -> Request<Full<Bytes>> {
    let request = Request::get("/accounts").header("host", OTHER).header("x-client-certificate", token);
    request.body(Full::new(Bytes::new())).expect("a request")
}

#[tokio::test]
async fn token_in_its_header_is_taken_out_and_the_connection_shows_the_certificate() {
    for (alpn, version) in [
        (vec!["h2", "http/1.1"], &rustls::version::TLS13),
        (vec!["http/1.1"], &rustls::version::TLS13),
        (vec!["h2", "http/1.1"], &rustls::version::TLS12),
        (vec!["h2"], &rustls::version::TLS13),
        (vec!["h2"], &rustls::version::TLS12),
    ] {
        let authority = Authority::new();
        let client = authority.client(|_| {});
        let world = build(Clients::Only(authority.der())).upstream(|setup| {
            setup.alpn = alpn;
            setup.versions = vec![version];
        });
        let world = world.answer(|_| Reply::text("the balance is 7")).start().await;
        let computed = Computed::add(&world, KeyKind::Mtls, &client.pem());
        let mut request = get(computed.token());
        request.headers_mut().insert("authorization", "Bearer of-the-services-own".parse().expect("a value"));
        let answer = world.agent().ask(OTHER, request).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "the balance is 7"));
        let received = world.upstream.only();
        assert_eq!(received.certificate.as_ref(), Some(&client.der));
        assert!(!received.headers.contains_key("x-client-certificate"), "{received:?}");
        assert_eq!(received.header("authorization"), "Bearer of-the-services-own", "it is no slot of the key");
        let intents = world.records_of("intent");
        assert_eq!(intents.len(), 1, "{intents:?}");
        assert_eq!(intents[0]["key"], computed.key.name.as_str());
        assert_eq!(
            (&intents[0]["slot"], &intents[0]["authority"]),
            (&serde_json::json!("header:x-client-certificate"), &serde_json::json!(format!("{OTHER}:443")))
        );
        let base64 = client.base64();
        let metrics = world.node.metrics();
        assert!(
            metrics.contains("sallyport_injections_total{provider=\"custom\",slot=\"certificate\"} 1"),
            "{metrics}"
        );
        world.nothing_leaked(&[answer]).await;
        assert_eq!(emitted::find(&emitted::all(), &base64), None);
    }
}

#[tokio::test]
async fn certificate_and_another_key_go_out_with_one_request_and_each_is_recorded() {
    let authority = Authority::new();
    let client = authority.client(|_| {});
    let world = build(Clients::Only(authority.der())).settings(|settings| settings.cores = 1).start().await;
    let computed = Computed::add(&world, KeyKind::Mtls, &client.pem());
    let plain = Computed::add(&world, KeyKind::Secret, "sk-beside-a-certificate");
    let keys = [computed.key.clone(), plain.key.clone()];
    let hour = std::time::Duration::from_secs(3600);
    let both = world.node.start_session(None, computed.key.environment, &keys, hour).expect("a session");
    let (_, certificate) = world.node.mint(&both, &computed.key).expect("a token");
    let (_, bearer) = world.node.mint(&both, &plain.key).expect("a token");
    for _ in 0..2 {
        let mut request = get(certificate.expose());
        let value = format!("Bearer {}", bearer.expose()).parse().expect("a value");
        request.headers_mut().insert("authorization", value);
        assert_eq!(world.agent().ask(OTHER, request).await.status, 200);
        let received = world.upstream.received().pop().expect("received");
        assert_eq!(received.header("authorization"), "Bearer sk-beside-a-certificate");
        assert_eq!(received.certificate, Some(client.der.clone()));
    }
    assert_eq!((world.upstream.connections(), world.records_of("intent").len()), (1, 4));
}

#[tokio::test]
async fn rule_shows_the_certificate_for_requests_without_a_token() {
    let authority = Authority::new();
    let client = authority.client(|_| {});
    let policy = "version: 1\nname: p\nrules: [{ name: read, allow: { methods: [GET], paths: [\"/**\"] } }]\nwithout_token: inject\n";
    let world = build(Clients::Only(authority.der())).policy(policy).start().await;
    let computed = Computed::add(&world, KeyKind::Mtls, &client.pem());
    let mut agent = world.agent();
    agent.credentials =
        Some(crate::support::agent::basic(&computed.started.session.id.to_string(), computed.started.secret.expose()));
    let plain = |method: &str| {
        let request =
            Request::builder().method(method).uri("/").header("host", OTHER).header("authorization", "Bearer x");
        request.body(Full::new(Bytes::new())).expect("a request")
    };
    let answer = agent.ask(OTHER, plain("GET")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.only();
    assert_eq!(
        (received.certificate, received.headers["authorization"].as_bytes()),
        (Some(client.der), &b"Bearer x"[..])
    );
    assert_eq!(agent.ask(OTHER, plain("POST")).await.code(), "policy_denied");
    assert_eq!((world.upstream.received().len(), world.records_of("intent").len()), (1, 1));
}

#[tokio::test]
async fn upstream_that_does_not_take_the_certificate_is_told_in_words() {
    let (trusted, other) = (Authority::new(), Authority::new());
    for alpn in [vec!["h2", "http/1.1"], vec!["http/1.1"]] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let world = build(Clients::Only(trusted.der()));
            let world = world.upstream(|setup| {
                setup.alpn = alpn.clone();
                setup.versions = vec![version];
            });
            let world = world.start().await;
            let computed = Computed::add(&world, KeyKind::Mtls, &other.client(|_| {}).pem());
            let mut sender = world.agent().http2::<Full<Bytes>>(OTHER).await;
            let request = Request::get(format!("https://{OTHER}/")).header("x-client-certificate", computed.token());
            let answer = sender.ask(request.body(Full::new(Bytes::new())).expect("a request")).await;
            assert_eq!(answer.code(), "upstream_tls", "{alpn:?} {version:?}: {}", answer.text());
            assert!(answer.text().contains("doesn't take the client certificate"), "{}", answer.text());
            assert_eq!(world.upstream.received().len(), 0);
        }
    }
}

#[tokio::test]
async fn private_key_that_comes_back_is_masked() {
    let authority = Authority::new();
    let client = authority.client(|_| {});
    let (key, base64) = (client.key.clone(), client.base64());
    let crlf = key.replace('\n', "\r\n");
    let echo = serde_json::json!({ "pem": key, "crlf": crlf, "line": base64 }).to_string() + &key;
    let world = build(Clients::Only(authority.der())).answer(move |_| Reply::text(echo.clone())).start().await;
    let computed = Computed::add(&world, KeyKind::Mtls, &client.pem());
    let answer = world.agent().ask(OTHER, get(computed.token())).await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    for line in key.lines().filter(|line| !line.starts_with("---")) {
        assert!(!text.contains(line), "{text}");
    }
    assert!(text.contains("BEGIN PRIVATE KEY"), "{text}");
}

#[test]
fn certificate_and_key_are_checked_when_stored_and_doubts_are_told() {
    let place = Place::new();
    place.ok(&["init"]);
    let authority = Authority::new();
    let (client, other) = (authority.client(|_| {}), authority.client(|_| {}));
    let write = |name: &str, text: &str| {
        let path = place.data.with_file_name(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (certificate, key) = (write("client.pem", &client.certificate), write("client.key", &client.key));
    let add = ["keys", "add", "bank", "--kind", "mtls", "--host", "api.bank.test"];
    place.ok(&[&add[..], &["--value-file", &certificate, "--value-file", &key]].concat());
    let shown = place.json(&["keys", "show", "bank"]);
    assert_eq!(
        (&shown["kind"], &shown["slots"]),
        (&"mtls".into(), &serde_json::json!(["header:x-client-certificate"]))
    );

    let encrypted = client.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let root = authority.0.pem();
    for (value, says) in [
        ("hunter2hunter2".to_owned(), "is PEM"),
        (client.certificate.clone(), "no private key"),
        (client.key.clone(), "is PEM"),
        (format!("{}{}", client.certificate, other.key), "doesn't belong to the certificate"),
        (format!("{root}{}", client.pem()), "it comes first"),
        (format!("{}{}", client.pem(), other.key), "more than one private key"),
        (format!("{}{encrypted}", client.certificate), "is encrypted"),
        (client.pem().replace("MI", "!!"), "can't be read"),
    ] {
        let output = place.with_input(&["keys", "rotate", "bank"], &value);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains(says), "{says}: {said}");
        assert!(!said.contains("hunter2") && !said.contains(&client.base64()[..40]), "{said}");
    }
    for (arguments, says) in [
        (vec!["--slot", "query:x"], "can't be put into query:x"),
        (vec!["--cleartext-loopback"], "shown over TLS only"),
    ] {
        let add = ["keys", "add", "other", "--kind", "mtls", "--host", "127.0.0.1:1", "--value-file", &certificate];
        let said = place.fails(&[&add[..], &["--value-file", &key], &arguments].concat());
        assert!(said.contains(says), "{said}");
    }

    let at = |year| rcgen::date_time_ymd(year, 1, 31);
    let expired = authority.client(|params| (params.not_before, params.not_after) = (at(2020), at(2021)));
    let early = authority.client(|params| (params.not_before, params.not_after) = (at(2090), at(2091)));
    let server = authority.client(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    for (client, says) in [
        (expired, "expired on 2021-01-31"),
        (early, "valid only from 2090-01-31"),
        (server, "doesn't name clientAuth"),
        // With its authority's, as some services want to see it.
        (Client { certificate: client.certificate.clone() + &root, ..client }, ""),
    ] {
        let output = place.with_input(&["keys", "rotate", "bank", "--json"], &client.pem());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains(says) && said.is_empty() == says.is_empty(), "{says}: {said}");
    }
}
