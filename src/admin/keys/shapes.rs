//! What goes over the wire of `/api/v1/api-keys`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::model::{Cleartext, Secret};
use crate::vault::key::{Key, KeyState};

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub struct View {
    pub id: String,
    pub name: String,
    pub project: String,
    #[schema(pattern = "^(development|staging|production)$")]
    pub environment: String,
    /// The provider template, or `custom`.
    pub provider: String,
    /// What its secret is: `secret`, or a document from which something is computed for each request.
    pub kind: &'static str,
    /// Where its access tokens are asked for, if it is of a kind that is minted.
    pub token_endpoint: Option<String>,
    /// Where it may go.
    pub hosts: Vec<String>,
    /// In which places of a request it may be put.
    pub slots: Vec<String>,
    /// `never`, or `loopback` if it may go to this machine without TLS.
    pub cleartext: &'static str,
    /// `enabled` or `disabled`.
    pub state: &'static str,
    /// The number of the version in force.
    pub version: u32,
    #[schema(format = DateTime)]
    pub created_at: String,
    #[schema(format = DateTime)]
    pub updated_at: String,
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// What is doubtful about a value that was taken all the same; absent where nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<String>,
}

impl View {
    pub fn of(key: &Key, projects: &HashMap<String, String>) -> Self {
        let project = key.project.to_string();
        Self {
            id: key.id.to_string(),
            name: key.name.to_string(),
            project: projects.get(&project).cloned().unwrap_or(project),
            environment: key.environment.to_string(),
            provider: key.provider.to_string(),
            kind: key.kind.as_str(),
            token_endpoint: key.token_endpoint.as_ref().map(ToString::to_string),
            hosts: key.destination.hosts.iter().map(ToString::to_string).collect(),
            slots: key.destination.slots.iter().map(ToString::to_string).collect(),
            cleartext: match key.destination.cleartext {
                Cleartext::Never => "never",
                Cleartext::Loopback => "loopback",
            },
            state: match key.state {
                KeyState::Enabled => "enabled",
                KeyState::Disabled => "disabled",
            },
            version: key.version,
            created_at: key.created_at.to_string(),
            updated_at: key.updated_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            warnings: Vec::new(),
        }
    }

    pub fn warned(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// A page of keys.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyList)]
pub struct List {
    pub items: Vec<View>,
    /// Where the next page begins; null at the end.
    pub next: Option<String>,
}

/// A key to be stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = NewKey)]
pub struct New {
    /// 1 to 64 of a-z, 0-9, '_', '-' and '.'; unique in project and environment
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$")]
    pub name: String,
    /// The secret: 8 bytes to 64 KiB, no control characters. For other kinds than `secret` a JSON document, and PEM for `mtls`.
    #[schema(min_length = 8, max_length = 65536, value_type = String, format = Password)]
    pub value: SecretText,
    /// What the secret is; what the provider's keys are if absent, else `secret`, which is put in as it is. The others are documents from
    /// which something is computed for each request: `basic` is `{"user": ..., "password": ...}`, `aws` is
    /// `{"access_key_id": ..., "secret_access_key": ...}`, `hmac` is
    /// `{"key": ..., "secret": ..., "template": ..., "signature": ...}`; `mtls` is PEM instead: a client certificate, those
    /// of its authorities if the service needs them, and the private key. It is shown in the TLS handshake, on
    /// requests that have a token in the key's slot, `header:x-client-certificate` if none is named; the token is taken out.
    /// `client_credentials`, `refresh_token`, `jwt_bearer`, `service_account` and `github_app` are documents for
    /// which access tokens are minted; an error tells the form.
    #[schema(pattern = "^[a-z][a-z_]*$")]
    pub kind: Option<String>,
    /// A provider template, which says where the key may go; see /api/v1/providers.
    pub provider: Option<String>,
    /// Id or name; `default` if absent.
    pub project: Option<String>,
    /// `development` if absent.
    #[schema(pattern = "^(development|staging|production)$")]
    pub environment: Option<String>,
    /// Host patterns such as `api.example.com` or `*.example.com:8443`; instead of the provider's.
    #[schema(max_items = 100)]
    pub hosts: Option<Vec<String>>,
    /// `bearer`; `header:NAME`, or `header:NAME=TEXT {}` with other text around it; `basic:user`,
    /// `basic:password`, or `basic={}` for the whole pair; `query:NAME`; `path:/START{}`; `cookie:NAME`;
    /// `form:NAME`, `json:/POINTER`, `multipart:NAME` in a body. `{}` stands for the key, `*` in a header for any text and in a path for one segment. Instead of
    /// the provider's.
    #[schema(max_items = 20)]
    pub slots: Option<Vec<String>>,
    /// The address of an installation of one's own, such as `https://gitlab.example.com`: the key goes
    /// there alone, instead of to the provider's hosts. It may be an address of sallyport's own machine, which is reached for this key alone.
    pub base_url: Option<String>,
    /// `loopback` lets the key go to this machine without TLS.
    #[schema(pattern = "^(never|loopback)$")]
    pub cleartext: Option<String>,
    /// What stands before its proxy tokens; instead of the provider's.
    #[schema(max_length = 64)]
    pub token_prefix: Option<String>,
    /// When it ends by itself, RFC 3339.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
}

/// A secret in a body: never shown.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    pub fn take(self) -> Secret<Vec<u8>> {
        Secret::new(self.0.into_bytes())
    }
}

/// What is changed about a key; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = KeyEdit)]
pub struct Edit {
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$")]
    pub name: Option<String>,
    #[schema(max_items = 100)]
    pub hosts: Option<Vec<String>>,
    #[schema(max_items = 20)]
    pub slots: Option<Vec<String>>,
    #[schema(pattern = "^(never|loopback)$")]
    pub cleartext: Option<String>,
    #[schema(pattern = "^(enabled|disabled)$")]
    pub state: Option<String>,
    /// RFC 3339; an empty text means never.
    pub expires_at: Option<String>,
}

/// A new value.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rotation)]
pub struct Rotation {
    /// The new secret: 8 bytes to 64 KiB, no control characters; a document of the key's kind, or PEM, if it has one.
    #[schema(min_length = 8, max_length = 65536, value_type = String, format = Password)]
    pub value: SecretText,
}

/// Which keys.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Only this project's, by id or name.
    pub project: Option<String>,
    /// Only this environment's.
    #[param(pattern = "^(development|staging|production)$")]
    pub environment: Option<String>,
    /// Only what comes behind this id.
    pub after: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
}
