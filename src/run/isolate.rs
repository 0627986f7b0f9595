//! Keeps a command from what its user could read otherwise: the data directory, and other processes
//! of the same user through `/proc`.
//!
//! On Linux the command runs in user, mount and process namespaces of its own, in which an empty
//! file system lies over the data directory and `/proc` shows nothing else. It takes two stages of
//! this program in front of the command: the first makes the namespaces, the second is the first
//! process in them (it mounts `/proc`, starts the command and waits for whatever is left over).
//! Both hold nothing but the command's own environment.
//!
//! It doesn't hold where the kernel gives users no namespaces, nor for a command that runs as root,
//! which could undo it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Ends the list of what is hidden.
const END: &str = "--";
/// The argument that makes this program the first stage: what is hidden and the command follow.
const FIRST: &str = "__isolate";
/// The argument that makes it the second stage: the command follows.
const SECOND: &str = "__init";

/// What a command runs as: its program and arguments, in front of which the first stage stands.
/// `hidden` are the directories and files that are covered.
#[must_use]
pub fn wrapped(hidden: &[PathBuf], command: &[String]) -> Vec<OsString> {
    let mut all = vec!["/proc/self/exe".into(), FIRST.into()];
    all.extend(hidden.iter().map(OsString::from));
    all.push(END.into());
    all.extend(command.iter().map(OsString::from));
    all
}

/// Does a stage's work, if this process was started as one. It has to be asked before any thread is
/// started.
#[must_use]
pub fn entered() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let stage = arguments.next()?;
    let text = |a: OsString| a.to_string_lossy().into_owned();
    let outcome = if stage == FIRST {
        let hidden: Vec<_> = arguments.by_ref().take_while(|a| *a != END).map(PathBuf::from).collect();
        linux::first(&hidden, &arguments.map(text).collect::<Vec<_>>())
    } else if stage == SECOND {
        linux::second(&arguments.map(text).collect::<Vec<_>>())
    } else {
        return None;
    };
    Some(outcome.unwrap_or_else(|why| {
        eprintln!("sallyport: {why:#}");
        ExitCode::FAILURE
    }))
}

/// Whether a command can be isolated here; found out by isolating one that does nothing.
///
/// # Errors
/// Why not, in words.
pub fn available() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        return Err("the command runs as root, which could undo it".to_owned());
    }
    let nothing = wrapped(&[], &["/proc/self/exe".to_owned(), "--version".to_owned()]);
    let tried = std::process::Command::new("/proc/self/exe").args(&nothing[1..]).env_clear().output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.trim().trim_start_matches("sallyport: ").to_owned())
        }
        Err(why) => Err(why.to_string()),
    }
}

/// What isolation doesn't keep a command from here, if there is such a thing: on a terminal it can type
/// into the shell that it came from, unless the kernel forbids it (`dev.tty.legacy_tiocsti`, Linux 6.2).
#[must_use]
pub fn weakness() -> Option<String> {
    let forbidden = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|text| text.trim() == "0");
    let terminal = std::fs::File::open("/dev/tty").is_ok();
    (terminal && !forbidden).then(|| {
        "a command on this terminal could type into the shell behind it; `sysctl dev.tty.legacy_tiocsti=0` forbids it"
            .to_owned()
    })
}

/// What it means that a command isn't isolated, in one line.
#[must_use]
pub fn consequence(why: &str) -> String {
    let (reach, way) = if rustix::process::geteuid().is_root() {
        ("every stored key and every key in the environment", "run sallyport and the command as users of their own")
    } else {
        ("every stored key", "run sallyport as a user of its own, or make the data directory with a passphrase")
    };
    format!("the command is not isolated and could read {reach} ({why}). The way out: {way}")
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;

    use anyhow::{Context as _, bail};
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
    use rustix::thread::{
        CapabilitySet, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
        set_capabilities, set_no_new_privs,
    };
    use tokio::signal::unix::{SignalKind, signal};

    use super::SECOND;

    pub fn first(hidden: &[PathBuf], command: &[String]) -> anyhow::Result<ExitCode> {
        let here = std::env::current_dir();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        own_namespaces().context("the kernel gives this user no namespaces")?;
        let put = |file: &str, text: String| std::fs::write(file, text).with_context(|| format!("writing {file}"));
        put("/proc/self/setgroups", "deny".to_owned())?;
        put("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        put("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
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
            mount_bind("/dev/null", path)?;
        }
        Ok(())
    }

    /// New user, mount and process namespaces. Children are in the last of these, this process isn't.
    #[expect(unsafe_code, reason = "the system call's wrapper is unsafe for the sake of another flag")]
    fn own_namespaces() -> rustix::io::Result<()> {
        use rustix::thread::{UnshareFlags, unshare_unsafe};
        // SAFETY: what could be unsound is UnshareFlags::FILES, by which threads would lose sight of
        // each other's descriptors. It isn't given, and no other thread runs yet.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWPID) }
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
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use std::path::PathBuf;
    use std::process::ExitCode;

    use anyhow::bail;

    pub fn first(_: &[PathBuf], _: &[String]) -> anyhow::Result<ExitCode> {
        bail!("only Linux has the namespaces for it")
    }

    pub fn second(_: &[String]) -> anyhow::Result<ExitCode> {
        bail!("only Linux has the namespaces for it")
    }
}
