//! The slots beside headers: in a query, a path, cookies, a body. Which of them the keys of a host name
//! is known beforehand, so that a host without them costs its requests nothing.

pub mod cookie;
pub mod json;
pub mod multipart;
pub mod pairs;

use std::ops::Range;
use std::sync::Arc;

use crate::model::{FieldName, PathTemplate, Pointer, Slot};
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
    /// Fields of a form.
    pub forms: Vec<FieldName>,
    /// Strings of a JSON document.
    pub pointers: Vec<Pointer>,
    /// Fields of a body of several parts.
    pub fields: Vec<FieldName>,
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
                Slot::Form(name) => add(&mut places.forms, name),
                Slot::Json(pointer) => add(&mut places.pointers, pointer),
                Slot::Multipart(name) => add(&mut places.fields, name),
                _ => {}
            }
        }
        places
    }

    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        let Self { query, paths, cookies, signed, forms, pointers, fields } = self;
        let names = query.is_empty() && cookies.is_empty() && forms.is_empty() && fields.is_empty();
        names && paths.is_empty() && pointers.is_empty() && !signed
    }

    /// Whether any of them is in a body, which has to be read for it.
    pub fn in_body(&self) -> bool {
        !self.forms.is_empty() || !self.pointers.is_empty() || !self.fields.is_empty()
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
