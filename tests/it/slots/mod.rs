//! Every slot: the key arrives in it, the rest arrives as it was sent, and a token anywhere else is
//! worth nothing.

mod body;
mod head;
mod misplaced;
mod refused_bodies;

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::model::{Cleartext, Destination, Environment, HostPattern, ProxyToken, Secret, TokenShape};

use crate::support::world::HOST;
use crate::support::{Answer, World};

/// What an agent sends: a method, a path, header fields and a body.
pub struct Sent<'a> {
    method: &'a str,
    path: String,
    fields: Vec<(&'a str, String)>,
    body: Bytes,
}

/// A GET.
pub fn get<'a>(path: impl Into<String>) -> Sent<'a> {
    Sent { method: "GET", path: path.into(), fields: Vec::new(), body: Bytes::new() }
}

/// A POST with a body of this type.
pub fn post<'a>(path: &str, kind: &'a str, body: impl Into<Bytes>) -> Sent<'a> {
    let fields = vec![("content-type", kind.to_owned())];
    Sent { method: "POST", path: path.to_owned(), fields, body: body.into() }
}

impl<'a> Sent<'a> {
    pub fn field(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    pub async fn to(&self, world: &World, http2: bool) -> Answer {
        self.through(&world.agent(), http2).await
    }

    pub async fn through(&self, agent: &crate::support::Agent, http2: bool) -> Answer {
        let request = Request::builder().method(self.method);
        let mut request = match http2 {
            true => request.uri(format!("https://{HOST}{}", self.path)),
            false => request.uri(&self.path).header("host", HOST),
        };
        for (name, value) in &self.fields {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(self.body.clone())).expect("a request");
        let mut sender = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
        sender.ask(request).await
    }
}

/// Percent-encoded, as everything but unreserved characters is (RFC 3986 section 2.3).
pub fn percent(text: &str) -> String {
    let unit = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(unit).collect()
}

/// Stores another key for the same host and buys a session for it and for those; a token of each, in
/// order.
pub fn with_another(world: &World, slots: &[&str], secret: &str) -> Vec<ProxyToken> {
    let destination = Destination {
        hosts: vec![HostPattern::parse(HOST).expect("a host")],
        slots: slots.iter().map(|s| s.parse().expect("a slot")).collect(),
        cleartext: Cleartext::Never,
    };
    let (name, custom) = ("another_key".parse().expect("a name"), "custom".parse().expect("a name"));
    let secret = Secret::new(secret.as_bytes().to_vec());
    let other = world
        .node
        .add_key(&name, &custom, Environment::Development, destination, TokenShape::default(), &secret)
        .expect("a key");
    let keys = [world.key.clone(), other];
    let hour = Duration::from_secs(3600);
    let started = world.node.start_session(None, Environment::Development, &keys, hour).expect("a session");
    keys.iter().map(|key| world.node.mint(&started, key).expect("a token").1).collect()
}
