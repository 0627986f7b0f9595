//! `keys connect`: a scripted browser says yes at a stand-in of a service.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::binary::Place;
use crate::support::upstream::{Setup, Upstream};
use crate::support::{Received, Reply, emitted};

const LOGIN: &str = "login.service.test";
const ACCESS: &str = "access-token-0123456789";
const REFRESH: &str = "refresh-token-0123456789";
const SECRET: &str = "client-secret-0123456789";

fn fields(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let mut out = Vec::new();
        let mut rest = text.as_bytes();
        while let [first, behind @ ..] = rest {
            rest = behind;
            if *first == b'%' {
                let digits = std::str::from_utf8(&behind[..2]).expect("ascii");
                out.push(u8::from_str_radix(digits, 16).expect("hex"));
                rest = &behind[2..];
            } else {
                out.push(*first);
            }
        }
        String::from_utf8(out).expect("text")
    };
    text.split('&').filter_map(|f| f.split_once('=')).map(|(n, v)| (decode(n), decode(v))).collect()
}

fn field(all: &[(String, String)], name: &str) -> String {
    all.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default()
}

/// The service: it knows one code, and gives tokens to whoever shows the verifier that goes with it.
struct Service {
    upstream: Upstream,
    place: Place,
    config: String,
    challenge: Arc<Mutex<String>>,
}

impl Service {
    async fn start(refresh_token: Option<&'static str>) -> Self {
        let challenge: Arc<Mutex<String>> = Arc::default();
        let wanted = Arc::clone(&challenge);
        let polls = Mutex::new(0);
        let answer = move |received: &Received| {
            let sent = fields(std::str::from_utf8(&received.body).expect("text"));
            let tokens = || {
                let mut answer = json!({ "access_token": ACCESS, "token_type": "bearer", "scope": "a" });
                if let Some(token) = refresh_token {
                    answer["refresh_token"] = token.into();
                    answer["expires_in"] = 3600.into();
                }
                Reply::text(answer.to_string())
            };
            match (received.path.as_str(), field(&sent, "grant_type").as_str()) {
                ("/device", _) => Reply::text(
                    json!({ "device_code": "device-code-0123456789", "user_code": "WDJB-MJHT", "interval": 0,
                            "verification_uri": "https://login.service.test/d", "expires_in": 60 })
                    .to_string(),
                ),
                ("/token", "urn:ietf:params:oauth:grant-type:device_code") => {
                    assert_eq!(field(&sent, "device_code"), "device-code-0123456789");
                    let mut polls = polls.lock().expect("not poisoned");
                    *polls += 1;
                    match *polls {
                        1 => Reply::text("{\"error\":\"authorization_pending\"}").status(400),
                        _ => tokens(),
                    }
                }
                ("/token", "authorization_code") => {
                    let verifier = field(&sent, "code_verifier");
                    let shown = BASE64URL.encode(Sha256::digest(verifier.as_bytes()));
                    let fits = shown == *wanted.lock().expect("not poisoned") && field(&sent, "code") == "the code";
                    match fits && field(&sent, "client_secret") == SECRET {
                        true => tokens(),
                        false => Reply::text("{\"error\":\"invalid_grant\"}").status(400),
                    }
                }
                _ => Reply::text("what?").status(404),
            }
        };
        let setup = Setup { host: LOGIN.to_owned(), ..Setup::default() };
        let upstream = Upstream::start(&setup, Arc::new(answer)).await;
        let place = Place::new();
        place.ok(&["init"]);
        let (ca, file) = (place.data.with_extension("pem"), place.data.with_extension("yaml"));
        std::fs::write(&ca, &upstream.ca_pem).expect("written");
        let text =
            format!("upstream: {{ extra_ca: [{ca:?}], resolve: {{ \"{LOGIN}:443\": \"{}\" }} }}\n", upstream.addr);
        std::fs::write(&file, text).expect("written");
        std::fs::write(place.data.with_extension("secret"), SECRET).expect("written");
        let config = file.to_str().expect("text").to_owned();
        Self { upstream, place, config, challenge }
    }

