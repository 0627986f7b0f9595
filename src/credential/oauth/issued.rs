//! An agent's own call of a token endpoint: what it asks for, and what it gets.

use std::collections::BTreeMap;

use serde_json::Value;
use zeroize::Zeroizing;

use super::jwt;
use crate::model::{GrantId, ProxyToken, Timestamp, TokenId};
use crate::session::live::LiveToken;
use crate::session::records::{Standing, Token};
use crate::vault::key::Key;

/// What a key's access tokens are good for, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Scopes; empty if the document and the endpoint name none.
    pub scopes: Vec<String>,
    /// What a GitHub App's token may do; empty is whatever its installation may.
    pub permissions: BTreeMap<String, String>,
}

/// A call of a token endpoint.
pub struct Asked {
    fields: Vec<(String, Zeroizing<String>)>,
    json: bool,
}

/// Where calls have their secrets (RFC 6749, RFC 7521).
const SECRETS: &[&str] = &["client_secret", "refresh_token", "assertion", "client_assertion"];
/// The grants that are answered here.
const GRANTS: &[&str] = &["client_credentials", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"];
/// The most fields of a call.
const MAX_FIELDS: usize = 64;

impl Asked {
    /// Reads the body of a call: a form, or JSON as GitHub's API takes it. `None` if it is neither.
    #[must_use]
    pub fn read(kind: &[u8], body: &[u8]) -> Option<Self> {
        let is = |what: &[u8]| kind.get(..what.len()).is_some_and(|start| start.eq_ignore_ascii_case(what));
        if is(b"application/x-www-form-urlencoded") {
            let fields = body.split(|b| *b == b'&').filter(|field| !field.is_empty()).map(|field| {
                let at = field.iter().position(|b| *b == b'=').unwrap_or(field.len());
                let value = field.get(at + 1..).unwrap_or_default();
                Some((decoded(&field[..at])?.to_string(), decoded(value)?))
            });
            let fields: Vec<_> = fields.take(MAX_FIELDS + 1).collect::<Option<_>>()?;
            return (fields.len() <= MAX_FIELDS).then_some(Self { fields, json: false });
        }
        if body.is_empty() {
            return Some(Self { fields: Vec::new(), json: true });
        }
        let Value::Object(all) = serde_json::from_slice(body).ok()? else { return None };
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let fields = all.into_iter().map(|(name, value)| (name, Zeroizing::new(text(value)))).collect();
        Some(Self { fields, json: true })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether its grant is one of those that are answered here.
    #[must_use]
    pub fn is_answered_here(&self) -> bool {
        match self.field("grant_type") {
            Some(grant) => GRANTS.contains(&grant),
            None => self.json,
        }
    }

    /// The values in which a secret belongs.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(|(name, _)| SECRETS.contains(&name.as_str())).map(|(_, value)| value.as_str())
    }

    /// What it asks for beyond these bounds, in words.
    #[must_use]
    pub fn beyond(&self, bounds: &Bounds) -> Option<String> {
        let claimed = self.field("assertion").and_then(jwt::parts).and_then(|(_, claims)| {
            let claims: Value = serde_json::from_slice(&claims).ok()?;
            claims["scope"].as_str().map(str::to_owned)
        });
        let asked = [self.field("scope"), claimed.as_deref()].into_iter().flatten().flat_map(str::split_whitespace);
        let mut asked = asked.filter(|_| !bounds.scopes.is_empty());
        if asked.any(|scope| !bounds.scopes.iter().any(|has| has == scope)) {
            return Some("scope".to_owned());
        }
        let wanted: BTreeMap<String, String> =
            self.field("permissions").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let level = |word: &str| ["read", "write", "admin"].iter().position(|known| *known == word);
        let has = |(name, word): (&String, &String)| match (bounds.permissions.get(name), level(word)) {
            (Some(most), Some(wanted)) => level(most).is_some_and(|most| wanted <= most),
            _ => false,
        };
        let beyond = !bounds.permissions.is_empty() && !wanted.iter().all(has);
        beyond.then(|| "permission".to_owned())
    }
}

/// Form decoding; `None` for what is no UTF-8.
pub(super) fn decoded(text: &[u8]) -> Option<Zeroizing<String>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        let two = behind.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let digits = two.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &behind[2..];
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(first),
        }
    }
    String::from_utf8(std::mem::take(&mut *out)).ok().map(Zeroizing::new)
}

/// The record of a proxy token that answers a call in which `shown` was shown.
#[must_use]
pub fn record(
    shown: &LiveToken,
    grant: GrantId,
    key: &Key,
    value: &ProxyToken,
    now: Timestamp,
    until: Timestamp,
) -> Token {
    Token {
        id: TokenId::generate(),
        org: shown.session.org,
        session: shown.session.id,
        grant,
        root: Some(shown.root()),
        hash: value.hash(),
        shape: key.shape.clone(),
        standing: Standing::Active,
        created_at: now,
        expires_at: until,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_and_what_goes_beyond_the_key_is_told() {
        let form = b"application/x-www-form-urlencoded; charset=utf-8";
        let bounds = Bounds { scopes: vec!["a".into(), "b:c".into()], ..Bounds::default() };
        for (body, answered, beyond) in [
            ("grant_type=client_credentials&client_secret=x%2By+z", true, false),
            ("grant_type=refresh_token&scope=b%3Ac+a", true, false),
            ("grant_type=refresh_token&scope=a+d", true, true),
            ("grant_type=authorization_code&code=1", false, false),
            ("client_secret=x", false, false),
        ] {
            let asked = Asked::read(form, body.as_bytes()).expect(body);
            assert_eq!((asked.is_answered_here(), asked.beyond(&bounds).is_some()), (answered, beyond), "{body}");
        }
        let asked = Asked::read(form, b"client_secret=x%2By+z&other=1").expect("a form");
        assert_eq!(asked.secrets().collect::<Vec<_>>(), ["x+y z"]);

        let permissions = [("contents".to_owned(), "read".to_owned())].into();
        let bounds = Bounds { permissions, ..Bounds::default() };
        for (body, beyond) in [
            ("", false),
            (r#"{"repositories":["x"]}"#, false),
            (r#"{"permissions":{"contents":"read"}}"#, false),
            (r#"{"permissions":{"contents":"write"}}"#, true),
            (r#"{"permissions":{"issues":"read"}}"#, true),
            (r#"{"permissions":{"contents":"everything"}}"#, true),
        ] {
            let asked = Asked::read(b"application/json", body.as_bytes()).expect(body);
            assert!(asked.is_answered_here());
            assert_eq!(asked.beyond(&bounds).is_some(), beyond, "{body}");
        }
        assert!(Asked::read(b"application/json", b"[1]").is_none());
    }
}
