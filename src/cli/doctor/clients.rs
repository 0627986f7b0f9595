//! Makes a real request from each client that is installed, through a proxy of its own to a stand-in
//! service of its own.
//!
//! Each client runs as `run` would start it, and in a network of its own where the kernel has one, so
//! that nothing leaves this machine. What arrived where tells what is missing.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Finding;
use super::table::{CLIENTS, Client};
use crate::app::{Home, Node, NodeSettings};
use crate::demo::Scratch;
use crate::demo::standin::StandIn;
use crate::model::{Authority, Clock, Environment, SessionId, SystemClock};
use crate::proxy::listener::Kind;
use crate::proxy::settings::Unbound;
use crate::run::environment;
use crate::run::files::{PublicFiles, found_in};
use crate::run::isolate::{self, Handover, Way};
use crate::store::Store;

/// The stand-in's name, which nobody resolves (RFC 6761 section 6.4).
const HOST: &str = "doctor.sallyport.invalid";
/// The proxy's ports in a network of a client's own.
const INSIDE: [u16; 2] = [18080, 18081];
/// How many clients run at once.
const AT_ONCE: usize = 3;
/// How long one may take; a compiler among them is slow on a cold machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// The exit code by which a script says that its library isn't there.
const ABSENT: i32 = 77;

/// What of the caller's environment a client gets: nothing that could be a key.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TMPDIR",
    "JAVA_HOME",
    "GOROOT",
    "GOCACHE",
    "PYENV_ROOT",
    "PYENV_VERSION",
    "NVM_DIR",
];

/// Everything that the clients share.
struct Bench {
    dir: Scratch,
    node: Node,
    standin: StandIn,
    public: PublicFiles,
    caller: Vec<(String, String)>,
    session: SessionId,
    password: String,
    /// The proxy, and the one that asks for no credentials.
    proxies: [SocketAddr; 2],
    /// Whether clients get networks of their own.
    apart: bool,
}

