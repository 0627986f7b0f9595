//! `sallyport run`: what its command can and can't see.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;

use crate::support::Reply;
use crate::support::binary::Place;
use crate::support::upstream::{Setup, Upstream};

const KEY: &str = "sk-proj-isolation-0123456789";

#[test]
fn exit_code_and_signals_pass() {
    let place = Place::new();
    assert_eq!(place.run(&["run", "--", "sh", "-c", "exit 37"]).status.code(), Some(37));
    assert_eq!(place.run(&["run", "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(128 + 9));
    assert_eq!(place.run(&["run", "--", "/does/not/exist"]).status.code(), Some(127));
    assert_eq!(place.run(&["run", "--", "/"]).status.code(), Some(126));
    let mut command =
        place.command(&["run", "--", "sh", "-c", "trap 'exit 21' TERM; echo up; while :; do sleep 0.05; done"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    assert_eq!(line, "up\n");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("a number")).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    assert_eq!(child.wait().expect("it ends").code(), Some(21));
}

#[test]
fn child_has_tokens_proxy_and_ca_and_no_key_under_any_name() {
    let place = Place::new();
    let mut command = place.command(&["run", "--", "env"]);
    command.env("OPENAI_API_KEY", KEY).env("HIDDEN", format!("--{KEY}--")).env("SALLYPORT_KEK_NOTE", "x");
    command.env("NO_PROXY", "internal.example,localhost").env("https_proxy", "http://elsewhere:1");
    let output = command.output().expect("it runs");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    assert!(!out.contains(KEY) && !err.contains(KEY), "{out}{err}");
    let value = |name: &str| {
        let line = out.lines().find_map(|l| l.strip_prefix(&format!("{name}="))).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{name} is missing: {out}"))
    };
    assert!(value("OPENAI_API_KEY").starts_with("sk-proj-spt_"));
    assert!(!out.contains("HIDDEN="));
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        assert!(value(name).starts_with("http://"), "{name}");
        assert!(value(name).contains("@127.0.0.1:"), "{name}");
    }
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"] {
        assert!(value(name).ends_with(".pem"), "{name}");
    }
    assert_eq!(value("NODE_USE_ENV_PROXY"), "1");
    assert_eq!(
        (value("NO_PROXY"), value("no_proxy")),
        ("localhost,127.0.0.1,::1".into(), "localhost,127.0.0.1,::1".into())
    );
    assert!(err.contains("NO_PROXY named hosts beyond loopback") && err.contains("HIDDEN held a key"), "{err}");
    let ours: Vec<_> = out.lines().filter(|l| l.starts_with("SALLYPORT_")).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert!(ours[0].starts_with("SALLYPORT_SESSION="));
}

#[test]
fn save_stores_the_key_and_a_later_run_does_without_the_variable() {
    let place = Place::new();
    let first = place.command(&["run", "--save", "--", "true"]).env("OPENAI_API_KEY", KEY).output().expect("it runs");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(place.json(&["keys", "list"])[0]["name"], "openai_api_key");
    let out = place.ok(&["run", "--key", "openai_api_key", "--", "sh", "-c", "echo $OPENAI_API_KEY"]);
    assert!(out.starts_with("sk-proj-spt_"), "{out}");
}

/// Runs `sallyport run` as a user who is not root, since root could undo the isolation.
fn as_nobody(script: &str) -> String {
    as_nobody_from(".", "", script)
}

/// The same, started in this directory after it was prepared so.
fn as_nobody_from(start: &str, prepare: &str, script: &str) -> String {
    as_nobody_with("", start, prepare, script)
}

/// The same, with options of `run`.
fn as_nobody_with(options: &str, start: &str, prepare: &str, script: &str) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("changed");
    // The build directory may be closed to others.
    let program = dir.path().join("sallyport");
    // By another process: a child that some test starts meanwhile would hold ours open for writing, and
    // then nobody can start it.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_sallyport")).arg(&program).status();
    assert!(copied.expect("cp runs").success());
    let as_user = || {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("a path"));
        command.env("SALLYPORT_DATA_DIR", dir.path().join("data"));
        command
    };
    let init = as_user().arg("init").output().expect("it runs");
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let wrapped =
        format!("{prepare} cd \"$0\" && exec \"$1\" run {options} -- sh -c '{}'", script.replace('\'', r"'\''"));
    let mut command = Command::new("sh");
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh"]);
    }
    let output = command
        .args(["-c", &wrapped])
        .arg(start)
        .arg(&program)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a path"))
        .env("SALLYPORT_DATA_DIR", dir.path().join("data"))
        .env("OPENAI_API_KEY", KEY)
        .current_dir(dir.path())
        .output()
        .expect("it runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("is not isolated"), "isolation is available here: {text}");
    text
}

