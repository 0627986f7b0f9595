//! A day with sallyport: keys, tools, sessions, tokens, policies, audit.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::binary::{Place, Serve};
use crate::support::emitted;

const KEY: &str = "sk_live_everyday_0123456789";

#[test]
fn key_goes_in_is_listed_shown_edited_rotated_disabled_and_deleted() {
    let place = Place::new();
    place.ok(&["init"]);
    place.add_key(&["stripe_api_key"], &format!("{KEY}\n"));
    let shown = place.json(&["keys", "show", "stripe_api_key"]);
    assert_eq!(shown["provider"], "stripe", "the name says whose key it is");
    assert_eq!(shown["hosts"][0], "api.stripe.com");
    place.ok(&["keys", "edit", "stripe_api_key", "--host", "api.stripe.com", "--expires-at", "2030-01-31T12:00:00Z"]);
    let edited = place.json(&["keys", "show", "stripe_api_key"]);
    assert_eq!(
        (edited["hosts"].as_array().map(Vec::len), &edited["expiresAt"]),
        (Some(1), &"2030-01-31T12:00:00.000Z".into())
    );
    let rotated = place.with_input(&["keys", "rotate", "stripe_api_key", "--json"], "sk_live_everyday_second");
    assert!(String::from_utf8_lossy(&rotated.stdout).contains("\"version\": 2"));
    place.ok(&["keys", "disable", "stripe_api_key"]);
    assert_eq!(place.json(&["keys", "show", "stripe_api_key"])["state"], "disabled");
    for command in
        [&["sessions", "start", "--key", "stripe_api_key"][..], &["run", "--key", "stripe_api_key", "--", "true"]]
    {
        let said = place.fails(command);
        assert!(said.contains("disabled; `sallyport keys enable stripe_api_key`"), "{said}");
    }
    place.ok(&["keys", "enable", "stripe_api_key"]);
    assert_eq!(place.json(&["keys", "list"]).as_array().map(Vec::len), Some(1));
    let said = place.fails(&["keys", "delete", "stripe_api_key"]);
    assert!(said.contains("nothing was changed") && said.contains("--yes"), "{said}");
    let at_a_terminal = |answer: &str| {
        let told = format!("{} keys delete stripe_api_key", env!("CARGO_BIN_EXE_sallyport"));
        let mut child = std::process::Command::new("script")
            .args(["--quiet", "--return", "--command", &told, "/dev/null"])
            .env("SALLYPORT_DATA_DIR", &place.data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script runs");
        child.stdin.take().expect("a pipe").write_all(answer.as_bytes()).expect("written");
        child.wait_with_output().expect("it ends").status.success()
    };
    assert!(!at_a_terminal("\n"));
    assert_eq!(place.json(&["keys", "list"]).as_array().map(Vec::len), Some(1));
    assert!(at_a_terminal("y\n"));
    assert!(place.ok(&["keys", "list"]).contains("There are no keys"));
    let all = format!("{}{}", place.ok(&["audit", "query"]), place.ok(&["audit", "verify"]));
    assert_eq!(emitted::find(all.as_bytes(), KEY), None);
    for action in ["key_create", "key_edit", "key_rotate", "key_delete"] {
        assert!(all.contains(action), "{action} is recorded: {all}");
    }
    assert!(all.contains("all whole"), "{all}");
}

#[test]
fn tool_session_and_token_from_start_to_revocation() {
    let place = Place::new();
    place.add_key(&["openai"], "sk-everyday-openai-1");
    place.ok(&["tools", "register", "helper", "--key", "openai", "--max-session", "30m"]);
    let said = place.fails(&["sessions", "start", "--tool", "helper", "--key", "openai", "--lasts", "2h"]);
    assert!(said.contains("1800 seconds at most"), "{said}");
    let said = place.fails(&["sessions", "start", "--key", "nothing"]);
    assert!(said.contains("no key nothing"), "{said}");
    let answer = place.json(&[
        "access",
        "request",
        "--tool",
        "helper",
        "--key",
        "openai",
        "--justification",
        "to try",
        "--lasts",
        "10m",
    ]);
    assert_eq!(answer["request"]["state"], "approved");
    let id = answer["started"]["id"].as_str().expect("an id");
    let minted = place.json(&["tokens", "mint", id, "openai"]);
    assert!(minted["value"].as_str().is_some_and(|v| v.starts_with("sk-proj-spt_")), "{minted}");
    let listed = place.json(&["tokens", "list", "--session", id]);
    assert_eq!((&listed[0]["state"], &listed[0]["key"]), (&"active".into(), &"openai".into()));
    let table = place.ok(&["tokens", "list"]);
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().expect("a heading")[..3], ["ID", "KEY", "SESSION"], "{table}");
    assert_eq!(lines.next().expect("a token")[1], "openai", "{table}");
    place.ok(&["tokens", "revoke", minted["id"].as_str().expect("an id")]);
    assert_eq!(place.json(&["tokens", "list"])[0]["state"], "revoked");
    place.ok(&["tools", "disable", "helper"]);
    assert_eq!(place.json(&["sessions", "list"])[0]["state"], "revoked", "a disabled tool's sessions end");
    let said = place.fails(&["tokens", "mint", id, "openai"]);
    assert!(said.contains("revoked"), "{said}");
    place.add_key(&["anthropic"], "sk-ant-everyday-1");
    let started = place.json(&["sessions", "start", "--key", "openai"]);
    let said = place.fails(&["tokens", "mint", started["id"].as_str().expect("an id"), "anthropic"]);
    assert!(said.contains("started without a key anthropic"), "{said}");
}

