//! Reading one value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_yaml::Value;

/// A value that can be read from YAML.
pub(super) trait Read: Sized {
    fn read(value: &Value) -> Result<Self, String>;
}

impl Read for bool {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "it is true or false".to_owned())
    }
}

impl Read for String {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| "it is a text".to_owned())
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl Read for $kind {
            fn read(value: &Value) -> Result<Self, String> {
                let number = value.as_u64().and_then(|n| Self::try_from(n).ok());
                number.ok_or_else(|| "it is a whole number that isn't negative".to_owned())
            }
        }
    )*};
}
numbers!(u32, u64, usize);

impl Read for std::num::NonZeroU32 {
    fn read(value: &Value) -> Result<Self, String> {
        Self::new(u32::read(value)?).ok_or_else(|| "it is at least 1".to_owned())
    }
}

impl Read for SocketAddr {
    fn read(value: &Value) -> Result<Self, String> {
        const HOW: &str = "it is an IP address and a port, such as 127.0.0.1:8080, or off";
        let text = value.as_str().ok_or(HOW)?;
        text.parse().map_err(|_| {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            let named = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':');
            match (port.parse::<u16>(), named) {
                (Ok(port), true) if host == "localhost" => {
                    format!("names aren't taken here: write 127.0.0.1:{port} instead of localhost:{port}")
                }
                (Ok(_), true) => format!("names aren't taken here: {HOW}"),
                _ => HOW.to_owned(),
            }
        })
    }
}

impl Read for PathBuf {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().filter(|t| !t.is_empty()).map(Self::from).ok_or_else(|| "it is the path of a file".to_owned())
    }
}

impl Read for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        const HOW: &str = "it is a number with a unit, such as 250us, 100ms, 5s, 2m, 1h or 1d";
        let text = match value {
            Value::String(text) => text.trim(),
            Value::Number(number) => return Err(format!("{HOW}; is {number}s meant?")),
            _ => return Err(HOW.to_owned()),
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| HOW.to_owned())?;
        let micros = match unit.trim() {
            "us" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(HOW.to_owned()),
        };
        let micros = number.checked_mul(micros).filter(|us| *us <= 366 * 86_400_000_000);
        micros.map(Self::from_micros).ok_or_else(|| "it is longer than a year".to_owned())
    }
}

/// A size in bytes.
#[derive(Clone, Copy)]
pub(super) struct Bytes(pub u64);

impl Read for Bytes {
    fn read(value: &Value) -> Result<Self, String> {
        const HOW: &str = "it is a number of bytes, or one with KiB, MiB or GiB";
        let text = match value {
            Value::Number(number) => return number.as_u64().map(Self).ok_or_else(|| HOW.to_owned()),
            Value::String(text) => text.trim(),
            _ => return Err(HOW.to_owned()),
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| HOW.to_owned())?;
        let unit: u64 = match unit.trim() {
            "" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(HOW.to_owned()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(|| HOW.to_owned())
    }
}

/// A value, or `off`. YAML reads the bare word `off` as text, and some write `false`, `none` or null.
pub(super) fn unless_off<T: Read>(value: &Value) -> Result<Option<T>, String> {
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::String(text) if text == "off" || text == "none" => Ok(None),
        value => T::read(value).map(Some),
    }
}

/// A list.
pub(super) fn list<T>(value: &Value, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let all = value.as_sequence().ok_or("it is a list: [first, second]")?;
    all.iter().map(|one| read(one.as_str().ok_or("each item is a text")?)).collect()
}

/// A map of texts.
pub(super) fn map<K: Ord, V>(
    value: &Value,
    read: impl Fn(&str, &str) -> Result<(K, V), String>,
) -> Result<std::collections::BTreeMap<K, V>, String> {
    let all = value.as_mapping().ok_or("it is a map: { \"name\": \"value\" }")?;
    all.iter()
        .map(|(name, value)| match (name.as_str(), value.as_str()) {
            (Some(name), Some(value)) => read(name, value),
            _ => Err("names and values are texts; put them in quotes".to_owned()),
        })
        .collect()
}
