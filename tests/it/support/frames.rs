//! HTTP/2 frames by hand (RFC 9113 section 4), to say what no library would.

use super::raw::Raw;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// A frame as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// A frame to send.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Fields as literals without indexing (RFC 7541 section 6.2.2), bytes as they are.
pub fn fields(all: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in all {
        out.push(0);
        for text in [name, value] {
            length(&mut out, text.len());
            out.extend(*text);
        }
    }
    out
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(out: &mut Vec<u8>, len: usize) {
    if len < 127 {
        return out.push(len as u8);
    }
    out.push(127);
    let mut rest = len - 127;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// The fields of a GET for `path` at `host`, and these beside them.
pub fn request<'a>(host: &'a str, path: &'a str, more: &[(&'a [u8], &'a [u8])]) -> Vec<u8> {
    asking(b"GET", host, path, more)
}

/// The same of a POST.
pub fn post<'a>(host: &'a str, path: &'a str, more: &[(&'a [u8], &'a [u8])]) -> Vec<u8> {
    asking(b"POST", host, path, more)
}

fn asking<'a>(method: &'a [u8], host: &'a str, path: &'a str, more: &[(&'a [u8], &'a [u8])]) -> Vec<u8> {
    let mut all: Vec<(&[u8], &[u8])> = vec![
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", host.as_bytes()),
        (b":path", path.as_bytes()),
    ];
    all.extend(more);
    fields(&all)
}

/// The preface and empty settings.
pub async fn open(raw: &mut Raw) {
    raw.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
}

/// The next frame; `None` at the end of the connection.
pub async fn next(raw: &mut Raw) -> Option<Frame> {
    let head = raw.exactly(9).await;
    if head.len() < 9 {
        return None;
    }
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let payload = raw.exactly(len).await;
    Some(Frame { kind: head[3], flags: head[4], stream, payload })
}

/// The next frame that `fits`; `None` if the connection ends before it.
pub async fn until(raw: &mut Raw, fits: impl Fn(&Frame) -> bool) -> Option<Frame> {
    loop {
        match next(raw).await {
            Some(frame) if fits(&frame) => return Some(frame),
            Some(_) => {}
            None => return None,
        }
    }
}

/// The block of a reply's head with nothing but `:status: 200` (RFC 7541, appendix A).
pub const STATUS_200: &[u8] = &[0x88];

/// An interim reply: a literal `:status` with the name's index (RFC 7541 section 6.2.2), and a field.
pub fn hint(status: &[u8; 3], stream: u32) -> Vec<u8> {
    let block = [&[0x08, 3][..], status, &fields(&[(b"link", b"</x>")])].concat();
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Serves as an upstream: past the preface, and with empty settings said.
pub async fn accept(raw: &mut Raw) {
    assert_eq!(raw.exactly(PREFACE.len()).await, PREFACE);
    raw.send(frame(SETTINGS, 0, 0, &[])).await;
}

/// The stream of the next request.
pub async fn asked(raw: &mut Raw) -> Option<u32> {
    until(raw, |f| f.kind == HEADERS).await.map(|f| f.stream)
}

/// The error codes of RFC 9113 section 7 that tests name.
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A stream's reset.
pub fn reset(stream: u32, error: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &error.to_be_bytes())
}

/// Says that no stream beyond the last is served.
pub fn go_away(last: u32, error: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), error.to_be_bytes()].concat())
}
