//! 1. The agent never sees a key: nor can it find out a short one by what is held back of an echo.

use std::collections::VecDeque;
use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::Incoming;

use crate::support::upstream::Streamed;
use crate::support::websocket::{FIN, TEXT};
use crate::support::world::HOST;
use crate::support::{Reply, World, emitted, soon};
use crate::{upgrades, websocket};

/// A key of eight bytes and one of eleven: the shortest there may be, and the longest that are called short.
const SHORT: [&str; 2] = ["hU7-q2Zk", "pass Wo4d.X"];

/// What goes before a guess.
const FILLING: &str = "filling that can't begin a key, and long enough that some of it comes at once: ........ <";

/// What an agent would have echoed that took this for the key: its front, as often as there are ways to
/// write it.
fn fronts(key: &str) -> Vec<String> {
    let mut all: Vec<String> = (1..key.len()).map(|len| key[..len].to_owned()).collect();
    all.extend([key[..4].to_uppercase(), key[..4].to_lowercase()]);
    all.extend([hex::encode(key), hex::encode_upper(key)].map(|text| text[..6].to_owned()));
    all.push(key.bytes().take(4).map(|byte| format!("%{byte:02x}")).collect());
    all.push(key.bytes().take(5).map(|byte| format!("\\u{byte:04x}")).collect());
    all.push(key.bytes().take(6).map(|byte| format!("&#{byte:03};")).collect());
    for shift in 0..3 {
        let text = BASE64.encode([&[0; 2][..shift], key.as_bytes()].concat());
        all.push(text[shift..shift + 7].to_owned());
    }
    all
}

/// The same for a key that differs in every byte.
fn wrong_fronts(key: &str) -> Vec<String> {
    let other = key.chars().map(|c| match c {
        'z' | 'Z' | '9' | '-' | ' ' | '.' => '_',
        c => char::from(c as u8 + 1),
    });
    fronts(&other.collect::<String>())
}

/// Sends back each piece as it comes, in this coding.
async fn echo(request: Request<Incoming>, gzip: bool) -> Response<Streamed> {
    let (mut send, body) = Channel::<Bytes, io::Error>::new(1);
    let mut from = request.into_body();
    tokio::spawn(async move {
        let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        while let Some(Ok(frame)) = from.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            let data = if gzip {
                coder.write_all(&data).and_then(|()| coder.flush()).expect("coded");
                std::mem::take(coder.get_mut()).into()
            } else {
                data
            };
            if send.send_data(data).await.is_err() {
                return;
            }
        }
        if gzip {
            let _ = send.send_data(coder.finish().expect("coded").into()).await;
        }
    });
    let response = Response::builder();
    let response = if gzip { response.header("content-encoding", "gzip") } else { response };
    response.body(body.boxed_unsync()).expect("an answer")
}

/// How much of the guess comes back before anything is sent behind it.
async fn comes_at_once(world: &World, http2: bool, guess: &str) -> usize {
    let (mut send, body) = Channel::<Bytes>::new(1);
    let mut sender = if http2 { world.agent().http2(HOST).await } else { world.agent().http1(HOST).await };
    let text = format!("{FILLING}{guess}");
    let (reply, _) = tokio::join!(sender.send(world.post(http2, body)), send.send_data(text.clone().into()));
    let mut back = reply.expect("an answer").into_body();
    let mut all =
        soon("a piece", back.frame()).await.expect("more").expect("whole").into_data().expect("data").to_vec();
    let at_once = all.len();
    send.send_data("> and more".into()).await.expect("sent");
    drop(send);
    all.extend_from_slice(&soon("the rest", back.collect()).await.expect("whole").to_bytes());
    assert_eq!(String::from_utf8_lossy(&all), format!("{text}> and more"), "nothing is lost");
    at_once
}

#[tokio::test]
async fn what_is_held_back_of_a_reply_does_not_tell_the_front_of_a_short_key() {
    for key in SHORT {
        for (http2, protocol, gzip) in [
            (false, "http/1.1", false),
            (false, "h2", false),
            (true, "http/1.1", false),
            (true, "h2", false),
            (false, "http/1.1", true),
            (true, "h2", true),
        ] {
            let build = World::build().secret(key).upstream(|u| u.alpn = vec![protocol]);
            let world = build.streaming(move |request| echo(request, gzip)).start().await;
            for (right, wrong) in fronts(key).into_iter().zip(wrong_fronts(key)) {
                assert_eq!(right.len(), wrong.len());
                let seen = (comes_at_once(&world, http2, &right).await, comes_at_once(&world, http2, &wrong).await);
                assert_eq!(seen.0, seen.1, "{http2} {protocol} {gzip}: {right} can be told from {wrong}");
            }
            world.nothing_leaked(&[]).await;
        }
    }
}

