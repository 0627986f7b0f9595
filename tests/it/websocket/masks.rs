//! What an upstream sends back of a key is masked, however it frames it.

use sallyport::model::Secret;

use super::{ask, build, pair};
use crate::support::websocket::{BINARY, CLOSE, COMPRESSED, Deflate, FIN, PING, TEXT};

fn mask(text: &str, secret: &str) -> String {
    text.replace(secret, &"*".repeat(secret.len()))
}

#[tokio::test]
async fn secret_in_any_frame_is_masked_in_its_length() {
    let (build, mut accepted) = build("");
    let world = build.start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    let text = format!("before {} after", world.secret);
    let masked = mask(&text, &world.secret).into_bytes();
    for first in [TEXT, BINARY, PING, 0x8a] {
        upstream.send(first, &text).await;
        assert_eq!(agent.frame_back().await, Some((first, masked.clone())));
    }
    let long = format!("{}{text}{}", "x".repeat(65_000), "y".repeat(200_000));
    upstream.send(TEXT, &long).await;
    assert!(agent.message().await.expect("a message").1 == mask(&long, &world.secret).into_bytes());
    upstream.send(CLOSE, [b"\x03\xe8", text.as_bytes()].concat()).await;
    assert_eq!(agent.close_code().await, Some((1000, mask(&text, &world.secret))));
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn secret_split_over_fragments_is_masked_wherever_it_is_cut() {
    let (build, mut accepted) = build("");
    let world = build.start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    let text = format!("a{}b", world.secret);
    let masked = mask(&text, &world.secret).into_bytes();
    for kind in [TEXT, BINARY] {
        for cut in 0..=text.len() {
            upstream.send(kind & !FIN, &text[..cut]).await;
            upstream.send(PING, "between").await;
            upstream.send(FIN, &text[cut..]).await;
            assert_eq!(agent.message().await, Some((kind, masked.clone())), "cut at {cut}");
        }
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let opcode = if at == 0 { kind & !FIN } else { 0 };
            upstream.send(if at + 1 == pieces.len() { opcode | FIN } else { opcode }, piece).await;
        }
        assert_eq!(agent.message().await, Some((kind, masked.clone())), "byte by byte");
    }
    // A message that ends with the beginning of a key ends, and nothing of it is held back.
    upstream.send(TEXT, &world.secret[..12]).await;
    assert_eq!(agent.text().await, &world.secret[..12]);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn secret_in_compressed_messages_is_masked_with_and_without_context() {
    const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    for (answer, alone) in [
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", false),
        ("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n", true),
    ] {
        let (build, mut accepted) = build(answer);
        let world = build.start().await;
        let mut agent = ask(&world, DEFLATE).await;
        assert!(agent.head.to_lowercase().contains(answer.trim().to_lowercase().as_str()), "{}", agent.head);
        let mut upstream = accepted.next().await;
        let text = format!("a{0} and again {0}, {1}", world.secret, "filling ".repeat(20));
        let masked = mask(&text, &world.secret).into_bytes();
        let mut deflate = Deflate::new();
        for size in [1, 5, 10_000] {
            if alone {
                deflate = Deflate::new();
            }
            let coded = deflate.message(text.as_bytes());
            let pieces: Vec<&[u8]> = coded.chunks(size).collect();
            for (at, piece) in pieces.iter().enumerate() {
                let opcode = if at == 0 { TEXT & !FIN | COMPRESSED } else { 0 };
                upstream.send(if at + 1 == pieces.len() { opcode | FIN } else { opcode }, piece).await;
            }
            assert_eq!(agent.message().await, Some((TEXT, masked.clone())), "pieces of {size}");
            // Messages that aren't compressed pass between, and don't count as context.
            upstream.send(BINARY, &text).await;
            assert_eq!(agent.message().await, Some((BINARY, masked.clone())));
        }
        // Much comes out of little, and goes on piece by piece.
        if alone {
            deflate = Deflate::new();
        }
        let large = vec![b'z'; 4_000_000];
        let coded = deflate.message(&large);
        assert!(coded.len() < 40_000, "{}", coded.len());
        upstream.send(BINARY | COMPRESSED, &coded).await;
        let (kind, payload) = agent.message().await.expect("a message");
        assert!(kind == BINARY && payload == large, "{kind} {}", payload.len());
        // What the agent compresses goes on as it came.
        agent.send(TEXT | COMPRESSED, b"\xf2\x48\xcd\xc9\xc9\x07\x00").await;
        assert_eq!(upstream.message().await, Some((TEXT | COMPRESSED, b"\xf2\x48\xcd\xc9\xc9\x07\x00".to_vec())));
        let (bad, code) = if alone { (vec![0xff; 4], 1007) } else { (deflate.message(&vec![0; 40_000_000]), 1009) };
        upstream.send(BINARY | COMPRESSED, bad).await;
        assert_eq!(agent.close_code().await.map(|(code, _)| code), Some(1014));
        assert_eq!(upstream.close_code().await.map(|(code, _)| code), Some(code));
        world.nothing_leaked(&[]).await;
    }
}

#[tokio::test]
async fn key_that_comes_while_a_websocket_is_open_is_looked_for() {
    let (build, mut accepted) = build("");
    let world = build.start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    let fresh = "sk-live-later-0123456789abcdef";
    let secret = Secret::new(fresh.as_bytes().to_vec());
    let (key, name) = (&world.key, "later".parse().expect("a name"));
    let destination = key.destination.clone();
    world.node.add_key(&name, &key.provider, key.environment, destination, key.shape.clone(), &secret).expect("a key");
    upstream.send(TEXT, format!("{fresh} {}", world.secret)).await;
    assert_eq!(agent.text().await, mask(&mask(&format!("{fresh} {}", world.secret), fresh), &world.secret));
    world.nothing_leaked(&[]).await;
}
