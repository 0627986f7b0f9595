//! The columns of each record.

use super::ChangeKind;
use super::row::{Cells, Record, Type, Value, bytes, int, json, maybe_text, maybe_time, text, time, word};
use crate::model::{Bounds, OrgId, Timestamp};
use crate::session::records::{AccessRequest, Grant, Principal, Project, Session, Standing, Token, Tool};
use crate::vault::key::{Key, Lease, SealedVersion};

const ID: (&str, Type) = ("id", Type::Text);
const ORG: (&str, Type) = ("org_id", Type::Text);
const PROJECT: (&str, Type) = ("project_id", Type::Text);
const CREATED: (&str, Type) = ("created_at", Type::Int);

macro_rules! place {
    ($table:literal, $kind:ident) => {
        const TABLE: &'static str = $table;
        const KIND: ChangeKind = ChangeKind::$kind;

        fn row_id(&self) -> String {
            self.id.to_string()
        }

        fn org(&self) -> OrgId {
            self.org
        }
    };
}

impl Record for Project {
    place!("projects", Project);
    const COLUMNS: &'static [(&'static str, Type)] =
        &[ID, ORG, ("name", Type::Text), ("description", Type::Text), CREATED];

    fn values(&self) -> Vec<Value> {
        vec![text(&self.name), text(&self.description), time(self.created_at)]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            name: cells.parsed()?,
            description: cells.text()?,
            created_at: cells.time()?,
        })
    }
}

impl Record for Key {
    place!("keys", Key);
    const COLUMNS: &'static [(&'static str, Type)] = &[
        ID,
        ORG,
        PROJECT,
        ("environment", Type::Text),
        ("name", Type::Text),
        ("provider", Type::Text),
        ("kind", Type::Text),
        ("token_endpoint", Type::Text),
        ("destination", Type::Text),
        ("shape", Type::Text),
        ("state", Type::Text),
        ("version", Type::Int),
        ("given", Type::Int),
        CREATED,
        ("updated_at", Type::Int),
        ("expires_at", Type::Int),
    ];

    fn values(&self) -> Vec<Value> {
        vec![
            text(self.project),
            text(self.environment),
            text(&self.name),
            text(&self.provider),
            word(&self.kind),
            maybe_text(self.token_endpoint.as_ref()),
            json(&self.destination),
            json(&self.shape),
            word(&self.state),
            int(self.version),
            int(self.given),
            time(self.created_at),
            time(self.updated_at),
            maybe_time(self.expires_at),
        ]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            project: cells.parsed()?,
            environment: cells.parsed()?,
            name: cells.parsed()?,
            provider: cells.parsed()?,
            kind: cells.word()?,
            token_endpoint: cells.maybe_parsed()?,
            destination: cells.json()?,
            shape: cells.json()?,
            state: cells.word()?,
            version: cells.number()?,
            given: cells.number()?,
            created_at: cells.time()?,
            updated_at: cells.time()?,
            expires_at: cells.maybe_time()?,
        })
    }
}

impl SealedVersion {
    /// The identifier of a version's row.
    #[must_use]
    pub fn row_id_of(key: crate::model::KeyId, version: u32) -> String {
        format!("{key}:{version}")
    }
}

impl Record for SealedVersion {
    const TABLE: &'static str = "key_versions";
    const KIND: ChangeKind = ChangeKind::KeyVersion;
    const COLUMNS: &'static [(&'static str, Type)] = &[
        ID,
        ORG,
        ("key_id", Type::Text),
        ("version", Type::Int),
        ("kek", Type::Text),
        ("wrapped_dek", Type::Bytes),
        ("sealed", Type::Bytes),
        CREATED,
    ];

    fn row_id(&self) -> String {
        Self::row_id_of(self.key, self.version)
    }

    fn org(&self) -> OrgId {
        self.org
    }

    fn values(&self) -> Vec<Value> {
        vec![
            text(self.key),
            int(self.version),
            text(&self.kek),
            bytes(&self.wrapped_dek),
            bytes(&self.sealed),
            time(self.created_at),
        ]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        let _id = cells.text()?;
        Some(Self {
            org: cells.parsed()?,
            key: cells.parsed()?,
            version: cells.number()?,
            kek: cells.text()?,
            wrapped_dek: cells.bytes()?,
            sealed: cells.bytes()?,
            created_at: cells.time()?,
        })
    }
}

impl Record for Lease {
    const TABLE: &'static str = "mint_leases";
    const KIND: ChangeKind = ChangeKind::Lease;
    const COLUMNS: &'static [(&'static str, Type)] = &[ID, ORG, ("holder", Type::Text), ("held_until", Type::Int)];

    fn row_id(&self) -> String {
        self.key.to_string()
    }

    fn org(&self) -> OrgId {
        self.org
    }

    fn values(&self) -> Vec<Value> {
        vec![text(self.holder), time(self.until)]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self { key: cells.parsed()?, org: cells.parsed()?, holder: cells.parsed()?, until: cells.time()? })
    }
}

impl Record for Tool {
    place!("tools", Tool);
    const COLUMNS: &'static [(&'static str, Type)] = &[
        ID,
        ORG,
        PROJECT,
        ("name", Type::Text),
        ("description", Type::Text),
        ("key_names", Type::Text),
        ("environments", Type::Text),
        ("max_session_secs", Type::Int),
        ("enabled", Type::Int),
        CREATED,
    ];

    fn values(&self) -> Vec<Value> {
        vec![
            text(self.project),
            text(&self.name),
            text(&self.description),
            json(&self.keys),
            json(&self.environments),
            int(self.max_session_secs),
            int(self.enabled),
            time(self.created_at),
        ]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            project: cells.parsed()?,
            name: cells.parsed()?,
            description: cells.text()?,
            keys: cells.json()?,
            environments: cells.json()?,
            max_session_secs: cells.number()?,
            enabled: cells.truth()?,
            created_at: cells.time()?,
        })
    }
}

