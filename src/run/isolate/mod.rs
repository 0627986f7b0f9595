//! Keeps a command from what its user could read otherwise: the data directory, and other processes
//! of the same user through `/proc`.
//!
//! On Linux the command runs in user, mount and process namespaces of its own, in which an empty
//! file system lies over the data directory and `/proc` shows nothing else. It takes two stages of
//! this program in front of the command: the first makes the namespaces, the second is the first
//! process in them (it mounts `/proc`, starts the command and waits for whatever is left over).
//! Both hold nothing but the command's own environment.
//!
//! With a network of its own it has nothing but loopback there, and on loopback nothing but the
//! proxy: the first stage binds the proxy's port inside, and hands the listening socket to the proxy
//! outside. Whatever ignores the proxy fails. A daemon that listens on a socket in the file system
//! and acts for others (docker, a session bus) would be another way out, so the usual ones are covered.
//!
//! It doesn't hold where the kernel gives users no namespaces, nor for a command that runs as root,
//! which could undo it.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod stages;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
use elsewhere as stages;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::Handover;
#[cfg(target_os = "linux")]
pub use network::Handover;

/// Ends the list of what is hidden.
const END: &str = "--";
/// The argument that makes this program the first stage: what is hidden and the command follow.
const FIRST: &str = "__isolate";
/// The argument that makes it the second stage: the command follows.
const SECOND: &str = "__init";

/// How the listening socket inside comes to the proxy outside.
pub struct Way {
    /// The socket on which the proxy's process waits for it.
    pub socket: PathBuf,
    /// The ports of loopback that are the proxy's inside.
    pub ports: Vec<u16>,
}

/// What a command runs as: its program and arguments, in front of which the first stage stands.
/// `hidden` are the directories and files that are covered. With a way to the proxy it has a network
/// of its own, in which this is the only one.
#[must_use]
pub fn wrapped(way: Option<&Way>, hidden: &[PathBuf], command: &[String]) -> Vec<OsString> {
    let mut all = vec!["/proc/self/exe".into(), FIRST.into()];
    match way {
        Some(way) => {
            let ports: Vec<_> = way.ports.iter().map(u16::to_string).collect();
            all.extend([ports.join(",").into(), way.socket.clone().into()]);
        }
        None => all.extend([OsString::new(), OsString::new()]),
    }
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
        let ports = arguments.next().unwrap_or_default();
        let ports: Vec<_> = ports.to_str().into_iter().flat_map(|all| all.split(',')).flat_map(str::parse).collect();
        let socket = arguments.next().map(PathBuf::from);
        let way = socket.filter(|_| !ports.is_empty()).map(|socket| Way { socket, ports });
        let hidden: Vec<_> = arguments.by_ref().take_while(|a| *a != END).map(PathBuf::from).collect();
        stages::first(way.as_ref(), &hidden, &arguments.map(text).collect::<Vec<_>>())
    } else if stage == SECOND {
        stages::second(&arguments.map(text).collect::<Vec<_>>())
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
    not_root()?;
    tried(wrapped(None, &[], &nothing()))
}

/// Whether a command can be given a network of its own here, beside the rest.
///
/// # Errors
/// Why not, in words.
pub fn network_available() -> Result<(), String> {
    not_root()?;
    network_possible()
}

/// Whether a command that isn't hostile can be given one: root could undo it, and has it all the same.
///
/// # Errors
/// Why not, in words.
pub fn network_possible() -> Result<(), String> {
    let handover = Handover::new().map_err(|why| why.to_string())?;
    // Whoever binds a port in a network of its own finds all of them free.
    let way = Way { socket: handover.socket(), ports: vec![1024] };
    tried(wrapped(Some(&way), &[], &nothing()))
}

fn nothing() -> [String; 2] {
    ["/proc/self/exe".to_owned(), "--version".to_owned()]
}

fn not_root() -> Result<(), String> {
    match rustix::process::geteuid().is_root() {
        true => Err("the command runs as root, which could undo it".to_owned()),
        false => Ok(()),
    }
}

fn tried(command: Vec<OsString>) -> Result<(), String> {
    match std::process::Command::new("/proc/self/exe").args(&command[1..]).env_clear().output() {
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

/// Sockets of daemons that act for others, which are covered where the network is closed: they would
/// be another way out. Whoever listens by now is among them, and where the usual ones may begin to.
#[must_use]
pub fn other_ways_out() -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let mut all: Vec<PathBuf> = [
        "/run/docker.sock",
        "/run/containerd",
        "/run/podman",
        "/run/dbus",
        "/run/systemd/private",
        "/run/snapd.socket",
        "/run/libvirt",
        "/run/nscd",
        "/run/avahi-daemon",
        "/tmp/.X11-unix",
        "/tmp/.ICE-unix",
    ]
    .map(PathBuf::from)
    .to_vec();
    all.extend([format!("/run/user/{uid}"), format!("/tmp/tmux-{uid}")].map(PathBuf::from));
    all.extend(["XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"].into_iter().filter_map(std::env::var_os).map(PathBuf::from));
    all.extend(listening(&std::fs::read("/proc/net/unix").unwrap_or_default()));
    all.retain(|path| path.exists());
    all
}

/// The sockets with a name in the file system that take connections or messages, of those that the kernel
/// lists (proc_pid_net(5)).
fn listening(list: &[u8]) -> Vec<PathBuf> {
    /// `__SO_ACCEPTCON`
    const ACCEPTS: u32 = 1 << 16;
    let name = |line: &[u8]| {
        let path = line.get(memchr::memmem::find(line, b" /")? + 1..)?;
        let mut fields = std::str::from_utf8(line.get(..line.len() - path.len())?).ok()?.split_ascii_whitespace();
        let (flags, kind) = (fields.nth(3)?, fields.next()?);
        let accepts = u32::from_str_radix(flags, 16).ok()? & ACCEPTS != 0;
        // A stream's other sockets are ends of connections; those of messages take them from everybody.
        (accepts || kind != "0001").then(|| PathBuf::from(OsStr::from_bytes(path)))
    };
    list.split(|b| *b == b'\n').filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_take_something_are_found_by_their_names() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000042b8763e: 00000003 00000000 00000000 0001 03 5419321\n\
            00000000699a7557: 00000002 00000000 00010000 0001 01 5102732 /run/a daemon/sock et\n\
            000000001905203f: 00000003 00000000 00000000 0001 03 541887 /run/connection\n\
            00000000cf9d5f48: 00000002 00000000 00000000 0002 01 18 /run/messages\n\
            00000000e94e4b50: 00000002 00000000 00010000 0005 01    77 /run/packets\n\
            00000000b94e4b50: 00000002 00000000 00010000 0001 01 54 @/abstract\n";
        let found = listening(list);
        assert_eq!(found, ["/run/a daemon/sock et", "/run/messages", "/run/packets"].map(PathBuf::from));
        assert!(listening(b"").is_empty() && listening(b" /").is_empty());
    }
}
