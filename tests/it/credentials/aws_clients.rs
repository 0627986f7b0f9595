//! boto3 through the proxy to moto, which verifies each signature with the secret that it gave out.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command};

use sallyport::model::{Authority, KeyKind};
use tokio::net::TcpStream;

use super::Computed;
use crate::clients::{clients, script};
use crate::support::world::HOST;
use crate::support::{Raw, World, emitted};

const HOSTS: [&str; 4] = [
    "s3.us-east-1.amazonaws.com",
    "sts.us-east-1.amazonaws.com",
    "dynamodb.us-east-1.amazonaws.com",
    "iam.amazonaws.com",
];

/// A service that verifies signatures.
struct Verifier {
    child: Child,
    addr: SocketAddr,
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Verifier {
    /// A moto server, which verifies signatures in headers from its fourth action on.
    fn moto() -> Self {
        let mut command = Command::new(clients().join("python/bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("INITIAL_NO_AUTH_ACTION_COUNT", "3");
        Self::start(command)
    }

    /// One for presigned URLs, which moto doesn't verify.
    fn presigned(id: &str, secret: &str) -> Self {
        let mut command = Command::new(clients().join("python/bin/python"));
        command.arg(script("verifier.py")).env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.env("PYTHONUNBUFFERED", "1").stdout(writer.try_clone().expect("a pipe")).stderr(writer);
        let child = command.spawn().expect("it starts");
        drop(command);
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("Running on http://")).expect("it runs");
        let addr = line.rsplit("http://").next().expect("an address").trim().parse().expect("an address");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, addr }
    }

    /// A user who may do everything, and its pair.
    fn pair(&self) -> (String, String) {
        let script = "import boto3, json, os\n\
            iam = boto3.client('iam', region_name='us-east-1', endpoint_url=os.environ['MOTO'])\n\
            iam.create_user(UserName='u')\n\
            statement = {'Effect': 'Allow', 'Action': '*', 'Resource': '*'}\n\
            document = json.dumps({'Version': '2012-10-17', 'Statement': [statement]})\n\
            iam.put_user_policy(UserName='u', PolicyName='p', PolicyDocument=document)\n\
            key = iam.create_access_key(UserName='u')['AccessKey']\n\
            print(key['AccessKeyId'], key['SecretAccessKey'])";
        let output = Command::new(clients().join("python/bin/python"))
            .args(["-c", script])
            .env("MOTO", format!("http://{}", self.addr))
            .env("AWS_ACCESS_KEY_ID", "anybody")
            .env("AWS_SECRET_ACCESS_KEY", "anybody")
            .output()
            .expect("python runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pair = text.trim().split_once(' ').unwrap_or_else(|| panic!("{output:?}"));
        (pair.0.to_owned(), pair.1.to_owned())
    }
}

async fn world(verifier: SocketAddr) -> World {
    let pass = move |raw: Raw, _| async move {
        let mut to = TcpStream::connect(verifier).await.expect("it listens");
        let _ = tokio::io::copy_bidirectional(&mut raw.into_stream(), &mut to).await;
    };
    let pin = |settings: &mut sallyport::app::NodeSettings| {
        let at = settings.upstream.resolve[&Authority::parse(HOST, 443).expect("an authority")];
        for host in HOSTS {
            settings.upstream.resolve.insert(Authority::parse(host, 443).expect("an authority"), at);
        }
    };
    World::build().upstream(|u| u.host = HOSTS.join(",")).script(pass).settings(pin).start().await
}

/// What the script printed, with the stand-ins of a key with this pair in its environment.
async fn boto3(world: &World, pair: (&str, &str), name: &str, what: &str) -> (bool, String) {
    let document = serde_json::json!({ "access_key_id": pair.0, "secret_access_key": pair.1 }).to_string();
    let computed = Computed::at(world, KeyKind::Aws, &document, &["**.amazonaws.com"]);
    let ca = world.home.dir().join("agents-ca.pem");
    std::fs::write(&ca, world.home.ca_pem()).expect("written");
    let proxy = format!(
        "http://{}:{}@{}",
        computed.started.session.id,
        computed.started.secret.expose(),
        world.node.forward.expect("it listens")
    );
    let mut run = Command::new(clients().join("python/bin/python"));
    run.arg(script(name)).env_clear();
    run.env("PATH", "/usr/bin:/bin").env("PYTHONDONTWRITEBYTECODE", "1").env("WHAT", what);
    run.env("AWS_ACCESS_KEY_ID", computed.token()).env("AWS_SECRET_ACCESS_KEY", &computed.secret);
    run.env("AWS_CA_BUNDLE", &ca).env("SSL_CERT_FILE", &ca);
    run.env("HTTPS_PROXY", &proxy).env("https_proxy", &proxy);
    let output = tokio::task::spawn_blocking(move || run.output().expect("it runs")).await.expect("joined");
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    assert_eq!(emitted::find(&all, pair.1), None, "the client saw the secret");
    (output.status.success(), String::from_utf8_lossy(&all).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn boto3_is_signed_for_with_the_real_pair() {
    let moto = tokio::task::spawn_blocking(Verifier::moto).await.expect("joined");
    let (id, secret) = moto.pair();
    let world = world(moto.addr).await;
    let (well, said) = boto3(&world, (&id, &secret), "aws.py", "all").await;
    assert!(well, "{said}");
    for answer in ["sts 123456789012", "get 5000", "listed signed", "parts 11534336", "item 100000"] {
        assert!(said.contains(&format!("answer: {answer}\n")), "{answer}: {said}");
    }
    // Moto is no check that can't fail.
    let (well, said) = boto3(&world, (&id, "another-secret-of-forty-characters-12345"), "aws.py", "sts").await;
    assert!(!well && said.contains("SignatureDoesNotMatch"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn url_that_boto3_presigns_is_signed_again_with_the_real_pair() {
    let (id, secret) = ("AKIAREAL0123456789AB", "real-secret-of-forty-characters-12345678");
    let verifier = tokio::task::spawn_blocking(|| Verifier::presigned(id, secret)).await.expect("joined");
    let world = world(verifier.addr).await;
    let (well, said) = boto3(&world, (id, secret), "presigned.py", "").await;
    assert!(well && said.contains("answer: GET signed well, 0 bytes\n"), "{said}");
    assert!(said.contains("answer: PUT signed well, 5 bytes\n"), "{said}");
    // The verifier is no check that can't fail.
    let (_, said) = boto3(&world, (id, "another-secret-of-forty-characters-12345"), "presigned.py", "").await;
    assert!(said.contains("answer: GET 403 SignatureDoesNotMatch\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn boto3_gets_no_fresh_credentials() {
    let moto = tokio::task::spawn_blocking(Verifier::moto).await.expect("joined");
    let (id, secret) = moto.pair();
    let world = world(moto.addr).await;
    let (well, said) = boto3(&world, (&id, &secret), "aws.py", "roles").await;
    assert!(well, "{said}");
    assert_eq!(said.matches("answer: refused credentials_withheld\n").count(), 3, "{said}");
}
