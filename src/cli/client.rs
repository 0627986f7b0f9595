//! The admin API from the command line: over the network, through a running node's socket, or in
//! this process on the data directory.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tower::ServiceExt as _;

use crate::admin::{Peer, router};
use crate::app::{Home, server};
use crate::config::Config;
use crate::model::{Authority, Scheme, Secret};
use crate::tls::trust;

/// Where the admin API is.
#[derive(Debug, clap::Args)]
pub struct Server {
    /// Speak to this admin API instead of the data directory, such as https://sallyport.example:8082
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SALLYPORT_SERVER",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    server: Option<String>,
    /// The file that holds the admin token for --server
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SALLYPORT_ADMIN_TOKEN_FILE",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    admin_token_file: Option<PathBuf>,
    /// Trust the authorities in this PEM file for --server, beside the system's
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    server_ca: Vec<PathBuf>,
}

impl Server {
    /// Whether another admin API is meant than that of the data directory.
    pub fn is_given(&self) -> bool {
        self.server.is_some()
    }
}

enum Transport {
    InProcess(axum::Router),
    Socket(PathBuf),
    Network { scheme: Scheme, authority: Authority, token: Secret<String>, tls: Arc<rustls::ClientConfig> },
}

/// A client of the admin API.
pub struct Client(Transport);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

impl Client {
    /// Finds the way to the API.
    pub async fn new(server: &Server, home: impl FnOnce() -> anyhow::Result<(Home, Config)>) -> anyhow::Result<Self> {
        if let Some(url) = &server.server {
            return Self::network(url, server);
        }
        let (home, config) = home()?;
        let socket = home.socket();
        if UnixStream::connect(&socket).await.is_ok() {
            return Ok(Self(Transport::Socket(socket)));
        }
        Ok(Self(Transport::InProcess(router(server::admin_alone(&home, &config).await?))))
    }

    /// The API in this process.
    pub fn in_process(router: axum::Router) -> Self {
        Self(Transport::InProcess(router))
    }

    fn network(url: &str, server: &Server) -> anyhow::Result<Self> {
        let how = "--server is a URL such as https://sallyport.example:8082";
        let (scheme, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (Scheme::Https, rest),
            (_, Some(rest)) => (Scheme::Http, rest),
            _ => bail!("{how}"),
        };
        let rest = rest.trim_end_matches('/');
        anyhow::ensure!(!rest.contains('/'), "{how}, without a path");
        let authority = Authority::parse(rest, scheme.default_port()).context(how)?;
        if scheme == Scheme::Http && !authority.host.is_loopback() {
            bail!("the admin token would travel unencrypted: use https, or a loopback address");
        }
        let file = server.admin_token_file.as_ref().context(
            "--server needs --admin-token-file: a file with an admin token, such as that node's admin.token",
        )?;
        let token = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let roots = Arc::new(trust::roots(&server.server_ca)?);
        let tls = trust::client_config(roots, &[b"http/1.1"])?;
        Ok(Self(Transport::Network { scheme, authority, token: Secret::new(token.trim().to_owned()), tls }))
    }

    /// Whether a running node answers, rather than the data directory itself.
    pub fn is_running_node(&self) -> bool {
        !matches!(self.0, Transport::InProcess(_))
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    /// Every item of a list, page after page.
    pub async fn all(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let mut page = self.get(&format!("{path}{mark}limit=1000{after}")).await?;
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(items),
            }
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "sallyport");
        if let Transport::Network { token, authority, scheme, .. } = &self.0 {
            let host = authority.in_uri(*scheme);
            let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .context("the admin token holds characters that no header can carry")?;
            value.set_sensitive(true);
            request = Request::builder().method(request.method_ref().cloned().unwrap_or_default()).uri(path);
            request = request.header(header::HOST, host).header(header::AUTHORIZATION, value);
        }
        let body = match body {
            None => Body::empty(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(serde_json::to_vec(body)?)
            }
        };
        let mut request = request.body(body).context("the request can't be made; is a name empty?")?;
        let response: Response<Body> = match &self.0 {
            Transport::InProcess(router) => {
                request.extensions_mut().insert(Peer::Local);
                router.clone().oneshot(request).await?
            }
            Transport::Socket(path) => {
                let stream = UnixStream::connect(path).await.context("the running node doesn't answer")?;
                over(stream, request).await?
            }
            Transport::Network { scheme, authority, tls, .. } => {
                let at = authority.to_string();
                let stream = TcpStream::connect(&at).await.with_context(|| {
                    format!(
                        "no admin API answers at {at} (does `sallyport serve` run there, with this `listen.admin`?)"
                    )
                })?;
                if *scheme == Scheme::Https {
                    let name = ServerName::try_from(authority.host.to_string()).context("the server's name")?;
                    let tls = tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                    over(tls.await.with_context(|| format!("TLS with {at}"))?, request).await?
                } else {
                    over(stream, request).await?
                }
            }
        };
        answer(response).await
    }
}

async fn over<S>(stream: S, request: Request<Body>) -> anyhow::Result<Response<Body>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.map(Body::new))
}

async fn answer(response: Response<Body>) -> anyhow::Result<Value> {
    let status = response.status();
    let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let bytes = bytes.map_err(|why| anyhow::anyhow!("the answer can't be read: {why}"))?.to_bytes();
    if status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    match value["detail"].as_str() {
        Some(detail) => bail!("{}", of_options(detail)),
        None => bail!("the admin API answered {status}; is it sallyport's?"),
    }
}

/// What the admin API says of a field, said of the option that set it.
fn of_options(detail: &str) -> String {
    const OPTIONS: &[(&str, &str)] = &[
        ("durationSeconds", "--lasts"),
        ("environment", "--environment"),
        ("environments", "--environment"),
        ("expiresAt", "--expires-at"),
        ("hosts", "--host"),
        ("keys", "--key"),
        ("maxSessionSeconds", "--max-session"),
        ("provider", "--provider"),
        ("slots", "--slot"),
    ];
    match detail.split_once(": ") {
        Some((field, why)) => match OPTIONS.iter().find(|(name, _)| *name == field) {
            Some((_, option)) => format!("{option}: {why}"),
            None => detail.to_owned(),
        },
        None => detail.to_owned(),
    }
}
