//! permessage-deflate (RFC 7692): what is agreed on, and inflating the messages of one side.
//!
//! Nothing is ever compressed here. A side may send any message uncompressed, so what was inflated to be
//! looked at goes on as it is, and what isn't looked at goes on compressed as it came.

use flate2::{Decompress, FlushDecompress, Status};

use super::frame::Violation;

/// The name under which it is negotiated.
const NAME: &str = "permessage-deflate";

/// What agent and upstream agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreed {
    /// Each message of the upstream is compressed by itself.
    pub server_alone: bool,
    /// Each message of the agent is compressed by itself.
    pub client_alone: bool,
}

/// The offers in a `Sec-WebSocket-Extensions` field that may be passed on: those of permessage-deflate,
/// as they were written. What could not be understood later isn't offered (RFC 6455 section 9.1).
pub fn offers(field: &str) -> Vec<&str> {
    let known = |offer: &&str| parameters(offer).is_some_and(|mut all| all.all(|(name, _)| is_parameter(name)));
    split(field, ',').map(str::trim).filter(known).collect()
}

/// Reads what the upstream accepted; `None` if it is nothing that these offers allow.
pub fn accepted(field: &str, offers: &[&str]) -> Option<Agreed> {
    let mut agreed = Agreed::default();
    let mut seen = Vec::new();
    let (mut client_window, mut server_window) = (None, None);
    for (name, value) in parameters(field.trim())? {
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            ("server_no_context_takeover", None) => agreed.server_alone = true,
            ("client_no_context_takeover", None) => agreed.client_alone = true,
            ("server_max_window_bits", Some(bits)) => server_window = Some(window(bits)?),
            ("client_max_window_bits", Some(bits)) => client_window = Some(window(bits)?),
            _ => return None,
        }
    }
    let fits = |offer: &&str| {
        let Some(mut offered) = parameters(offer) else { return false };
        let mut asks = |name: &str| offered.find(|(n, _)| *n == name).map(|(_, value)| value);
        // An offer that asks for a bound is only accepted with it (RFC 7692 sections 7.1.1 and 7.1.2).
        (client_window.is_none() || asks("client_max_window_bits").is_some())
            && (agreed.server_alone || !has(offer, "server_no_context_takeover"))
            && bound(offer).is_none_or(|most| server_window.is_some_and(|bits| bits <= most))
    };
    offers.iter().any(fits).then_some(agreed)
}

fn has(offer: &str, wanted: &str) -> bool {
    parameters(offer).is_some_and(|mut all| all.any(|(name, _)| name == wanted))
}

/// The largest window that the offer lets the server use.
fn bound(offer: &str) -> Option<u8> {
    parameters(offer)?.find(|(name, _)| *name == "server_max_window_bits").and_then(|(_, bits)| window(bits?))
}

fn is_parameter(name: &str) -> bool {
    let names = [
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
    ];
    names.contains(&name)
}

fn window(bits: &str) -> Option<u8> {
    bits.parse().ok().filter(|bits| (8..=15).contains(bits))
}

/// The parameters of one extension, if it is permessage-deflate.
fn parameters(extension: &str) -> Option<impl Iterator<Item = (&str, Option<&str>)>> {
    let mut parts = split(extension, ';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(NAME) {
        return None;
    }
    Some(parts.map(|part| match part.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
        None => (part, None),
    }))
}

/// Splits where the separator stands outside of quotes.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == at && !quoted
    })
}

/// Inflates the messages of one side.
pub struct Inflate {
    state: Decompress,
    alone: bool,
}

/// What ends each compressed message and isn't sent (RFC 7692 section 7.2.1).
pub const TAIL: &[u8] = &[0x00, 0x00, 0xff, 0xff];

/// How far a step of inflating came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How many bytes were taken.
    pub read: usize,
    /// How many bytes came out.
    pub written: usize,
    /// Whether all was taken and nothing more comes out.
    pub done: bool,
}

impl Inflate {
    /// For a side whose messages are compressed each by itself, or with those before in mind.
    #[must_use]
    pub fn new(alone: bool) -> Self {
        Self { state: Decompress::new(false), alone }
    }

    /// Inflates the next bytes of a message, or its [`TAIL`], into `room`.
    ///
    /// # Errors
    /// They are no compressed data.
    pub fn step(&mut self, data: &[u8], room: &mut [u8]) -> Result<Step, Violation> {
        let broken = || Violation::invalid("a compressed message can't be inflated");
        let before = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(data, room, FlushDecompress::None).map_err(|_| broken())?;
        let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let read = moved(self.state.total_in(), before.0);
        let written = moved(self.state.total_out(), before.1);
        match status {
            // A final block ends the stream, and another one may follow (RFC 7692 section 7.2.3.4).
            Status::StreamEnd => self.state.reset(false),
            _ if read == 0 && written == 0 && !data.is_empty() => return Err(broken()),
            _ => {}
        }
        Ok(Step { read, written, done: read == data.len() && written < room.len() })
    }

