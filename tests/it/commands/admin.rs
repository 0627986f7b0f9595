//! The admin API over the network.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{http1_on, whole};
use crate::support::binary::{Place, Serve};

struct Api {
    place: Place,
    serve: Serve,
    token: String,
}

impl Api {
    fn start() -> Self {
        let place = Place::new();
        place.ok(&["init"]);
        let serve = Serve::start(&place, "");
        let token = std::fs::read_to_string(place.data.join("admin.token")).expect("readable").trim().to_owned();
        Self { place, serve, token }
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let stream = tokio::net::TcpStream::connect(self.serve.admin).await.expect("connected");
        let request = request.header("host", "localhost").body(Full::new(body.into())).expect("a request");
        whole(http1_on(stream).await.send(request).await.expect("an answer")).await
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.send(request.header("authorization", format!("Bearer {}", self.token)), body.to_string()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_nothing_is_told_and_failures_are_limited() {
    let api = Api::start();
    for path in
        ["/api/v1/projects", "/api/v1/api-keys", "/api/v1/audit", "/metrics", "/openapi.json", "/", "/api/v1/nothing"]
    {
        let answer = api.send(Request::get(path), "").await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert!(answer.text().ends_with("}\n"), "the line ends, for terminals");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    for value in ["Bearer x", "Bearer", "Basic eDp5", &format!("Bearer {}x", api.token), "\u{7f}"] {
        let Ok(value) = http::HeaderValue::from_str(value) else { continue };
        let answer = api.send(Request::get("/api/v1/projects").header("authorization", value), "").await;
        assert!(matches!(answer.status.as_u16(), 401 | 429), "{answer:?}");
    }
    let answer = api.send(Request::get("/api/v1/projects").header("authorization", "Bearer guess"), "").await;
    assert_eq!(answer.status, 429, "past ten failures a minute");
    assert_eq!(api.call("GET", "/api/v1/projects", &json!({})).await.status, 200, "a good token still gets in");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(api.send(Request::get(path), "").await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_a_problem_with_its_code_and_change_nothing() {
    let api = Api::start();
    let secret = "sk-not-to-be-repeated-1";
    let cases = [
        ("POST", "/api/v1/projects", json!({}), 422),
        ("POST", "/api/v1/projects", json!({"name": "A b"}), 422),
        ("POST", "/api/v1/projects", json!({"name": "ok", "extra": 1}), 422),
        ("POST", "/api/v1/projects", json!({"name": "ok", "description": "x\u{0}y"}), 422),
        ("POST", "/api/v1/projects", json!({"name": "ok", "description": "x".repeat(2000)}), 422),
        ("POST", "/api/v1/projects", json!([1]), 422),
        ("POST", "/api/v1/api-keys", json!({"name": "k", "value": secret}), 422),
        ("POST", "/api/v1/api-keys", json!({"name": "k", "value": [secret], "hosts": ["a.test"]}), 422),
        ("POST", "/api/v1/api-keys", json!({"name": "k", "value": secret, "hosts": ["*.com"]}), 422),
        ("POST", "/api/v1/api-keys", json!({"name": "k", "value": secret, "hosts": []}), 422),
        (
            "POST",
            "/api/v1/api-keys",
            json!({"name": "k", "value": secret, "hosts": ["a.test"], "expiresAt": "soon"}),
            422,
        ),
        (
            "POST",
            "/api/v1/api-keys",
            json!({"name": "k", "value": secret, "hosts": ["a.test"], "project": "nobody"}),
            404,
        ),
        ("PUT", "/api/v1/api-keys/none", json!({"state": "enabled"}), 404),
        ("POST", "/api/v1/mcp/tools", json!({"name": "t", "keys": ["*"], "maxSessionSeconds": 1}), 422),
        ("POST", "/api/v1/mcp/sessions", json!({"keys": []}), 422),
        ("POST", "/api/v1/mcp/sessions", json!({"keys": ["none"]}), 422),
        ("GET", "/api/v1/mcp/sessions/..%2f..", json!({}), 404),
        ("GET", "/api/v1/projects/%00", json!({}), 404),
        ("GET", "/api/v1/projects?limit=0", json!({}), 422),
        ("GET", "/api/v1/projects?limit=x", json!({}), 400),
        ("GET", "/api/v1/projects?limits=5", json!({}), 400),
        ("GET", "/api/v1/api-keys?environmemt=production", json!({}), 400),
        ("GET", "/api/v1/projects?after=x", json!({}), 422),
        ("GET", "/api/v1/audit?since=x", json!({}), 422),
        ("PATCH", "/api/v1/projects", json!({}), 405),
        ("GET", "/api/v2", json!({}), 404),
    ];
    for (method, path, body, status) in cases {
        let answer = api.call(method, path, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(problem["detail"].as_str().is_some_and(|d| d.len() > 10), "{problem}");
        assert!(!answer.text().contains(secret), "{}", answer.text());
    }
    let bearer = format!("Bearer {}", api.token);
    let post = || Request::post("/api/v1/projects").header("authorization", &bearer);
    assert_eq!(api.send(post(), "{}").await.status, 415);
    assert_eq!(api.send(post().header("content-type", "application/json"), "{").await.status, 400);
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(300 * 1024));
    assert_eq!(api.send(post().header("content-type", "application/json"), long).await.status, 413);
    let deep = "[".repeat(100_000);
    assert_eq!(api.send(post().header("content-type", "application/json"), deep).await.status, 422);
    let keys = api.call("GET", "/api/v1/api-keys", &json!({})).await;
    assert_eq!(keys.text(), "{\"items\":[],\"next\":null}");
    assert_eq!(api.place.json(&["projects", "list"]).as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_holds_on_the_data_path_at_once() {
    let api = Api::start();
    let key = json!({"name": "k", "value": "sk-at-once-0123456789", "hosts": ["a.test"]});
    assert_eq!(api.call("POST", "/api/v1/api-keys", &key).await.status, 201);
    let answer = api.call("POST", "/api/v1/mcp/sessions", &json!({"keys": ["k"]})).await;
    let session: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let id = session["id"].as_str().expect("an id");
    let answer = api.call("POST", &format!("/api/v1/mcp/sessions/{id}/keys/k/proxy-token"), &json!({})).await;
    assert_eq!(answer.status, 201);
    let metrics = api.call("GET", "/metrics", &json!({})).await.text();
    for line in ["sallyport_tokens 1", "sallyport_sessions 1", "sallyport_build_info{"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let audit = api.call("GET", "/api/v1/audit?kind=admin", &json!({})).await.text();
    for action in ["key_create", "session_start", "token_mint"] {
        assert!(audit.contains(action), "{audit}");
    }
    assert!(!audit.contains("sk-at-once"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn description_is_valid_and_a_fuzzer_finds_no_server_error() {
    let api = Api::start();
    let clients = std::path::PathBuf::from(std::env::var_os("SALLYPORT_TEST_CLIENTS").expect("run by tests/run"));
    let description = api.place.data.with_extension("json");
    let answer = api.call("GET", "/openapi.json", &json!({})).await;
    assert!(answer.text().contains("\"openapi\":\"3.1."), "{}", answer.text());
    std::fs::write(&description, &answer.body).expect("written");
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(clients.join("python/bin").join(program))
            .args(arguments)
            .current_dir(api.place.data.parent().expect("a directory"))
            .output()
            .expect("it runs");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program}: {said}");
        said
    };
    let path = description.to_str().expect("text");
    run("python", &["-m", "openapi_spec_validator", path]);
    let (url, header) = (format!("http://{}", api.serve.admin), format!("Authorization: Bearer {}", api.token));
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let said = run(
        "schemathesis",
        &[
            "run",
            path,
            "--url",
            &url,
            "-H",
            &header,
            "--checks",
            checks,
            "--max-examples",
            "40",
            "--rate-limit",
            "80/s",
        ],
    );
    assert!(said.contains("No issues found") || said.contains("0 failed") || said.contains("passed"), "{said}");
}
