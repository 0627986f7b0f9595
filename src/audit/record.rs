//! What a record says, and its bytes.

use std::time::Duration;

use super::link::Mac;
use crate::model::{Authority, ExchangeId, HEX_PAIRS, KeyId, Name, OrgId, Scheme, SessionId, Slot, Timestamp, TokenId};
use http::Method;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A process took up the chain.
    Start,
    /// A process laid the chain down.
    Stop,
    /// A signed head of the chain.
    Checkpoint,
    /// A key is about to be used.
    Intent,
    /// How that ended.
    Outcome,
    /// A request was refused.
    Denied,
    /// Somebody changed something.
    Admin,
    /// Somebody should look at this.
    Security,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Stop,
        Self::Checkpoint,
        Self::Intent,
        Self::Outcome,
        Self::Denied,
        Self::Admin,
        Self::Security,
    ];

    /// The word in the record and the label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Checkpoint => "checkpoint",
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Denied => "denied",
            Self::Admin => "admin",
            Self::Security => "security",
        }
    }
}

/// A key is about to be used: everything that was decided on.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the fields are those of the record, each named by its type")]
pub struct Intent<'a> {
    pub at: Timestamp,
    pub exchange: ExchangeId,
    pub session: SessionId,
    pub token: Option<TokenId>,
    pub org: OrgId,
    pub project: &'a Name,
    pub key: KeyId,
    pub key_name: &'a Name,
    pub version: u32,
    pub tool: Option<&'a Name>,
    pub method: &'a Method,
    pub scheme: Scheme,
    pub authority: &'a Authority,
    pub path: &'a str,
    pub slot: &'a Slot,
    pub policy: &'a Name,
    pub rule: &'a str,
    pub policy_digest: &'a [u8; 32],
    pub client: Option<&'a str>,
    /// Whether the key goes to its token endpoint, for an access token.
    pub mint: bool,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeWord {
    /// The reply was relayed to its end. The last piece of one that came in pieces may have been on its way still.
    Ok,
    /// The upstream failed.
    UpstreamError,
    /// The exchange was refused after all.
    Denied,
    /// It was cut: by the agent, by a revocation or by a stop.
    Aborted,
    /// We failed.
    Internal,
}

impl OutcomeWord {
    /// The word in the record and the label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::UpstreamError => "upstream_error",
            Self::Denied => "denied",
            Self::Aborted => "aborted",
            Self::Internal => "internal",
        }
    }
}

/// How an intent ended, in figures.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// When it ended.
    pub at: Timestamp,
    /// The reply's status, if there was one.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: OutcomeWord,
    /// Body bytes from the agent.
    pub bytes_in: u64,
    /// Body bytes to the agent.
    pub bytes_out: u64,
    /// From the request's head to the end.
    pub duration: Duration,
    /// How many times a key was masked in the reply.
    pub scrubbed: u32,
}

/// Where an intent names another one of its segment, in place of all that both say.
pub(super) const LIKE: &str = "like";

/// The longest text field in a record, in bytes; what is longer is cut.
const MAX_TEXT: usize = 2048;

/// Writes one record's JSON, field by field, without its MAC.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    from: usize,
}

