//! What the simulator does, call by call.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::schema::Schema;
use crate::setup::{ROOT_TOKEN, SECRET, Setup, TOKEN};
use crate::{Answer, Request, Sim};

mod access;
mod faults;
mod first;
mod forms;
mod guests;
mod tasks;
mod waiting;
mod wire;

/// A cluster and who asks it.
pub(super) struct Client {
    pub sim: Sim,
    pub token: String,
    /// A ticket, and what has to come with it.
    pub ticket: Option<(String, String)>,
}

impl Client {
    pub fn new(setup: Setup) -> Self {
        let client = Self { sim: Sim::new(setup), token: TOKEN.to_owned(), ticket: None };
        // Where the official description is given, all tests are held to it.
        if let Some(path) = std::env::var_os("MOORLINE_PVE_SCHEMA") {
            static SCHEMA: std::sync::OnceLock<Arc<Schema>> = std::sync::OnceLock::new();
            let schema = SCHEMA.get_or_init(|| Arc::new(Schema::parse(&std::fs::read(path).unwrap()).unwrap()));
            client.sim.change(|world| world.set_schema(Some(schema.clone())));
        }
        client
    }

    pub fn as_root(&self) -> Self {
        Self { sim: self.sim.clone(), token: ROOT_TOKEN.to_owned(), ticket: None }
    }

    /// As `root@pam` itself.
    pub async fn with_ticket(&self) -> Self {
        let login = Request::new("POST", "/api2/json/access/ticket").form(&[("username", "root@pam"), ("password", "secret")]);
        let got = self.sim.answer(login).await.unwrap().read();
        let word = |key: &str| got[key].as_str().unwrap().to_owned();
        Self { ticket: Some((word("ticket"), word("CSRFPreventionToken"))), ..self.as_root() }
    }

    pub async fn raw(&self, method: &str, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let mut request = Request::new(method, &format!("/api2/json{path}")).by_token(&self.token, SECRET);
        if let Some((ticket, csrf)) = &self.ticket {
            request.cookie = Some(format!("PVEAuthCookie={}", crate::request::encode(ticket)));
            request.csrf = Some(csrf.clone());
        }
        if method == "POST" || method == "PUT" {
            request = request.form(pairs);
        } else if !pairs.is_empty() {
            let query = pairs.iter().map(|(key, value)| format!("{key}={}", crate::request::encode(value)));
            request.path.push('?');
            request.path.push_str(&query.collect::<Vec<_>>().join("&"));
        }
        self.sim.answer(request).await.unwrap()
    }

    /// The data of a call that goes well.
    pub async fn ok(&self, method: &str, path: &str, pairs: &[(&str, &str)]) -> Value {
        let answer = self.raw(method, path, pairs).await;
        assert_eq!(answer.status, 200, "{method} {path} {pairs:?}: {} {}", answer.reason, String::from_utf8_lossy(&answer.body));
        answer.read()
    }

    /// The status and words of one that does not.
    pub async fn no(&self, method: &str, path: &str, pairs: &[(&str, &str)]) -> (u16, String) {
        let answer = self.raw(method, path, pairs).await;
        assert_ne!(answer.status, 200, "{method} {path} {pairs:?}: {}", String::from_utf8_lossy(&answer.body));
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let message = body["message"].as_str().map_or(answer.reason.clone(), |message| message.trim_end().to_owned());
        let errors = body["errors"].as_object().map(|errors| json!(errors).to_string()).unwrap_or_default();
        (answer.status, format!("{message}{errors}"))
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ok("GET", path, &[]).await
    }

    /// Waits for a task and returns its end.
    pub async fn end(&self, upid: &Value) -> String {
        let upid = upid.as_str().unwrap_or_else(|| panic!("{upid} is no task")).to_owned();
        let node = upid.split(':').nth(1).unwrap().to_owned();
        let path = format!("/nodes/{node}/tasks/{}/status", crate::request::encode(&upid));
        loop {
            let status = self.as_root().get(&path).await;
            if status["status"] == "stopped" {
                return status["exitstatus"].as_str().unwrap_or_default().to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// A call whose task goes well.
    pub async fn done(&self, method: &str, path: &str, pairs: &[(&str, &str)]) {
        let upid = self.ok(method, path, pairs).await;
        assert_eq!(self.end(&upid).await, "OK", "{method} {path} {pairs:?}");
    }

    /// The end of a call's task that does not.
    pub async fn fails(&self, method: &str, path: &str, pairs: &[(&str, &str)]) -> String {
        let upid = self.ok(method, path, pairs).await;
        let end = self.end(&upid).await;
        assert_ne!(end, "OK", "{method} {path} {pairs:?}");
        end
    }
}
