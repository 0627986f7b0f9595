//! What commands print: tables for people, JSON for programs.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

/// Prints items as JSON, or as a table whose columns are named by heading and field.
pub fn list(items: Vec<Value>, json: bool, columns: &[(&str, &str)], none: &str) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&items)?);
        return Ok(());
    }
    if items.is_empty() {
        println!("{none}");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for item in &items {
        table.add_row(columns.iter().map(|(_, field)| cell(&item[*field])));
    }
    for line in table.to_string().lines() {
        println!("{}", line.trim().trim_end());
    }
    Ok(())
}

/// Prints one thing: as JSON, or a line for each field.
pub fn show(item: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(item)?);
        return Ok(());
    }
    let Value::Object(fields) = item else { return Ok(()) };
    let width = fields.keys().map(|name| words(name).len()).max().unwrap_or(0);
    for (name, value) in fields {
        let text = cell(value);
        if !text.is_empty() {
            println!("{:<width$}  {text}", words(name));
        }
    }
    Ok(())
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
