//! `/api/v1/audit`

use axum::Json;
use axum::extract::State as Shared;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{Query, limit, time};
use super::{Problem, State};
use crate::audit;

/// Which records.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only this kind: intent, outcome, denied, admin, security, start, stop, checkpoint.
    kind: Option<String>,
    /// Only this session.
    session: Option<String>,
    /// Only this key, by name.
    key: Option<String>,
    /// Only this request, by the id that the agent was shown.
    request: Option<String>,
    /// Only from this time on, RFC 3339.
    #[param(format = DateTime)]
    since: Option<String>,
    /// At most so many, the newest.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// Records, oldest first.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditRecords)]
pub(super) struct Records {
    #[schema(value_type = Vec<Object>)]
    items: Vec<serde_json::Value>,
}

/// What verifying the chains found.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditReport)]
pub(super) struct Report {
    /// How many chains there are.
    chains: usize,
    /// How many records they hold.
    records: u64,
    /// How many of them are signed.
    signatures: u64,
    /// Whether everything is whole.
    whole: bool,
    /// The first bad record of each chain that isn't.
    troubles: Vec<Trouble>,
}

/// A bad record.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditTrouble)]
struct Trouble {
    file: String,
    line: u64,
    seq: u64,
    why: String,
}

/// Read audit records
#[utoipa::path(get, operation_id = "audit_query", path = "/api/v1/audit", tag = "audit", params(Which),
    responses((status = 200, description = "Done", body = Records), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn query(Shared(admin): Shared<State>, Query(which): Query<Which>) -> Result<Json<Records>, Problem> {
    if let Some(kind) = &which.kind
        && !audit::RecordKind::ALL.iter().any(|known| known.as_str() == kind)
    {
        let all = audit::RecordKind::ALL.map(audit::RecordKind::as_str).join(", ");
        return Err(Problem::invalid("kind", format!("it is one of {all}")));
    }
    let filter = audit::Filter {
        kind: which.kind,
        session: which.session,
        key: which.key,
        exchange: which.request,
        since: which.since.as_deref().map(|at| time("since", at)).transpose()?.map(|at| at.millis()),
        limit: limit(which.limit)? as usize,
    };
    let dir = admin.audit_dir.clone();
    let items =
        tokio::task::spawn_blocking(move || audit::query(&dir, &filter)).await.map_err(|_| Problem::internal())??;
    Ok(Json(Records { items }))
}

/// Verify the audit chains
#[utoipa::path(get, operation_id = "audit_verify", path = "/api/v1/audit/verify", tag = "audit",
    responses((status = 200, description = "Done", body = Report), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn verify(Shared(admin): Shared<State>) -> Result<Json<Report>, Problem> {
    let work = move || audit::verify(&admin.audit_dir, &admin.audit_keys);
    let found = tokio::task::spawn_blocking(work).await.map_err(|_| Problem::internal())??;
    let troubles: Vec<_> = found
        .troubles
        .iter()
        .map(|t| Trouble { file: t.file.display().to_string(), line: t.line, seq: t.seq, why: t.why.to_string() })
        .collect();
    Ok(Json(Report {
        chains: found.chains,
        records: found.records,
        signatures: found.signatures,
        whole: troubles.is_empty(),
        troubles,
    }))
}
