//! What holds on both databases.

use std::time::Duration;

use sallyport::model::{Environment, OrgId, RequestId, ToolId};
use sallyport::session::records::{AccessRequest, Grant, Project, RequestState, Session, Standing, Token, Tool};
use sallyport::store::{ChangeKind, Error, Feed, Find, Page, Store};
use sallyport::vault::key::{Key, KeyState, SealedVersion};

use super::{Case, key, now, project, sealed, session};

const ORG: OrgId = OrgId::DEFAULT;

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Case::sqlite().await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                if let Some(case) = super::Case::postgres().await {
                    super::$name(case).await;
                }
            })*
        }
    };
}

on_both! {
    every_record_comes_back_as_it_was_written,
    batch_happens_whole_or_not_at_all,
    second_writer_is_told_that_the_row_changed,
    names_are_unique_and_what_is_referred_to_stays,
    deleting_a_key_takes_its_versions_and_tokens_along,
    changes_of_another_process_arrive_in_commit_order_and_within_a_second,
    changes_that_were_not_taken_come_again,
    reader_that_slept_too_long_is_told_of_the_gap,
    what_ended_long_ago_is_removed_and_nothing_else,
    what_ended_is_removed_a_piece_at_a_time,
    organisations_do_not_see_each_other,
    lists_come_in_pages,
    times_and_texts_of_every_kind_survive,
}

async fn committed(case: &Case) -> (Project, Key, SealedVersion, Session, Grant, Token) {
    let project = project(ORG, "payments");
    let key = key(&project, "stripe");
    let version = sealed(case, &key, 1, "sk-live-12345678");
    let (session, grant, token) = session(&project, &key);
    let batch = case.store.batch(ORG).insert(&project).insert(&key).insert(&version);
    let batch = batch.insert(&session).insert(&grant).insert(&token);
    case.store.commit(batch).await.expect("committed");
    (project, key, version, session, grant, token)
}

async fn every_record_comes_back_as_it_was_written(case: Case) {
    let (project, key, version, session, grant, token) = committed(&case).await;
    let other = case.again().await;
    assert_eq!(other.get(ORG, project.id).await.expect("read"), Some(project));
    assert_eq!(other.get(ORG, key.id).await.expect("read"), Some(key));
    assert_eq!(other.get(ORG, SealedVersion::row_id_of(version.key, 1)).await.expect("read"), Some(version));
    assert_eq!(other.get(ORG, session.id).await.expect("read"), Some(session));
    assert_eq!(other.get(ORG, grant.id).await.expect("read"), Some(grant));
    let by_hash: Vec<Token> =
        other.find(ORG, Find::all().with_bytes("hash", token.hash.as_bytes())).await.expect("read");
    assert_eq!(by_hash, [token]);
    assert_eq!(other.get::<Session>(ORG, "no such id").await.expect("read"), None);
}

async fn batch_happens_whole_or_not_at_all(case: Case) {
    let first = project(ORG, "one");
    case.store.commit(case.store.batch(ORG).insert(&first)).await.expect("committed");
    let mut feed = case.store.feed().await.expect("a feed");
    let (fresh, twin) = (project(ORG, "two"), project(ORG, "one"));
    let why = case.store.commit(case.store.batch(ORG).insert(&fresh).insert(&twin)).await;
    assert!(matches!(why, Err(Error::Taken | Error::Referred)), "{why:?}");
    assert_eq!(case.store.get::<Project>(ORG, fresh.id).await.expect("read"), None);
    assert_eq!(next(&mut feed).await, [], "what didn't happen is no change");
}

