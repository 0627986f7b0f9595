//! 10. Upstream TLS is always verified.

use crate::support::World;
use crate::support::upstream::Certificate;
use crate::support::world::{HOST, OTHER};

#[tokio::test]
async fn no_key_goes_to_an_upstream_whose_certificate_is_wrong() {
    use Certificate as C;
    for (certificate, why) in [
        (C::Expired, "expired on 2"),
        (C::NotYetValid, "is valid only from 2"),
        (C::OtherName, "other names than this host's"),
        (C::SelfSigned, "upstream.extra_ca"),
        (C::UnknownAuthority, "not its authority's"),
    ] {
        let world = World::build().upstream(|u| u.certificate = certificate).start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (502, "upstream_tls"),
            "{certificate:?}: {}",
            answer.text()
        );
        let detail = answer.text();
        assert!(detail.contains(why) && !detail.contains(OTHER), "{certificate:?}: {detail}");
        assert!(world.upstream.received().is_empty());
        assert!(world.records_of("intent").is_empty(), "nothing was opened");
        world.nothing_leaked(&[answer]).await;
    }
}

#[tokio::test]
async fn every_good_kind_of_upstream_works() {
    let (new, old) = (&rustls::version::TLS13, &rustls::version::TLS12);
    let kinds = [(vec!["h2", "http/1.1"], new), (vec!["h2"], old), (vec!["http/1.1"], new), (vec![], old)];
    for (alpn, versions) in kinds {
        let world = World::build()
            .upstream(|u| {
                u.alpn = alpn.clone();
                u.versions = vec![versions];
            })
            .start()
            .await;
        assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200, "{alpn:?} {versions:?}");
        assert_eq!(world.agent().http2(HOST).await.ask(world.get2("/")).await.status, 200, "{alpn:?} {versions:?}");
        for received in world.upstream.received() {
            assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
        }
    }
}

#[tokio::test]
async fn each_side_negotiates_its_protocol_for_itself() {
    let world = World::start().await;
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    assert_eq!(world.upstream.only().version, http::Version::HTTP_11);
    let world = World::start().await;
    assert_eq!(world.agent().http2(HOST).await.ask(world.get2("/")).await.status, 200);
    assert_eq!(world.upstream.only().version, http::Version::HTTP_2);
}
