use std::fs;
use std::sync::Arc;

use http::Method;

use super::envelope::{MAX_SECRET, SecretError};
use super::key::{Key, KeyState, SealedVersion};
use super::*;
use crate::audit::{AuditKeys, Intent, Journal, Receipt, Settings, Writer};
use crate::model::{
    Authority, Cleartext, Clock, Destination, Environment, ExchangeId, KeyId, KeyKind, ManualClock, Name, OrgId,
    ProjectId, Scheme, Secret, SessionId, Slot, Timestamp, TokenShape,
};
use crate::policy::{Decision, Facts, Library, Permit, ScrubPermit};

/// A vault, a policy that permits everything in development, and an audit.
struct Bench {
    vault: Vault,
    library: Library,
    audit: Writer,
    authority: Authority,
    key: Key,
    session: SessionId,
    _dir: tempfile::TempDir,
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)))
}

fn vault_under(kek: char) -> Vault {
    let source = EnvKek { name: "KEK", value: Secret::new(kek.to_string().repeat(64)) };
    Vault::new(Arc::new(Keyring::load(&source).unwrap()), clock())
}

fn destination(host: &str) -> Destination {
    Destination { hosts: vec![host.parse().unwrap()], slots: vec![Slot::Bearer], cleartext: Cleartext::Never }
}

fn secret(text: &str) -> Secret<Vec<u8>> {
    Secret::new(text.as_bytes().to_vec())
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = "version: 1\nname: all\napplies_to: { environments: [development] }\nrules:\n  - name: any\n    allow: {}\n";
        fs::create_dir(dir.path().join("policies")).unwrap();
        fs::write(dir.path().join("policies/all.yaml"), text).unwrap();
        let keys = AuditKeys { mac: Secret::new([1; 32]), sign: Secret::new([2; 32]) };
        let journal = Journal::open(&dir.path().join("audit"), keys, Settings::default(), clock()).unwrap();
        Self {
            vault: vault_under('a'),
            library: Library::load(&dir.path().join("policies")).unwrap(),
            audit: journal.writer().unwrap(),
            authority: Authority::parse("api.example.com", 443).unwrap(),
            key: Key {
                id: KeyId::generate(),
                org: OrgId::DEFAULT,
                project: ProjectId::generate(),
                environment: Environment::Development,
                name: "payments".parse().unwrap(),
                provider: "custom".parse().unwrap(),
                kind: KeyKind::Secret,
                token_endpoint: None,
                destination: destination("api.example.com"),
                shape: TokenShape::default(),
                state: KeyState::Enabled,
                version: 1,
                given: 1,
                created_at: Timestamp(0),
                updated_at: Timestamp(0),
                expires_at: None,
            },
            session: SessionId::generate(),
            _dir: dir,
        }
    }

    fn at_version(&self, version: u32) -> Key {
        Key { version, ..self.key.clone() }
    }

    fn seal(&self, version: u32) -> SealedVersion {
        self.vault.seal(&self.key, version, &secret(&format!("the-secret-of-version-{version}"))).unwrap()
    }

    fn permit(&self, exchange: ExchangeId, key: KeyId, version: u32) -> Permit {
        let facts = Facts {
            exchange,
            session: self.session,
            org: self.key.org,
            project: &self.key.name,
            environment: Environment::Development,
            tool: None,
            key,
            key_name: &self.key.name,
            key_version: version,
            scheme: Scheme::Https,
            authority: &self.authority,
            method: &Method::POST,
            path: "/v1/charges",
            slot: &Slot::Bearer,
            upgrade: None,
        };
        match self.library.current().decide(&facts) {
            Decision::Permit(permit) => permit,
            Decision::Deny(why) => panic!("{why:?}"),
        }
    }

    fn receipt(&self, exchange: ExchangeId, key: KeyId, version: u32) -> Receipt {
        let name: &Name = &self.key.name;
        let intent = Intent {
            at: crate::model::Timestamp(1),
            exchange,
            session: self.session,
            token: None,
            org: self.key.org,
            project: name,
            key,
            key_name: name,
            version,
            tool: None,
            method: &Method::POST,
            scheme: Scheme::Https,
            authority: &self.authority,
            path: "/v1/charges",
            slot: &Slot::Bearer,
            policy: name,
            rule: "any",
            policy_digest: &[0; 32],
            client: None,
            mint: false,
        };
        self.audit.intent(&intent).unwrap().0
    }

    fn open(&self, version: u32) -> Result<String, OpenError> {
        let exchange = ExchangeId::generate();
        let permit = self.permit(exchange, self.key.id, version);
        let opened = self.vault.open(permit, self.receipt(exchange, self.key.id, version))?;
        Ok(String::from_utf8(opened.expose().clone()).unwrap())
    }

    fn shown(&self) -> Vec<String> {
        let mut shown = Vec::new();
        let permit = ScrubPermit::for_reply(self.key.org, &self.authority);
        let mut show = |secret: &[u8]| shown.push(String::from_utf8(secret.to_vec()).unwrap());
        self.vault.scrub_entry(permit, self.key.id, &mut show).unwrap();
        shown
    }
}

