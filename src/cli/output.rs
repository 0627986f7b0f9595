//! What commands print: tables for people, JSON for programs.

use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use anyhow::bail;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

/// Why standard output takes nothing any more.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Prints; false if nobody reads it any more. Unlike `print!`, it doesn't panic then: `main` says
/// what [`lost`] found.
pub fn put(text: Arguments<'_>) -> bool {
    if LOST.get().is_some() {
        return false;
    }
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => true,
        Err(why) => {
            let _ = LOST.set(why);
            false
        }
    }
}

/// Prints a line.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = $crate::cli::output::put(format_args!("{}\n", format_args!($($text)*)));
    }};
}
pub(super) use say;

/// What went wrong with standard output. A reader that has seen enough, such as `head`, isn't wrong.
pub fn lost() -> Option<&'static std::io::Error> {
    LOST.get().filter(|why| why.kind() != ErrorKind::BrokenPipe)
}

/// Asks at the terminal whether to go on.
///
/// # Errors
/// The answer isn't yes, or there is no terminal to ask at.
pub fn confirm(question: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("nothing was changed: there is no terminal to ask at; --yes goes on without asking");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

/// Prints items as JSON, or as a table whose columns are named by heading and field.
pub fn list(items: Vec<Value>, json: bool, columns: &[(&str, &str)], none: &str) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(&items)?);
        return Ok(());
    }
    if items.is_empty() {
        say!("{none}");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for item in &items {
        table.add_row(columns.iter().map(|(_, field)| cell(&item[*field])));
    }
    for line in table.to_string().lines() {
        say!("{}", line.trim().trim_end());
    }
    Ok(())
}

/// Prints one thing: as JSON, or a line for each field.
pub fn show(item: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(item)?);
        return Ok(());
    }
    let Value::Object(fields) = item else { return Ok(()) };
    let width = fields.keys().map(|name| words(name).len()).max().unwrap_or(0);
    for (name, value) in fields {
        let text = cell(value);
        if !text.is_empty() {
            say!("{:<width$}  {text}", words(name));
        }
    }
    Ok(())
}

/// So many of them: `1 chain`, `2 chains`.
pub fn count(number: impl ToString, what: &str) -> String {
    let number = number.to_string();
    let many = if number == "1" { "" } else { "s" };
    format!("{number} {what}{many}")
}

/// A value as people read it. What could move a terminal's cursor is shown escaped.
pub fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields.iter().map(|(n, v)| format!("{n} {}", cell(v))).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `createdAt` as `created at`.
fn words(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
