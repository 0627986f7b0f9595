//! How a record lies in its table, and the MAC that ends each row.
//!
//! A record names its columns once; statements, MAC and reading follow from that list, so a column
//! that the MAC doesn't cover can't be.

use std::str::FromStr;
use std::vec::IntoIter;

use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use super::{ChangeKind, Error};
use crate::model::{OrgId, Secret, Timestamp, TokenHash};

/// A value in a row, of one of the three types that both databases share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Option<String>),
    /// A 64-bit number; times are milliseconds since 1970, truth is 0 or 1.
    Int(Option<i64>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `text`
    Text,
    /// `bigint`
    Int,
    /// `blob` or `bytea`
    Bytes,
}

/// A record that the store keeps.
pub trait Record: Sized + Send + Sync {
    /// Its table.
    const TABLE: &'static str;
    /// What the change feed calls it.
    const KIND: ChangeKind;
    /// Its columns: first `id`, second `org_id`. The MAC's column is not among them.
    const COLUMNS: &'static [(&'static str, Type)];

    /// Its identifier as text.
    fn row_id(&self) -> String;
    /// The tenant that it belongs to.
    fn org(&self) -> OrgId;
    /// Its values behind `id` and `org_id`, in the order of the columns.
    fn values(&self) -> Vec<Value>;
    /// The record that a row holds; `None` if a value breaks our rules.
    fn read(cells: &mut Cells) -> Option<Self>;
}

/// All values of a record's row but the MAC.
pub(super) fn full<R: Record>(record: &R) -> Vec<Value> {
    let mut all = vec![text(record.row_id()), text(record.org())];
    all.extend(record.values());
    debug_assert_eq!(all.len(), R::COLUMNS.len(), "{}", R::TABLE);
    all
}

/// The MAC of a row: keyed BLAKE3 over the table's name and each value with its type and length.
pub(super) fn mac<R: Record>(key: &Secret<[u8; 32]>, values: &[Value]) -> Vec<u8> {
    let mut hash = blake3::Hasher::new_keyed(key.expose());
    let mut part = |tag: u8, bytes: &[u8]| {
        hash.update(&[tag]);
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(b'T', R::TABLE.as_bytes());
    for value in values {
        match value {
            Value::Text(Some(text)) => part(b't', text.as_bytes()),
            Value::Int(Some(number)) => part(b'i', &number.to_be_bytes()),
            Value::Bytes(Some(bytes)) => part(b'b', bytes),
            Value::Text(None) | Value::Int(None) | Value::Bytes(None) => part(b'n', &[]),
        }
    }
    hash.finalize().as_bytes().to_vec()
}

/// Checks a row's MAC and reads the record.
pub(super) fn open<R: Record>(key: &Secret<[u8; 32]>, mut values: Vec<Value>) -> Result<R, Error> {
    let found = values.pop();
    let id = match values.first() {
        Some(Value::Text(Some(id))) => id.clone(),
        _ => String::new(),
    };
    let tampered = |id: &str| Error::Tampered { table: R::TABLE, id: id.chars().take(80).collect() };
    let Some(Value::Bytes(Some(found))) = found else { return Err(tampered(&id)) };
    if !bool::from(mac::<R>(key, &values).ct_eq(&found)) {
        return Err(tampered(&id));
    }
    R::read(&mut Cells(values.into_iter())).ok_or_else(|| tampered(&id))
}

/// The values of a row on their way into a record.
pub struct Cells(IntoIter<Value>);

impl Cells {
    /// The next value as text.
    pub fn text(&mut self) -> Option<String> {
        self.maybe_text().flatten()
    }

    /// The next value as text or null.
    pub fn maybe_text(&mut self) -> Option<Option<String>> {
        match self.0.next()? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The next value as text that is parsed.
    pub fn parsed<T: FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    /// The next value as text that is parsed, or null.
    pub fn maybe_parsed<T: FromStr>(&mut self) -> Option<Option<T>> {
        match self.maybe_text()? {
            Some(text) => text.parse().ok().map(Some),
            None => Some(None),
        }
    }

    /// The next value as text that holds JSON.
    pub fn json<T: DeserializeOwned>(&mut self) -> Option<T> {
        serde_json::from_str(&self.text()?).ok()
    }

    /// The next value as one of a closed set of words.
    pub fn word<T: DeserializeOwned>(&mut self) -> Option<T> {
        serde_json::from_value(serde_json::Value::String(self.text()?)).ok()
    }

    /// The next value as a number.
    pub fn int(&mut self) -> Option<i64> {
        self.maybe_int().flatten()
    }

    /// The next value as a number or null.
    pub fn maybe_int(&mut self) -> Option<Option<i64>> {
        match self.0.next()? {
            Value::Int(number) => Some(number),
            _ => None,
        }
    }

    /// The next value as a number that fits.
    pub fn number<T: TryFrom<i64>>(&mut self) -> Option<T> {
        T::try_from(self.int()?).ok()
    }

    /// The next value as truth.
    pub fn truth(&mut self) -> Option<bool> {
        match self.int()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// The next value as a time.
    pub fn time(&mut self) -> Option<Timestamp> {
        self.int().map(Timestamp)
    }

    /// The next value as a time or null.
    pub fn maybe_time(&mut self) -> Option<Option<Timestamp>> {
        self.maybe_int().map(|at| at.map(Timestamp))
    }

    /// The next value as bytes.
    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        match self.0.next()? {
            Value::Bytes(bytes) => bytes,
            _ => None,
        }
    }

    /// The next value as a hash.
    pub fn hash(&mut self) -> Option<TokenHash> {
        <[u8; 32]>::try_from(self.bytes()?).ok().map(TokenHash::from_bytes)
    }
}

/// A text value.
pub(super) fn text(value: impl std::fmt::Display) -> Value {
    Value::Text(Some(value.to_string()))
}

/// A text value or null.
pub(super) fn maybe_text(value: Option<impl std::fmt::Display>) -> Value {
    Value::Text(value.map(|v| v.to_string()))
}

/// A text value that holds JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Value {
    Value::Text(serde_json::to_string(value).ok())
}

/// One of a closed set of words.
pub(super) fn word(value: &impl serde::Serialize) -> Value {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Value::Text(Some(word)),
        _ => Value::Text(None),
    }
}

/// A number.
pub(super) fn int(value: impl Into<i64>) -> Value {
    Value::Int(Some(value.into()))
}

/// A time.
pub(super) fn time(at: Timestamp) -> Value {
    Value::Int(Some(at.millis()))
}

/// A time or null.
pub(super) fn maybe_time(at: Option<Timestamp>) -> Value {
    Value::Int(at.map(Timestamp::millis))
}

/// Bytes.
pub(super) fn bytes(value: &[u8]) -> Value {
    Value::Bytes(Some(value.to_vec()))
}
