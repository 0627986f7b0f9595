//! Names that people give, and the environments that never mix.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name of a project, key, tool or policy: 1 to 64 characters of `a-z`, `0-9`, `_`, `-` and `.`,
/// beginning with a letter or a digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// The text can't be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a name: use 1 to 64 of a-z, 0-9, '_', '-' and '.', beginning with a letter or a digit")]
pub struct NameError;

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether somebody put a key in the place of a name: it begins as services' keys do, and a
    /// long part of it mixes letters and digits.
    #[must_use]
    pub fn looks_like_key(&self) -> bool {
        const STARTS: &[&str] = &[
            "sk-",
            "sk_",
            "rk_",
            "pk_",
            "ghp_",
            "gho_",
            "ghs_",
            "github_pat_",
            "glpat-",
            "gsk_",
            "hf_",
            "xai-",
            "xox",
            "lin_api_",
            "sg.",
            "pplx-",
            "akia",
            "aiza",
            "spt_",
        ];
        let random = |part: &str| {
            let digits = part.bytes().filter(u8::is_ascii_digit).count();
            part.len() >= 12 && (1..part.len()).contains(&digits)
        };
        STARTS.iter().any(|start| self.0.starts_with(start)) && self.0.split(['-', '_', '.']).any(random)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let rest = |b: &u8| fits(b) || matches!(b, b'_' | b'-' | b'.');
        let bytes = text.as_bytes();
        if bytes.len() <= Self::MAX_LEN && bytes.first().is_some_and(fits) && bytes.iter().all(rest) {
            Ok(Self(text.into()))
        } else {
            Err(NameError)
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a key belongs. Environments never mix in one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// For trying things out; the default.
    #[default]
    Development,
    /// Close to production.
    Staging,
    /// The real thing.
    Production,
}

impl Environment {
    /// The word used in YAML, JSON, tables and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Environment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "development" => Ok(Self::Development),
            "staging" => Ok(Self::Staging),
            "production" => Ok(Self::Production),
            _ => Err("not an environment: use development, staging or production".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_in_the_place_of_a_name_is_told_from_a_name() {
        let looks = |text: &str| text.parse::<Name>().expect("a name").looks_like_key();
        for key in [
            "sk-proj-realkey0123456789real",
            "ghp_0a1b2c3d4e5f6a7b8c9d",
            "sk_live_51h8xyz0123456",
            "akia0123456789abcdef",
        ] {
            assert!(looks(key), "{key}");
        }
        for name in [
            "openai",
            "sk-production-2026",
            "hf_token_of_the_team",
            "key-01a1fd586e77",
            "pk_eu_1",
            "stripe_api_key_production",
        ] {
            assert!(!looks(name), "{name}");
        }
    }
}