#[test]
fn policy_explain_says_which_rule_decides_and_why() {
    let place = Place::new();
    place.ok(&["init"]);
    assert!(place.ok(&["policy", "check"]).contains("every case holds"));
    let explain = |request: &str| {
        place.ok(&[
            "policy",
            "explain",
            request,
            "--key",
            "stripe_api_key",
            "--tool",
            "payment-processor",
            "--environment",
            "production",
        ])
    };
    let allowed = explain("POST https://api.stripe.com/v1/charges");
    assert!(allowed.starts_with("allow") && allowed.contains("stripe-payments"), "{allowed}");
    let denied = explain("POST https://api.stripe.com/v1/payouts");
    assert!(denied.starts_with("deny") && denied.contains("no-payouts"), "{denied}");
    assert!(denied.contains("decided by stripe-payments/no-payouts"), "{denied}");
    assert!(denied.contains("no tool payment-processor is registered; no key stripe_api_key is stored"), "{denied}");
    place.add_key(&["stripe_api_key"], KEY);
    let elsewhere = place.ok(&["policy", "explain", "GET https://a.test/", "--key", "stripe_api_key"]);
    assert!(elsewhere.contains("not a destination") && !elsewhere.contains("decided by"), "{elsewhere}");
    assert!(!elsewhere.contains("token stands in"), "{elsewhere}");
    let here = place.ok(&["policy", "explain", "GET https://api.stripe.com/v1/charges", "--key", "stripe_api_key"]);
    assert!(
        here.contains("the key (secret) goes there as api.stripe.com; its token stands in: bearer, basic:user"),
        "{here}"
    );
    assert!(here.contains("without a token the key isn't used"), "{here}");
    let slots = ["--slot", "path:/bot{}", "--slot", "header:x-key"];
    place.add_key(&[&["bot", "--host", "*.bots.test"][..], &slots].concat(), KEY);
    let inject = "version: 1\nname: inject\napplies_to: { keys: [bot] }\nwithout_token: inject\n\
        rules: [{ name: me, allow: { methods: [GET], paths: [\"/**\"] } }]\n";
    std::fs::write(place.data.join("policies/inject.yaml"), inject).expect("written");
    let other = place.ok(&["policy", "explain", "GET https://a.bots.test/me", "--key", "bot"]);
    assert!(other.contains("goes there as *.bots.test; its token stands in: header:x-key"), "{other}");
    assert!(other.contains("not in this request: path:/bot{}"), "{other}");
    assert!(other.contains("without a token, with proxy credentials: the key is put into header:x-key"), "{other}");
    let fits = place.json(&["policy", "explain", "GET https://a.bots.test/botX/me", "--key", "bot"]);
    assert_eq!(fits["useOfKey"]["slots"], serde_json::json!(["path:/bot{}", "header:x-key"]));
    std::fs::write(place.data.join("policies/mine.yaml"), "version: 1\nname: mine\nrulez: []\n").expect("written");
    let said = place.fails(&["policy", "check"]);
    assert!(said.contains("mine.yaml") && said.contains("rulez"), "{said}");
}

