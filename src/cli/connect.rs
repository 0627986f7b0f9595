//! `sallyport keys connect`: a person says yes in a browser, and the key is stored.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use zeroize::Zeroizing;

use super::client::Client;
use super::{output, secret};
use crate::config::Config;
use crate::credential::oauth::connect::{Callback, DeviceCodes, Registered, Try};
use crate::credential::oauth::reply::{self, Granted};
use crate::credential::oauth::{Settings, ask};
use crate::model::{Clock as _, Name, OrgId, SystemClock, TokenEndpoint};
use crate::providers::connect::{Connection, connections};
use crate::tls::trust;
use crate::upstream::{Tls, Upstream, Word};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The service (github, google, gitlab, slack, microsoft, atlassian, linear), or with the addresses
    /// below any other
    service: String,
    /// The identifier of your own OAuth client (GitHub: OAuth App or GitHub App) at the service
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// The file with the client's secret, if it has one; `-` is standard input
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The key's name [default: the service's]
    #[arg(long)]
    name: Option<String>,
    /// What is asked for, instead of the service's usual; repeat for several
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Show a code to type in on any machine, instead of opening an address in a browser of this one
    #[arg(long)]
    device: bool,
    /// The port of 127.0.0.1 that the browser comes back to [default: any free one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// How long to wait for the person
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = super::seconds)]
    wait: u32,
    /// Where a person is asked, such as https://login.example.com/authorize
    #[arg(long, value_name = "URL", requires = "token_url")]
    authorize_url: Option<String>,
    /// Where tokens are given
    #[arg(long, value_name = "URL")]
    token_url: Option<String>,
    /// Where a device's codes are given
    #[arg(long, value_name = "URL", requires = "token_url")]
    device_url: Option<String>,
    /// What the service calls itself; an answer of another is refused
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Where the key may go: api.example.com; its token endpoint has to be among them; repeat for several
    #[arg(long = "host", value_name = "PATTERN")]
    hosts: Vec<String>,
    /// The project [default: default]
    #[arg(long)]
    project: Option<String>,
    /// development, staging or production [default: development]
    #[arg(long)]
    environment: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The longest request of a browser, in bytes.
const MAX_REQUEST: usize = 16 * 1024;
/// How long a browser may take to send one.
const BROWSER: Duration = Duration::from_secs(5);
/// The shortest and the longest pause between two questions of a device.
const PAUSES: (u64, u64) = (1, 60);

/// Where the service is, as it is known or as it was given.
struct Service {
    connection: Option<Connection>,
    authorize: Option<TokenEndpoint>,
    token: TokenEndpoint,
    device: Option<TokenEndpoint>,
    issuer: Option<String>,
}

impl Service {
    fn of(args: &Args) -> anyhow::Result<Self> {
        let all = connections()?;
        let known = all.iter().find(|c| c.name.as_str() == args.service).cloned();
        let read = |option: &str, url: &Option<String>| -> anyhow::Result<Option<TokenEndpoint>> {
            url.as_deref().map(|url| url.parse().with_context(|| option.to_owned())).transpose()
        };
        let token = match (read("--token-url", &args.token_url)?, &known) {
            (Some(given), _) => given,
            (None, Some(known)) => known.token.clone(),
            (None, None) => {
                let names: Vec<_> = all.iter().map(|c| c.name.to_string()).collect();
                bail!(
                    "{} isn't known here: it is one of {}, or give --authorize-url, --token-url and --host",
                    args.service,
                    names.join(", ")
                )
            }
        };
        let authorize =
            read("--authorize-url", &args.authorize_url)?.or_else(|| known.as_ref().map(|k| k.authorize.clone()));
        let device = read("--device-url", &args.device_url)?.or_else(|| known.as_ref()?.device.clone());
        let issuer = args.issuer.clone().or_else(|| known.as_ref()?.issuer.clone());
        ensure!(known.is_some() || !args.hosts.is_empty(), "say where the key may go: --host api.example.com");
        Ok(Self { connection: known, authorize, token, device, issuer })
    }
}

/// Who runs this command means the addresses that are asked.
const OPERATOR: (OrgId, Word) = (OrgId::DEFAULT, Word::Operator);

