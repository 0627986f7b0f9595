//! `/api/v1/policy/explain`

use axum::Json;
use axum::extract::State as Shared;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::{Body, environment, name};
use super::{Problem, State};
use crate::model::{Authority, ExchangeId, KeyId, Scheme, SessionId, Slot};
use crate::policy::{self, Facts, PolicySet, WithoutToken};
use crate::session::records::Tool;
use crate::store::Find;
use crate::vault::key::Key;

/// A request to be decided on without being sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Question)]
pub(super) struct Question {
    /// Such as `POST https://api.stripe.com/v1/charges`.
    request: String,
    /// The key's name.
    key: String,
    /// The tool's name.
    tool: Option<String>,
    /// The project's name; `default` if absent.
    project: Option<String>,
    /// `development` if absent.
    #[schema(pattern = "^(development|staging|production)$")]
    environment: Option<String>,
}

/// What is decided, and why.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Explanation)]
pub(super) struct Explained {
    /// `allow` or `deny`.
    decision: &'static str,
    /// The rule that decided, as `policy/rule`; null if none did.
    decided_by: Option<String>,
    /// Why, in words.
    reason: String,
    /// Every rule that was looked at, as `policy/rule: outcome`.
    rules: Vec<String>,
    /// The environment that was asked about.
    environment: &'static str,
    /// How the stored key would be used; null if there is none of that name.
    use_of_key: Option<UseOfKey>,
    /// What else there is to know.
    note: Option<String>,
}

/// How a stored key would be used for the request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UseOfKey)]
pub(super) struct UseOfKey {
    /// What the key's secret is.
    kind: &'static str,
    /// The pattern among its hosts that lets it go there; null if none does.
    destination: Option<String>,
    /// Where the agent's token may stand in this request, the usual place first.
    slots: Vec<String>,
    /// Slots of the key that this request doesn't have: its path is another one.
    other_slots: Vec<String>,
    /// What happens to the same request without a token: `deny`, `forward` as it is, or `inject`.
    without_token: &'static str,
    /// What that puts in, in words; null unless it is `inject`.
    injected: Option<String>,
}

impl UseOfKey {
    fn of(policies: &PolicySet, key: &Key, asked: &Facts<'_>) -> Self {
        let (slots, other_slots): (Vec<&Slot>, Vec<&Slot>) =
            key.destination.slots.iter().partition(|slot| match slot {
                Slot::Path(template) => template.hole(asked.path).is_some(),
                _ => true,
            });
        let slot = key.destination.slots.iter().find(|slot| slot.can_be_filled()).or(key.destination.slots.first());
        let facts = Facts { key: key.id, slot: slot.unwrap_or(asked.slot), ..*asked };
        let (without_token, injected) = match policies.decide_without_token(&facts, false) {
            WithoutToken::Deny => ("deny", None),
            WithoutToken::Forward => ("forward", None),
            WithoutToken::Inject(_) if key.kind.is_of_connection() => {
                ("inject", Some("the connection shows the client certificate".to_owned()))
            }
            WithoutToken::Inject(_) => match slot.filter(|slot| slot.can_be_filled()) {
                Some(slot) => ("inject", Some(format!("the key is put into {slot}"))),
                None => ("deny", None),
            },
        };
        let listed = |slots: Vec<&Slot>| slots.into_iter().map(ToString::to_string).collect();
        Self {
            kind: key.kind.as_str(),
            destination: pattern(key, asked.scheme, asked.authority),
            slots: listed(slots),
            other_slots: listed(other_slots),
            without_token,
            injected,
        }
    }
}

/// The host pattern by which the key may go there.
fn pattern(key: &Key, scheme: Scheme, authority: &Authority) -> Option<String> {
    let covers = key.destination.covers(scheme, authority);
    let mut fitting = key.destination.hosts.iter().filter(|host| host.matches(authority, scheme.default_port()));
    fitting.next().filter(|_| covers).map(ToString::to_string)
}

/// Ask which rule decides a request, why, and how its key would be used
#[utoipa::path(post, operation_id = "explain", path = "/api/v1/policy/explain", tag = "policy", request_body = Question,
    responses((status = 200, description = "Done", body = Explained), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn explain(
    Shared(admin): Shared<State>,
    caller: Caller,
    Body(question): Body<Question>,
) -> Result<Json<Explained>, Problem> {
    let parsed = policy::parse_request(&question.request);
    let (method, scheme, authority, path) =
        parsed.ok_or_else(|| Problem::invalid("request", "write it as \"METHOD https://host/path\""))?;
    let tool = question.tool.as_deref().map(|t| name("tool", t)).transpose()?;
    let key_name = name("key", &question.key)?;
    let environment = environment(question.environment.as_deref())?;
    let project = name("project", question.project.as_deref().unwrap_or("default"))?;
    let facts = Facts {
        exchange: ExchangeId::generate(),
        session: SessionId::generate(),
        org: caller.org(),
        project: &project,
        environment,
        tool: tool.as_ref(),
        key: KeyId::generate(),
        key_name: &key_name,
        key_version: 1,
        scheme,
        authority: &authority,
        method: &method,
        path: &path,
        slot: &Slot::Bearer,
        upgrade: None,
    };
    let policies = admin.policies.current();
    let explanation = policies.explain(&facts);
    let wanted = Find::all().with("name", &key_name).with("environment", environment);
    let keys: Vec<Key> = admin.store.find(caller.org(), wanted).await?;
    let projects = admin.project_names(caller.org()).await?;
    let of_project = |key: &&Key| projects.get(&key.project.to_string()).is_some_and(|p| p == project.as_str());
    let key = keys.iter().find(of_project);
    let mut answer = Explained {
        decision: explanation.decision,
        decided_by: explanation.decided_by,
        reason: explanation.reason,
        rules: explanation.rules,
        environment: environment.as_str(),
        use_of_key: key.map(|key| UseOfKey::of(&policies, key, &facts)),
        note: None,
    };
    let mut notes = Vec::new();
    if let Some(name) = &tool
        && admin.store.find::<Tool>(caller.org(), Find::all().with("name", name).limit(1)).await?.is_empty()
    {
        notes.push(format!("no tool {name} is registered"));
    }
    match key {
        None => notes.push(format!("no key {key_name} is stored in {environment}: only the policies are judged")),
        // A key's own destinations bound what any policy can allow.
        Some(key) if !key.destination.covers(scheme, &authority) => {
            answer.decision = "deny";
            answer.reason = format!("{authority} is not a destination of the key {key_name}");
            answer.decided_by = None;
        }
        Some(key) => notes.extend(key.out_of_use(admin.clock.now())),
    }
    answer.note = (!notes.is_empty()).then(|| notes.join("; "));
    Ok(Json(answer))
}
