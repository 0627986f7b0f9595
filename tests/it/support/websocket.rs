//! Peers of a WebSocket that send exactly the frames that a test says.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::{Compress, Compression, FlushCompress};

use super::Raw;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
/// The bit of a message's first frame that says that it is compressed.
pub const COMPRESSED: u8 = 0x40;
/// What is missing in the first byte of a frame that isn't its message's last.
pub const FIN: u8 = 0x80;

/// One end of a WebSocket.
pub struct Peer {
    pub raw: Raw,
    client: bool,
    /// The head that the other end sent.
    pub head: String,
}

pub fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

pub fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let named = |line: &'a str| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name));
    head.lines().find_map(named).map_or("", |(_, value)| value.trim())
}

impl Peer {
    /// Asks for a WebSocket, with these headers beside the usual ones.
    pub async fn ask(mut raw: Raw, host: &str, path: &str, more: &str) -> Result<Self, super::raw::RawReply> {
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        ))
        .await;
        let reply = raw.reply().await.expect("an answer");
        if reply.status != 101 {
            return Err(reply);
        }
        assert_eq!(field(&reply.head, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(field(&reply.head, "upgrade"), "websocket");
        Ok(Self { raw, client: true, head: reply.head })
    }

    /// Accepts a WebSocket, with these headers beside the usual ones.
    pub async fn accept(mut raw: Raw, more: &str) -> Self {
        let head = raw.head().await;
        let accept = accept_of(field(&head, "sec-websocket-key"));
        raw.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
        ))
        .await;
        Self { raw, client: false, head }
    }

    /// A client's end on a stream whose handshake is done.
    pub fn client(raw: Raw) -> Self {
        Self { raw, client: true, head: String::new() }
    }

    /// A server's end on a stream whose handshake is done, with the head of the client's.
    pub fn server(raw: Raw, head: String) -> Self {
        Self { raw, client: false, head }
    }

    pub async fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let frame = self.frame(first, payload.as_ref());
        self.raw.send(frame).await;
    }

    pub fn frame(&self, first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        let masked = if self.client { 0x80 } else { 0 };
        match payload.len() {
            len @ 0..126 => out.push(masked | u8::try_from(len).expect("short")),
            len @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&u16::try_from(len).expect("short").to_be_bytes());
            }
            len => {
                out.push(masked | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let key = [7, 99, 200, 1];
        if self.client {
            out.extend_from_slice(&key);
            out.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
        } else {
            out.extend_from_slice(payload);
        }
        out
    }

    /// The next frame: its first byte and its payload; `None` at the end of the connection.
    pub async fn frame_back(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.raw.exactly(2).await;
        let [first, second] = head[..] else { return None };
        assert_eq!(second & 0x80 != 0, !self.client, "only a client's frames are masked");
        let len = match second & 0x7f {
            126 => u16::from_be_bytes(self.raw.exactly(2).await.try_into().ok()?).into(),
            127 => usize::try_from(u64::from_be_bytes(self.raw.exactly(8).await.try_into().ok()?)).ok()?,
            len => len.into(),
        };
        let key = if self.client { vec![0; 4] } else { self.raw.exactly(4).await };
        let payload = self.raw.exactly(len).await;
        Some((first, payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]).collect()))
    }

    /// The next message, whole: its opcode with the bits that say how it came, and its payload.
    pub async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let (mut first, mut all) = self.frame_back().await?;
        while matches!(first, PING | PONG) {
            (first, all) = self.frame_back().await?;
        }
        while first & FIN == 0 {
            let (next, payload) = self.frame_back().await?;
            if next & 0x08 != 0 {
                continue;
            }
            assert_eq!(next & 0x7f, 0, "a continuation");
            all.extend(payload);
            first |= next & FIN;
        }
        Some((first, all))
    }

    pub async fn text(&mut self) -> String {
        let (first, payload) = self.message().await.expect("a message");
        assert_eq!(first, TEXT);
        String::from_utf8(payload).expect("text")
    }

    /// What the close frame says, skipping messages; `None` if the connection ended without one.
    pub async fn close_code(&mut self) -> Option<(u16, String)> {
        loop {
            let (first, payload) = self.frame_back().await?;
            if first == CLOSE {
                let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                return Some((code, String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned()));
            }
        }
    }
}

/// A message as permessage-deflate has it, with the messages before in mind.
pub struct Deflate(Compress);

impl Deflate {
    pub fn new() -> Self {
        Self(Compress::new(Compression::best(), false))
    }

    pub fn message(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() * 2 + 64);
        self.0.compress_vec(text, &mut out, FlushCompress::Sync).expect("compresses");
        out.strip_suffix(&[0, 0, 0xff, 0xff]).expect("flushed").to_vec()
    }
}
