//! Who may import whom: imports point down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floor of each part. A part may import what lies lower, and what is named beside it.
const FLOORS: &[(&str, u8, &[&str])] = &[
    ("model", 0, &[]),
    ("policy", 1, &[]),
    // The receipt and the permit join these three; the live view holds keys.
    ("vault", 2, &["audit"]),
    ("audit", 2, &[]),
    ("session", 2, &["vault"]),
    ("tls", 2, &[]),
    // What it reads was opened by the vault, for a receipt. It asks token endpoints over the upstream
    // client, and keeps in the store the refresh tokens that come back.
    ("credential", 2, &["audit", "session", "store", "upstream", "vault"]),
    ("upstream", 2, &["tls"]),
    ("store", 2, &["session", "vault"]),
    ("providers", 2, &[]),
    ("telemetry", 2, &[]),
    ("proxy", 3, &[]),
    ("admin", 3, &[]),
    ("config", 4, &["app"]),
    ("run", 4, &[]),
    ("shutdown", 4, &[]),
    ("demo", 5, &[]),
    ("cli", 5, &["demo"]),
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()) {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The parts that a source file names: `crate::PART`.
fn named(text: &str) -> Vec<String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    code.match_indices("crate::")
        .map(|(at, _)| code[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn imports_point_down_and_proxy_and_admin_do_not_know_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors: BTreeMap<_, _> = FLOORS.iter().map(|(part, floor, beside)| (*part, (*floor, *beside))).collect();
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let relative = file.strip_prefix(&root).expect("below the root");
        let part = relative.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        // What joins the parts may name all of them.
        if matches!(part.as_str(), "app" | "lib" | "main") {
            continue;
        }
        let (floor, beside) = floors.get(part.as_str()).unwrap_or_else(|| panic!("{part} has no floor"));
        for other in named(&std::fs::read_to_string(&file).expect("readable")) {
            seen += 1;
            // `app` joins parts for those above it.
            let allowed = other == part
                || beside.contains(&other.as_str())
                || (other == "app" && *floor >= 5)
                || floors.get(other.as_str()).is_some_and(|(below, _)| below < floor);
            if !allowed {
                wrong.push(format!("{}: {part} ({floor}) names {other}", relative.display()));
            }
        }
    }
    assert!(seen > 100, "the sources were read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_can_be_read_in_a_sitting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let long: Vec<_> = files
        .into_iter()
        .filter_map(|file| {
            let lines = std::fs::read_to_string(&file).expect("readable").lines().count();
            (lines > 600).then(|| format!("{}: {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}
