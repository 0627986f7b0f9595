//! A command under `sallyport run`, and what it says while it runs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command};
use std::time::Duration;

use tokio::sync::mpsc;

/// How long a client may take for its next word; a compiler among them is slow on a cold machine.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Running {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    said: String,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer.try_clone().expect("a pipe")).stderr(writer);
        let child = command.spawn().expect("it starts");
        drop(command);
        let (send, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { child, lines, said: String::new() }
    }

    /// Waits until a line with this comes.
    pub async fn until(&mut self, what: &str) {
        while !self.line(what).await.contains(what) {}
    }

    /// What comes of this, unless the command ends before it.
    pub async fn meanwhile<F: Future>(&mut self, what: &str, work: F) -> F::Output {
        tokio::pin!(work);
        loop {
            tokio::select! {
                out = &mut work => return out,
                _ = self.line(what) => {}
            }
        }
    }

    async fn line(&mut self, what: &str) -> String {
        let Some(line) = self.next(what).await else { panic!("it ended before {what}: {}", self.said) };
        self.said.push_str(&line);
        self.said.push('\n');
        line
    }

    async fn next(&mut self, what: &str) -> Option<String> {
        match tokio::time::timeout(PATIENCE, self.lines.recv()).await {
            Ok(line) => line,
            Err(_) => panic!("waited {PATIENCE:?} in vain for {what}: {}", self.said),
        }
    }

    /// Waits for its end, which has to be a good one; everything that it said.
    pub async fn end(mut self) -> String {
        while let Some(line) = self.next("its end").await {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {}", self.said);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