async fn second_writer_is_told_that_the_row_changed(case: Case) {
    let (_, key, ..) = committed(&case).await;
    let disabled = Key { state: KeyState::Disabled, ..key.clone() };
    case.store.commit(case.store.batch(ORG).update(&key, &disabled)).await.expect("committed");
    let stale = Key { expires_at: Some(now()), ..key.clone() };
    let why = case.store.commit(case.store.batch(ORG).update(&key, &stale)).await;
    assert!(matches!(why, Err(Error::Changed)), "{why:?}");
    assert_eq!(case.store.get(ORG, key.id).await.expect("read"), Some(disabled.clone()));
    case.store.commit(case.store.batch(ORG).delete(&disabled)).await.expect("deleted");
    let gone = case.store.commit(case.store.batch(ORG).update(&disabled, &key)).await;
    assert!(matches!(gone, Err(Error::Changed)), "{gone:?}");
}

async fn names_are_unique_and_what_is_referred_to_stays(case: Case) {
    let (project, first, ..) = committed(&case).await;
    let twin = key(&project, first.name.as_str());
    let why = case.store.commit(case.store.batch(ORG).insert(&twin)).await;
    assert!(matches!(why, Err(Error::Taken | Error::Referred)), "{why:?}");
    let why = case.store.commit(case.store.batch(ORG).delete(&project)).await;
    assert!(matches!(why, Err(Error::Taken | Error::Referred)), "{why:?}");
    assert_eq!(case.store.get(ORG, project.id).await.expect("read"), Some(project));
}

async fn deleting_a_key_takes_its_versions_and_tokens_along(case: Case) {
    let (_, key, version, session, grant, token) = committed(&case).await;
    case.store.commit(case.store.batch(ORG).delete(&key)).await.expect("deleted");
    let version = SealedVersion::row_id_of(version.key, 1);
    assert_eq!(case.store.get::<SealedVersion>(ORG, version).await.expect("read"), None);
    assert_eq!(case.store.get::<Grant>(ORG, grant.id).await.expect("read"), None);
    assert_eq!(case.store.get::<Token>(ORG, token.id).await.expect("read"), None);
    assert!(case.store.get::<Session>(ORG, session.id).await.expect("read").is_some());
}

/// The kinds and ids of the next changes, after at most five seconds; empty if a second brings none.
async fn next(feed: &mut Feed) -> Vec<(ChangeKind, String)> {
    let mut quiet = 0;
    while quiet < 3 {
        match feed.peek().await.expect("the store answers") {
            Page::Changes(changes) if changes.is_empty() => quiet += 1,
            Page::Changes(changes) => {
                feed.taken(&changes);
                return changes.into_iter().filter_map(|c| Some((c.kind?, c.id))).collect();
            }
            Page::Gap => panic!("a gap"),
        }
    }
    Vec::new()
}

async fn revoke(store: &Store, token: &Token) -> Token {
    let revoked = Token { standing: Standing::Revoked { at: now(), by: "admin".into() }, ..token.clone() };
    store.commit(store.batch(ORG).at(now()).update(token, &revoked)).await.expect("committed");
    revoked
}

async fn changes_of_another_process_arrive_in_commit_order_and_within_a_second(case: Case) {
    let (_, key, _, _, _, token) = committed(&case).await;
    let mut feed = case.store.feed().await.expect("a feed");
    assert_eq!(next(&mut feed).await, []);
    let other = case.again().await;
    let waiting = tokio::spawn(async move {
        let seen = next(&mut feed).await;
        (seen, feed)
    });
    let began = std::time::Instant::now();
    revoke(&other, &token).await;
    let (seen, mut feed) = waiting.await.expect("joined");
    assert_eq!(seen, [(ChangeKind::Token, token.id.to_string())]);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Writers that run at once get numbers in the order in which they commit.
    let writers = (0..8).map(|n| {
        let (store, project) = (other.clone(), project(ORG, &format!("p{n}")));
        tokio::spawn(
            async move { (store.commit(store.batch(ORG).insert(&project)).await.expect("committed"), project) },
        )
    });
    let mut order = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        order.push(writer.await.expect("joined"));
    }
    order.sort_by_key(|(number, _)| *number);
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let more = next(&mut feed).await;
        assert!(!more.is_empty(), "only {seen:?}");
        seen.extend(more);
    }
    let expected: Vec<_> = order.iter().map(|(_, p)| (ChangeKind::Project, p.id.to_string())).collect();
    assert_eq!(seen, expected);
    let _ = key;
}

