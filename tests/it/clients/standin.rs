//! Stands in for every service that the clients call. Each answer repeats the key that came, as careless
//! services do; a stream says its next word when the test lets it.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::support::{Received, Reply};

/// The key in a request, wherever its service has it.
pub fn key_of(received: &Received) -> String {
    use base64::Engine as _;
    let bare = ["x-api-key", "x-goog-api-key"].map(|name| received.header(name));
    if let Some(key) = bare.into_iter().find(|key| !key.is_empty()) {
        return key.to_owned();
    }
    let (scheme, value) = received.header("authorization").split_once(' ').unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("basic") {
        return value.to_owned();
    }
    let pair = base64::engine::general_purpose::STANDARD.decode(value).expect("base64");
    let pair = String::from_utf8(pair).expect("text");
    let (user, password) = pair.split_once(':').expect("a pair");
    if password.is_empty() { user.to_owned() } else { password.to_owned() }
}

/// The stream that is asked for, and the reply that carries it.
pub fn stream(received: &Received) -> Option<(Stream, Reply)> {
    let body = String::from_utf8_lossy(&received.body).replace(' ', "");
    let (path, query) = path_and_query(received);
    if !body.contains("\"stream\":true") && !path.ends_with(":streamGenerateContent") && query != "stream" {
        return None;
    }
    let dialect = match path {
        "/v1/messages" => Dialect::Anthropic,
        _ if path.ends_with(":streamGenerateContent") => Dialect::Gemini,
        _ => Dialect::OpenAi,
    };
    let (send, reply) = Reply::live();
    Some((Stream { dialect, key: key_of(received), send }, reply.with("content-type", "text/event-stream")))
}

fn path_and_query(received: &Received) -> (&str, &str) {
    received.path.split_once('?').unwrap_or((&received.path, ""))
}

/// What the services answer to everything else.
pub fn answer(received: &Received) -> Reply {
    let json = |value: serde_json::Value| Reply::text(value.to_string()).with("content-type", "application/json");
    let text = format!("hello {}", key_of(received));
    let (path, _) = path_and_query(received);
    match path {
        "/v1/chat/completions" => json(serde_json::json!({
            "id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text } }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
        })),
        "/v1/models" => json(serde_json::json!({ "object": "list", "data": [], "seen": text })),
        "/v1/messages" => json(serde_json::json!({
            "id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
            "stop_sequence": null, "content": [{ "type": "text", "text": text }],
            "usage": { "input_tokens": 1, "output_tokens": 1 },
        })),
        "/v1/charges" => json(serde_json::json!({ "id": "ch_1", "object": "charge", "description": text })),
        "/user" => json(serde_json::json!({ "login": text, "id": 1, "url": "https://api.github.com/users/u" })),
        _ if path.ends_with(":generateContent") => json(candidate(&text, true)),
        _ => json(serde_json::json!({ "error": { "message": "not found" } })).status(404),
    }
}

/// What Gemini says.
fn candidate(text: &str, last: bool) -> serde_json::Value {
    let mut candidate = serde_json::json!({ "content": { "role": "model", "parts": [{ "text": text }] }, "index": 0 });
    if last {
        candidate["finishReason"] = "STOP".into();
    }
    serde_json::json!({ "candidates": [candidate], "modelVersion": "m" })
}

enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

/// A reply that says what the test lets it say, when it does.
pub struct Stream {
    dialect: Dialect,
    key: String,
    send: mpsc::Sender<Bytes>,
}

impl Stream {
    pub async fn begin(&self) {
        if matches!(self.dialect, Dialect::Anthropic) {
            let message = serde_json::json!({
                "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": null,
                "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 },
            });
            self.event("message_start", serde_json::json!({ "message": message })).await;
            let block = serde_json::json!({ "index": 0, "content_block": { "type": "text", "text": "" } });
            self.event("content_block_start", block).await;
        }
    }

    /// Says this, and repeats the key that came.
    pub async fn say(&self, word: &str) {
        let text = format!("{word} {}", self.key);
        match self.dialect {
            Dialect::OpenAi => self.chunk(serde_json::json!({ "content": text }), None).await,
            Dialect::Gemini => self.write(format!("data: {}\r\n\r\n", candidate(&text, false))).await,
            Dialect::Anthropic => {
                let delta = serde_json::json!({ "index": 0, "delta": { "type": "text_delta", "text": text } });
                self.event("content_block_delta", delta).await;
            }
        }
    }

    pub async fn end(self) {
        match self.dialect {
            Dialect::OpenAi => {
                self.chunk(serde_json::json!({}), Some("stop")).await;
                self.write("data: [DONE]\n\n".to_owned()).await;
            }
            Dialect::Gemini => self.write(format!("data: {}\r\n\r\n", candidate("", true))).await,
            Dialect::Anthropic => {
                self.event("content_block_stop", serde_json::json!({ "index": 0 })).await;
                let delta = serde_json::json!({
                    "delta": { "stop_reason": "end_turn", "stop_sequence": null }, "usage": { "output_tokens": 1 },
                });
                self.event("message_delta", delta).await;
                self.event("message_stop", serde_json::json!({})).await;
            }
        }
    }

    /// A chunk as OpenAI has it.
    async fn chunk(&self, delta: serde_json::Value, ends: Option<&str>) {
        let chunk = serde_json::json!({
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": ends }],
        });
        self.write(format!("data: {chunk}\n\n")).await;
    }

    /// An event as Anthropic has it.
    async fn event(&self, name: &str, mut event: serde_json::Value) {
        event["type"] = name.into();
        self.write(format!("event: {name}\ndata: {event}\n\n")).await;
    }

    async fn write(&self, text: String) {
        self.send.send(text.into()).await.expect("the client reads on");
    }
}
