//! The two stages in front of an isolated command.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::{
    CapabilitySet, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set, set_capabilities,
    set_no_new_privs,
};
use tokio::signal::unix::{SignalKind, signal};

use super::{SECOND, Way, network};

/// Makes the namespaces, and in them the second stage.
pub fn first(way: Option<&Way>, hidden: &[PathBuf], command: &[String]) -> anyhow::Result<ExitCode> {
    let here = std::env::current_dir();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    own_namespaces(way.is_some()).context("the kernel gives this user no namespaces")?;
    let put = |file: &str, text: String| std::fs::write(file, text).with_context(|| format!("writing {file}"));
    put("/proc/self/setgroups", "deny".to_owned())?;
    put("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    put("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    // Before anything is covered: the socket may lie in what is.
    if let Some(way) = way {
        network::open(way)?;
    }
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", apart).context("setting the mounts apart")?;
    for path in hidden {
        cover(path).with_context(|| format!("covering {}", path.display()))?;
    }
    // A directory that the process stood in before is still the uncovered one.
    if here.and_then(std::env::set_current_dir).is_err() {
        std::env::set_current_dir("/").context("leaving a directory that is covered")?;
    }
    // The second stage needs one right, for the mount of /proc; it gives it up before the command.
    let mut mine = capabilities(None)?;
    mine.inheritable |= CapabilitySet::SYS_ADMIN;
    set_capabilities(None, mine)?;
    configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true).context("keeping a right")?;
    let mut second = vec!["/proc/self/exe".to_owned(), SECOND.to_owned()];
    second.extend_from_slice(command);
    supervise(&second)
}

/// The first process of the namespaces: mounts `/proc`, gives up every right, and runs the command.
pub fn second(command: &[String]) -> anyhow::Result<ExitCode> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let here = std::env::current_dir();
    mount("proc", "/proc", "proc", flags, None).context("mounting a /proc of its own")?;
    if here.and_then(std::env::set_current_dir).is_err() {
        std::env::set_current_dir("/").context("leaving the /proc of others")?;
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    supervise(command)
}

/// Puts an empty directory over a directory, and nothing over a file.
fn cover(path: &Path) -> anyhow::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    if path.is_dir() {
        mount("none", path, "tmpfs", flags, c"size=4k,mode=700")?;
    } else if path.exists() {
        match mount_bind("/dev/null", path) {
            // Whoever had it just went away.
            Err(rustix::io::Errno::NOENT) => {}
            bound => bound?,
        }
    }
    Ok(())
}

/// New user, mount and process namespaces, and with `network` those of the network and of shared
/// memory. Children are in the process namespace, this process isn't.
#[expect(unsafe_code, reason = "the system call's wrapper is unsafe for the sake of another flag")]
fn own_namespaces(network: bool) -> rustix::io::Result<()> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let mut flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    if network {
        flags |= UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
    }
    // SAFETY: what could be unsound is UnshareFlags::FILES, by which threads would lose sight of
    // each other's descriptors. It isn't given, and no other thread runs yet.
    unsafe { unshare_unsafe(flags) }
}

/// Starts a command, passes signals to it, and reaps whatever ends, until the command itself does.
fn supervise(command: &[String]) -> anyhow::Result<ExitCode> {
    let Some((program, arguments)) = command.split_first() else { bail!("no command") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut one = signal(SignalKind::user_defined1())?;
        let mut two = signal(SignalKind::user_defined2())?;
        // The terminal sends these to the command as well; here they are only survived.
        let _interrupt = signal(SignalKind::interrupt())?;
        let _quit = signal(SignalKind::quit())?;
        let child = match std::process::Command::new(program).args(arguments).spawn() {
            Ok(child) => child,
            Err(why) => {
                // As shells have it (POSIX, XCU 2.8.2).
                let code = if why.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                eprintln!("sallyport: starting {program:?}: {why}. Is it installed and in PATH?");
                return Ok(ExitCode::from(code));
            }
        };
        let child = Pid::from_raw(i32::try_from(child.id())?).context("a process has a number")?;
        loop {
            let pass = tokio::select! {
                _ = ended.recv() => None,
                _ = terminate.recv() => Some(Signal::TERM),
                _ = hangup.recv() => Some(Signal::HUP),
                _ = one.recv() => Some(Signal::USR1),
                _ = two.recv() => Some(Signal::USR2),
            };
            if let Some(signal) = pass {
                let _ = kill_process(child, signal);
            }
            while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
                if pid == child {
                    let status = std::process::ExitStatus::from_raw(status.as_raw());
                    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
                    return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
                }
            }
        }
    })
}