pub async fn run(client: &Client, config: &Config, args: Args) -> anyhow::Result<()> {
    let service = Service::of(&args)?;
    let name: Name = args.name.as_deref().unwrap_or(&args.service).to_ascii_lowercase().parse()?;
    let secret = args.client_secret_file.clone().map(|file| secret::Value::of_file(file).read("")).transpose()?;
    let known = service.connection.as_ref();
    let scopes =
        if args.scopes.is_empty() { known.map(|k| k.scopes.clone()).unwrap_or_default() } else { args.scopes.clone() };
    let spaced_by = known.and_then(|k| k.spaced_by.clone()).unwrap_or_else(|| " ".to_owned());
    let registered = Registered::new(service.token.clone(), args.client_id.clone(), secret, scopes, spaced_by);

    let settings = config.node.credential.clone();
    let roots = Arc::new(trust::roots(&config.node.extra_ca)?);
    let upstream = Upstream::new(config.node.upstream.clone(), Tls::new(roots)?);
    let deadline = Instant::now() + Duration::from_secs(args.wait.into());
    let granted = LocalSet::new()
        .run_until(async {
            let asking =
                Asking { registered: &registered, service: &service, upstream: &upstream, settings: &settings };
            match args.device {
                true => asking.device(deadline).await,
                false => asking.browser(args.port, deadline).await,
            }
        })
        .await?;
    store(client, &args, &service, &registered, &name, granted).await
}

/// Stores what came: with a refresh token a key that is minted, else the access token itself.
async fn store(
    client: &Client,
    args: &Args,
    service: &Service,
    registered: &Registered,
    name: &Name,
    granted: Granted,
) -> anyhow::Result<()> {
    let (kind, value, ends) = match &granted.refresh_token {
        Some(token) => {
            let document = registered.document(token.expose()).context("the key's document can't be made")?;
            ("refresh_token", Zeroizing::new(String::from_utf8(document.to_vec())?), None)
        }
        None => {
            let ends = granted.holds.map(|_| SystemClock.now().plus(granted.lifetime));
            ("secret", Zeroizing::new(granted.access_token.expose().to_owned()), ends)
        }
    };
    if let Some(at) = ends {
        eprintln!("sallyport: the service gave no refresh token, so the key ends at {at}");
    }
    let at = format!("/api/v1/api-keys/{}", super::segment(name.as_str()));
    // A key that is there already is connected again.
    if let Ok(before) = client.get(&at).await
        && before["kind"] == kind
    {
        let rotated = client.post(&format!("{at}/rotate"), &json!({ "value": *value })).await?;
        return output::show(&rotated, args.json);
    }
    let known = service.connection.as_ref();
    let hosts = match (args.hosts.is_empty(), known) {
        (true, Some(known)) => known.hosts.iter().map(ToString::to_string).collect(),
        _ => args.hosts.clone(),
    };
    let cleartext = (service.token.scheme == crate::model::Scheme::Http).then_some("loopback");
    let body = json!({
        "name": name.as_str(),
        "provider": known.and_then(|known| known.provider.as_ref()).map(Name::as_str),
        "kind": kind,
        "hosts": hosts,
        "project": args.project,
        "environment": args.environment,
        "expiresAt": ends.map(|at| at.to_string()),
        "cleartext": cleartext,
        "value": *value,
    });
    output::show(&client.post("/api/v1/api-keys", &super::given(body)).await?, args.json)
}

struct Asking<'a> {
    registered: &'a Registered,
    service: &'a Service,
    upstream: &'a Upstream,
    settings: &'a Settings,
}