    fn connect(&self, more: &[&str]) -> Child {
        let secret = self.place.data.with_extension("secret");
        let url = |path: &str| format!("https://{LOGIN}{path}");
        let mut command = self.place.command(&["--config", &self.config, "keys", "connect", "ours"]);
        command.args(["--client-id", "me", "--scope", "a", "--scope", "b", "--host", LOGIN, "--issuer", &url("")]);
        command.arg("--client-secret-file").arg(secret);
        command.args(["--authorize-url", &url("/authorize"), "--token-url", &url("/token")]);
        command.args(["--device-url", &url("/device"), "--json"]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    }
}

/// What a browser gets for a request.
fn get(port: u16, host: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.write_all(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).expect("written");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Reads standard error up to a line with this; then the line.
fn line_with(from: &mut impl std::io::BufRead, what: &str) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(from.read_line(&mut line).expect("text") > 0, "{what:?} isn't said: {seen}");
        if line.contains(what) {
            return line.trim().to_owned();
        }
        seen.push_str(&line);
    }
}

fn ended(mut child: Child, mut errors: impl std::io::Read) -> (bool, String) {
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    errors.read_to_string(&mut text).expect("text");
    (child.wait().expect("it ends").success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn browser_says_yes_and_the_refresh_token_is_stored() {
    let service = Service::start(Some(REFRESH)).await;
    for version in ["1", "2"] {
        let mut child = service.connect(&[]);
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let address = line_with(&mut errors, "https://login.service.test/authorize?");
        let asked = fields(address.split_once('?').expect("a query").1);
        assert_eq!(field(&asked, "response_type"), "code");
        assert_eq!(field(&asked, "client_id"), "me");
        assert_eq!(field(&asked, "scope"), "a b");
        assert_eq!(field(&asked, "code_challenge_method"), "S256");
        *service.challenge.lock().expect("not poisoned") = field(&asked, "code_challenge");
        let (state, back) = (field(&asked, "state"), field(&asked, "redirect_uri"));
        let host = back.strip_prefix("http://").and_then(|b| b.strip_suffix("/callback")).expect("a loopback address");
        let port: u16 = host.strip_prefix("127.0.0.1:").and_then(|p| p.parse().ok()).expect("a port");
        // What others send first ends nothing.
        for (host, target, status) in [
            (host, "/callback?code=evil&state=wrong".to_owned(), "400"),
            (host, format!("/callback?code=evil&state={state}&iss=https%3A%2F%2Fevil.test"), "400"),
            (host, "/favicon.ico".to_owned(), "400"),
            ("rebound.test", format!("/callback?code=evil&state={state}"), ""),
        ] {
            let answer = get(port, host, &target);
            assert!(answer.split(' ').nth(1).unwrap_or_default() == status, "{target}: {answer}");
        }
        let answer = get(port, host, &format!("/callback?code=the+code&state={state}&iss=https%3A%2F%2F{LOGIN}"));
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("the code"), "{answer}");
        let (good, said) = ended(child, errors);
        assert!(good, "{said}");
        assert!(said.contains(&format!("\"version\": {version}")), "connecting again rotates: {said}");
        for secret in [ACCESS, REFRESH, SECRET] {
            assert_eq!(emitted::find(said.as_bytes(), secret), None);
        }
    }
    let key = service.place.json(&["keys", "show", "ours"]);
    assert_eq!(key["kind"], "refresh_token");
    assert_eq!(key["tokenEndpoint"], format!("https://{LOGIN}/token"));
    let all = service.upstream.received();
    assert!(all.iter().all(|r| r.path == "/token"), "{all:?}");
    let mut at_rest = Vec::new();
    for file in std::fs::read_dir(&service.place.data).expect("readable") {
        at_rest.extend(std::fs::read(file.expect("readable").path()).unwrap_or_default());
    }
    for secret in [ACCESS, REFRESH, SECRET] {
        assert_eq!(emitted::find(&at_rest, secret), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_or_person_that_says_no_connects_nothing() {
    let service = Service::start(Some(REFRESH)).await;
    for (answer, says) in [("error=access_denied", "access_denied"), ("code=another", "invalid_grant")] {
        let mut child = service.connect(&[]);
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let asked = line_with(&mut errors, "/authorize?");
        let asked = fields(asked.split_once('?').expect("a query").1);
        let back = field(&asked, "redirect_uri");
        let host = back.strip_prefix("http://").and_then(|b| b.strip_suffix("/callback")).expect("an address");
        let port: u16 = host.rsplit(':').next().and_then(|p| p.parse().ok()).expect("a port");
        get(port, host, &format!("/callback?{answer}&state={}", field(&asked, "state")));
        let (good, said) = ended(child, errors);
        assert!(!good && said.contains(says), "{said}");
    }
    assert!(service.place.ok(&["keys", "list"]).contains("There are no keys"));
    let mut child = service.connect(&["--wait", "1s"]);
    let errors = BufReader::new(child.stderr.take().expect("a pipe"));
    let (good, said) = ended(child, errors);
    assert!(!good && said.contains("nobody said yes in time"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn device_flow_shows_a_code_and_waits_for_the_person() {
    let service = Service::start(None).await;
    let mut child = service.connect(&["--device"]);
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    assert!(line_with(&mut errors, "WDJB-MJHT").contains("https://login.service.test/d"));
    let (good, said) = ended(child, errors);
    assert!(good, "{said}");
    let key = service.place.json(&["keys", "show", "ours"]);
    assert_eq!(
        (&key["kind"], &key["expiresAt"]),
        (&json!("secret"), &json!(null)),
        "the token itself, which doesn't end"
    );
    assert_eq!(emitted::find(said.as_bytes(), ACCESS), None);
}

#[test]
fn stand_in_for_a_service_account_holds_a_token_and_a_private_key_of_its_own() {
    let place = Place::new();
    place.ok(&["init"]);
    let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let file = json!({
        "type": "service_account", "project_id": "p", "private_key_id": "k1", "private_key": pem,
        "client_email": "real@p.test", "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token",
    });
    let add = ["robot", "--kind", "service_account", "--host", "storage.googleapis.com"];
    let refused = place.with_input(&[&["keys", "add"][..], &add].concat(), &file.to_string());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("oauth2.googleapis.com"), "{said}");
    place.add_key(&[&add[..], &["--host", "oauth2.googleapis.com"]].concat(), &file.to_string());
    let shown = place.json(&["keys", "show", "robot"]);
    assert_eq!((&shown["kind"], &shown["slots"]), (&json!("service_account"), &json!(["bearer"])));
    assert_eq!(shown["tokenEndpoint"], "https://oauth2.googleapis.com/token");
    let session = place.json(&["sessions", "start", "--key", "robot"]);
    let id = session["id"].as_str().expect("an id");
    let text = place.ok(&["tokens", "mint", id, "robot", "--stand-in"]);
    let stand_in: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!(stand_in["type"], "service_account");
    assert!(stand_in["private_key_id"].as_str().is_some_and(|token| token.starts_with("spt_")), "{text}");
    let lines = pem.lines().filter(|line| !line.starts_with('-'));
    assert!(text.contains("BEGIN PRIVATE KEY") && lines.into_iter().all(|line| !text.contains(line)), "{text}");
    assert!(!text.contains("real@p.test"), "{text}");
    // A document that isn't one is told without a word of it.
    let bad = place.with_input(&["keys", "rotate", "robot"], r#"{"type":"service_account","private_key":"hunter2"}"#);
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(
        !bad.status.success() && said.contains("key file as Google issues it") && !said.contains("hunter2"),
        "{said}"
    );
}
