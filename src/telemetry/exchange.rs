//! The one log line of an exchange.
//!
//! It is written for every exchange, so plain text takes a way of its own past the visitors of
//! tracing, a fifth of the work; JSON, colours and other subscribers get it as an event. Both read alike.

use std::cell::RefCell;

use tracing::Level;

use super::{fields, lines, time};
use crate::model::{Authority, ExchangeId, SessionId, Timestamp};

/// How loud the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Info,
    /// Refused, or cut.
    Warn,
    /// Our own fault.
    Error,
}

/// What the line says.
#[expect(missing_docs, reason = "the names are those of the log line")]
pub struct Exchange<'a> {
    pub severity: Severity,
    /// When the exchange ended.
    pub at: Timestamp,
    pub id: ExchangeId,
    pub mode: &'static str,
    pub session: Option<SessionId>,
    pub method: &'a str,
    pub authority: Option<&'a Authority>,
    pub status: u16,
    pub rule: Option<&'a str>,
    pub inert_tokens: Option<u32>,
    pub code: Option<&'static str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_ms: u64,
    pub client: Option<&'a str>,
    /// What [`Exchange::who`] gave of a line that said the same.
    pub who: Option<&'a [u8]>,
}

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What filters know the line by.
macro_rules! target {
    () => {
        "sallyport::proxy"
    };
}

impl Exchange<'_> {
    /// Writes the line, if the filter lets it pass.
    pub fn log(&self) {
        macro_rules! at {
            ($level:ident) => {
                match lines::are_plain() {
                    false => self.event(Level::$level),
                    true if tracing::enabled!(target: target!(), Level::$level) => self.put(Level::$level),
                    true => {}
                }
            };
        }
        match self.severity {
            Severity::Info => at!(INFO),
            Severity::Warn => at!(WARN),
            Severity::Error => at!(ERROR),
        }
    }

    fn put(&self, level: Level) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            time::push(line, self.at);
            line.push(b' ');
            self.push(line, level);
            line.push(b'\n');
            lines::append(line, level <= Level::WARN);
        });
    }

    /// Everything but the time and the line break. Names and quotation marks come in pieces as long
    /// as can be.
    fn push(&self, line: &mut Vec<u8>, level: Level) {
        line.extend_from_slice(match level {
            Level::ERROR => b"ERROR exchange request.id=\"",
            Level::WARN => b" WARN exchange request.id=\"",
            _ => b" INFO exchange request.id=\"",
        });
        line.extend_from_slice(&self.id.digits());
        match self.who {
            Some(who) => line.extend_from_slice(who),
            None => self.push_who(line),
        }
        line.extend_from_slice(b" http.status=");
        fields::push_number(line, self.status.into());
        if let Some(rule) = self.rule {
            line.extend_from_slice(b" policy.rule=");
            fields::push_text(line, rule);
        }
        if let Some(tokens) = self.inert_tokens {
            line.extend_from_slice(b" inert_tokens=");
            fields::push_number(line, tokens.into());
        }
        if let Some(code) = self.code {
            line.extend_from_slice(b" error.code=\"");
            line.extend_from_slice(code.as_bytes());
            line.push(b'"');
        }
        line.extend_from_slice(b" bytes_in=");
        fields::push_number(line, self.bytes_in);
        line.extend_from_slice(b" bytes_out=");
        fields::push_number(line, self.bytes_out);
        line.extend_from_slice(b" duration_ms=");
        fields::push_number(line, self.duration_ms);
        if let Some(client) = self.client {
            line.extend_from_slice(b" client=\"");
            line.extend_from_slice(client.as_bytes());
            line.push(b'"');
        }
    }

    /// What the line says from its mode to its authority: the same for many exchanges of one connection.
    pub fn who(&self) -> Vec<u8> {
        let mut who = Vec::with_capacity(160);
        self.push_who(&mut who);
        who
    }

    fn push_who(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(b"\" mode=\"");
        line.extend_from_slice(self.mode.as_bytes());
        if let Some(session) = self.session {
            line.extend_from_slice(b"\" session.id=\"");
            line.extend_from_slice(&session.digits());
        }
        line.extend_from_slice(b"\" http.method=\"");
        line.extend_from_slice(self.method.as_bytes());
        line.push(b'"');
        if let Some(authority) = self.authority {
            line.extend_from_slice(b" upstream.authority=");
            authority.push(line);
        }
    }

    fn event(&self, level: Level) {
        let (mut exchange, mut session) = ([0; 36], [0; 36]);
        let exchange: &str = self.id.text(&mut exchange);
        let session: Option<&str> = self.session.as_ref().map(|id| id.text(&mut session));
        macro_rules! at {
            ($level:ident) => {
                tracing::event!(
                    target: target!(),
                    Level::$level,
                    request.id = exchange,
                    mode = self.mode,
                    session.id = session,
                    http.method = self.method,
                    upstream.authority = self.authority.map(tracing::field::display),
                    http.status = self.status,
                    policy.rule = self.rule,
                    inert_tokens = self.inert_tokens,
                    error.code = self.code,
                    bytes_in = self.bytes_in,
                    bytes_out = self.bytes_out,
                    duration_ms = self.duration_ms,
                    client = self.client,
                    "exchange"
                )
            };
        }
        match level {
            Level::ERROR => at!(ERROR),
            Level::WARN => at!(WARN),
            _ => at!(INFO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::fields::Fields;
    use crate::telemetry::fields::tests::Kept;

    #[test]
    fn line_reads_the_same_both_ways() {
        let authority = Authority::parse("api.example.com", 443).expect("an authority");
        let full = Exchange {
            severity: Severity::Info,
            at: Timestamp(0),
            id: ExchangeId::generate(),
            mode: "forward",
            session: Some(SessionId::generate()),
            method: "GET",
            authority: Some(&authority),
            status: 200,
            rule: Some("a \"rule\" with\nall sorts"),
            inert_tokens: Some(3),
            code: None,
            bytes_in: 7,
            bytes_out: u64::MAX,
            duration_ms: 12,
            client: Some("127.0.0.1:80"),
            who: None,
        };
        let address = Authority::parse("[::1]:8443", 443).expect("an authority");
        let (session, rule, inert_tokens, client) = (None, None, None, None);
        let (code, severity, authority) = (Some("too_large"), Severity::Warn, Some(&address));
        let bare = Exchange { severity, session, rule, inert_tokens, client, code, authority, ..full };
        for (line, level) in [(full, Level::INFO), (bare, Level::WARN)] {
            let kept = Kept::default();
            let writer = kept.clone();
            let lines = tracing_subscriber::fmt().fmt_fields(Fields).compact().with_ansi(false).with_target(false);
            let lines = lines.without_time().with_writer(move || writer.clone()).finish();
            tracing::subscriber::with_default(lines, || line.event(level));
            let mut direct = Vec::new();
            line.push(&mut direct, level);
            direct.push(b'\n');
            assert_eq!(String::from_utf8_lossy(&direct), kept.text());
            let (who, mut again) = (line.who(), Vec::new());
            Exchange { who: Some(&who), ..line }.push(&mut again, level);
            assert_eq!(again, direct.strip_suffix(b"\n").unwrap_or_default());
        }
    }
}