#[test]
fn sealed_version_opens_only_as_what_it_was_sealed_as() {
    let bench = Bench::new();
    let sealed = bench.seal(1);
    type Change = fn(&mut Key, &mut SealedVersion);
    let rows: &[(&str, Change)] = &[
        ("another key", |k, v| (k.id, v.key) = (KeyId::from_bytes([5; 16]), KeyId::from_bytes([5; 16]))),
        ("another organisation", |k, v| (k.org, v.org) = (OrgId::from_bytes([5; 16]), OrgId::from_bytes([5; 16]))),
        ("another environment", |k, _| k.environment = Environment::Production),
        ("another version", |k, v| (k.version, v.version) = (2, 2)),
        ("another host", |k, _| k.destination = destination("evil.example.com")),
        ("another slot", |k, _| k.destination.slots = vec![Slot::BasicUser]),
        ("clear text", |k, _| k.destination.cleartext = Cleartext::Loopback),
        ("a row of another key", |_, v| v.key = KeyId::from_bytes([5; 16])),
        ("a row of another organisation", |_, v| v.org = OrgId::from_bytes([5; 16])),
        ("a byte of the secret", |_, v| v.sealed[20] ^= 1),
        ("a byte of the data key", |_, v| v.wrapped_dek[20] ^= 1),
        ("another format", |_, v| v.wrapped_dek[0] = 2),
        ("cut short", |_, v| v.wrapped_dek.truncate(9)),
        ("empty", |_, v| v.wrapped_dek.clear()),
    ];
    for (what, change) in rows {
        let (mut key, mut version) = (bench.key.clone(), sealed.clone());
        change(&mut key, &mut version);
        let loaded = bench.vault.load(&key, &version);
        let opened = loaded.and_then(|()| bench.open(1).map(drop));
        assert_eq!(opened, Err(OpenError::Tampered), "{what}");
        assert_eq!(bench.vault.reseal(&key, &version, &bench.key), Err(OpenError::Tampered), "{what}");
        bench.vault.unload(key.id);
    }
    bench.vault.load(&bench.key, &sealed).unwrap();
    assert_eq!(bench.open(1).unwrap(), "the-secret-of-version-1");
}

#[test]
fn two_secrets_can_not_exchange_their_ciphertexts() {
    let bench = Bench::new();
    let (one, two) = (bench.seal(1), bench.seal(2));
    let mixed = SealedVersion { sealed: two.sealed.clone(), ..one.clone() };
    bench.vault.load(&bench.key, &mixed).unwrap();
    assert_eq!(bench.open(1), Err(OpenError::Tampered));
    assert_ne!(one.sealed[..13], two.sealed[..13], "each seal has a nonce of its own");
}

#[test]
fn permit_and_receipt_about_different_things_open_nothing() {
    let bench = Bench::new();
    bench.vault.load_all(&bench.at_version(2), &[bench.seal(1), bench.seal(2)]).unwrap();
    let (exchange, other) = (ExchangeId::generate(), ExchangeId::generate());
    let (key, other_key) = (bench.key.id, KeyId::generate());
    let rows = [
        ("exchange", (exchange, key, 2), (other, key, 2)),
        ("key", (exchange, key, 2), (exchange, other_key, 2)),
        ("version", (exchange, key, 2), (exchange, key, 1)),
    ];
    for (what, p, r) in rows {
        let opened = bench.vault.open(bench.permit(p.0, p.1, p.2), bench.receipt(r.0, r.1, r.2));
        assert_eq!(opened.err(), Some(OpenError::Mismatch), "{what}");
    }
    let absent = bench.vault.open(bench.permit(exchange, other_key, 1), bench.receipt(exchange, other_key, 1));
    assert_eq!(absent.err(), Some(OpenError::Absent));
}

