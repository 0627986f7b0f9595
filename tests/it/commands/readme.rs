//! Every command of the README runs, and what texts name exists.

use std::collections::BTreeSet;
use std::path::Path;

use sallyport::config::SETTINGS;

use crate::support::binary::Place;

/// The indented blocks' lines.
fn commands() -> Vec<String> {
    let text = include_str!("../../../README.md");
    text.lines()
        .filter_map(|l| l.strip_prefix("    "))
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_of_the_readme_is_one_that_exists() {
    let place = Place::new();
    place.ok(&["init"]);
    let mut seen = 0;
    for line in commands() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let arguments = match words.as_slice() {
            ["sallyport", rest @ ..] => rest,
            ["cargo", "run", "--release", "--", rest @ ..] => rest,
            [script, ..] if script.starts_with("benches/") => {
                let help = std::process::Command::new("python3").args([script, "--help"]).output().expect("it runs");
                assert!(help.status.success(), "{line}: {}", String::from_utf8_lossy(&help.stderr));
                seen += 1;
                continue;
            }
            ["cargo", "bench", "--bench", bench] => {
                assert!(std::path::Path::new("benches").join(format!("{bench}.rs")).exists(), "{line}");
                seen += 1;
                continue;
            }
            ["tests/run", ..] => {
                assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run").exists());
                seen += 1;
                continue;
            }
            _ => continue,
        };
        // Whatever a command needs around it, its words and options have to exist.
        let command = arguments.iter().take_while(|w| !w.starts_with(['-', '"', '$', '<', '>', '|'])).take(2);
        let mut help: Vec<&str> = command.copied().collect();
        if matches!(help.first(), Some(&"run" | &"demo" | &"serve" | &"env" | &"status" | &"doctor" | &"init")) {
            help.truncate(1);
        }
        let text = place.ok(&[help.as_slice(), &["--help"]].concat());
        let own = arguments.iter().take_while(|w| **w != "--");
        for option in own.filter(|w| w.starts_with("--")) {
            let option = option.split('=').next().unwrap_or(option);
            assert!(text.contains(option), "{line}: no {option} in\n{text}");
        }
        seen += 1;
    }
    assert!(seen >= 3, "the README has commands");
}

/// What stands between backticks in the README and in the sources, whose texts are what users read.
fn quoted() -> BTreeSet<String> {
    fn gather(at: &Path, out: &mut String) {
        if at.is_dir() {
            std::fs::read_dir(at).expect("readable").for_each(|entry| gather(&entry.expect("readable").path(), out));
        } else {
            out.push_str(&std::fs::read_to_string(at).expect("text"));
        }
    }
    let (root, mut text) = (Path::new(env!("CARGO_MANIFEST_DIR")), String::new());
    for part in ["src", "README.md"] {
        gather(&root.join(part), &mut text);
    }
    let mut all = BTreeSet::new();
    // A text may go on behind a line's end.
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    for line in lines.join("\n").replace("\\\n", "").lines() {
        all.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    all
}

#[test]
fn every_setting_and_command_that_a_text_names_exists() {
    const FILES: [&str; 2] = ["admin.sock", "admin.token"];
    let place = Place::new();
    let (mut settings, mut commands) = (0, BTreeSet::new());
    for span in quoted() {
        let group = span.split_once('.').map(|(group, _)| format!("{group}."));
        let plain = span.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_'));
        if plain && group.is_some_and(|group| SETTINGS.iter().any(|s| s.path.starts_with(&group))) {
            let of_group =
                |s: &str| s.strip_prefix(span.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            assert!(FILES.contains(&span.as_str()) || SETTINGS.iter().any(|s| of_group(s.path)), "no setting {span}");
            settings += 1;
        }
        if let Some(rest) = span.strip_prefix("sallyport ") {
            let word = |w: &&str| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !w.starts_with('-');
            let command: Vec<_> = rest.split(' ').take_while(word).map(str::to_owned).collect();
            commands.insert(command);
        }
    }
    for command in commands.iter().filter(|command| !command.is_empty()) {
        let arguments: Vec<_> = command.iter().map(String::as_str).chain(["--help"]).collect();
        place.ok(&arguments);
    }
    assert!(settings > 10 && commands.len() > 20, "{settings} {commands:?}");
}
