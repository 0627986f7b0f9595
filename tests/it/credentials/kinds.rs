//! What is taken as a key of a computed kind, at the command line.

use crate::support::binary::Place;

#[test]
fn kind_is_stored_shown_and_its_document_checked_when_stored_and_when_rotated() {
    let place = Place::new();
    place.ok(&["init"]);
    place.add_key(&["jira", "--host", "jira.test", "--kind", "basic"], r#"{"user": "me", "password": "open-sesame"}"#);
    let shown = place.json(&["keys", "show", "jira"]);
    assert_eq!(shown["kind"], "basic");
    assert_eq!(shown["slots"], serde_json::json!(["basic:password", "basic:user", "bearer"]));
    assert!(place.ok(&["keys", "list"]).contains("basic"));
    place.add_key(&["plain", "--host", "plain.test"], "a-secret-as-it-is");
    assert_eq!(place.json(&["keys", "show", "plain"])["kind"], "secret");

    for (arguments, value, says) in [
        (vec!["keys", "rotate", "jira"], "hunter2hunter2", "is a JSON document"),
        (
            vec!["keys", "rotate", "jira"],
            r#"{"user": "me", "password": "hunter2"}"#,
            "password is shorter than 8 bytes",
        ),
        (
            vec!["keys", "add", "x", "--host", "x.test", "--kind", "basic"],
            r#"{"password": "hunter2hunter2"}"#,
            "Its form: {\"user\"",
        ),
        (
            vec!["keys", "add", "x", "--host", "x.test", "--kind", "hunter"],
            "hunter2hunter2",
            "not a kind of key: use secret, basic, aws, hmac",
        ),
        (
            vec!["keys", "add", "x", "--host", "x.test", "--kind", "basic", "--slot", "header:x-key"],
            r#"{"user": "me", "password": "hunter2hunter2"}"#,
            "can't be put into header:x-key",
        ),
    ] {
        let output = place.with_input(&arguments, value);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let rotated = place.with_input(&["keys", "rotate", "jira"], r#"{"user": "me", "password": "open-sesame-2"}"#);
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    assert_eq!(place.json(&["keys", "show", "jira"])["version"], 2);
}

#[test]
fn pair_of_the_environment_is_replaced_by_stand_ins_that_belong_together() {
    let place = Place::new();
    let mut run = place.command(&["run", "--no-isolation", "--", "sh", "-c", "env"]);
    run.env("AWS_ACCESS_KEY_ID", "AKIAREALREALREALREAL").env("AWS_SECRET_ACCESS_KEY", "a-real/secret+key");
    run.env("AWS_SESSION_TOKEN", "a-real-session-token")
        .env("COPY", "x a-real/secret+key")
        .env("AWS_REGION", "eu-west-1");
    let output = run.output().expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let value = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name}: {said}")).split_once('=').expect("a value").1.to_owned()
    };
    let id = value("AWS_ACCESS_KEY_ID");
    assert!(id.starts_with("AKIAspt_") && id.len() == 4 + 4 + 25 + 6, "{id}");
    assert_eq!(value("AWS_SESSION_TOKEN"), id);
    assert_eq!((value("AWS_SECRET_ACCESS_KEY").len(), value("AWS_REGION").as_str()), (40, "eu-west-1"));
    for real in ["AKIAREAL", "a-real/secret", "a-real-session"] {
        assert!(!said.contains(real), "{said}");
    }
}

#[test]
fn stored_pair_is_minted_with_what_its_agent_signs_with() {
    let place = Place::new();
    place.ok(&["init"]);
    let pair = r#"{"access_key_id": "AKIAREALREALREALREAL", "secret_access_key": "a-real/secret+key"}"#;
    place.add_key(&["s3", "--provider", "aws"], pair);
    assert_eq!(place.json(&["keys", "show", "s3"])["kind"], "aws");
    let session = place.json(&["sessions", "start", "--key", "s3"]);
    let id = session["id"].as_str().expect("an id");
    let (one, two) = (place.json(&["tokens", "mint", id, "s3"]), place.json(&["tokens", "mint", id, "s3"]));
    assert_eq!(one["signingSecret"].as_str().expect("a secret").len(), 40);
    assert_ne!(one["signingSecret"], two["signingSecret"], "each token has its own");
    place.add_key(&["plain", "--host", "plain.test"], "a-secret-as-it-is");
    let session = place.json(&["sessions", "start", "--key", "plain"]);
    let minted = place.json(&["tokens", "mint", session["id"].as_str().expect("an id"), "plain"]);
    assert!(minted.get("signingSecret").is_none());
}

#[test]
fn value_that_can_not_stand_in_its_slots_is_told_when_it_is_stored_and_when_it_is_rotated() {
    let place = Place::new();
    place.ok(&["init"]);
    for (slots, value, why) in [
        (vec!["cookie:sid"], "hunter2;hunter2", "no cookie can have"),
        (vec!["cookie:sid"], "hunter2 hunter2", "no cookie can have"),
        (vec!["cookie:sid", "basic:user"], "hunter2:\"hunter2", "no cookie can have"),
        (vec!["basic:user"], "hunter2:hunter2", "ends a user name"),
        (vec!["bearer"], "hunter2 hunter2", "no bearer token has"),
        (vec!["header:x-key"], " hunter2hunter2", "begins or ends with a space"),
    ] {
        let slots: Vec<_> = slots.into_iter().flat_map(|slot| ["--slot", slot]).collect();
        let add = [&["keys", "add", "x", "--host", "x.test"], &slots[..]].concat();
        let output = place.with_input(&add, value);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains(why) && !said.contains("hunter2"), "{value}: {said}");
    }
    let add = ["keys", "add", "x", "--host", "x.test", "--slot", "query:key", "--slot", "cookie:sid"];
    let output = place.with_input(&add, "sk with a space");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("so it can't be put into cookie:sid"), "{said}");
    let output = place.with_input(&["keys", "rotate", "x"], "sk-without-one");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = place.with_input(&["keys", "rotate", "x"], "sk with; another");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cookie:sid"));
}

#[test]
fn secret_that_is_short_enough_to_be_tried_out_is_told_of_when_it_is_stored() {
    let place = Place::new();
    for (name, kind, value, secret, told) in [
        ("short", "secret", "pass-word-1", "pass-word-1", true),
        ("long", "secret", "pass-words-12", "pass-words-12", false),
        ("pair", "basic", r#"{"user":"a-long-name","password":"pass-word-1"}"#, "pass-word-1", true),
        ("long-pair", "basic", r#"{"user":"a","password":"pass-words-12"}"#, "pass-words-12", false),
    ] {
        let output = place.with_input(&["keys", "add", name, "--host", "a.test", "--kind", kind], value);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("need a longer one"), told, "{name}: {said}");
        assert!(!said.contains(secret), "{said}");
    }
}
