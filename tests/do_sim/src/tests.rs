//! What the simulated account does.

use serde_json::{Value, json};

use crate::request::{Request, Response};
use crate::setup::{Setup, TOKEN};
use crate::sim::{Cut, Sim};

mod access;
mod actions;
mod booting;
mod faults;
mod first;
mod lists;
mod official;
mod tagging;

/// Somebody who calls.
pub(crate) struct Client {
    pub sim: Sim,
    pub secret: String,
}

impl Client {
    /// Calls a new account; with the official description, if it is at hand, everything is held to it.
    pub fn new(setup: Setup) -> Self {
        let sim = Sim::new(setup);
        sim.change(|world| world.set_schema(official()));
        Self { sim, secret: TOKEN.to_owned() }
    }

    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response, Cut> {
        let request = Request::new(method, path).by(&self.secret);
        self.sim.answer(body.map_or(request.clone(), |body| request.json(body))).await
    }

    /// Calls, and is answered so.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>, status: u16) -> Value {
        let response = self.ask(method, path, body).await.unwrap();
        assert_eq!(response.status, status, "{method} {path}: {}", String::from_utf8_lossy(&response.body));
        response.read()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.call("GET", path, None, 200).await
    }

    /// Makes a droplet: its number, and its action's.
    pub async fn create(&self, name: &str, tags: &[&str]) -> (u64, u64) {
        let made = self.call("POST", "/v2/droplets", Some(&wanted(name, tags)), 202).await;
        (made["droplet"]["id"].as_u64().unwrap(), made["links"]["actions"][0]["id"].as_u64().unwrap())
    }

    /// The same, and waits until it is active and everything is seen.
    pub async fn active(&self, name: &str, tags: &[&str]) -> u64 {
        let (id, _) = self.create(name, tags).await;
        self.sim.advance(60_000);
        id
    }

    /// Begins an action, and waits until it has ended and everything is seen.
    pub async fn act(&self, droplet: u64, body: &Value) -> Value {
        let action = self.call("POST", &format!("/v2/droplets/{droplet}/actions"), Some(body), 201).await;
        self.sim.advance(120_000);
        self.get(&format!("/v2/actions/{}", action["action"]["id"])).await["action"].clone()
    }

    /// The names in a listing of droplets.
    pub async fn names(&self, query: &str) -> Vec<String> {
        let list = self.get(&format!("/v2/droplets{query}")).await;
        list["droplets"].as_array().unwrap().iter().map(|droplet| droplet["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Nothing was against the official description.
    pub fn all_right(&self) {
        assert_eq!(self.sim.inspect(|world| world.wrong.clone()), Vec::<String>::new());
    }
}

/// What a droplet is made with.
pub(crate) fn wanted(name: &str, tags: &[&str]) -> Value {
    json!({ "name": name, "region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "tags": tags })
}

/// The official description, where the environment names it.
pub(crate) fn official() -> Option<std::sync::Arc<crate::schema::Schema>> {
    use std::sync::{Arc, LazyLock};
    static OFFICIAL: LazyLock<Option<Arc<crate::schema::Schema>>> = LazyLock::new(|| {
        let path = std::env::var_os("MOORLINE_DO_SCHEMA")?;
        Some(Arc::new(crate::schema::Schema::parse(&std::fs::read(path).unwrap()).unwrap()))
    });
    OFFICIAL.clone()
}
