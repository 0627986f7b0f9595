//! A client that says exactly what the test says, over TCP or TLS.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::soon;

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection without any manners.
pub struct Raw {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// Everything that came.
    pub seen: Vec<u8>,
}

/// One reply as it came.
#[derive(Debug, Clone)]
pub struct RawReply {
    pub status: u16,
    /// `Sallyport-Error`, or nothing.
    pub code: String,
    pub head: String,
    pub body: Vec<u8>,
}

impl Raw {
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), seen: Vec::new() }
    }

    /// The stream, for whoever has manners after all.
    pub fn into_stream(self) -> Box<dyn Stream> {
        assert!(self.buffer.is_empty(), "something was read ahead");
        self.stream
    }

    /// Sends; a peer that has closed already is no failure here.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.try_send(bytes).await;
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sent = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        soon("the peer to read", sent).await
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Whatever comes next; empty at the end of the connection, clean or not.
    pub async fn some(&mut self) -> Vec<u8> {
        if !self.buffer.is_empty() {
            return std::mem::take(&mut self.buffer);
        }
        let mut piece = vec![0; 16 * 1024];
        let len = soon("something from the peer", self.stream.read(&mut piece)).await.unwrap_or(0);
        piece.truncate(len);
        self.seen.extend_from_slice(&piece);
        piece
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.some().await {
                piece if piece.is_empty() => return all,
                piece => all.extend(piece),
            }
        }
    }

    /// Exactly so many bytes; fewer at the end.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.buffer);
        while all.len() < count {
            match self.some().await {
                piece if piece.is_empty() => return all,
                piece => all.extend(piece),
            }
        }
        self.buffer = all.split_off(count);
        all
    }

    /// Up to the end of a head, with its empty line.
    pub async fn head(&mut self) -> String {
        let mut all = Vec::new();
        loop {
            if let Some(at) = memchr::memmem::find(&all, b"\r\n\r\n") {
                self.buffer = all.split_off(at + 4);
                return String::from_utf8_lossy(&all).into_owned();
            }
            match self.some().await {
                piece if piece.is_empty() => return String::from_utf8_lossy(&all).into_owned(),
                piece => all.extend(piece),
            }
        }
    }

    /// The next reply that has a length or an end; `None` if the connection closed without one.
    pub async fn reply(&mut self) -> Option<RawReply> {
        let head = self.head().await;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|h| h.get(..3)).and_then(|s| s.parse().ok())?;
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (n, value) = line.split_once(':')?;
                n.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let code = field("sallyport-error").unwrap_or_default();
        let none =
            matches!(status, 100..=199 | 204 | 304) || (status == 200 && head.contains("Connection established"));
        let body = match field("content-length").and_then(|l| l.parse().ok()) {
            _ if none => Vec::new(),
            Some(len) => self.exactly(len).await,
            None if field("transfer-encoding").is_some() => self.chunked().await,
            None => self.rest().await,
        };
        Some(RawReply { status, code, head, body })
    }

    async fn line(&mut self) -> String {
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n") {
            match self.exactly(1).await {
                byte if byte.is_empty() => break,
                byte => all.extend(byte),
            }
        }
        String::from_utf8_lossy(&all).trim_end().to_owned()
    }

    async fn chunked(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let len = usize::from_str_radix(&self.line().await, 16).unwrap_or(0);
            if len == 0 {
                while !self.line().await.is_empty() {}
                return all;
            }
            all.extend(self.exactly(len).await);
            self.line().await;
        }
    }
}
