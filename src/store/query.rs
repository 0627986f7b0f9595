//! Finding records.

use super::row::{self, Record, Type, Value};
use super::{Error, Store};
use crate::model::OrgId;

/// Which records of an organisation, in the order of their identifiers.
#[derive(Debug, Default)]
pub struct Find {
    equal: Vec<(&'static str, Value)>,
    after: Option<String>,
    limit: Option<u32>,
}

/// The most records that one query returns.
pub const MAX_LIMIT: u32 = 1000;

impl Find {
    /// All, up to [`MAX_LIMIT`].
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Those whose column has this text.
    #[must_use]
    pub fn with(mut self, column: &'static str, value: impl std::fmt::Display) -> Self {
        self.equal.push((column, row::text(value)));
        self
    }

    /// Those whose column has these bytes.
    #[must_use]
    pub fn with_bytes(mut self, column: &'static str, value: &[u8]) -> Self {
        self.equal.push((column, row::bytes(value)));
        self
    }

    /// Those behind this identifier.
    #[must_use]
    pub fn after(mut self, id: Option<String>) -> Self {
        self.after = id;
        self
    }

    /// At most so many.
    #[must_use]
    pub fn limit(mut self, most: u32) -> Self {
        self.limit = Some(most);
        self
    }
}

fn columns<R: Record>() -> (String, Vec<Type>) {
    let names: Vec<_> = R::COLUMNS.iter().map(|(name, _)| *name).collect();
    let types = R::COLUMNS.iter().map(|(_, kind)| *kind).chain([Type::Bytes]).collect();
    (format!("select {}, mac from {}", names.join(", "), R::TABLE), types)
}

impl Store {
    /// The record with this identifier.
    ///
    /// # Errors
    /// The row was tampered with, or the database can't be reached.
    pub async fn get<R: Record>(&self, org: OrgId, id: impl std::fmt::Display) -> Result<Option<R>, Error> {
        Ok(self.find(org, Find::all().with("id", id).limit(1)).await?.pop())
    }

    /// Records of an organisation, in the order of their identifiers (that is, by age).
    ///
    /// # Errors
    /// A row was tampered with, or the database can't be reached.
    pub async fn find<R: Record>(&self, org: OrgId, find: Find) -> Result<Vec<R>, Error> {
        let (mut sql, types) = columns::<R>();
        let mut values = vec![row::text(org)];
        sql.push_str(" where org_id = $1");
        for (column, value) in find.equal {
            debug_assert!(R::COLUMNS.iter().any(|(name, _)| *name == column), "{column}");
            values.push(value);
            sql.push_str(&format!(" and {column} = ${}", values.len()));
        }
        if let Some(after) = find.after {
            values.push(row::text(after));
            sql.push_str(&format!(" and id > ${}", values.len()));
        }
        sql.push_str(&format!(" order by id limit {}", find.limit.unwrap_or(MAX_LIMIT).min(MAX_LIMIT)));
        let rows = self.measured(R::TABLE, self.db.select(org, sql, values, &types)).await?;
        rows.into_iter().map(|values| row::open(&self.mac, values)).collect()
    }

    /// A record of any organisation, for the nodes' memory.
    ///
    /// # Errors
    /// The row was tampered with, or the database can't be reached.
    pub async fn get_any<R: Record>(&self, id: &str) -> Result<Option<R>, Error> {
        let (mut sql, types) = columns::<R>();
        sql.push_str(" where id = $1");
        let rows = self.measured(R::TABLE, self.db.select_all_orgs(sql, vec![row::text(id)], &types)).await?;
        rows.into_iter().next().map(|values| row::open(&self.mac, values)).transpose()
    }

    /// A page of all organisations' records behind an identifier, for the nodes' memory. A row that
    /// was tampered with is an error of its own and doesn't hide the others. The second value is
    /// where the next page begins.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn page_any<R: Record>(&self, after: &str) -> Result<(Vec<Result<R, Error>>, Option<String>), Error> {
        let (mut sql, types) = columns::<R>();
        sql.push_str(&format!(" where id > $1 order by id limit {MAX_LIMIT}"));
        let rows = self.measured(R::TABLE, self.db.select_all_orgs(sql, vec![row::text(after)], &types)).await?;
        let full = rows.len() == MAX_LIMIT as usize;
        let last = rows.last().and_then(|values| match values.first() {
            Some(Value::Text(id)) => id.clone(),
            _ => None,
        });
        let page = rows.into_iter().map(|values| row::open(&self.mac, values)).collect();
        Ok((page, last.filter(|_| full)))
    }
}