async fn changes_that_were_not_taken_come_again(case: Case) {
    let mut feed = case.store.feed().await.expect("a feed");
    let project = project(ORG, "a");
    let number = case.store.commit(case.store.batch(ORG).insert(&project)).await.expect("committed");
    let again = feed.peek().await.expect("the store answers");
    assert_eq!(feed.peek().await.expect("the store answers"), again);
    let Page::Changes(changes) = again else { panic!("a gap") };
    assert_eq!(changes.len(), 1);
    feed.taken(&changes);
    assert_eq!(feed.at(), number);
    assert_eq!(next(&mut feed).await, []);
}

async fn reader_that_slept_too_long_is_told_of_the_gap(case: Case) {
    let mut feed = case.store.feed().await.expect("a feed");
    for name in ["a", "b"] {
        let batch = case.store.batch(ORG).at(now()).insert(&project(ORG, name));
        case.store.commit(batch).await.expect("committed");
    }
    case.store.prune_changes(now()).await.expect("pruned");
    assert_eq!(next(&mut case.store.feed().await.expect("a feed")).await, []);
    case.store.prune_changes(now().plus(Duration::from_secs(48 * 3600))).await.expect("pruned");
    assert_eq!(feed.peek().await.expect("the store answers"), Page::Gap);
    feed.skip().await.expect("the store answers");
    assert_eq!(next(&mut feed).await, []);
}

/// A session of this key that ended so long ago, with its grant and token.
fn ended(project: &Project, key: &Key, ago: Duration) -> (Session, Grant, Token) {
    let (session, grant, token) = session(project, key);
    let expires_at = sallyport::model::Timestamp(now().millis() - i64::try_from(ago.as_millis()).expect("fits"));
    (Session { expires_at, ..session }, grant, Token { expires_at, ..token })
}

fn asked(project: &Project, tool: &Tool, decided: Option<Duration>) -> AccessRequest {
    AccessRequest {
        id: RequestId::generate(),
        org: project.org,
        project: project.id,
        tool: tool.id,
        environment: Environment::Development,
        keys: vec!["stripe".parse().expect("a name")],
        justification: "a test".to_owned(),
        duration_secs: 60,
        state: if decided.is_some() { RequestState::Denied } else { RequestState::Pending },
        decided_by: String::new(),
        session: None,
        created_at: sallyport::model::Timestamp(0),
        decided_at: decided
            .map(|ago| sallyport::model::Timestamp(now().millis() - i64::try_from(ago.as_millis()).expect("fits"))),
    }
}

async fn what_ended_long_ago_is_removed_and_nothing_else(case: Case) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    // One organisation's age is not another's.
    for org in [ORG, OrgId::from_bytes([7; 16])] {
        let project = project(org, "payments");
        let key = key(&project, "stripe");
        let tool = Tool {
            id: ToolId::generate(),
            org,
            project: project.id,
            name: "worker".parse().expect("a name"),
            description: String::new(),
            keys: vec!["*".to_owned()],
            environments: vec![Environment::Development],
            max_session_secs: 60,
            enabled: true,
            created_at: now(),
        };
        let version = sealed(&case, &key, 1, "sk-live-12345678");
        let batch = case.store.batch(org).insert(&project).insert(&key).insert(&version).insert(&tool);
        case.store.commit(batch).await.expect("committed");
        let old = ended(&project, &key, 31 * DAY);
        let kept = [ended(&project, &key, 29 * DAY), ended(&project, &key, Duration::ZERO), session(&project, &key)];
        let (gone, decided, pending) = (
            asked(&project, &tool, Some(31 * DAY)),
            asked(&project, &tool, Some(29 * DAY)),
            asked(&project, &tool, None),
        );
        let mut batch = case.store.batch(org).insert(&gone).insert(&decided).insert(&pending);
        for (session, grant, token) in kept.iter().chain([&old]) {
            batch = batch.insert(session).insert(grant).insert(token);
        }
        case.store.commit(batch).await.expect("committed");
        assert_eq!(case.store.prune_ended(now()).await.expect("removed"), 2, "a session and a request");
        assert_eq!(case.store.prune_ended(now()).await.expect("removed"), 0);
        for (session, grant, token) in &kept {
            assert_eq!(case.store.get(org, session.id).await.expect("read").as_ref(), Some(session));
            assert_eq!(case.store.get(org, grant.id).await.expect("read").as_ref(), Some(grant));
            assert_eq!(case.store.get(org, token.id).await.expect("read").as_ref(), Some(token));
        }
        assert_eq!(case.store.get::<Session>(org, old.0.id).await.expect("read"), None);
        assert_eq!(case.store.get::<Grant>(org, old.1.id).await.expect("read"), None);
        assert_eq!(case.store.get::<Token>(org, old.2.id).await.expect("read"), None);
        let left: Vec<AccessRequest> = case.store.find(org, Find::all()).await.expect("read");
        assert_eq!(left.iter().map(|r| r.id).collect::<Vec<_>>(), [decided.id, pending.id]);
        assert_eq!(case.store.get(org, key.id).await.expect("read"), Some(key));
    }
}

