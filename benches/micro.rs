//! What the steps of an exchange cost one by one, in memory.
//!
//!     cargo bench --bench micro                     all, in nanoseconds an operation
//!     cargo bench --bench micro -- --instructions   the same in instructions, under callgrind
//!
//! Nanoseconds are the best of seven batches. Instructions are the difference between two runs of
//! unlike length, so that setting up doesn't count.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request};
use sallyport::audit::{self, AuditKeys, Intent, Journal, Receipt, Writer};
use sallyport::model::{
    Authority, Bounds, Cleartext, Clock, Destination, Environment, ExchangeId, GrantId, HostPattern, KeyId, KeyKind,
    Name, OrgId, ProjectId, ProxyToken, Scheme, Secret, SessionId, SessionSecret, Slot, SystemClock, TokenForm,
    TokenHash, TokenId, TokenShape,
};
use sallyport::policy::{Decision, Facts, Permit, PolicySet, shipped};
use sallyport::proxy::identify::Found;
use sallyport::proxy::inject;
use sallyport::proxy::scrub::{PatternSet, Scrubber};
use sallyport::session::live::LiveToken;
use sallyport::session::records::{Grant, Project, Session, Standing, Token};
use sallyport::session::registry::Registry;
use sallyport::tls::ca::Ca;
use sallyport::vault::key::{Key, KeyState};
use sallyport::vault::{EnvKek, Keyring, Vault};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SECRET: &[u8] = b"sk-made-up-0123456789abcdefghijklmnopqrstuvwxyz";
const PATH: &str = "/v1/chat/completions";

/// An operation: runs so many times and says how long that took, without its preparations.
type Operation = (&'static str, fn(&World, u32) -> anyhow::Result<Duration>);

const OPERATIONS: [Operation; 11] = [
    ("token match", |w, n| Ok(times(n, || TokenHash::find(black_box(w.header.as_bytes()))))),
    ("token look-up, 1,000 live", |w, n| Ok(times(n, || w.small.look_up()))),
    ("token look-up, 100,000 live", |w, n| Ok(times(n, || w.large.look_up()))),
    ("policy decide", |w, n| Ok(times(n, || w.policies.decide(&w.facts(ExchangeId::from_bytes([7; 16])))))),
    ("audit append", append),
    ("vault open", open),
    ("inject", inject_key),
    ("leaf mint", |w, n| Ok(times(n, || w.ca.mint(&w.authority.host, w.clock.now()).is_ok()))),
    ("scrub 4 KB, nothing in it", |w, n| Ok(times(n, || w.scrub(&w.patterns, &w.clean)))),
    ("scrub 4 KB, the key in it", |w, n| Ok(times(n, || w.scrub(&w.patterns, &w.echoed)))),
    ("scrub 4 KB, a short key bound", |w, n| Ok(times(n, || w.scrub(&w.short, &w.clean)))),
];

fn main() -> anyhow::Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let word = |at: usize| args.get(at).map(String::as_str);
    match word(0) {
        // How the measured half of `--instructions` is started.
        Some("--only") => {
            let (name, n) = (word(1).context("which?")?, word(2).context("how often?")?.parse()?);
            let (_, run) = OPERATIONS.iter().find(|(of, _)| *of == name).context("no such operation")?;
            run(&World::new(name.contains("100,000"))?, n).map(drop)
        }
        Some("--instructions") => OPERATIONS.iter().try_for_each(|(name, _)| {
            let (few, many) = (instructions(name, 100)?, instructions(name, 600)?);
            println!("{name:30} {:>12.0} instructions", (many.saturating_sub(few)) as f64 / 500.0);
            Ok(())
        }),
        _ => {
            let world = World::new(true)?;
            for (name, run) in &OPERATIONS {
                let once = run(&world, 100)?.as_nanos().max(1) / 100;
                let n = u32::try_from((20_000_000 / once.max(1)).clamp(200, 200_000))?;
                let mut best = Duration::MAX;
                for _ in 0..7 {
                    best = best.min(run(&world, n)?);
                }
                println!("{name:30} {:>12.1} ns", best.as_nanos() as f64 / f64::from(n));
            }
            Ok(())
        }
    }
}

/// The instructions of a whole run of this program, as callgrind counts them.
fn instructions(name: &str, n: u32) -> anyhow::Result<u64> {
    let out = std::process::Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--only", name, &n.to_string()])
        .output()
        .context("starting valgrind; is it installed?")?;
    let text = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.success(), "the measured run failed: {text}");
    let at = text.rfind("Collected : ").context("callgrind printed no count")?;
    Ok(text[at + 12..].lines().next().unwrap_or_default().trim().parse()?)
}

fn times<T>(n: u32, mut operation: impl FnMut() -> T) -> Duration {
    let started = Instant::now();
    for _ in 0..n {
        black_box(operation());
    }
    started.elapsed()
}

