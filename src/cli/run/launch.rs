//! How the command is started, and what lies ready for its clients.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::Args;
use crate::app::{Home, Node};
use crate::config::Config;
use crate::proxy::listener::Kind;
use crate::run::isolate::{self, Handover, Way};

/// How the command runs.
pub struct Isolation {
    /// The command, with the stages of its isolation in front of it.
    pub command: Vec<OsString>,
    /// Where the listening socket of its own network arrives, if it has one.
    pub handover: Option<Handover>,
}

/// `proxies` are the proxy, and the one that asks for no credentials.
pub fn isolation(
    home: &Home,
    config: &Config,
    args: &Args,
    proxies: [Option<SocketAddr>; 2],
) -> anyhow::Result<Isolation> {
    let mut hidden = hidden(home, config);
    if args.isolate {
        isolate::network_available().map_err(|why| {
            anyhow::anyhow!(
                "the command can't be given a network of its own here: {why}. Nothing was run; see `sallyport doctor`"
            )
        })?;
        let handover = Handover::new()?;
        let ports = proxies.into_iter().flatten().map(|at| at.port()).collect();
        let way = Way { socket: handover.socket(), ports };
        hidden.extend(isolate::other_ways_out());
        let command = isolate::wrapped(Some(&way), &hidden, &args.command);
        return Ok(Isolation { command, handover: Some(handover) });
    }
    let isolated = if args.no_isolation { Err("--no-isolation".to_owned()) } else { isolate::available() };
    let command = match isolated {
        Ok(()) => {
            if let Some(weakness) = isolate::weakness() {
                eprintln!("sallyport: {weakness}");
            }
            isolate::wrapped(None, &hidden, &args.command)
        }
        Err(why) => {
            eprintln!("sallyport: {}; see `sallyport doctor`", isolate::consequence(&why));
            args.command.iter().map(OsString::from).collect()
        }
    };
    Ok(Isolation { command, handover: None })
}

/// What the command must not see: the data directory, and what of it was put elsewhere.
fn hidden(home: &Home, config: &Config) -> Vec<PathBuf> {
    let mut all = vec![home.dir().to_owned()];
    let elsewhere = ["SALLYPORT_KEK_FILE", "SALLYPORT_CONFIG", "SALLYPORT_ADMIN_TOKEN_FILE"];
    all.extend(elsewhere.iter().filter_map(std::env::var_os).map(PathBuf::from));
    all.extend(config.file.clone());
    if let Some(file) = config.store.url.strip_prefix("sqlite:") {
        let file = home.dir().join(file.trim_start_matches("//"));
        for companion in ["", "-wal", "-shm"] {
            all.push(PathBuf::from(format!("{}{companion}", file.display())));
        }
    }
    // What a link in the data directory leads to lies elsewhere; policies are for everybody.
    let entries = std::fs::read_dir(home.dir()).into_iter().flatten().flatten();
    let links = entries.map(|entry| entry.path()).filter(|path| path.is_symlink() && !path.ends_with("policies"));
    all.extend(links.filter_map(|path| path.canonicalize().ok()));
    // What lies in the data directory is covered with it.
    all.retain(|path| path == home.dir() || !path.starts_with(home.dir()));
    all
}

/// Runs the command and passes signals to it. Its exit code is ours; 128 and the signal's number if
/// one ended it, as shells have it.
pub async fn wait(
    node: &Node,
    command: &[OsString],
    handover: Option<Handover>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::ExitStatusExt as _;
    let Some((program, arguments)) = command.split_first() else { bail!("no command") };
    let environment: HashMap<String, String> = environment.into_iter().collect();
    // Before the command starts: a signal that comes early is passed on too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let child = tokio::process::Command::new(program).args(arguments).env_clear().envs(environment).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(why) => {
            // As shells have it (POSIX, XCU 2.8.2).
            let code = if why.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            eprintln!("sallyport: starting {program:?}: {why}. Is it installed and in PATH?");
            return Ok(ExitCode::from(code));
        }
    };
    // The command's network has its listening socket once the first stage is there.
    let pid = child.id();
    let mut arriving = Box::pin(async {
        match (handover, pid) {
            (Some(handover), Some(pid)) => {
                let kinds = [Kind::Forward, Kind::ForwardOpen];
                for (listener, kind) in handover.receive(pid).await?.into_iter().zip(kinds) {
                    node.listen(listener, kind)?;
                }
                anyhow::Ok(())
            }
            _ => std::future::pending().await,
        }
    });
    let mut arrived = false;
    loop {
        // A terminal sends interrupt and quit to the whole process group, so the command has them
        // already; the others come to us alone and are passed on.
        let pass = tokio::select! {
            status = child.wait() => {
                let status = status.context("waiting for the command")?;
                let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            came = &mut arriving, if !arrived => {
                arrived = true;
                if let Err(why) = came {
                    eprintln!("sallyport: the command has no way to the proxy: {why:#}");
                }
                None
            }
            _ = terminate.recv() => Some(rustix::process::Signal::TERM),
            _ = hangup.recv() => Some(rustix::process::Signal::HUP),
            _ = interrupt.recv() => None,
            _ = quit.recv() => None,
        };
        if let (Some(pass), Some(pid)) =
            (pass, child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())))
        {
            let _ = rustix::process::kill_process(pid, pass);
        }
    }
}
