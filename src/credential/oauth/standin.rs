//! Stand-ins for the files and settings that SDKs read: what is secret in them is a proxy token, and a
//! private key is one that signs for nobody.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::RsaKeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::model::{KeyKind, TokenEndpoint};

/// The name that a stand-in's client has where nobody looks at it.
const NOBODY: &str = "stand-in@sallyport.invalid";

/// What an SDK is given for a key of this kind: the token stands where the SDK shows it to the token
/// endpoint. `None` for a kind that isn't minted, or if no key could be made.
///
/// It makes an RSA key where the SDK wants one, which takes a tenth of a second and more.
#[must_use]
pub fn stand_in(kind: KeyKind, endpoint: &TokenEndpoint, token: &str) -> Option<Value> {
    let url = endpoint.to_string();
    Some(match kind {
        KeyKind::ServiceAccount => json!({
            "type": "service_account",
            "project_id": "stand-in",
            // It goes into the header of the assertion.
            "private_key_id": token,
            "private_key": private_key()?,
            "client_email": NOBODY,
            "client_id": "0",
            "token_uri": url,
        }),
        KeyKind::RefreshToken => json!({
            "type": "authorized_user",
            "client_id": "stand-in",
            "client_secret": token,
            "refresh_token": token,
            "token_uri": url,
        }),
        KeyKind::ClientCredentials => json!({ "client_id": "stand-in", "client_secret": token, "token_url": url }),
        KeyKind::JwtBearer => {
            json!({ "issuer": NOBODY, "key_id": token, "private_key": private_key()?, "token_url": url })
        }
        KeyKind::GithubApp => {
            let installation = url.rsplit('/').nth(1).and_then(|id| id.parse::<u64>().ok());
            // It goes into the claims of the assertion.
            json!({ "app_id": token, "installation_id": installation, "private_key": private_key()? })
        }
        _ => return None,
    })
}

/// A fresh private key in PEM, whose public key nobody knows.
fn private_key() -> Option<String> {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).ok()?;
    let der: Pkcs8V1Der<'_> = key.as_der().ok()?;
    let text = BASE64.encode(der.as_ref());
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    Some(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::super::jwt::{SigningKey, parts};
    use super::*;

    #[test]
    fn token_is_in_what_an_sdk_signs_with_the_stand_in() {
        let endpoint = "https://api.github.com/app/installations/7/access_tokens".parse().expect("an endpoint");
        let google = stand_in(KeyKind::ServiceAccount, &endpoint, "spt_token").expect("a stand-in");
        let key = SigningKey::from_pem(google["private_key"].as_str().expect("text")).expect("a key");
        let assertion = key.sign(google["private_key_id"].as_str(), &json!({})).expect("signed");
        let (header, _) = parts(&assertion).expect("parts");
        assert!(String::from_utf8_lossy(&header).contains("\"kid\":\"spt_token\""));
        let github = stand_in(KeyKind::GithubApp, &endpoint, "spt_token").expect("a stand-in");
        assert_eq!((&github["app_id"], &github["installation_id"]), (&json!("spt_token"), &json!(7)));
        assert_eq!(stand_in(KeyKind::Secret, &endpoint, "spt_token"), None);
    }
}