fn append(w: &World, n: u32) -> anyhow::Result<Duration> {
    let permit = w.permit(0)?;
    let started = Instant::now();
    for at in 0..n {
        w.receipt(at, &permit)?;
    }
    Ok(started.elapsed())
}

fn open(w: &World, n: u32) -> anyhow::Result<Duration> {
    let mut rights = Vec::with_capacity(n as usize);
    for at in 0..n {
        let permit = w.permit(at)?;
        let receipt = w.receipt(at, &permit)?;
        rights.push((permit, receipt));
    }
    let started = Instant::now();
    for (permit, receipt) in rights {
        black_box(w.vault.open(permit, receipt)?);
    }
    Ok(started.elapsed())
}

fn inject_key(w: &World, n: u32) -> anyhow::Result<Duration> {
    let secret = Secret::new(SECRET.to_vec());
    let (range, _) = TokenHash::find(w.header.as_bytes()).context("no token in the header")?;
    let token = w.small.look_up().context("the token isn't live")?;
    let found = Found { token, key: Arc::clone(&w.key), slot: Slot::Bearer, range };
    let mut took = Duration::ZERO;
    for _ in 0..n.div_ceil(100) {
        let mut all = Vec::new();
        for _ in 0..100 {
            let mut request = Request::new(());
            request.headers_mut().reserve(16);
            request.headers_mut().insert(AUTHORIZATION, w.header.clone());
            all.push(request);
        }
        let started = Instant::now();
        for request in &mut all {
            inject::inject(request, None, &found, &secret)
                .map_err(|why| anyhow::anyhow!("not injected: {}", why.detail))?;
        }
        took += started.elapsed();
    }
    Ok(took)
}

/// The live view with so many tokens, and the hash of one of them.
struct Live {
    registry: Registry,
    hash: TokenHash,
}

impl Live {
    fn new(key: &Key, value: &ProxyToken, tokens: usize) -> anyhow::Result<Self> {
        let registry = Registry::new(Duration::from_secs(5));
        let now = SystemClock.now();
        let project = Project {
            id: key.project,
            org: OrgId::DEFAULT,
            name: "default".parse()?,
            description: String::new(),
            created_at: now,
        };
        registry.put_project(&project);
        registry.put_keys([key.clone()]);
        let (mut session, mut grant) = (SessionId::generate(), GrantId::generate());
        let secret = SessionSecret::generate().map_err(|_| anyhow::anyhow!("no randomness"))?.hash();
        let expires_at = now.plus(Duration::from_secs(3600));
        for at in 0..tokens {
            if at % 100 == 0 {
                (session, grant) = (SessionId::generate(), GrantId::generate());
                registry.put_grant(&Grant { id: grant, org: OrgId::DEFAULT, session, key: key.id, created_at: now });
                registry.put_session(&Session {
                    id: session,
                    org: OrgId::DEFAULT,
                    project: key.project,
                    environment: key.environment,
                    tool: None,
                    secret,
                    bounds: Bounds::default(),
                    standing: Standing::Active,
                    created_at: now,
                    expires_at,
                });
            }
            let hash = match at {
                0 => value.hash(),
                _ => TokenHash::of(&at.to_be_bytes()),
            };
            registry.put_token(&Token {
                id: TokenId::generate(),
                org: OrgId::DEFAULT,
                session,
                grant,
                root: None,
                hash,
                shape: TokenShape::default(),
                standing: Standing::Active,
                created_at: now,
                expires_at,
            });
        }
        Ok(Self { registry, hash: value.hash() })
    }

    fn look_up(&self) -> Option<Arc<LiveToken>> {
        self.registry.token(black_box(&self.hash)).filter(|token| token.ended(SystemClock.now()).is_none())
    }
}