#[test]
fn rotation_between_decision_and_opening_cuts_nothing() {
    let bench = Bench::new();
    bench.vault.load(&bench.key, &bench.seal(1)).unwrap();
    let exchange = ExchangeId::generate();
    let (permit, receipt) = (bench.permit(exchange, bench.key.id, 1), bench.receipt(exchange, bench.key.id, 1));
    bench.vault.load(&bench.at_version(2), &bench.seal(2)).unwrap();
    let opened = bench.vault.open(permit, receipt).unwrap();
    assert_eq!(opened.expose(), b"the-secret-of-version-1");
    assert_eq!(bench.open(2).unwrap(), "the-secret-of-version-2");
    assert_eq!(bench.shown(), ["the-secret-of-version-2", "the-secret-of-version-1"], "the scrubber masks both");
}

#[test]
fn earlier_versions_are_held_up_to_a_bound() {
    let bench = Bench::new();
    for version in 1..=6 {
        bench.vault.load(&bench.at_version(version), &bench.seal(version)).unwrap();
    }
    assert_eq!(bench.shown().len(), HELD_VERSIONS);
    assert_eq!(bench.open(3), Err(OpenError::Absent));
    assert!(bench.open(4).is_ok());
    // Back to an earlier version: the one that was in force stays beside it.
    bench.vault.load(&bench.at_version(5), &bench.seal(5)).unwrap();
    assert_eq!(bench.shown()[..2], ["the-secret-of-version-5", "the-secret-of-version-6"]);
    let all: Vec<_> = (1..=6).map(|version| bench.seal(version)).collect();
    bench.vault.unload(bench.key.id);
    assert_eq!(bench.open(6), Err(OpenError::Absent));
    bench.vault.load_all(&bench.at_version(6), &all).unwrap();
    assert_eq!(bench.shown().len(), HELD_VERSIONS);
    assert_eq!(bench.vault.load_all(&bench.at_version(7), &all), Err(OpenError::Absent));
}

#[test]
fn bad_earlier_version_does_not_keep_the_one_in_force_from_use() {
    let bench = Bench::new();
    let bad = SealedVersion { wrapped_dek: vec![1; 61], ..bench.seal(1) };
    bench.vault.load_all(&bench.at_version(2), &[bad, bench.seal(2)]).unwrap();
    assert_eq!(bench.shown(), ["the-secret-of-version-2"]);
    // And a bad one in force leaves what was held.
    let bad = SealedVersion { wrapped_dek: vec![1; 61], ..bench.seal(3) };
    assert_eq!(bench.vault.load(&bench.at_version(3), &bad), Err(OpenError::Tampered));
    assert!(bench.open(2).is_ok());
}

#[test]
fn changed_destination_is_sealed_anew_and_the_old_seal_does_not_open_there() {
    let bench = Bench::new();
    let (before, after) = (bench.seal(1), Key { destination: destination("api2.example.com"), ..bench.key.clone() });
    let again = bench.vault.reseal(&bench.key, &before, &after).unwrap();
    assert_eq!(bench.vault.load(&after, &before), Err(OpenError::Tampered));
    bench.vault.load(&after, &again).unwrap();
    assert_eq!(bench.open(1).unwrap(), "the-secret-of-version-1");
    assert_eq!(again.created_at, before.created_at);
}

#[test]
fn another_organisation_builds_no_scrub_pattern_of_a_key() {
    let bench = Bench::new();
    bench.vault.load(&bench.key, &bench.seal(1)).unwrap();
    let permit = ScrubPermit::for_reply(OrgId::from_bytes([5; 16]), &bench.authority);
    let mut show = |_: &[u8]| panic!("a secret was shown");
    assert_eq!(bench.vault.scrub_entry(permit, bench.key.id, &mut show), Err(OpenError::Mismatch));
}

