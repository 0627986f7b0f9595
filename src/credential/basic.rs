//! A user name and a password, put in together (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::form::{self, FormError};
use crate::model::{KeyKind, Secret};

const FORM: &str = r#"{"user": "...", "password": "..."}"#;

/// A user name, which is public, and a password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    user: String,
    #[serde(deserialize_with = "form::secret_text")]
    password: Secret<String>,
}

impl Basic {
    pub(super) fn read(text: &[u8]) -> Result<Self, FormError> {
        let pair: Self = form::parse(KeyKind::Basic, FORM, text)?;
        form::check_text("user", &pair.user)?;
        if pair.user.contains(':') {
            return Err(FormError::Field { part: "user", why: "holds a colon, which ends a user name" });
        }
        form::check_secret("password", pair.password.expose())?;
        Ok(pair)
    }

    pub(super) fn password(&self) -> &[u8] {
        self.password.expose().as_bytes()
    }

    /// The value of the Authorization header.
    #[must_use]
    pub fn authorization(&self) -> Zeroizing<Vec<u8>> {
        let pair = Zeroizing::new([self.user.as_bytes(), b":", self.password()].concat());
        let encoded = Zeroizing::new(BASE64.encode(&*pair));
        Zeroizing::new([b"Basic ", encoded.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    fn taken(text: &str) -> Result<Secret<Vec<u8>>, FormError> {
        document(KeyKind::Basic, Secret::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn document_is_taken_in_its_form_only_and_no_error_holds_anything_of_it() {
        let good = "{ \"user\": \"Aladdin\",\n  \"password\": \"open sesame\" }";
        let sealed = taken(good).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(sealed.expose(), br#"{"user":"Aladdin","password":"open sesame"}"#);
        let pair = Basic::read(sealed.expose()).unwrap_or_else(|why| panic!("{why}"));
        // RFC 7617 section 2.
        assert_eq!(&*pair.authorization(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        for bad in [
            "hunter2-hunter2",
            r#"{"user":"Aladdin"}"#,
            r#"{"user":"a","password":"hunter2-hunter2","hunter2":1}"#,
            r#"{"user":"a","password":["hunter2-hunter2"]}"#,
            r#"{"user":"hunter2:a","password":"hunter2-hunter2"}"#,
            r#"{"user":"a","password":"hunter2"}"#,
            r#"{"user":"a","password":"hunter2\nhunter2"}"#,
        ] {
            let why = taken(bad).map(|_| ()).expect_err(bad);
            assert!(!format!("{why} {why:?}").contains("hunter2"), "{bad}: {why}");
        }
    }
}
