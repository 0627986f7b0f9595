//! What PostgreSQL has of its own: roles, row-level security, and rows that someone changed there.

use sallyport::model::OrgId;
use sallyport::session::records::Session;
use sallyport::store::{Error, Store};
use sallyport::vault::key::Key;

use super::{Case, key, project, sealed, session, sql};

fn place(case: &Case) -> (String, String) {
    let socket = std::env::var("SALLYPORT_TEST_POSTGRES").expect("set where a case was made");
    let rest = case.settings.url.trim_start_matches("postgres://tester@localhost/");
    let database = rest.split('?').next().unwrap_or_default().to_owned();
    (socket, database)
}

#[tokio::test]
async fn app_role_sees_only_the_organisation_that_its_transaction_names() {
    let Some(case) = Case::postgres().await else { return };
    let (a, b) = (OrgId::DEFAULT, OrgId::from_bytes([7; 16]));
    for org in [a, b] {
        case.store.commit(case.store.batch(org).insert(&project(org, "p"))).await.expect("committed");
    }
    let (socket, database) = place(&case);
    let ask = async |statement: &str| sql(&socket, &database, statement).await;
    let app = "set role sallyport_app;";
    assert_eq!(ask(&format!("{app} select count(*) from projects")).await, "SET\n0", "no organisation named");
    let named = format!("{app} set sallyport.org = '{a}'; select count(*), min(org_id) from projects");
    assert_eq!(ask(&named).await, format!("SET\nSET\n1|{a}"));
    assert_eq!(ask("set role sallyport_feed; select count(*) from projects").await, "SET\n2");
    // The owner of the tables is bound too.
    assert_eq!(ask("select count(*) from projects").await, "0");
}

#[tokio::test]
async fn app_role_can_not_write_for_another_organisation_nor_read_the_change_feed() {
    let Some(case) = Case::postgres().await else { return };
    let (socket, database) = place(&case);
    let refused = async |statement: &str| {
        let psql = tokio::process::Command::new("psql")
            .args(["-h", &socket, "-U", "tester", "-d", &database, "-v", "ON_ERROR_STOP=1", "-c", statement])
            .output()
            .await
            .expect("psql runs");
        assert!(!psql.status.success(), "{statement} went through");
        String::from_utf8_lossy(&psql.stderr).into_owned()
    };
    let other = OrgId::from_bytes([7; 16]);
    let insert = format!(
        "set role sallyport_app; set sallyport.org = '{}'; insert into projects values ('x', '{other}', 'n', '', 0, '')",
        OrgId::DEFAULT
    );
    assert!(refused(&insert).await.contains("row-level security"));
    assert!(refused("set role sallyport_app; select * from changes").await.contains("permission denied"));
    assert!(refused("set role sallyport_app; select * from meta").await.contains("permission denied"));
    assert!(refused("set role sallyport_app; alter table keys disable row level security").await.contains("owner"));
    assert!(refused("set role sallyport_feed; update keys set state = 'enabled'").await.contains("permission denied"));
}

#[tokio::test]
async fn row_that_was_changed_in_the_database_is_refused() {
    let Some(case) = Case::postgres().await else { return };
    let org = OrgId::DEFAULT;
    let project = project(org, "p");
    let key = key(&project, "k");
    let (mine, grant, _) = session(&project, &key);
    let batch = case.store.batch(org).insert(&project).insert(&key).insert(&sealed(&case, &key, 1, "sk-live-12345678"));
    case.store.commit(batch.insert(&mine).insert(&grant)).await.expect("committed");
    let (socket, database) = place(&case);
    let act = format!("set role sallyport_app; set sallyport.org = '{org}';");
    let evil = "update keys set destination = replace(destination, 'api.example.com', 'evil.example.net')";
    sql(&socket, &database, &format!("{act} {evil}")).await;
    let why = case.store.get::<Key>(org, key.id).await;
    assert!(matches!(why, Err(Error::Tampered { table: "keys", .. })), "{why:?}");
    sql(&socket, &database, &format!("{act} update sessions set expires_at = expires_at + 1000000")).await;
    let why = case.store.get::<Session>(org, mine.id).await;
    assert!(matches!(why, Err(Error::Tampered { table: "sessions", .. })), "{why:?}");
    // The others are read all the same.
    let (page, _) = case.store.page_any::<Key>("").await.expect("read");
    assert!(matches!(page.as_slice(), [Err(Error::Tampered { .. })]));
}

#[tokio::test]
async fn login_that_owns_nothing_can_serve_where_an_owner_migrated() {
    let Some(case) = Case::postgres().await else { return };
    let (socket, database) = place(&case);
    let role = format!("login_{database}");
    sql(&socket, "postgres", &format!("create role {role} login; grant sallyport_app, sallyport_feed to {role}")).await;
    let settings = sallyport::store::Settings {
        url: case.settings.url.replace("tester@", &format!("{role}@")),
        owner_url: Some(case.settings.url.clone()),
        ..case.settings.clone()
    };
    let store = Store::open(settings, case.home.dir(), case.home.keyring()).await.expect("an open store");
    let project = project(OrgId::DEFAULT, "p");
    store.commit(store.batch(OrgId::DEFAULT).insert(&project)).await.expect("committed");
    assert_eq!(store.get(OrgId::DEFAULT, project.id).await.expect("read"), Some(project));
}