impl<'a> Line<'a> {
    /// Begins a record.
    pub(super) fn begin(out: &'a mut Vec<u8>, seq: u64, at: Timestamp, kind: RecordKind) -> Self {
        let from = out.len();
        out.extend_from_slice(b"{\"seq\":");
        push_number(out, seq);
        out.extend_from_slice(b",\"time\":");
        push_number(out, u64::try_from(at.millis()).unwrap_or(0));
        out.extend_from_slice(b",\"kind\":\"");
        out.extend_from_slice(kind.as_str().as_bytes());
        out.push(b'"');
        Self { out, from }
    }

    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(self.out, value);
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        push_text(self.out, value);
    }

    /// A text that is known to have no character that JSON escapes, such as a name.
    pub(super) fn word(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    pub(super) fn authority(&mut self, key: &str, authority: &Authority) {
        self.key(key);
        self.out.push(b'"');
        authority.push(self.out);
        self.out.push(b'"');
    }

    /// An identifier by its digits.
    pub(super) fn id(&mut self, key: &str, value: &[u8; 36]) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    pub(super) fn hex(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        push_hex(self.out, value);
        self.out.push(b'"');
    }

    pub(super) fn texts(&mut self, key: &str, values: &[String]) {
        self.key(key);
        self.out.push(b'[');
        for (n, value) in values.iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            push_text(self.out, value);
        }
        self.out.push(b']');
    }

    /// Adds the signature over everything of the record so far.
    pub(super) fn sign<S: AsRef<[u8]>>(&mut self, sign: impl FnOnce(&[u8]) -> S) {
        let signature = sign(&self.out[self.from..]);
        self.hex("signature", signature.as_ref());
    }

    pub(super) fn deed(&mut self, who: &str, action: &str, subject: &str, detail: &str) {
        self.text("principal", who);
        self.text("action", action);
        self.text("subject", subject);
        self.text("detail", detail);
    }

    pub(super) fn dropped(&mut self, count: u64) {
        self.deed("node", "records_dropped", "audit", "refusals that came while records couldn't be written");
        self.number("dropped", count);
    }

    /// An intent, who uses which key as in the record of this segment with the number `like`, if there is one.
    pub(super) fn intent(&mut self, intent: &Intent<'_>, like: Option<u64>) {
        self.out.extend_from_slice(b",\"exchange\":\"");
        self.out.extend_from_slice(&intent.exchange.digits());
        self.out.push(b'"');
        self.out.extend_from_slice(b",\"path\":");
        push_text(self.out, intent.path);
        if let Some(client) = intent.client {
            self.out.extend_from_slice(b",\"client\":");
            push_text(self.out, client);
        }
        if intent.mint {
            self.out.extend_from_slice(b",\"mint\":true");
        }
        match like {
            Some(number) => {
                self.out.extend_from_slice(b",\"like\":");
                push_number(self.out, number);
            }
            None => self.usage(intent),
        }
    }

    /// Who uses which key under which rule.
    fn usage(&mut self, intent: &Intent<'_>) {
        self.id("session", &intent.session.digits());
        if let Some(token) = intent.token {
            self.id("token", &token.digits());
        }
        self.id("org", &intent.org.digits());
        self.word("project", intent.project.as_str());
        self.id("keyId", &intent.key.digits());
        self.word("key", intent.key_name.as_str());
        self.number("version", intent.version.into());
        if let Some(tool) = intent.tool {
            self.word("tool", tool.as_str());
        }
        self.word("method", intent.method.as_str());
        self.word("scheme", intent.scheme.as_str());
        self.authority("authority", intent.authority);
        self.text("slot", &intent.slot.to_string());
        self.word("policy", intent.policy.as_str());
        self.text("rule", intent.rule);
        self.hex("policies", &intent.policy_digest[..8]);
    }

    /// The outcome of the intent with the number `of`.
    pub(super) fn outcome(&mut self, of: u64, o: &Outcome) {
        self.out.extend_from_slice(b",\"intent\":");
        push_number(self.out, of);
        self.word("outcome", o.outcome.as_str());
        if let Some(status) = o.status {
            self.number("status", status.into());
        }
        self.out.extend_from_slice(b",\"bytesIn\":");
        push_number(self.out, o.bytes_in);
        self.out.extend_from_slice(b",\"bytesOut\":");
        push_number(self.out, o.bytes_out);
        self.out.extend_from_slice(b",\"durationMicros\":");
        push_number(self.out, u64::try_from(o.duration.as_micros()).unwrap_or(u64::MAX));
        if o.scrubbed > 0 {
            self.number("scrubbed", o.scrubbed.into());
        }
    }
}

/// Takes the MAC's digits between what stands around them. Every record ends so.
pub(super) fn push_mac(out: &mut Vec<u8>, mac: &Mac) {
    const BEFORE: &[u8; 8] = b",\"mac\":\"";
    const BEHIND: &[u8; 3] = b"\"}\n";
    const DIGITS: usize = 2 * size_of::<Mac>();
    let mut end = [0; BEFORE.len() + DIGITS + BEHIND.len()];
    let (before, rest) = end.split_at_mut(BEFORE.len());
    let (hex, behind) = rest.split_at_mut(DIGITS);
    before.copy_from_slice(BEFORE);
    for (pair, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(mac) {
        *pair = HEX_PAIRS[usize::from(*byte)];
    }
    behind.copy_from_slice(BEHIND);
    out.extend_from_slice(&end);
}

fn push_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn push_hex(out: &mut Vec<u8>, value: &[u8]) {
    let from = out.len();
    out.resize(from + value.len() * 2, 0);
    for (pair, byte) in out[from..].chunks_exact_mut(2).zip(value) {
        pair.copy_from_slice(&HEX_PAIRS[usize::from(*byte)]);
    }
}

/// Whether a character acts on a terminal or on the order of the text around it: control characters,
/// C1 controls among them, line separators, and Unicode's invisible and bidirectional marks.
#[must_use]
pub fn acts_on_display(c: char) -> bool {
    let marks = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || marks
}

/// Whether a byte stands in a JSON string as it is, alone and on any display.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// A JSON string (RFC 8259 section 7). What acts on a display is escaped, so that a record shown in a
/// terminal can't move its cursor.
fn push_text(out: &mut Vec<u8>, value: &str) {
    if value.len() <= MAX_TEXT && value.bytes().all(|b| PLAIN[usize::from(b)]) {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
        return;
    }
    let cut = value.floor_char_boundary(MAX_TEXT.min(value.len()));
    out.push(b'"');
    for c in value[..cut].chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if acts_on_display(c) => {
                out.extend_from_slice(b"\\u");
                // All of them are below U+10000.
                push_hex(out, &u16::try_from(u32::from(c)).unwrap_or(0xfffd).to_be_bytes());
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_wherever_a_terminal_or_json_needs_it() {
        for (text, json) in [
            ("/v1/charges?x=~", r#""/v1/charges?x=~""#),
            ("", r#""""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("a\nb\u{7f}\u{9b}", r#""a\u000ab\u007f\u009b""#),
            ("\u{e9}", "\"\u{e9}\""),
        ] {
            let mut out = Vec::new();
            push_text(&mut out, text);
            assert_eq!(String::from_utf8_lossy(&out), json, "{text:?}");
        }
    }
}