async fn what_ended_is_removed_a_piece_at_a_time(case: Case) {
    let (project, key, ..) = committed(&case).await;
    let day = Duration::from_secs(24 * 3600);
    for _ in 0..11 {
        let batch = (0..1000).fold(case.store.batch(ORG), |batch, _| batch.insert(&ended(&project, &key, 40 * day).0));
        case.store.commit(batch).await.expect("committed");
    }
    let first = case.store.prune_ended(now()).await.expect("removed");
    assert_eq!(first, 10_000, "a call is bounded");
    assert_eq!(case.store.prune_ended(now()).await.expect("removed"), 1000);
    assert_eq!(case.store.find::<Session>(ORG, Find::all()).await.expect("read").len(), 1, "the one that is live");
}

async fn organisations_do_not_see_each_other(case: Case) {
    let (mine, ..) = committed(&case).await;
    let theirs = OrgId::from_bytes([7; 16]);
    assert_eq!(case.store.get::<Project>(theirs, mine.id).await.expect("read"), None);
    assert!(case.store.find::<Key>(theirs, Find::all()).await.expect("read").is_empty());
    let renamed = Project { org: theirs, ..mine.clone() };
    let why = case.store.commit(case.store.batch(theirs).update(&renamed, &renamed)).await;
    assert!(matches!(why, Err(Error::Changed)), "{why:?}");
    let why = case.store.commit(case.store.batch(theirs).delete(&renamed)).await;
    assert!(matches!(why, Err(Error::Changed)), "{why:?}");
    assert_eq!(case.store.get(ORG, mine.id).await.expect("read"), Some(mine));
}

async fn lists_come_in_pages(case: Case) {
    let all: Vec<_> = (0..5).map(|n| project(ORG, &format!("p{n}"))).collect();
    let batch = all.iter().fold(case.store.batch(ORG), |batch, project| batch.insert(project));
    case.store.commit(batch).await.expect("committed");
    let page = case.store.find::<Project>(ORG, Find::all().limit(2)).await.expect("read");
    assert_eq!(page, all[..2]);
    let after = Find::all().after(Some(page[1].id.to_string()));
    assert_eq!(case.store.find::<Project>(ORG, after).await.expect("read"), all[2..]);
}

async fn times_and_texts_of_every_kind_survive(case: Case) {
    for (at, text) in ["", "it's", "\u{1F511} key\n\t", "a\"b\\c", &"x".repeat(10_000)].into_iter().enumerate() {
        let project = Project { description: text.to_owned(), ..project(ORG, &format!("p{at}")) };
        case.store.commit(case.store.batch(ORG).insert(&project)).await.expect("committed");
        assert_eq!(case.store.get(ORG, project.id).await.expect("read"), Some(project));
    }
}