#[tokio::test]
async fn what_is_held_back_of_a_fragment_does_not_tell_the_front_of_a_short_key() {
    for key in SHORT {
        let (build, mut accepted) = websocket::build("");
        let world = build.secret(key).start().await;
        let (mut agent, mut upstream) = websocket::pair(&world, &mut accepted).await;
        for (right, wrong) in fronts(key).into_iter().zip(wrong_fronts(key)) {
            let mut seen = VecDeque::new();
            for guess in [&right, &wrong] {
                upstream.send(TEXT & !FIN, format!("{FILLING}{guess}")).await;
                let (_, begun) = agent.frame_back().await.expect("a frame");
                upstream.send(FIN, "> and more").await;
                let (_, rest) = agent.frame_back().await.expect("a frame");
                let all = [&begun[..], &rest].concat();
                assert_eq!(String::from_utf8_lossy(&all), format!("{FILLING}{guess}> and more"));
                seen.push_back(begun.len());
            }
            assert_eq!(seen[0], seen[1], "{right} can be told from {wrong}");
        }
        // A message that ends with what begins like the key ends at once.
        upstream.send(TEXT, &key[..6]).await;
        assert_eq!(agent.text().await, &key[..6]);
        world.nothing_leaked(&[]).await;
    }
}

#[tokio::test]
async fn what_is_held_back_of_a_carried_stream_does_not_tell_the_front_of_a_short_key() {
    for key in SHORT {
        let (build, mut switched) = upgrades::build();
        let world = build.secret(key).start().await;
        let mut agent = upgrades::ask(&world, "/containers/x/attach", "tcp").await;
        assert!(agent.head().await.starts_with("HTTP/1.1 101 "));
        let (_, mut upstream) = soon("the upstream is asked", switched.recv()).await.expect("asked");
        upstream.send("\n").await;
        assert_eq!(agent.exactly(6).await, b"hello\n");
        for (right, wrong) in fronts(key).into_iter().zip(wrong_fronts(key)) {
            let mut seen = VecDeque::new();
            for guess in [&right, &wrong] {
                let all = format!("{FILLING}{guess}> and more\n");
                upstream.send(format!("{FILLING}{guess}")).await;
                let begun = agent.some().await;
                upstream.send("> and more\n").await;
                let rest = agent.exactly(all.len() - begun.len()).await;
                assert_eq!(String::from_utf8_lossy(&[&begun[..], &rest].concat()), all);
                seen.push_back(begun.len());
            }
            assert_eq!(seen[0], seen[1], "{right} can be told from {wrong}");
        }
        world.nothing_leaked(&[]).await;
    }
}

#[tokio::test]
async fn short_key_is_masked_wherever_a_reply_is_cut_and_lines_come_as_they_are_sent() {
    for key in SHORT {
        let (send, reply) = Reply::live();
        let reply = std::sync::Mutex::new(Some(reply.with("content-type", "text/event-stream")));
        let once = move |_: &crate::support::Received| reply.lock().expect("not poisoned").take().expect("one request");
        let world = World::build().secret(key).answer(once).start().await;
        let request = world.get("/");
        let mut back = world.agent().http1(HOST).await.send(request).await.expect("an answer").into_body();
        let mut all = Vec::new();
        for cut in 0..=key.len() {
            // The next event is sent only when this one has arrived.
            for piece in [format!("data: {}", &key[..cut]), format!("{} {key}\n\n", &key[cut..])] {
                send.send(piece.into()).await.expect("sent");
            }
            while !all.ends_with(b"\n\n") {
                let piece = soon("an event", back.frame()).await.expect("more").expect("whole");
                all.extend_from_slice(&piece.into_data().expect("data"));
            }
            let mask = "*".repeat(key.len());
            assert_eq!(String::from_utf8_lossy(&std::mem::take(&mut all)), format!("data: {mask} {mask}\n\n"));
        }
        drop(send);
        assert_eq!(emitted::find(&back.collect().await.expect("whole").to_bytes(), key), None);
    }
}
