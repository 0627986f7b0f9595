//! The slots beside headers: in a query, a path, cookies. Which of them the keys of a host name is
//! known beforehand, so that a host without them costs its requests nothing.

pub mod cookie;
pub mod json;
pub mod pairs;

use std::ops::Range;
use std::sync::Arc;

use crate::model::{FieldName, PathTemplate, Slot};
use crate::vault::key::Key;

/// Where, beside headers, the keys of a host may stand.
#[derive(Debug, Default)]
pub struct Places {
    /// Parameters of the query.
    pub query: Vec<FieldName>,
    /// Segments of the path.
    pub paths: Vec<PathTemplate>,
    /// Cookies.
    pub cookies: Vec<FieldName>,
    /// Whether one is put into requests that the agent signed.
    pub signed: bool,
}

impl Places {
    /// The places that these keys name.
    pub fn of(keys: &[Arc<Key>]) -> Self {
        let mut places = Self::default();
        for slot in keys.iter().flat_map(|key| &key.destination.slots) {
            match slot {
                Slot::Query(name) => add(&mut places.query, name),
                Slot::Path(template) => add(&mut places.paths, template),
                Slot::Cookie(name) => add(&mut places.cookies, name),
                Slot::Signature | Slot::Presigned => places.signed = true,
                _ => {}
            }
        }
        places
    }
}

fn add<T: PartialEq + Clone>(to: &mut Vec<T>, one: &T) {
    if !to.contains(one) {
        to.push(one.clone());
    }
}

/// A slot that is there in a request: which one, and where in its text its value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// Which one.
    pub slot: Slot,
    /// Its value, as it is coded there.
    pub range: Range<usize>,
}

/// Why no place in a body is certain: in words, after "the body can't be searched for slots: ".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable(pub &'static str);
