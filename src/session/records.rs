//! The durable things around a session, as the store keeps them and the admin API lists them.
//!
//! Their states are what the rows say; whether a session is live at this moment is asked of the
//! registry.

use serde::{Deserialize, Serialize};

use crate::model::{
    Bounds, Environment, GrantId, KeyId, Name, OrgId, PrincipalId, ProjectId, RequestId, SessionId, Timestamp,
    TokenHash, TokenId, TokenShape, ToolId,
};

/// A group of keys, tools and sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its identifier.
    pub id: ProjectId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// Its name, unique in the organisation.
    pub name: Name,
    /// What it is for, in the words of whoever made it.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A registered agent program and the most that it may ever ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its identifier.
    pub id: ToolId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// The project that it works in.
    pub project: ProjectId,
    /// Its name, unique in the project.
    pub name: Name,
    /// What it does.
    pub description: String,
    /// The names of the keys that it may ask for; empty means none, `*` alone means every key of the project.
    pub keys: Vec<String>,
    /// The environments that it may ask for.
    pub environments: Vec<Environment>,
    /// The longest session that it may ask for, in seconds.
    pub max_session_secs: u32,
    /// Whether it may ask for anything at the moment.
    pub enabled: bool,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// How far an access request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    /// It waits for a person.
    Pending,
    /// It bought a session.
    Approved,
    /// It was refused.
    Denied,
    /// Nobody answered in time.
    Expired,
}

/// A tool asks for keys for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRequest {
    /// Its identifier.
    pub id: RequestId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// The project that it is about.
    pub project: ProjectId,
    /// Who asks.
    pub tool: ToolId,
    /// The environment of the keys.
    pub environment: Environment,
    /// The names of the keys.
    pub keys: Vec<Name>,
    /// Why.
    pub justification: String,
    /// For how long, in seconds.
    pub duration_secs: u32,
    /// How far it has come.
    pub state: RequestState,
    /// Who or what decided, and why; empty while it waits.
    pub decided_by: String,
    /// The session that it bought.
    pub session: Option<SessionId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
}

/// Whether a session or a token was ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It holds until it expires.
    Active,
    /// It was ended.
    Revoked {
        /// When.
        at: Timestamp,
        /// By whom: a principal's name, or `run` for a command's own session.
        by: String,
    },
}

/// The lifetime that an approved request buys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its identifier; also the user name of its proxy credentials.
    pub id: SessionId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// The project whose keys it may use.
    pub project: ProjectId,
    /// The environment of its keys; environments never mix in one session.
    pub environment: Environment,
    /// The tool that it was bought for, if it was.
    pub tool: Option<ToolId>,
    /// Hash of the password of its proxy credentials.
    pub secret: TokenHash,
    /// From where it may be used.
    pub bounds: Bounds,
    /// Whether it was revoked.
    pub standing: Standing,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// "This session may use this key."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its identifier.
    pub id: GrantId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// The session.
    pub session: SessionId,
    /// The key.
    pub key: KeyId,
    /// When it was given.
    pub created_at: Timestamp,
}

/// A proxy token; its value is nowhere, only its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its identifier.
    pub id: TokenId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// The session that it lives in.
    pub session: SessionId,
    /// The grant that it stands for.
    pub grant: GrantId,
    /// The token that was shown at a token endpoint and got this one as its answer, or got the one that
    /// did: it ends with that one.
    pub root: Option<TokenId>,
    /// Hash of its value.
    pub hash: TokenHash,
    /// What stands before and behind it.
    pub shape: TokenShape,
    /// Whether it was revoked.
    pub standing: Standing,
    /// When it was minted.
    pub created_at: Timestamp,
    /// When it ends by itself; never after its session.
    pub expires_at: Timestamp,
}

/// What a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything in the organisation.
    Admin,
    /// Use: request access, mint tokens, see what is theirs.
    User,
    /// Look only.
    Viewer,
}

/// Who acts on the admin side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its identifier.
    pub id: PrincipalId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// Its name, unique in the organisation.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of its bearer token.
    pub token: TokenHash,
    /// Whether it may act at the moment.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
}
