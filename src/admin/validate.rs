//! `/api/v1/api-keys/{id}/validate`

use std::pin::Pin;

use axum::Json;
use axum::extract::{Path, State as Shared};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::keys::find;
use super::{Problem, State};
use crate::model::{BaseUrl, Cleartext, Scheme};
use crate::providers::{Check, Provider, Verdict};
use crate::vault::key::Key;

/// A call to be made with a key through the data path.
pub struct Probing {
    /// The key.
    pub key: Key,
    /// The call.
    pub check: Check,
    /// Where the key's service is.
    pub base: BaseUrl,
}

/// What came of it.
pub struct Probed {
    /// The reply's status.
    pub status: u16,
    /// The code, if the reply is a refusal of our own.
    pub refusal: Option<String>,
    /// The beginning of the reply's body.
    pub body: Bytes,
}

/// Makes such a call, or says in words why it can't be made.
pub type Probe = Box<dyn Fn(Probing) -> Pin<Box<dyn Future<Output = Result<Probed, String>> + Send>> + Send + Sync>;

/// What a key's service says of it.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyValidity)]
pub(super) struct Validity {
    /// The key's name.
    key: String,
    /// `valid`; `refused` by the service; `unclear`, if its reply says neither; `unreachable`; or
    /// `not_permitted`, if no policy allows the call.
    result: &'static str,
    /// The status of the service's reply, or of the refusal.
    status: Option<u16>,
    /// What happened, in words.
    detail: String,
}

/// Ask a key's service whether it takes the key
///
/// The call takes the way of an agent's requests: policies decide on it, and it is recorded.
#[utoipa::path(post, operation_id = "keys_validate", path = "/api/v1/api-keys/{id}/validate", tag = "keys", params(("id" = String, Path, description = "id or name")),
    responses((status = 200, description = "Done", body = Validity), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn validate(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Validity>, Problem> {
    let key = find(&admin, caller.org(), &id).await?;
    if let Some(why) = key.out_of_use(admin.clock.now()) {
        return Err(Problem::conflict(why));
    }
    let known = admin.providers.current();
    let provider = known.iter().find(|p| p.name == key.provider);
    let check = provider.and_then(|p| p.check.clone());
    let (Some(provider), Some(check)) = (provider, check) else {
        let why = format!("no call is known that tells whether a key of {} is valid", key.provider);
        return Err(Problem::conflict(why));
    };
    let base = address(&key, provider)
        .filter(|base| {
            let to = check.at(base);
            key.destination.covers(to.scheme, &to.authority)
        })
        .ok_or_else(|| Problem::conflict("the call that tells goes to a host which isn't among the key's own"))?;
    (admin.audit)()?.admin(caller.name(), "key_validate", &key.id.to_string(), key.name.as_str())?;
    let name = key.name.to_string();
    let (result, status, detail) = match (admin.probe)(Probing { key, check: check.clone(), base }).await {
        Err(why) => ("unreachable", None, why),
        Ok(Probed { status, refusal: Some(code), .. }) if code.starts_with("upstream_") => {
            ("unreachable", Some(status), format!("the service can't be reached: {code}"))
        }
        Ok(Probed { status, refusal: Some(code), .. }) => {
            ("not_permitted", Some(status), format!("the call was refused here: {code}"))
        }
        Ok(Probed { status, refusal: None, body }) => match check.verdict(status, &body) {
            Verdict::Valid => ("valid", Some(status), "the service takes the key".to_owned()),
            Verdict::Refused => {
                ("refused", Some(status), format!("the service doesn't take the key: it answers {status}"))
            }
            Verdict::Unclear => {
                ("unclear", Some(status), format!("the service answers {status}, which says nothing of the key"))
            }
        },
    };
    Ok(Json(Validity { key: name, result, status, detail }))
}

/// Where the key's service is: the provider's address if the key may go there, else the first of the
/// key's own hosts that is one.
fn address(key: &Key, provider: &Provider) -> Option<BaseUrl> {
    let usual = provider.base.clone().filter(|base| key.destination.covers(base.scheme, &base.authority));
    let scheme = match key.destination.cleartext {
        Cleartext::Never => Scheme::Https,
        Cleartext::Loopback => Scheme::Http,
    };
    usual.or_else(|| {
        let host = key.destination.hosts.iter().find(|pattern| pattern.exact().is_some())?;
        BaseUrl::parse(&format!("{}://{host}", scheme.as_str())).ok()
    })
}
