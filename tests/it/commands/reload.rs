//! `serve`: signals, reloads, two processes on one data directory.

use rustix::process::Signal;

use crate::support::binary::{Place, Serve};

#[test]
fn bad_policy_or_configuration_keeps_the_old_and_says_why() {
    let place = Place::new();
    place.ok(&["init"]);
    let mut serve = Serve::start(&place, "telemetry: { log: info }\n");
    let before = place.json(&["status"])["policies"].clone();
    let bad = place.data.join("policies/bad.yaml");
    std::fs::write(&bad, "version: 1\nname: bad\nrules: [{ name: a }]\n").expect("written");
    serve.signal(Signal::HUP);
    let line = serve.wait_for("what was in force stays");
    assert!(line.contains("bad.yaml"), "{line}");
    assert_eq!(place.json(&["status"])["policies"], before);
    std::fs::write(&bad, "version: 1\nname: bad\nrules: [{ name: a, deny: { paths: [\"/x\"] } }]\n").expect("written");
    serve.signal(Signal::HUP);
    serve.wait_for("reloaded");
    assert_ne!(place.json(&["status"])["policies"], before);
    let file = place.data.with_extension("yaml");
    let right = std::fs::read_to_string(&file).expect("readable");
    std::fs::write(&file, format!("{right}proxy: {{ corse: 1 }}\n")).expect("written");
    serve.signal(Signal::HUP);
    let line = serve.wait_for("what was in force stays");
    assert!(line.contains("proxy.corse"), "{line}");
    std::fs::write(&file, right.replace("log: info", "log: debug") + "proxy: { cores: 1 }\n").expect("written");
    serve.signal(Signal::HUP);
    let line = serve.wait_for("take effect at the next start");
    assert!(line.contains("proxy.cores") && !line.contains("telemetry"), "{line}");
    assert_eq!(serve.stop(), Some(0));
    assert!(!place.data.join("admin.sock").exists());
}

#[test]
fn port_in_use_is_told_and_nothing_is_left_behind() {
    let place = Place::new();
    place.ok(&["init"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("an address");
    let file = place.data.with_extension("yaml");
    std::fs::write(&file, format!("listen: {{ proxy: {at}, gateway: off, admin: off }}\n")).expect("written");
    let said = place.fails(&["serve", "--config", file.to_str().expect("text")]);
    assert!(said.contains(&format!("listening on {at} (listen.proxy): another program is there")), "{said}");
    let serve = Serve::start(&place, "");
    std::fs::write(&file, format!("listen: {{ proxy: off, gateway: off, admin: {} }}\n", serve.admin))
        .expect("written");
    let said = place.fails(&["serve", "--config", file.to_str().expect("text")]);
    assert!(said.contains("(listen.admin)") && said.contains("sallyport runs already"), "{said}");
    std::fs::write(&file, "listen: { proxy: off, gateway: off, admin: off, gateway_tls: 192.0.2.1:1 }\n")
        .expect("written");
    let said = place.fails(&["serve", "--config", file.to_str().expect("text")]);
    assert!(said.contains("this machine has no such address"), "{said}");
}

#[test]
fn command_beside_a_running_node_speaks_to_it_and_without_one_to_the_directory() {
    let place = Place::new();
    place.ok(&["init"]);
    assert_eq!(place.json(&["status"])["serving"], false);
    let serve = Serve::start(&place, "");
    assert_eq!(place.json(&["status"])["serving"], true);
    let url = format!("http://{}", serve.admin);
    let token = place.data.join("admin.token");
    let remote = ["--server", &url, "--admin-token-file", token.to_str().expect("text"), "status"];
    assert_eq!(place.json(&remote)["serving"], true);
    assert_eq!(serve.stop(), Some(0));
    assert_eq!(place.json(&["status"])["serving"], false);
}

#[test]
fn of_two_nodes_on_one_directory_the_one_that_still_runs_answers() {
    let place = Place::new();
    place.ok(&["init"]);
    let serving = || place.json(&["status"])["serving"] == true;
    let old = Serve::start(&place, "");
    let new = Serve::start(&place, "");
    assert_eq!(old.stop(), Some(0));
    assert!(serving(), "the old one, which ended first, leaves the new one's socket alone");
    let newest = Serve::start(&place, "");
    assert_eq!(newest.stop(), Some(0));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !serving() {
        assert!(std::time::Instant::now() < until, "the one that still runs takes the socket's place");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(new.stop(), Some(0));
    assert!(!place.data.join("admin.sock").exists(), "the last one leaves none behind");
}

#[test]
fn log_at_debug_leaves_out_the_statements_of_the_store() {
    let place = Place::new();
    place.ok(&["init"]);
    let mut serve = Serve::start(&place, "telemetry: { log: debug }\n");
    std::thread::sleep(std::time::Duration::from_millis(400));
    serve.signal(rustix::process::Signal::HUP);
    serve.wait_for(" reloaded ");
    assert!(!serve.log.iter().any(|line| line.contains("db.statement")), "{:#?}", serve.log);
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn service_of_ones_own_is_known_at_start_and_after_a_reload_and_a_mistake_keeps_the_old_ones() {
    let place = Place::new();
    place.ok(&["init"]);
    let dir = place.data.join("providers");
    std::fs::create_dir(&dir).expect("made");
    let one = "- name: intranet\n  hosts: [search.intranet.test]\n  slots: [\"header:x-search-key\"]\n  env: [INTRANET_KEY]\n  \
               prefix: \"in-\"\n  base: \"https://search.intranet.test\"\n";
    std::fs::write(dir.join("own.yaml"), one).expect("written");
    assert_eq!(place.json(&["providers", "show", "intranet"])["own"], true, "no node has to run");
    let mut serve = Serve::start(&place, "");
    place.add_key(&["intranet_key"], "a-key-of-the-intranet");
    let key = place.json(&["keys", "show", "intranet_key"]);
    assert_eq!((&key["provider"], &key["hosts"][0]), (&"intranet".into(), &"search.intranet.test".into()));
    let variables = place.json(&["env", "--key", "intranet_key"]);
    assert!(variables["INTRANET_KEY"].as_str().is_some_and(|v| v.starts_with("in-spt_")), "{variables}");

    std::fs::write(dir.join("two.yaml"), "- name: openai\n  hosts: [a.test]\n  slots: [bearer]\n  env: [A_KEY]\n")
        .expect("written");
    serve.signal(Signal::HUP);
    let line = serve.wait_for("what was in force stays");
    assert!(line.contains("two.yaml: openai: a bundled service has this name"), "{line}");
    let said = place.fails(&["providers", "list"]);
    assert!(said.contains("two.yaml: openai:"), "{said}");
    std::fs::write(dir.join("two.yaml"), "- { name: two, hosts: [two.test], slots: [bearer], env: [TWO_KEY] }\n")
        .expect("written");
    serve.signal(Signal::HUP);
    serve.wait_for("reloaded");
    place.add_key(&["two"], "a-key-of-the-second");
    assert_eq!(place.json(&["keys", "show", "two"])["hosts"][0], "two.test");
    assert_eq!(serve.stop(), Some(0));
}