#[test]
fn isolated_command_sees_no_data_directory_and_no_other_process() {
    let text = as_nobody(
        "ls -A data | wc -l; ls -d /proc/[0-9]* | wc -l; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c sk-proj-iso; \
         umount data 2>&1; cat data/kek 2>&1; id -u",
    );
    let lines: Vec<_> = text.lines().filter(|l| !l.starts_with("sallyport:")).collect();
    assert_eq!(lines[0], "0", "an empty directory: {text}");
    let processes: usize = lines[1].parse().expect("a number");
    assert!(processes < 8, "only its own: {text}");
    assert_eq!(lines[2], "0", "{text}");
    assert!(text.contains("No such file"), "{text}");
    assert_eq!(lines.last(), Some(&"65534"), "it stays its user: {text}");
}

#[test]
fn isolated_command_is_not_let_in_by_where_it_was_started() {
    // `as_nobody` starts in the directory above; here the start is inside.
    let text = as_nobody_from("data", "", "ls -A . | wc -l; cat kek 2>&1; ls -d /proc/[0-9]* | wc -l");
    let lines: Vec<_> = text.lines().filter(|l| !l.starts_with("sallyport:")).collect();
    assert_eq!(lines[0], "0", "{text}");
    assert!(text.contains("No such file"), "{text}");
    let text = as_nobody_from("/proc", "", "ls -d [0-9]* | wc -l");
    let count: usize = text.lines().find_map(|l| l.trim().parse().ok()).expect("a number");
    assert!(count < 8, "{text}");
}

#[test]
fn isolated_command_does_not_see_what_the_data_directory_links_to() {
    let text = as_nobody_from(".", "mv data/kek kek && ln -s ../kek data/kek;", "wc -c < kek");
    assert!(text.lines().any(|line| line.trim() == "0"), "{text}");
}

#[test]
fn isolated_command_passes_exit_codes_and_leaves_nothing_running() {
    let text = as_nobody("(sleep 300; echo late) & echo done");
    assert!(text.contains("done") && !text.contains("late"), "{text}");
}

#[test]
fn proxy_process_can_not_be_looked_into() {
    let place = Place::new();
    let output = place.ok(&[
        "run",
        "--no-isolation",
        "--",
        "sh",
        "-c",
        "stat -c %U /proc/$PPID/environ; cat /proc/$PPID/limits",
    ]);
    let core = output.lines().find(|l| l.starts_with("Max core file size")).expect("the limit");
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    // A process that may not be dumped belongs to root, as other processes of its user see it.
    assert!(output.starts_with("root"), "{output}");
}

