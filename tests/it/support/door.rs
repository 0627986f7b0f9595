//! The admin API as another process has it: on the same store, with an audit chain of its own.

use axum::Router;
use http_body_util::BodyExt as _;
use sallyport::admin::{self, Peer};
use sallyport::app::Home;
use sallyport::app::server::admin_alone;
use sallyport::config::Config;
use serde_json::Value;
use tower::ServiceExt as _;

pub struct Door(Router);

impl Door {
    pub async fn open(home: &Home, config: &Config) -> Self {
        Self(admin::router(admin_alone(home, config).await.expect("the admin API")))
    }

    /// Asks as the data directory's own user.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.ask_as(Peer::Local, None, method, path, body).await
    }

    pub async fn ask_as(
        &self,
        peer: Peer,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let mut request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut request = request.body(axum::body::Body::from(body.to_string())).expect("a request");
        request.extensions_mut().insert(peer);
        let response = self.0.clone().oneshot(request).await.expect("an answer");
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("whole").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Asks for what has to succeed.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }
}

/// A text field of an answer.
pub fn text(answer: &Value, field: &str) -> String {
    answer[field].as_str().unwrap_or_else(|| panic!("no {field}: {answer}")).to_owned()
}
