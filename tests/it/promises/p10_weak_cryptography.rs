//! 10. Upstream TLS is always verified: no certificate that can be forged, no protocol that can be read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sallyport::model::Authority;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::world::HOST;
use crate::support::{World, soon};

/// How a server's certificate is made.
#[derive(Debug, Clone, Copy)]
struct Made {
    key: &'static str,
    digest: &'static str,
    /// The digest of the authority between it and the root; none if there is no such authority.
    between: Option<&'static str>,
}

const GOOD: Made = Made { key: "rsa:2048", digest: "-sha256", between: None };

async fn openssl(dir: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(dir).output().await.expect("openssl runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A root that is trusted, and a chain below it.
async fn certificates(dir: &Path, made: Made) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("written");
    write("ca.ext", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n".to_owned());
    write("leaf.ext", format!("basicConstraints=CA:FALSE\nsubjectAltName=DNS:{HOST}\n"));
    let req = ["req", "-nodes", "-newkey"];
    let root =
        ["rsa:2048", "-x509", "-sha256", "-days", "2", "-subj", "/CN=root", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(dir, &[&req[..], &root].concat()).await;
    let sign = async |what: &str, by: &str, digest: &str| {
        let (csr, pem, ext) = (format!("{what}.csr"), format!("{what}.pem"), format!("{what}.ext"));
        let (ca, key) = (format!("{by}.pem"), format!("{by}.key"));
        let x509 = ["x509", "-req", "-days", "1", "-CAcreateserial", digest, "-in", &csr, "-out", &pem];
        openssl(dir, &[&x509[..], &["-CA", &ca, "-CAkey", &key, "-extfile", &ext]].concat()).await;
    };
    let mut signer = "ca";
    if let Some(digest) = made.between {
        let between = ["rsa:2048", "-subj", "/CN=between", "-keyout", "between.key", "-out", "between.csr"];
        openssl(dir, &[&req[..], &between].concat()).await;
        std::fs::copy(dir.join("ca.ext"), dir.join("between.ext")).expect("copied");
        sign("between", "ca", digest).await;
        signer = "between";
    }
    openssl(dir, &[&req[..], &[made.key, "-subj", "/CN=leaf", "-keyout", "leaf.key", "-out", "leaf.csr"]].concat())
        .await;
    sign("leaf", signer, made.digest).await;
}

/// OpenSSL as an upstream that answers each GET, and takes what others refuse.
struct Server {
    dir: TempDir,
    addr: SocketAddr,
    _child: Child,
}

impl Server {
    async fn start(made: Made, arguments: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        certificates(dir.path(), made).await;
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-cert", "leaf.pem", "-key", "leaf.key", "-www"]);
        if made.between.is_some() {
            command.args(["-cert_chain", "between.pem"]);
        }
        command.args(arguments).current_dir(dir.path()).kill_on_drop(true);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let addr = loop {
            let line = soon("its address", lines.next_line()).await.expect("read").expect("it goes on");
            if let Some(addr) = line.strip_prefix("ACCEPT ") {
                break addr.parse().expect("an address");
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { dir, addr, _child: child }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    async fn world(&self) -> World {
        let (root, addr) = (self.root(), self.addr);
        let build = World::build().settings(move |s| {
            s.extra_ca.push(root);
            s.upstream.resolve.insert(Authority::parse(HOST, 443).expect("an authority"), addr);
        });
        build.start().await
    }
}

#[tokio::test]
async fn no_key_goes_where_certificate_or_protocol_is_weak() {
    const ANYTHING: &str = "ALL:@SECLEVEL=0";
    let sha1 = Made { digest: "-sha1", ..GOOD };
    let cases: &[(&str, Made, &[&str])] = &[
        ("a short key", Made { key: "rsa:1024", ..GOOD }, &["-cipher", ANYTHING, "-tls1_2"]),
        ("a short key, TLS 1.3", Made { key: "rsa:1024", ..GOOD }, &["-cipher", ANYTHING, "-tls1_3"]),
        ("signed with SHA-1", sha1, &["-cipher", ANYTHING]),
        ("signed with MD5", Made { digest: "-md5", ..GOOD }, &["-cipher", ANYTHING]),
        ("an authority signed with SHA-1", Made { between: Some("-sha1"), ..GOOD }, &["-cipher", ANYTHING]),
        ("TLS 1.1", GOOD, &["-cipher", ANYTHING, "-tls1_1"]),
        ("TLS 1.0", GOOD, &["-cipher", ANYTHING, "-tls1"]),
        ("no forward secrecy", GOOD, &["-cipher", "AES128-GCM-SHA256:@SECLEVEL=0", "-tls1_2"]),
        ("CBC", GOOD, &["-cipher", "ECDHE-RSA-AES128-SHA:@SECLEVEL=0", "-tls1_2"]),
        ("SHA-1 in the handshake", GOOD, &["-cipher", ANYTHING, "-tls1_2", "-sigalgs", "RSA+SHA1"]),
        ("nobody's key", GOOD, &["-cipher", "aNULL:@SECLEVEL=0", "-tls1_2"]),
    ];
    for (what, made, arguments) in cases {
        let server = Server::start(*made, arguments).await;
        let world = server.world().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_tls"), "{what}: {}", answer.text());
        assert!(world.records_of("intent").is_empty(), "{what}: nothing was opened");
        world.nothing_leaked(&[answer]).await;
    }
}

#[tokio::test]
async fn the_same_upstream_without_the_weakness_is_served() {
    for (made, arguments) in [
        (GOOD, &["-tls1_2"][..]),
        (GOOD, &["-tls1_3"]),
        (Made { between: Some("-sha256"), ..GOOD }, &["-cipher", "ALL:@SECLEVEL=0"]),
    ] {
        let server = Server::start(made, arguments).await;
        let world = server.world().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.status, 200, "{made:?} {arguments:?}: {}", answer.text());
        assert_eq!(world.records_of("intent").len(), 1);
    }
}