#[test]
fn errors_say_what_to_do_and_never_repeat_a_secret() {
    let place = Place::new();
    let secret = "hunter2-hunter2-hunter2";
    place.ok(&["init"]);
    place.add_key(&["there", "--host", "a.test"], secret);
    place.add_key(&["OpenAI"], secret);
    let registered = place.run(&["tools", "register", "aider", "--key", "there", "--key", "later"]);
    assert!(String::from_utf8_lossy(&registered.stderr).contains("no key later is stored yet"));
    let token = place.data.join("admin.token").to_string_lossy().into_owned();
    let cases: &[(&[&str], &str, &str)] = &[
        (&["keys", "add", "Nice Name", "--host", "a.test"], secret, "not a name"),
        (&["keys", "add", "x"], secret, "--provider"),
        (&["keys", "add", "x", "--provider", "nobody"], secret, "providers list"),
        (&["keys", "add", "sk-hunter2-hunter2hunter2"], secret, "the name looks like a key"),
        (&["keys", "show", "sk-hunter2-hunter2hunter2"], "", "no such key"),
        (&["projects", "add", "sk-hunter2-hunter2hunter2"], "", "name: it looks like a key"),
        (&["--log", "a=b=c", "keys", "list"], "", "--log: it is error, warn"),
        (&["--server", "http://127.0.0.1:1/api", "keys", "list"], "", "without a path"),
        (&["keys", "add", "x", "--provider", "opnai"], secret, "--provider: it isn't known (is openai meant?)"),
        (
            &["keys", "add", "x", "--host", "a.test", "--expires-at", "2020-01-01T00:00:00Z"],
            secret,
            "--expires-at: it has passed",
        ),
        (&["keys", "edit", "there"], "", "nothing to change"),
        (&["keys", "edit", "there", "--name", "openai"], "", "a key openai is there already"),
        (&["projects", "edit", "default"], "", "nothing to change"),
        (&["projects", "delete", "default"], "", "holds keys, tools or sessions"),
        (
            &["tools", "register", "aider", "--key", "there"],
            "",
            "a tool aider is there already; `sallyport tools show aider`",
        ),
        (&["sessions", "start", "--key", "there", "--lasts", "1s"], "", "--lasts: a session lasts between 60 seconds"),
        (&["keys", "add", "x", "--host", "*.com"], secret, "public suffix"),
        (&["keys", "add", "x", "--host", "https://a.test/"], secret, "leave out the scheme"),
        (&["keys", "add", "x", "--host", "a.test", "--slot", "header:host"], secret, "not a slot"),
        (&["keys", "add", "x", "--host", "a.test"], "short", "shorter than 8"),
        (&["keys", "add", "x", "--host", "a.test"], "", "empty"),
        (&["keys", "add", "x", "--host", "a.test"], "hunter2\nhunter2-hunter2", "line break"),
        (&["keys", "show", "x"], "", "no key x"),
        (&["keys", "rotate", "x"], secret, "no key x"),
        (&["projects", "add", "default"], "", "a project default is there already"),
        (&["projects", "delete", "nothing"], "", "no project nothing"),
        (&["sessions", "revoke", "nothing"], "", "no such session; `sallyport sessions list`"),
        (&["tokens", "revoke", "nothing"], "", "no such proxy token; `sallyport tokens list`"),
        (&["--server", "http://192.0.2.1:1", "keys", "list"], "", "unencrypted"),
        (&["--server", "ftp://x", "keys", "list"], "", "URL"),
        (&["--server", "http://127.0.0.1:1", "keys", "list"], "", "admin.token"),
        (
            &["--server", "http://127.0.0.1:1", "--admin-token-file", &token, "keys", "list"],
            "",
            "no admin API answers at 127.0.0.1:1",
        ),
        (&["config", "check", "/does/not/exist"], "", "No such file"),
        (&["run", "--key", "nothing", "--", "true"], "", "no key nothing"),
    ];
    for (arguments, input, expected) in cases {
        let output = place.with_input(arguments, input);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{arguments:?}: {said}");
    }
    assert_eq!(place.run(&["keys", "frobnicate"]).status.code(), Some(2), "misuse");
}

