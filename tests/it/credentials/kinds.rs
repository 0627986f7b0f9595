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
            "not a kind of key: use secret, basic",
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
