//! Every command of the README runs.

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