/// What each installed client did.
pub async fn look() -> anyhow::Result<Vec<(&'static str, Finding)>> {
    let bench = Arc::new(Bench::start().await?);
    let path = std::env::var("PATH").unwrap_or_default();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = Vec::new();
    for (number, client) in CLIENTS.iter().enumerate() {
        if found_in(&path, client.program).is_none() {
            continue;
        }
        let (bench, places) = (Arc::clone(&bench), Arc::clone(&places));
        running.push((
            client.name,
            tokio::spawn(async move {
                let _place = places.acquire_owned().await;
                bench.try_out(client, number).await
            }),
        ));
    }
    let mut all = Vec::new();
    if !bench.apart {
        let what = "clients have no network of their own here: one that ignores the proxy would look up a name that nobody has";
        all.push(("clients", Finding::Weak(what.to_owned())));
    }
    for (name, task) in running {
        match task.await? {
            Ok(Some(finding)) => all.push((name, finding)),
            Ok(None) => {}
            Err(why) => all.push((name, Finding::Weak(format!("it couldn't be tried: {why:#}")))),
        }
    }
    if let Ok(bench) = Arc::try_unwrap(bench) {
        bench.node.stop(Duration::from_secs(1)).await;
    }
    Ok(all)
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        let dir = Scratch::new("doctor")?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let home = Home::open(&dir.0.join("data"), Arc::clone(&clock))?;
        let standin = StandIn::start(HOST, clock).await?;
        let root = dir.0.join("standin.pem");
        std::fs::write(&root, &standin.ca_pem)?;
        let mut settings = NodeSettings { extra_ca: vec![root], ..NodeSettings::default() };
        settings.proxy.require_auth = true;
        settings.upstream.resolve.insert(Authority::parse(HOST, 443)?, standin.addr);
        settings.proxy.unbound = Unbound::Forward;
        let store = Store::open(crate::store::Settings::default(), home.dir(), home.keyring()).await?;
        let node = Node::start(&home, &store, settings).await?;
        let started = node.start_session(None, Environment::Development, &[], Duration::from_secs(600))?;
        let open = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        open.set_nonblocking(true)?;
        let proxies = [node.forward.context("the proxy isn't listening")?, open.local_addr()?];
        node.listen(open, Kind::ForwardOpen)?;
        let caller: Vec<_> =
            KEPT.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
        Ok(Self {
            public: PublicFiles::write(home.ca_pem(), &caller)?,
            node,
            standin,
            caller,
            session: started.session.id,
            password: started.secret.expose().to_owned(),
            proxies,
            apart: isolate::network_possible().is_ok(),
            dir,
        })
    }

    /// `None` if the client isn't whole here.
    async fn try_out(&self, client: &Client, number: usize) -> anyhow::Result<Option<Finding>> {
        let url = format!("https://{HOST}/doctor/{number}");
        let mut command: Vec<String> = vec![client.program.to_owned()];
        if let Some((name, text)) = client.source {
            let dir = self.dir.0.join(number.to_string());
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(name), text.replace("URL", &url))?;
            let file = dir.join(name).display().to_string();
            command.extend(client.arguments.iter().map(|a| a.replace("FILE", &file)));
        } else {
            command.extend(client.arguments.iter().map(|a| a.replace("URL", &url)));
        }
        let came = Arc::new(AtomicUsize::new(0));
        let output = self.run(&command, &came).await?;
        if output.code == Some(ABSENT)
            || output.said.contains("jdk.compiler")
            || output.said.contains("No module named pip")
        {
            return Ok(None);
        }
        // Clients are tried side by side: the twelfth isn't taken for the first.
        let own = format!("doctor/{number}");
        let arrived = |path: &str| {
            let rest = path.trim_start_matches('/').strip_prefix(&own);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        if self.standin.received().iter().any(|received| arrived(&received.path)) {
            return Ok(Some(Finding::Good("its request comes through".to_owned())));
        }
        let [proxy, trust] = client.reads;
        let telling = telling(&output.said);
        let missing = match came.load(Ordering::Relaxed) {
            0 => format!(
                "it goes around the proxy: it needs {proxy}, or the gateway of `sallyport serve` as its base URL"
            ),
            _ => format!("it comes to the proxy and not through: it has to trust the CA by {trust}"),
        };
        Ok(Some(Finding::Weak(format!("{missing} ({telling})"))))
    }

    /// Runs a command as `run` would, with counted connections to the proxy.
    async fn run(&self, command: &[String], came: &Arc<AtomicUsize>) -> anyhow::Result<Output> {
        let (all, handover, ports): (Vec<OsString>, _, _) = if self.apart {
            let handover = Handover::new()?;
            let way = Way { socket: handover.socket(), ports: INSIDE.to_vec() };
            (isolate::wrapped(Some(&way), &[], command), Some(handover), INSIDE)
        } else {
            let mut ports = [0; 2];
            for (port, to) in ports.iter_mut().zip(self.proxies) {
                let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
                listener.set_nonblocking(true)?;
                *port = listener.local_addr()?.port();
                tokio::spawn(relay(listener, to, Arc::clone(came)));
            }
            (command.iter().map(OsString::from).collect(), None, ports)
        };
        let [proxy, open] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let url = format!("http://{}:{}@{proxy}", self.session, self.password);
        let around = self.public.around(&url, Some(open), &self.session.to_string());
        let (variables, _) = environment(self.caller.iter().cloned(), &[], &[], &around);
        let (program, arguments) = all.split_first().context("no command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(variables)
            .envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOFLAGS", "-mod=mod"), ("AWS_MAX_ATTEMPTS", "1")])
            .current_dir(Path::new("/"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().context("it ended before it began")?;
        let mut relays = Vec::new();
        if let Some(handover) = handover {
            let listeners =
                timeout(PATIENCE, handover.receive(pid)).await.context("its network isn't made in time")??;
            for (listener, to) in listeners.into_iter().zip(self.proxies) {
                relays.push(tokio::spawn(relay(listener, to, Arc::clone(came))));
            }
        }
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let reading = async { tokio::join!(read(&mut out), read(&mut err), child.wait()) };
        let ended = timeout(PATIENCE, reading).await;
        relays.iter().for_each(tokio::task::JoinHandle::abort);
        match ended {
            Ok((out, err, status)) => Ok(Output { code: status?.code(), said: format!("{out}\n{err}") }),
            Err(_) => {
                // The stages pass it on, down to the client.
                if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
                let _ = timeout(Duration::from_secs(2), child.wait()).await;
                Ok(Output { code: None, said: format!("it didn't end within {} seconds", PATIENCE.as_secs()) })
            }
        }
    }
}

/// The line of a client's output that tells most: one that names an error, else the last with words.
fn telling(said: &str) -> String {
    let worded = |line: &&str| line.chars().filter(|c| c.is_alphanumeric()).count() > 3;
    let names = |line: &&str| line.to_ascii_lowercase().contains("error");
    let line = said.lines().find(|line| worded(line) && names(line)).or_else(|| said.lines().rfind(worded));
    line.unwrap_or_default().trim().chars().take(200).collect()
}

struct Output {
    code: Option<i32>,
    said: String,
}

/// The most of a client's output that is looked at, in bytes.
const MOST_OUTPUT: u64 = 64 * 1024;

async fn read<R: tokio::io::AsyncRead + Unpin>(from: &mut Option<R>) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let _ = from.take(MOST_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Passes connections on to the proxy, and counts them.
async fn relay(listener: std::net::TcpListener, to: SocketAddr, came: Arc<AtomicUsize>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((mut agent, _)) = listener.accept().await {
        came.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            if let Ok(mut proxy) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut agent, &mut proxy).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_that_names_the_error_is_told() {
        for (said, line) in [
            (
                "\nError: getaddrinfo ENOTFOUND a.test\n    at x {\n  code: 'ENOTFOUND'\n}\n",
                "Error: getaddrinfo ENOTFOUND a.test",
            ),
            ("trying\nno route to host\n}\n", "no route to host"),
            ("", ""),
        ] {
            assert_eq!(telling(said), line);
        }
    }
}