impl Record for AccessRequest {
    place!("access_requests", AccessRequest);
    const COLUMNS: &'static [(&'static str, Type)] = &[
        ID,
        ORG,
        PROJECT,
        ("tool_id", Type::Text),
        ("environment", Type::Text),
        ("key_names", Type::Text),
        ("justification", Type::Text),
        ("duration_secs", Type::Int),
        ("state", Type::Text),
        ("decided_by", Type::Text),
        ("session_id", Type::Text),
        CREATED,
        ("decided_at", Type::Int),
    ];

    fn values(&self) -> Vec<Value> {
        vec![
            text(self.project),
            text(self.tool),
            text(self.environment),
            json(&self.keys),
            text(&self.justification),
            int(self.duration_secs),
            word(&self.state),
            text(&self.decided_by),
            maybe_text(self.session),
            time(self.created_at),
            maybe_time(self.decided_at),
        ]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            project: cells.parsed()?,
            tool: cells.parsed()?,
            environment: cells.parsed()?,
            keys: cells.json()?,
            justification: cells.text()?,
            duration_secs: cells.number()?,
            state: cells.word()?,
            decided_by: cells.text()?,
            session: cells.maybe_parsed()?,
            created_at: cells.time()?,
            decided_at: cells.maybe_time()?,
        })
    }
}

fn revoked(standing: &Standing) -> [Value; 2] {
    match standing {
        Standing::Active => [maybe_time(None), Value::Text(None)],
        Standing::Revoked { at, by } => [time(*at), text(by)],
    }
}

fn standing(at: Option<Timestamp>, by: Option<String>) -> Standing {
    match at {
        Some(at) => Standing::Revoked { at, by: by.unwrap_or_default() },
        None => Standing::Active,
    }
}

impl Record for Session {
    place!("sessions", Session);
    const COLUMNS: &'static [(&'static str, Type)] = &[
        ID,
        ORG,
        PROJECT,
        ("environment", Type::Text),
        ("tool_id", Type::Text),
        ("secret_hash", Type::Bytes),
        ("sources", Type::Text),
        ("certificate", Type::Text),
        ("revoked_at", Type::Int),
        ("revoked_by", Type::Text),
        CREATED,
        ("expires_at", Type::Int),
    ];

    fn values(&self) -> Vec<Value> {
        let [at, by] = revoked(&self.standing);
        vec![
            text(self.project),
            text(self.environment),
            maybe_text(self.tool),
            bytes(self.secret.as_bytes()),
            json(&self.bounds.sources),
            maybe_text(self.bounds.certificate),
            at,
            by,
            time(self.created_at),
            time(self.expires_at),
        ]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            project: cells.parsed()?,
            environment: cells.parsed()?,
            tool: cells.maybe_parsed()?,
            secret: cells.hash()?,
            bounds: Bounds { sources: cells.json()?, certificate: cells.maybe_parsed()? },
            standing: standing(cells.maybe_time()?, cells.maybe_text()?),
            created_at: cells.time()?,
            expires_at: cells.time()?,
        })
    }
}

impl Record for Grant {
    place!("grants", Grant);
    const COLUMNS: &'static [(&'static str, Type)] =
        &[ID, ORG, ("session_id", Type::Text), ("key_id", Type::Text), CREATED];

    fn values(&self) -> Vec<Value> {
        vec![text(self.session), text(self.key), time(self.created_at)]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            session: cells.parsed()?,
            key: cells.parsed()?,
            created_at: cells.time()?,
        })
    }
}

impl Record for Token {
    place!("tokens", Token);
    const COLUMNS: &'static [(&'static str, Type)] = &[
        ID,
        ORG,
        ("session_id", Type::Text),
        ("grant_id", Type::Text),
        ("root_id", Type::Text),
        ("hash", Type::Bytes),
        ("shape", Type::Text),
        ("revoked_at", Type::Int),
        ("revoked_by", Type::Text),
        CREATED,
        ("expires_at", Type::Int),
    ];

    fn values(&self) -> Vec<Value> {
        let [at, by] = revoked(&self.standing);
        vec![
            text(self.session),
            text(self.grant),
            maybe_text(self.root),
            bytes(self.hash.as_bytes()),
            json(&self.shape),
            at,
            by,
            time(self.created_at),
            time(self.expires_at),
        ]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            session: cells.parsed()?,
            grant: cells.parsed()?,
            root: cells.maybe_parsed()?,
            hash: cells.hash()?,
            shape: cells.json()?,
            standing: standing(cells.maybe_time()?, cells.maybe_text()?),
            created_at: cells.time()?,
            expires_at: cells.time()?,
        })
    }
}

impl Record for Principal {
    place!("principals", Principal);
    const COLUMNS: &'static [(&'static str, Type)] = &[
        ID,
        ORG,
        ("name", Type::Text),
        ("role", Type::Text),
        ("token_hash", Type::Bytes),
        ("enabled", Type::Int),
        CREATED,
    ];

    fn values(&self) -> Vec<Value> {
        vec![text(&self.name), word(&self.role), bytes(self.token.as_bytes()), int(self.enabled), time(self.created_at)]
    }

    fn read(cells: &mut Cells) -> Option<Self> {
        Some(Self {
            id: cells.parsed()?,
            org: cells.parsed()?,
            name: cells.parsed()?,
            role: cells.word()?,
            token: cells.hash()?,
            enabled: cells.truth()?,
            created_at: cells.time()?,
        })
    }
}
