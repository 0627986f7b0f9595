//! Keys, sessions and tokens that live in a node's memory and end with it: those of `run` and of `demo`.

use std::time::Duration;

use anyhow::Context as _;

use super::Node;
use crate::credential;
use crate::model::{
    Bounds, Destination, Environment, GrantId, KeyId, KeyKind, Name, OrgId, ProxyToken, Secret, SessionId,
    SessionSecret, TokenId, TokenShape, ToolId,
};
use crate::session::records::{Grant, Session, Standing, Token, Tool};
use crate::vault::key::{Key, KeyState};

/// A key that a node takes into memory.
pub struct NewKey {
    /// Its name.
    pub name: Name,
    /// The provider template, or `custom`.
    pub provider: Name,
    /// What its secret is.
    pub kind: KeyKind,
    /// Where it belongs.
    pub environment: Environment,
    /// Where it may go.
    pub destination: Destination,
    /// What its tokens look like.
    pub shape: TokenShape,
}

/// A session that began a moment ago, with what is shown only once.
pub struct Started {
    /// The session.
    pub session: Session,
    /// The password of its proxy credentials.
    pub secret: SessionSecret,
    /// What it may use.
    pub grants: Vec<Grant>,
}

impl Node {
    /// Seals a key and takes it into memory only: it is gone when the node stops.
    ///
    /// # Errors
    /// The secret can't be taken.
    pub fn add_key(
        &self,
        name: &Name,
        provider: &Name,
        environment: Environment,
        destination: Destination,
        shape: TokenShape,
        secret: &Secret<Vec<u8>>,
    ) -> anyhow::Result<Key> {
        let (name, provider, kind) = (name.clone(), provider.clone(), KeyKind::Secret);
        self.add_key_of(NewKey { name, provider, kind, environment, destination, shape }, secret)
    }

    /// The same for a key of any kind.
    ///
    /// # Errors
    /// The secret can't be taken.
    pub fn add_key_of(&self, new: NewKey, secret: &Secret<Vec<u8>>) -> anyhow::Result<Key> {
        let NewKey { name, provider, kind, environment, destination, shape } = new;
        let now = self.shared.clock.now();
        let secret = credential::document(kind, Secret::new(secret.expose().clone()))?;
        let token_endpoint = credential::token_endpoint(kind, &secret)?;
        if let Some(at) = &token_endpoint {
            let covered = destination.covers(at.scheme, &at.authority);
            anyhow::ensure!(covered, "the token endpoint's host {} isn't among the hosts of {name}", at.authority);
        }
        let key = Key {
            id: KeyId::generate(),
            org: OrgId::DEFAULT,
            project: self.project.id,
            environment,
            name,
            provider,
            kind,
            token_endpoint,
            destination,
            shape,
            state: KeyState::Enabled,
            version: 1,
            given: 1,
            created_at: now,
            updated_at: now,
            expires_at: None,
        };
        let sealed = self.shared.vault.seal(&key, 1, &secret).with_context(|| format!("key {}", key.name))?;
        self.shared.vault.load(&key, &sealed)?;
        self.shared.registry.put_keys([key.clone()]);
        Ok(key)
    }

    /// Changes a key's state.
    pub fn set_key_state(&self, key: &Key, state: KeyState) {
        let key = Key { state, ..key.clone() };
        self.shared.mints.changed(&key);
        self.shared.registry.put_keys([key]);
    }

    /// Starts a session that may use these keys.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn start_session(
        &self,
        tool: Option<&Name>,
        environment: Environment,
        keys: &[Key],
        lasts: Duration,
    ) -> anyhow::Result<Started> {
        let now = self.shared.clock.now();
        let secret = SessionSecret::generate().map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
        let tool = tool.map(|name| Tool {
            id: ToolId::generate(),
            org: OrgId::DEFAULT,
            project: self.project.id,
            name: name.clone(),
            description: String::new(),
            keys: vec!["*".to_owned()],
            environments: vec![environment],
            max_session_secs: u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX),
            enabled: true,
            created_at: now,
        });
        if let Some(tool) = &tool {
            self.shared.registry.put_tool(tool);
        }
        let session = Session {
            id: SessionId::generate(),
            org: OrgId::DEFAULT,
            project: self.project.id,
            environment,
            tool: tool.map(|t| t.id),
            secret: secret.hash(),
            bounds: Bounds::default(),
            standing: Standing::Active,
            created_at: now,
            expires_at: now.plus(lasts),
        };
        let mut grants = Vec::new();
        for key in keys {
            let grant = Grant {
                id: GrantId::generate(),
                org: OrgId::DEFAULT,
                session: session.id,
                key: key.id,
                created_at: now,
            };
            self.shared.registry.put_grant(&grant);
            grants.push(grant);
        }
        self.shared.registry.put_session(&session);
        Ok(Started { session, secret, grants })
    }

    /// Mints a token for one of the session's keys.
    ///
    /// # Errors
    /// The session has no grant for the key, or the system's random source failed.
    pub fn mint(&self, started: &Started, key: &Key) -> anyhow::Result<(Token, ProxyToken)> {
        let grant = started.grants.iter().find(|g| g.key == key.id).context("the session may not use the key")?;
        let value = ProxyToken::generate(key.kind.token_form(), &key.shape)
            .map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
        let token = Token {
            id: TokenId::generate(),
            org: OrgId::DEFAULT,
            session: started.session.id,
            grant: grant.id,
            root: None,
            hash: value.hash(),
            shape: key.shape.clone(),
            standing: Standing::Active,
            created_at: self.shared.clock.now(),
            expires_at: started.session.expires_at,
        };
        self.shared.registry.put_token(&token);
        Ok((token, value))
    }

    /// Revokes a token.
    pub fn revoke_token(&self, token: &Token, by: &str) {
        let standing = Standing::Revoked { at: self.shared.clock.now(), by: by.to_owned() };
        self.shared.registry.put_token(&Token { standing, ..token.clone() });
    }

    /// Revokes a session and everything in it.
    pub fn revoke_session(&self, session: &Session, by: &str) {
        let standing = Standing::Revoked { at: self.shared.clock.now(), by: by.to_owned() };
        self.shared.registry.put_session(&Session { standing, ..session.clone() });
    }
}
