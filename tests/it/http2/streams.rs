//! How many exchanges share a connection: no more than the upstream says that it takes.

use http_body_util::BodyExt as _;

use crate::support::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, STATUS_200, asked, frame};
use crate::support::world::HOST;
use crate::support::{Raw, World, soon};

#[tokio::test]
async fn request_goes_on_another_connection_where_the_upstream_takes_no_more_for_now() {
    // Ones that go on, and ones that end: the first says how many it takes before it replies, or with its reply.
    for (at_once, takes, ends) in [(true, 1, false), (false, 1, false), (false, 0, true)] {
        let script = move |mut raw: Raw, number| async move {
            let says = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, takes]);
            assert_eq!(raw.exactly(PREFACE.len()).await, PREFACE);
            raw.send(if at_once { says.clone() } else { frame(SETTINGS, 0, 0, &[]) }).await;
            while let Some(stream) = asked(&mut raw).await {
                let flags = if ends || number > 1 { END_STREAM } else { 0 };
                let reply = [frame(HEADERS, END_HEADERS, stream, STATUS_200), frame(DATA, flags, stream, b"x")];
                raw.send([says.clone(), reply.concat()].concat()).await;
            }
        };
        let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).settings(|s| s.cores = 1);
        let world = world.start().await;
        let mut agent = world.agent().http2(HOST).await;
        let mut open = agent.send(world.get2("/")).await.expect("a reply");
        open.body_mut().frame().await.expect("a piece").expect("whole");
        let answer = soon("another reply", agent.ask(world.get2("/"))).await;
        assert_eq!((answer.status.as_u16(), answer.whole), (200, true), "{at_once} {takes}");
        assert_eq!(world.upstream.connections(), 2, "{at_once} {takes}");
    }
}