    /// The message is over, its [`TAIL`] was taken.
    pub fn finish(&mut self) {
        if self.alone {
            self.state.reset(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    fn inflate(inflate: &mut Inflate, pieces: &[&[u8]]) -> Result<Vec<u8>, Violation> {
        let mut out = Vec::new();
        let mut room = [0; 100];
        for mut piece in pieces.iter().copied().chain([TAIL]) {
            loop {
                let step = inflate.step(piece, &mut room)?;
                out.extend_from_slice(&room[..step.written]);
                piece = &piece[step.read..];
                if step.done {
                    break;
                }
            }
        }
        inflate.finish();
        Ok(out)
    }

    /// RFC 7692 section 7.2.3.
    #[test]
    fn examples_of_the_rfc_inflate_to_what_stands_there() {
        let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        for pieces in [
            vec![&hello[..]],
            vec![&hello[..3], &hello[3..]],
            vec![b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"],
            vec![b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"],
            vec![b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"],
        ] {
            assert_eq!(inflate(&mut Inflate::new(false), &pieces).expect("inflates"), b"Hello", "{pieces:?}");
        }
        let mut shared = Inflate::new(false);
        assert_eq!(inflate(&mut shared, &[hello]).expect("inflates"), b"Hello");
        assert_eq!(inflate(&mut shared, &[b"\xf2\x00\x11\x00\x00"]).expect("inflates"), b"Hello");
        let mut alone = Inflate::new(true);
        for _ in 0..3 {
            assert_eq!(inflate(&mut alone, &[hello]).expect("inflates"), b"Hello");
        }
    }

    #[test]
    fn large_messages_inflate_wherever_they_are_cut() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let mut compress = Compress::new(Compression::fast(), false);
        let mut coded = Vec::with_capacity(text.len() * 2 + 100);
        compress.compress_vec(&text, &mut coded, FlushCompress::Sync).expect("compresses");
        let coded = coded.strip_suffix(TAIL).expect("flushed");
        for size in [1, 7, 1000, coded.len()] {
            let pieces: Vec<&[u8]> = coded.chunks(size).collect();
            assert!(inflate(&mut Inflate::new(false), &pieces).expect("inflates") == text, "by {size}");
        }
    }

    #[test]
    fn what_is_no_compressed_message_is_refused() {
        assert_eq!(
            inflate(&mut Inflate::new(false), &[b"\xff\xff\xff\xff"]),
            Err(Violation::invalid("a compressed message can't be inflated"))
        );
    }

    #[test]
    fn only_what_is_understood_is_offered_on() {
        for (field, passed) in [
            ("permessage-deflate; client_max_window_bits", vec!["permessage-deflate; client_max_window_bits"]),
            ("x-webkit-deflate-frame, permessage-deflate", vec!["permessage-deflate"]),
            ("permessage-bzip2", vec![]),
            ("permessage-deflate; surprise", vec![]),
            ("foo; a=\"b, permessage-deflate\"", vec![]),
            (
                "permessage-deflate; server_max_window_bits=10, permessage-deflate",
                vec!["permessage-deflate; server_max_window_bits=10", "permessage-deflate"],
            ),
        ] {
            assert_eq!(offers(field), passed, "{field}");
        }
    }

    #[test]
    fn only_what_was_offered_can_be_accepted() {
        let plain = Agreed::default();
        let offered = ["permessage-deflate; client_max_window_bits"];
        let strict = ["permessage-deflate; server_no_context_takeover; server_max_window_bits=10"];
        for (answer, offers, agreed) in [
            ("permessage-deflate", &offered[..], Some(plain)),
            ("permessage-deflate; client_max_window_bits=12", &offered, Some(plain)),
            ("permessage-deflate; client_max_window_bits=12", &["permessage-deflate"], None),
            ("permessage-deflate; server_max_window_bits=\"9\"", &offered, Some(plain)),
            ("permessage-deflate; server_max_window_bits=16", &offered, None),
            ("permessage-deflate; server_max_window_bits", &offered, None),
            (
                "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
                &offered,
                Some(Agreed { server_alone: true, client_alone: true }),
            ),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", &offered, None),
            ("permessage-deflate", &strict, None),
            (
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
                &strict,
                Some(Agreed { server_alone: true, client_alone: false }),
            ),
            ("permessage-deflate", &[], None),
            ("permessage-deflate, permessage-deflate", &offered, None),
            ("permessage-bzip2", &offered, None),
        ] {
            assert_eq!(accepted(answer, offers), agreed, "{answer} for {offers:?}");
        }
    }
}
