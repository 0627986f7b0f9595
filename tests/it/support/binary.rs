//! The program itself: `serve`, `run` and the other commands, as their users start them.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// A place to run the program in: a data directory of its own, and none of our environment.
pub struct Place {
    _dir: TempDir,
    pub data: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        Self { data: dir.path().join("data"), _dir: dir }
    }

    /// The program with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sallyport"));
        command.args(arguments).env_clear().env("SALLYPORT_DATA_DIR", &self.data).stdin(Stdio::null());
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs the program to its end. Whatever it prints ends with its line.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("it runs");
        for text in [&output.stdout, &output.stderr] {
            assert!(text.is_empty() || text.ends_with(b"\n"), "{arguments:?}: {:?}", String::from_utf8_lossy(text));
        }
        output
    }

    /// Runs the program, which has to succeed; what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The same with `--json`, read.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}"))
    }

    /// Runs the program, which has to fail; what it said.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Runs the program with text on its standard input.
    pub fn with_input(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write as _;
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
        child.wait_with_output().expect("it ends")
    }

    /// Stores a key.
    pub fn add_key(&self, arguments: &[&str], value: &str) {
        let output = self.with_input(&[&["keys", "add"], arguments].concat(), value);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A running `serve`.
pub struct Serve {
    pub child: Child,
    pub proxy: SocketAddr,
    pub gateway: SocketAddr,
    pub admin: SocketAddr,
    lines: mpsc::Receiver<String>,
    pub log: Vec<String>,
}

impl Serve {
    /// Starts `serve` on free ports with this addition to its configuration, and waits until it is
    /// ready.
    pub fn start(place: &Place, configuration: &str) -> Self {
        let free = "listen: { proxy: 127.0.0.1:0, gateway: 127.0.0.1:0, admin: 127.0.0.1:0 }\n";
        let file = place.data.with_extension("yaml");
        std::fs::write(&file, format!("{free}{configuration}")).expect("written");
        Self::with(place, &file)
    }

    pub fn with(place: &Place, file: &Path) -> Self {
        let mut command = place.command(&["serve", "--config", file.to_str().expect("text")]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut serve = Self { child, proxy: nowhere, gateway: nowhere, admin: nowhere, lines, log: Vec::new() };
        serve.wait_for(" ready ");
        let address = |what: &str| {
            let line =
                serve.log.iter().find(|l| l.contains(what)).unwrap_or_else(|| panic!("no {what}: {:?}", serve.log));
            let text = line.rsplit("address=").next().expect("an address").trim_start_matches("http://");
            text.parse().unwrap_or_else(|_| panic!("{line}"))
        };
        (serve.proxy, serve.gateway, serve.admin) =
            (address("forward proxy"), address("gateway"), address("admin API"));
        serve
    }

    /// Waits for a line of the log.
    pub fn wait_for(&mut self, what: &str) -> String {
        loop {
            match self.lines.recv_timeout(Duration::from_secs(20)) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(what) {
                        return line;
                    }
                }
                Err(why) => panic!("{why} waiting for {what:?}: {:#?}", self.log),
            }
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).expect("a number")).expect("a process");
        rustix::process::kill_process(pid, signal).expect("sent");
    }

    /// Stops it in good order, and returns its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
