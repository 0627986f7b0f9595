//! One call with a key through the data path of a node: the same steps that an agent's request takes,
//! permit, record, verified TLS and scrubbed reply included.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admin::{Probed, Probing};
use crate::model::{Bounds, GrantId, ProxyToken, SessionId, SessionSecret, TokenForm, TokenId};
use crate::proxy::core::Shared;
use crate::proxy::listener::{Kind, Worker, hand};
use crate::session::records::{Grant, Session, Standing, Token};

/// The most of a reply's body that is read, in bytes: enough to tell what it says of the key.
const MOST_BODY: usize = 256 * 1024;
/// How long the call may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes such calls for as long as the node runs.
#[derive(Clone)]
pub struct Prober {
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Weak<Vec<Worker>>,
    pub(super) permits: Arc<Semaphore>,
}

impl Prober {
    /// Makes the call in a session of its own, which is over afterwards.
    ///
    /// # Errors
    /// The call can't be made at all, in words.
    pub async fn probe(self, probing: Probing) -> Result<Probed, String> {
        let now = self.shared.clock.now();
        let random = |_| "the system's random source failed".to_owned();
        let secret = SessionSecret::generate().map_err(random)?;
        let key = &probing.key;
        let session = Session {
            id: SessionId::generate(),
            org: key.org,
            project: key.project,
            environment: key.environment,
            tool: None,
            secret: secret.hash(),
            bounds: Bounds::default(),
            standing: Standing::Active,
            created_at: now,
            expires_at: now.plus(PATIENCE * 2),
        };
        let grant = Grant { id: GrantId::generate(), org: key.org, session: session.id, key: key.id, created_at: now };
        let value = ProxyToken::generate(TokenForm::Long, &key.shape).map_err(random)?;
        let token = Token {
            id: TokenId::generate(),
            org: key.org,
            session: session.id,
            grant: grant.id,
            root: None,
            hash: value.hash(),
            shape: key.shape.clone(),
            standing: Standing::Active,
            created_at: now,
            expires_at: session.expires_at,
        };
        let registry = &self.shared.registry;
        registry.put_grant(&grant);
        registry.put_session(&session);
        registry.put_token(&token);
        let pair = BASE64.encode(format!("{}:{}", session.id, secret.expose()));
        let asked = timeout(PATIENCE, self.ask(&probing, value.expose(), &format!("Basic {pair}"))).await;
        let over = Standing::Revoked { at: self.shared.clock.now(), by: "validate".to_owned() };
        self.shared.registry.put_session(&Session { standing: over, ..session });
        asked.unwrap_or_else(|_| Err(format!("there was no answer within {} seconds", PATIENCE.as_secs())))
    }

    async fn ask(&self, probing: &Probing, token: &str, credentials: &str) -> Result<Probed, String> {
        let slots = &probing.key.destination.slots;
        let built = slots.iter().find_map(|slot| probing.check.request(&probing.base, slot, token));
        let mut request = built.ok_or("the call can't be made with the key's slots")?.map(Full::<Bytes>::new);
        let value = credentials.parse().map_err(|_| "the session's credentials can't be sent")?;
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
        let stream = self.connection().await.map_err(|why| why.to_string())?;
        let failed = |why: hyper::Error| why.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(failed)?;
        let (parts, body) = response.into_parts();
        let refusal = parts.headers.get("sallyport-error").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body = Limited::new(body, MOST_BODY).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Ok(Probed { status: parts.status.as_u16(), refusal, body })
    }

    /// A connection of our own to a core, by a listening socket that is there for nobody else.
    async fn connection(&self) -> std::io::Result<TcpStream> {
        let stopped = || std::io::Error::other("the node is stopping");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let ours = stream.local_addr()?;
        let (other, peer) = listener.accept()?;
        if peer != ours {
            return Err(std::io::Error::other("another program came first"));
        }
        other.set_nonblocking(true)?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let workers = self.workers.upgrade().ok_or_else(stopped)?;
        if hand(&workers, other, peer, Kind::ForwardOpen, permit).await { Ok(stream) } else { Err(stopped()) }
    }
}