#[test]
fn secret_that_no_header_can_carry_or_no_reply_be_searched_for_is_refused() {
    let bench = Bench::new();
    let rows: &[(&[u8], Option<SecretError>)] = &[
        (b"", Some(SecretError::TooShort)),
        (b"1234567", Some(SecretError::TooShort)),
        (b"12345678", None),
        (b"12345678\n", Some(SecretError::Control)),
        (b"1234\r\nX-A: b", Some(SecretError::Control)),
        (b"1234\x00678", Some(SecretError::Control)),
        (b"1234\t5678", Some(SecretError::Control)),
        (b"12345678\x7f", Some(SecretError::Control)),
        (&[b'x'; MAX_SECRET], None),
        (&[b'x'; MAX_SECRET + 1], Some(SecretError::TooLong)),
    ];
    for (text, expected) in rows {
        let sealed = bench.vault.seal(&bench.key, 1, &Secret::new(text.to_vec()));
        assert_eq!(sealed.err(), expected.map(OpenError::Secret), "{} bytes", text.len());
    }
}

#[test]
fn wrong_key_encryption_key_is_told_clearly_and_changes_nothing() {
    let bench = Bench::new();
    let sealed = bench.seal(1);
    let right = Keyring::load(&EnvKek { name: "KEK", value: Secret::new("a".repeat(64)) }).unwrap();
    let wrong = Keyring::load(&EnvKek { name: "KEK", value: Secret::new("b".repeat(64)) }).unwrap();
    let canary = right.canary().unwrap();
    right.check(&canary).unwrap();
    let why = wrong.check(&canary).unwrap_err().to_string();
    assert!(why.contains("not the one") && why.contains("nothing was changed"), "{why}");
    assert!(!why.contains("bbbb"));
    assert_eq!(vault_under('b').load(&bench.key, &sealed), Err(OpenError::Tampered));
    assert_eq!(bench.vault.load(&bench.key, &sealed), Ok(()));
    assert!(wrong.open_blob("canary", &canary).is_none());
    assert!(right.open_blob("ca-key", &canary).is_none(), "a blob opens under its own label only");
}

#[test]
fn what_is_no_key_encryption_key_is_refused_without_repeating_it() {
    for text in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
        let why = EnvKek { name: "SALLYPORT_KEK", value: Secret::new(text.to_owned()) }.load().unwrap_err().to_string();
        assert!(why.contains("SALLYPORT_KEK") && (text.len() < 4 || !why.contains(text)), "{why}");
    }
}

#[test]
fn file_that_others_may_read_is_no_source_of_a_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = FileKek(dir.path().join("kek"));
    file.create().unwrap();
    let first = file.load().unwrap();
    file.create().unwrap();
    assert_eq!(first.expose(), file.load().unwrap().expose(), "a key that is there stays");
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(file.load(), Err(KeyringError::Loose { mode: 0o640, .. })));
}

#[test]
fn two_salts_give_a_passphrase_different_keys() {
    let key = |passphrase: &str, salt| {
        let source = PassphraseKek { passphrase: Secret::new(passphrase.to_owned()), salt: [salt; 16] };
        *source.load().unwrap().expose()
    };
    let first = key("correct horse battery staple", 1);
    assert_ne!(first, key("correct horse battery staple", 2));
    assert_ne!(first, key("correct horse battery stapler", 1));
    assert_eq!(first, key("correct horse battery staple", 1));
}

#[test]
fn debug_shows_nothing_of_what_is_sealed() {
    let bench = Bench::new();
    let sealed = SealedVersion { wrapped_dek: vec![201; 61], sealed: vec![202; 61], ..bench.seal(1) };
    assert_eq!(format!("{sealed:?}"), format!("SealedVersion({} v1)", bench.key.id));
    assert_eq!(format!("{:?}", bench.vault.seal(&bench.key, 1, &secret("short")).unwrap_err()), "Secret(TooShort)");
}

#[test]
fn key_that_is_out_of_use_says_why_and_what_to_do() {
    let key = Bench::new().key;
    let at = Timestamp;
    assert_eq!(key.out_of_use(at(0)), None);
    let ends = Key { expires_at: Some(at(1000)), ..key.clone() };
    assert_eq!(ends.out_of_use(at(999)), None);
    assert!(ends.out_of_use(at(1000)).is_some_and(|why| why.contains("has expired; `sallyport keys edit")));
    let off = Key { state: KeyState::Disabled, ..key };
    assert!(off.out_of_use(at(0)).is_some_and(|why| why.contains("is disabled; `sallyport keys enable")));
}
