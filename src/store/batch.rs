//! A set of writes that happen together or not at all.

use std::sync::Arc;

use super::ChangeKind;
use super::row::{self, Record, Value};
use crate::model::{OrgId, Secret, Timestamp};

pub(super) struct Statement {
    pub sql: String,
    pub values: Vec<Value>,
    /// Whether exactly one row has to be met.
    pub one_row: bool,
}

/// Writes of one organisation, to be carried out by [`super::Store::commit`].
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    pub(super) org: OrgId,
    pub(super) statements: Vec<Statement>,
    pub(super) changes: Vec<(ChangeKind, String)>,
    pub(super) now: i64,
    mac: Arc<Secret<[u8; 32]>>,
}

impl Batch {
    pub(super) fn new(org: OrgId, mac: Arc<Secret<[u8; 32]>>) -> Self {
        Self { org, statements: Vec::new(), changes: Vec::new(), now: 0, mac }
    }

    /// The time that its changes bear.
    pub fn at(mut self, now: Timestamp) -> Self {
        self.now = now.millis();
        self
    }

    /// Adds a record.
    pub fn insert<R: Record>(mut self, record: &R) -> Self {
        let mut values = row::full(record);
        let mac = row::mac::<R>(&self.mac, &values);
        values.push(row::bytes(&mac));
        let names: Vec<_> = R::COLUMNS.iter().map(|(name, _)| *name).collect();
        let marks: Vec<_> = (1..=values.len()).map(|n| format!("${n}")).collect();
        let sql = format!("insert into {} ({}, mac) values ({})", R::TABLE, names.join(", "), marks.join(", "));
        self.push(record, sql, values)
    }

    /// Changes a record from what was read to what it becomes. If the row is no longer what was
    /// read, nothing of the batch happens ([`super::Error::Changed`]).
    pub fn update<R: Record>(mut self, before: &R, after: &R) -> Self {
        let old = row::mac::<R>(&self.mac, &row::full(before));
        let mut values = row::full(after);
        let mac = row::mac::<R>(&self.mac, &values);
        values.push(row::bytes(&mac));
        let sets: Vec<_> = R::COLUMNS
            .iter()
            .enumerate()
            .skip(2)
            .map(|(at, (name, _))| format!("{name} = ${}", at + 1))
            .chain([format!("mac = ${}", values.len())])
            .collect();
        let sql = format!(
            "update {} set {} where id = $1 and org_id = $2 and mac = ${}",
            R::TABLE,
            sets.join(", "),
            values.len() + 1
        );
        values.push(row::bytes(&old));
        self.push(after, sql, values)
    }

    /// Removes a record, and what hangs from it.
    pub fn delete<R: Record>(mut self, record: &R) -> Self {
        let sql = format!("delete from {} where id = $1 and org_id = $2", R::TABLE);
        self.push(record, sql, vec![row::text(record.row_id()), row::text(record.org())])
    }

    fn push<R: Record>(&mut self, record: &R, sql: String, values: Vec<Value>) -> Self {
        self.statements.push(Statement { sql, values, one_row: true });
        self.changes.push((R::KIND, record.row_id()));
        std::mem::replace(self, Self::new(self.org, Arc::clone(&self.mac)))
    }
}