/// Everything that the operations work on.
struct World {
    clock: Arc<dyn Clock>,
    authority: Authority,
    project: Name,
    key: Arc<Key>,
    header: HeaderValue,
    small: Live,
    large: Live,
    policies: PolicySet,
    vault: Vault,
    writer: Writer,
    ca: Ca,
    patterns: Arc<PatternSet>,
    /// With a short secret among what is looked for.
    short: Arc<PatternSet>,
    clean: Bytes,
    echoed: Bytes,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(large: bool) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let now = clock.now();
        let key = Key {
            id: KeyId::generate(),
            org: OrgId::DEFAULT,
            project: ProjectId::generate(),
            environment: Environment::Development,
            name: "bench".parse()?,
            provider: "custom".parse()?,
            kind: KeyKind::Secret,
            token_endpoint: None,
            destination: Destination {
                hosts: vec![HostPattern::parse("api.example.com")?],
                slots: vec![Slot::Bearer],
                cleartext: Cleartext::Never,
            },
            shape: TokenShape::default(),
            state: KeyState::Enabled,
            version: 1,
            given: 1,
            created_at: now,
            updated_at: now,
            expires_at: None,
        };
        let value = ProxyToken::generate(TokenForm::Long, &key.shape).map_err(|_| anyhow::anyhow!("no randomness"))?;
        let kek = EnvKek { name: "BENCH", value: Secret::new("5a".repeat(32)) };
        let keyring = Arc::new(Keyring::load(&kek)?);
        let dir = tempfile::tempdir()?;
        let keys = AuditKeys { mac: keyring.subkey("audit-mac"), sign: keyring.subkey("audit-sign") };
        let writer =
            Journal::open(&dir.path().join("audit"), keys, audit::Settings::default(), Arc::clone(&clock))?.writer()?;
        let vault = Vault::new(keyring, Arc::clone(&clock));
        vault.load(&key, &vault.seal(&key, 1, &Secret::new(SECRET.to_vec()))?)?;
        let documents: Vec<_> = shipped().iter().map(|(f, t)| ((*f).to_owned(), t.as_bytes().to_vec())).collect();
        let policies = PolicySet::compile(&documents)
            .map_err(|problems| anyhow::anyhow!("{}", problems.iter().map(ToString::to_string).collect::<String>()))?;
        let mut patterns = PatternSet::builder(&[7; 32]);
        patterns.add(SECRET);
        let mut short = PatternSet::builder(&[7; 32]);
        [SECRET, b"pa55w0rd"].into_iter().for_each(|secret| short.add(secret));
        let mut text = br#"{"id":"chatcmpl-1","object":"chat.completion","usage":{"total_tokens":128}} "#.repeat(52);
        text.truncate(4096);
        let mut echoed = text.clone();
        echoed[2000..2000 + SECRET.len()].copy_from_slice(SECRET);
        Ok(Self {
            ca: Ca::create(&*clock)?.ca,
            authority: Authority::parse("api.example.com", 443)?,
            project: "default".parse()?,
            header: format!("Bearer {}", value.expose()).parse()?,
            small: Live::new(&key, &value, 1_000)?,
            large: Live::new(&key, &value, if large { 100_000 } else { 1 })?,
            key: Arc::new(key),
            policies,
            vault,
            writer,
            patterns: Arc::new(patterns.build()),
            short: Arc::new(short.build()),
            clean: text.into(),
            echoed: echoed.into(),
            clock,
            _dir: dir,
        })
    }

    fn facts(&self, exchange: ExchangeId) -> Facts<'_> {
        Facts {
            exchange,
            session: SessionId::from_bytes([1; 16]),
            org: OrgId::DEFAULT,
            project: &self.project,
            environment: self.key.environment,
            tool: None,
            key: self.key.id,
            key_name: &self.key.name,
            key_version: self.key.version,
            scheme: Scheme::Https,
            authority: &self.authority,
            method: &Method::POST,
            path: PATH,
            slot: &Slot::Bearer,
            upgrade: None,
        }
    }

    fn permit(&self, number: u32) -> anyhow::Result<Permit> {
        match self.policies.decide(&self.facts(exchange(number))) {
            Decision::Permit(permit) => Ok(permit),
            Decision::Deny(denial) => anyhow::bail!("denied: {}", denial.reason),
        }
    }

    fn receipt(&self, number: u32, permit: &Permit) -> anyhow::Result<Receipt> {
        let intent = Intent {
            at: sallyport::model::Timestamp(1),
            exchange: exchange(number),
            session: SessionId::from_bytes([1; 16]),
            token: Some(TokenId::from_bytes([2; 16])),
            org: OrgId::DEFAULT,
            project: &self.project,
            key: self.key.id,
            key_name: &self.key.name,
            version: 1,
            tool: None,
            method: permit.method(),
            scheme: Scheme::Https,
            authority: &self.authority,
            path: PATH,
            slot: &Slot::Bearer,
            policy: permit.policy(),
            rule: permit.rule(),
            policy_digest: self.policies.digest(),
            client: Some("127.0.0.1:40000"),
            mint: false,
        };
        // Dropping the draft adds the outcome, which rides on the next append.
        Ok(self.writer.intent(&intent)?.0)
    }

    fn scrub(&self, patterns: &Arc<PatternSet>, text: &Bytes) -> u32 {
        let (mut scrubber, mut out) = (Scrubber::new(Arc::clone(patterns)), VecDeque::with_capacity(2));
        scrubber.push(text.clone(), &mut out);
        scrubber.finish(&mut out);
        black_box(&out);
        scrubber.hits().all()
    }
}

fn exchange(number: u32) -> ExchangeId {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    ExchangeId::from_bytes(bytes)
}