#[test]
fn configuration_is_checked_with_all_its_mistakes_at_once() {
    let place = Place::new();
    let file = place.data.with_extension("yaml");
    std::fs::write(&file, place.ok(&["config", "default"])).expect("written");
    let path = file.to_str().expect("text");
    assert!(place.ok(&["config", "check", path]).contains("right"));
    std::fs::write(&file, "listen: { proxy: 0.0.0.0:1, gatway: x }\nstore: { timeout: 5 }\n").expect("written");
    let said = place.fails(&["config", "check", path]);
    for part in ["listen.proxy: ", "TLS", "listen.gatway: ", "is listen.gateway meant?", "store.timeout: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn doctor_status_store_ca_providers_and_completions_answer() {
    let place = Place::new();
    assert!(place.ok(&["doctor"]).contains("isn't there yet"));
    assert!(!place.data.exists(), "looking makes nothing");
    place.ok(&["init"]);
    let said = place.ok(&["doctor"]);
    assert!(said.contains("ok    store: ") && said.contains("isolation"), "{said}");
    assert!(!said.contains("see `sallyport doctor`"), "it is what was asked: {said}");
    place.add_key(&["openai"], "sk-everyday-openai-1");
    let said = place.ok(&["doctor"]);
    assert!(said.contains(" in 1 chain, all whole"), "{said}");
    assert!(place.ok(&["status"]).contains("No node runs"));
    assert!(place.ok(&["store", "status"]).contains("applied  1"));
    assert!(place.ok(&["store", "migrate", "--dry-run"]).contains("up to date"));
    assert!(place.ok(&["ca", "show"]).starts_with("-----BEGIN CERTIFICATE-----"));
    let out = place.data.with_extension("ca");
    place.ok(&["ca", "export", "--ca-dir", out.to_str().expect("text")]);
    assert!(out.join("ca-bundle.pem").exists());
    assert!(place.ok(&["providers", "list"]).contains("OPENAI_API_KEY"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.ok(&["completions", shell]).contains("sallyport"));
    }
    for command in ["serve", "run", "keys", "sessions", "tokens", "policy", "audit", "env", "config", "store", "doctor"]
    {
        let help = place.ok(&[command, "--help"]);
        assert!(help.lines().count() > 5, "{help}");
    }
}

#[test]
fn data_directory_with_a_wrong_key_or_open_to_others_is_refused_by_every_command() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    place.ok(&["init"]);
    let kek = std::fs::read_to_string(place.data.join("kek")).expect("readable");
    let other: String = kek.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    std::fs::write(place.data.join("kek"), other).expect("written");
    let said = place.fails(&["keys", "list"]);
    assert!(said.contains("not the one that this data directory was sealed with"), "{said}");
    std::fs::write(place.data.join("kek"), kek).expect("written");
    std::fs::set_permissions(place.data.join("kek"), std::fs::Permissions::from_mode(0o644)).expect("changed");
    let said = place.fails(&["keys", "list"]);
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn data_directory_made_with_a_passphrase_opens_with_it_alone() {
    let place = Place::new();
    let with = |phrase: &str, arguments: &[&str]| {
        place.command(arguments).env("SALLYPORT_PASSPHRASE", phrase).output().expect("it runs")
    };
    assert!(with("correct horse battery", &["init", "--passphrase"]).status.success());
    assert!(!place.data.join("kek").exists());
    assert!(with("correct horse battery", &["keys", "list"]).status.success());
    assert!(!with("wrong horse battery", &["keys", "list"]).status.success());
    let said = place.fails(&["keys", "list"]);
    assert!(said.contains("SALLYPORT_PASSPHRASE"), "without a terminal there is nobody to ask: {said}");
    let said = Place::new().fails(&["init", "--passphrase"]);
    assert_eq!(
        said.trim(),
        "sallyport: nothing was made: the passphrase can't be asked for without a terminal: put it into \
         SALLYPORT_PASSPHRASE"
    );
}

#[test]
fn output_that_nobody_reads_ends_a_command_quietly_and_a_full_disk_is_told() {
    let place = Place::new();
    place.add_key(&["openai"], "sk-everyday-openai-1");
    for arguments in [
        &["demo"][..],
        &["status"],
        &["providers", "list"],
        &["config", "default"],
        &["completions", "bash"],
        &["audit", "query"],
    ] {
        let mut child =
            place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert!(output.status.success(), "{arguments:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = place.command(&["providers", "list"]).stdout(full).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("sallyport: writing standard output: No space left"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn key_whose_name_stands_in_two_environments_can_be_taken_into_a_shell() {
    let place = Place::new();
    place.add_key(&["stripe_api_key"], "sk_test_everyday_0123456789");
    place.add_key(&["stripe_api_key", "--environment", "production"], KEY);
    let serve = Serve::start(&place, "");
    let said = place.ok(&["env", "--key", "stripe_api_key"]);
    assert!(said.contains("export STRIPE_API_KEY='sk_"), "{said}");
    place.fails(&["env", "--key", "nothing"]);
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn data_directory_whose_key_is_in_the_environment_says_so() {
    let place = Place::new();
    let kek = "5a".repeat(32);
    let made = place.command(&["init"]).env("SALLYPORT_KEK", &kek).output().expect("it runs");
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(made.status.success() && !said.contains("  kek "), "{said}");
    assert!(said.contains("is that of SALLYPORT_KEK: every command needs it"), "{said}");
    let said = place.fails(&["keys", "list"]);
    assert!(said.contains("set SALLYPORT_KEK if"), "{said}");
}

#[test]
fn command_that_reads_the_data_directory_refuses_to_speak_for_another_node() {
    let place = Place::new();
    place.ok(&["init"]);
    for command in [&["audit", "query"][..], &["store", "status"], &["policy", "check"], &["env", "--key", "openai"]] {
        let said = place.fails(&[&["--server", "http://127.0.0.1:1"], command].concat());
        assert!(said.contains("reads the data directory of this machine"), "{said}");
    }
}

#[test]
fn policies_are_checked_before_they_are_in_a_data_directory() {
    let place = Place::new();
    let said = place.ok(&["policy", "check", concat!(env!("CARGO_MANIFEST_DIR"), "/policies")]);
    assert!(said.contains("every case holds"), "{said}");
    let said = place.fails(&["policy", "check", "/nowhere/at/all"]);
    assert!(said.contains("/nowhere/at/all is no directory of policies"), "{said}");
    assert!(!place.data.exists(), "checking makes nothing");
}

#[test]
fn refusal_is_recorded_with_the_session_the_token_and_the_key_that_it_is_about() {
    let place = Place::new();
    place.add_key(&["openai"], "sk-everyday-openai-1");
    std::fs::write(
        place.data.join("policies/no-admin.yaml"),
        "version: 1\nname: no-admin\nrules:\n  - { name: admin, deny: { paths: [\"/v1/admin/**\"] } }\n",
    )
    .expect("written");
    let serve = Serve::start(&place, "upstream: { resolve: { \"api.openai.com:443\": \"127.0.0.1:1\" } }\n");
    let session = place.json(&["sessions", "start", "--key", "openai"])["id"].as_str().expect("an id").to_owned();
    let minted = place.json(&["tokens", "mint", &session, "openai"]);
    let (token, value) = (minted["id"].as_str().expect("an id"), minted["value"].as_str().expect("a value"));
    let ask = |path: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(serve.gateway).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {value}\r\nconnection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    };
    assert!(ask("/openai/v1/admin/users").contains("policy_denied"));
    assert!(ask("/stripe/v1/charges").contains("host_not_allowed"));
    place.ok(&["tokens", "revoke", token]);
    assert!(ask("/openai/v1/models").contains("token_revoked"));
    assert_eq!(serve.stop(), Some(0));
    let said = place.ok(&["audit", "query", "--kind", "denied", "--session", &session, "--key", "openai", "--json"]);
    let records: Vec<serde_json::Value> = said.lines().map(|l| serde_json::from_str(l).expect("a record")).collect();
    // Refusals within one millisecond may be told in either order.
    let mut codes: Vec<_> = records.iter().map(|r| r["code"].as_str().expect("a code")).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["host_not_allowed", "policy_denied", "token_revoked"]);
    assert!(records.iter().all(|record| record["token"] == token), "{said}");
}

#[test]
fn doctor_makes_a_real_request_from_each_client_and_says_what_one_is_missing() {
    let place = Place::new();
    let fakes = tempfile::tempdir().expect("a temporary directory");
    let fake = |name: &str, script: &str| {
        // By another process: a child that some test starts meanwhile would hold ours open for writing, and
        // then nobody can start it.
        let write = ["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"];
        let file = fakes.path().join(name);
        let written = std::process::Command::new("sh").args(write).arg(file).arg(script).status();
        assert!(written.expect("sh runs").success());
    };
    let path = std::env::var("PATH").expect("a path");
    fake("wget", "unset https_proxy; echo no way there >&2; exit 4");
    fake(
        "ruby",
        &format!("PATH={path}; curl -sS --cacert /dev/null https://doctor.sallyport.invalid/ -x $https_proxy; exit 60"),
    );
    let mut command = place.command(&["doctor", "--json"]);
    let output = command.env("PATH", format!("{}:{path}", fakes.path().display())).output().expect("it runs");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |what: &str| {
        let row = rows.iter().find(|row| row["what"] == what).unwrap_or_else(|| panic!("{what}: {rows:#?}"));
        (row["state"].as_str().expect("text"), row["detail"].as_str().expect("text"))
    };
    assert_eq!(of("curl"), ("ok", "its request comes through"));
    assert_eq!(of("python3 urllib").0, "ok", "{rows:#?}");
    let (state, said) = of("wget");
    assert!(state == "weak" && said.contains("goes around the proxy: it needs https_proxy"), "{said}");
    assert!(said.contains("no way there"), "its own words: {said}");
    let (state, said) = of("ruby net/http");
    assert!(state == "weak" && said.contains("has to trust the CA by SSL_CERT_FILE"), "{said}");
    assert!(!place.data.exists(), "nothing is made");
}