#[test]
fn key_goes_to_the_address_that_its_variable_names_and_nowhere_else() {
    let place = Place::new();
    let run = |variables: &[(&str, &str)], save: bool| {
        let arguments: &[&str] = if save { &["run", "--save", "--", "env"] } else { &["run", "--", "env"] };
        let mut command = place.command(arguments);
        command.envs(variables.iter().copied());
        let output = command.output().expect("it runs");
        assert!(output.status.success());
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (out, err) = run(&[("SUPABASE_KEY", KEY)], false);
    assert!(!out.contains(KEY) && !out.contains("SUPABASE_KEY="), "{out}");
    assert!(err.contains("SUPABASE_KEY is not passed on") && err.contains("https://PROJECT.supabase.co"), "{err}");
    let (out, _) = run(&[("SUPABASE_KEY", KEY), ("SUPABASE_URL", "https://abc.supabase.co")], true);
    assert!(out.contains("SUPABASE_KEY=spt_"), "{out}");
    assert_eq!(place.json(&["keys", "show", "supabase_key"])["hosts"], serde_json::json!(["abc.supabase.co"]));
    let (out, err) = run(&[("GITLAB_TOKEN", KEY), ("GITLAB_URL", "http://gitlab.example.com")], false);
    assert!(!out.contains(KEY) && err.contains("https://"), "no clear text: {err}");
    let (out, err) = run(&[("QDRANT_API_KEY", KEY), ("QDRANT_URL", "http://localhost:6333")], false);
    assert!(!out.contains(KEY) && out.contains("QDRANT_API_KEY=sallyport-passes-no-key"), "{out}");
    assert!(err.contains("QDRANT_API_KEY holds a placeholder: QDRANT_URL leads to this machine"), "{err}");
    let (out, _) = run(&[("OPENAI_API_KEY", "ollama"), ("OPENAI_BASE_URL", "http://127.0.0.1:11434/v1")], false);
    assert!(out.contains("OPENAI_API_KEY=ollama\n"), "what stands for no key stays: {out}");
}

#[test]
fn mistyped_option_is_not_taken_for_the_command() {
    let place = Place::new();
    for option in ["--isolat", "-k"] {
        let said = place.fails(&["run", option, "--", "true"]);
        assert!(said.contains(&format!("{option} is no option of `sallyport run`")), "{said}");
    }
    assert!(!place.data.exists(), "nothing was made");
}

#[test]
fn stored_key_takes_the_place_of_one_in_the_environment_and_no_copy_of_that_is_passed_on() {
    let place = Place::new();
    place.add_key(&["openai2", "--provider", "openai"], "sk-proj-stored-0123456789");
    let mut command = place.command(&["run", "--key", "openai2", "--", "env"]);
    let output = command.env("OPENAI_API_KEY", KEY).env("MY_COPY", format!("x={KEY}")).output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !out.contains(KEY) && !out.contains("MY_COPY"), "{out}");
    assert!(out.contains("OPENAI_API_KEY=sk-proj-spt_"), "{out}");
    assert!(err.contains("the stored key openai2 was asked for") && err.contains("MY_COPY held a key"), "{err}");
    assert!(!err.contains("passed on as they are"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_in_a_network_of_its_own_reaches_the_proxy_and_nothing_else() {
    let setup = Setup { host: "api.openai.com".to_owned(), ..Setup::default() };
    let upstream = Upstream::start(&setup, Arc::new(|_| Reply::text("from the service"))).await;
    let trap = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let door = tempfile::tempdir().expect("a temporary directory");
    let everybody = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("changed");
    };
    let runtime = door.path().join("runtime");
    std::fs::create_dir(&runtime).expect("made");
    let daemon = std::os::unix::net::UnixListener::bind(runtime.join("bus")).expect("a socket");
    // One that no variable names, where nobody looks for it.
    let hidden = std::os::unix::net::UnixListener::bind(door.path().join("daemon")).expect("a socket");
    let ca = door.path().join("ca.pem");
    std::fs::write(&ca, &upstream.ca_pem).expect("written");
    everybody(door.path());
    everybody(&runtime);
    everybody(&runtime.join("bus"));
    everybody(&door.path().join("daemon"));
    let outside = trap.local_addr().expect("an address");
    let script = format!(
        "curl -sS -H \"Authorization: Bearer $OPENAI_API_KEY\" https://api.openai.com/v1/models && echo; \
         curl -sS -m 5 --noproxy \"*\" http://{outside}/ || echo direct: $?; \
         curl -sS -m 5 --noproxy \"*\" http://192.0.2.1/ || echo away: $?; \
         curl -sS -m 5 --noproxy \"*\" -k https://{} || echo upstream: $?; \
         curl -sS -m 5 --noproxy \"\" http://{outside}/ -x $HTTPS_PROXY; echo; \
         curl -sS -m 5 --unix-socket {}/bus http://x/ || echo bus: $?; \
         curl -sS -m 5 --unix-socket {}/daemon http://x/ || echo daemon: $?; \
         ls -d /proc/[0-9]* | wc -l; cat /proc/*/environ 2>/dev/null | tr \"\\0\" \"\\n\" | grep -c sk-proj-iso; \
         ls -A data | wc -l",
        upstream.addr,
        runtime.display(),
        door.path().display()
    );
    let options = format!("--isolate --extra-ca {} --resolve api.openai.com:443={}", ca.display(), upstream.addr);
    let prepare = format!("export XDG_RUNTIME_DIR={};", runtime.display());
    let text = tokio::task::spawn_blocking(move || as_nobody_with(&options, ".", &prepare, &script));
    let text = text.await.expect("joined");
    assert!(text.contains("from the service"), "the proxy works: {text}");
    assert_eq!(upstream.only().header("authorization"), format!("Bearer {KEY}"));
    for what in ["direct: 7", "away: 7", "upstream: 7"] {
        assert!(text.contains(what), "nothing answers, and nothing is waited for ({what}): {text}");
    }
    assert!(text.contains("destination_blocked"), "the proxy doesn't lead to this machine either: {text}");
    assert!(text.contains("bus: 7"), "daemons that act for others are covered: {text}");
    assert!(text.contains("daemon: 7"), "wherever they listen: {text}");
    let numbers: Vec<usize> = text.lines().filter_map(|l| l.trim().parse().ok()).collect();
    assert!(numbers[0] < 12 && numbers[1..] == [0, 0], "processes, keys in environments, files: {text}");
    trap.set_nonblocking(true).expect("set");
    daemon.set_nonblocking(true).expect("set");
    hidden.set_nonblocking(true).expect("set");
    let nobody_came = trap.accept().is_err() && daemon.accept().is_err() && hidden.accept().is_err();
    assert!(nobody_came, "nothing came outside of the network");
    assert_eq!(upstream.connections(), 1, "but by the proxy");
}

#[test]
fn command_is_not_run_where_it_can_not_have_a_network_of_its_own() {
    let place = Place::new();
    let refused = |command: &mut Command| {
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(said.contains("can't be given a network of its own") && said.contains("Nothing was run"), "{said}");
        said
    };
    if rustix::process::geteuid().is_root() {
        let said = refused(&mut place.command(&["run", "--isolate", "--", "echo", "ran"]));
        assert!(said.contains("runs as root"), "{said}");
    }
}
