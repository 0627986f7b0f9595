//! Everything that the process logs, kept to be searched for secrets.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts to keep log lines, at every level, and panics.
pub fn capture() {
    logs();
}

fn logs() -> &'static Sink {
    static SINK: OnceLock<Sink> = OnceLock::new();
    SINK.get_or_init(|| {
        let sink = Sink::default();
        let writer = sink.clone();
        let filter = tracing_subscriber::EnvFilter::new("sallyport=trace,hyper=debug,rustls=debug,h2=debug,sqlx=debug");
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
        let _ = subscriber.with_writer(move || writer.clone()).try_init();
        let (panics, before) = (sink.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            let _ = writeln!(panics.clone(), "{info}");
            before(info);
        }));
        sink
    })
}

/// All log lines so far.
pub fn all() -> Vec<u8> {
    logs().0.lock().expect("not poisoned").clone()
}

/// Every way in which a secret could stand in a text.
pub fn views(secret: &str) -> Vec<Vec<u8>> {
    let bytes = secret.as_bytes();
    let mut views = vec![
        bytes.to_vec(),
        hex::encode(bytes).into_bytes(),
        hex::encode_upper(bytes).into_bytes(),
        serde_json::to_string(secret).expect("JSON").trim_matches('"').as_bytes().to_vec(),
        bytes.iter().map(|b| format!("%{b:02X}")).collect::<String>().into_bytes(),
    ];
    // In base64 a text looks different by how many bytes stand before it; the characters at its ends
    // are mixed with its neighbours, so they are left out.
    for before in 0..3 {
        let padded = [&b"\0\0"[..before], bytes].concat();
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            let from = (before * 8).div_ceil(6);
            let to = (padded.len() * 8) / 6;
            views.push(text.as_bytes()[from..to].to_vec());
        }
    }
    views
}

/// Where a secret stands in `text`, in any view.
pub fn find(text: &[u8], secret: &str) -> Option<String> {
    views(secret).into_iter().find_map(|view| {
        let at = memchr::memmem::find(text, &view)?;
        let around = &text[at.saturating_sub(60)..(at + view.len() + 20).min(text.len())];
        Some(String::from_utf8_lossy(around).into_owned())
    })
}