impl Asking<'_> {
    /// Authorization code with PKCE: the browser comes back to a port of this machine.
    async fn browser(&self, port: u16, deadline: Instant) -> anyhow::Result<Granted> {
        let authorize = self.service.authorize.as_ref().context("give --authorize-url, or use --device")?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listening for the browser")?;
        let port = listener.local_addr()?.port();
        let tried = Try::new(port).map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
        let extra = self.service.connection.as_ref().map(|known| known.extra.clone()).unwrap_or_default();
        eprintln!("Open this address in a browser on this machine, and say yes there:\n");
        eprintln!("    {}\n", self.registered.address(authorize, &tried, &extra));
        let code = timeout_at(deadline, self.came_back(&listener, port, &tried)).await;
        let code = code.context("nobody said yes in time; --wait says how long to wait")??;
        let request = self.registered.redeem(&tried, &code)?;
        let answered = ask::ask(self.upstream, OPERATOR, &self.registered.token, request, self.settings).await?;
        let now = SystemClock.now();
        Ok(reply::read(&self.registered.token, answered.status, &answered.body, self.settings, now)?)
    }

    async fn came_back(&self, listener: &TcpListener, port: u16, tried: &Try) -> anyhow::Result<Zeroizing<String>> {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let Ok(Some(target)) = timeout(BROWSER, target_of(&mut stream, port)).await else { continue };
            match tried.came(&target, self.service.issuer.as_deref()) {
                Callback::Code(code) => {
                    say_to(&mut stream, "200 OK", "It is done: you can close this page.").await;
                    return Ok(code);
                }
                Callback::Refused(code) => {
                    say_to(&mut stream, "200 OK", "Nothing was connected: you can close this page.").await;
                    bail!("the service said no: {code}");
                }
                // Anybody on this machine can send it, so it ends nothing.
                Callback::NotOurs(why) => {
                    eprintln!("sallyport: a request to the address of the browser is refused: {why}");
                    say_to(&mut stream, "400 Bad Request", why).await;
                }
            }
        }
    }

    /// The device flow (RFC 8628).
    async fn device(&self, deadline: Instant) -> anyhow::Result<Granted> {
        let device = self.service.device.as_ref().context("the service has no device flow; leave out --device")?;
        let request = self.registered.device(device)?;
        let answered = ask::ask(self.upstream, OPERATOR, device, request, self.settings).await?;
        let codes: DeviceCodes = serde_json::from_slice(&answered.body).map_err(|_| {
            let code = reply::error_code(&answered.body).unwrap_or("an answer without codes");
            anyhow::anyhow!("the service at {} gave no codes: {code}", device.authority)
        })?;
        let shown = |text: &str| text.chars().all(|c| c.is_ascii_graphic() || c == ' ') && text.len() < 512;
        ensure!(shown(&codes.user_code) && shown(&codes.verification_uri), "the service's codes can't be shown");
        eprintln!("Open {} on any machine, and type in: {}", codes.verification_uri, codes.user_code);
        let deadline = deadline.min(Instant::now() + Duration::from_secs(codes.expires_in.min(24 * 3600)));
        let mut pause = codes.interval.clamp(PAUSES.0, PAUSES.1);
        while Instant::now() < deadline {
            sleep(Duration::from_secs(pause)).await;
            let request = self.registered.poll(&codes)?;
            let token = &self.registered.token;
            let answered = ask::ask(self.upstream, OPERATOR, token, request, self.settings).await?;
            match reply::error_code(&answered.body) {
                Some("authorization_pending") => {}
                Some("slow_down") => pause = (pause + 5).min(PAUSES.1),
                _ => {
                    let now = SystemClock.now();
                    return Ok(reply::read(token, answered.status, &answered.body, self.settings, now)?);
                }
            }
        }
        bail!("nobody said yes in time; --wait says how long to wait")
    }
}

/// The target of a browser's request; `None` if it isn't one to this address, as a page with another name
/// that leads here would send it.
async fn target_of(stream: &mut TcpStream, port: u16) -> Option<Zeroizing<String>> {
    let mut head = Zeroizing::new(Vec::with_capacity(MAX_REQUEST));
    loop {
        if head.len() >= MAX_REQUEST || stream.read_buf(&mut *head).await.ok()? == 0 {
            return None;
        }
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        if request.parse(&head).ok()?.is_partial() {
            continue;
        }
        let host = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("host"))?;
        let ours = host.value == format!("127.0.0.1:{port}").as_bytes();
        let asked = request.method == Some("GET") && ours;
        return request.path.filter(|_| asked).map(|path| Zeroizing::new(path.to_owned()));
    }
}

async fn say_to(stream: &mut TcpStream, status: &str, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\ncontent-security-policy: default-src 'none'\r\n\
         x-content-type-options: nosniff\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    let said = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // The browser is told as a courtesy; what matters has been read.
    let _ = timeout(BROWSER, said).await;
}
