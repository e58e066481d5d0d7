//! Calls and answers against a description.

use serde_json::json;

use super::official;
use crate::request::{Request, Response};
use crate::schema::Schema;

/// A small description of the same make.
fn small() -> Schema {
    let size = json!({ "in": "query", "name": "size", "schema": { "type": "integer", "minimum": 1, "maximum": 9 } });
    let thing = json!({ "type": "object", "required": ["id", "name"], "properties": {
        "id": { "type": "integer", "readOnly": true }, "name": { "type": "string", "pattern": "^[a-z]+$", "maxLength": 4 },
        "kind": { "type": "string", "enum": ["a", "b"] }, "note": { "type": "string", "nullable": true },
        "at": { "type": "string", "format": "date-time" }, "list": { "type": "array", "items": { "type": "number", "multipleOf": 2 } },
        "ref": { "oneOf": [{ "type": "integer" }, { "type": "string" }] },
    } });
    let closed = json!({ "type": "object", "additionalProperties": false, "properties": { "id": { "type": "string" } } });
    let content = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/thing" } } });
    let acts = json!({ "application/json": { "schema": {
        "anyOf": [{ "$ref": "#/components/schemas/thing" }, { "$ref": "#/components/schemas/closed" }],
        "discriminator": { "propertyName": "id", "mapping": { "x": "#/components/schemas/closed" } },
    } } });
    let document = json!({
        "paths": { "/v2/things/{thing}": {
            "parameters": [{ "in": "path", "name": "thing", "required": true, "schema": { "type": "integer" } }],
            "get": { "parameters": [{ "$ref": "#/components/parameters/size" }], "responses": {
                "200": { "headers": { "left": { "schema": { "type": "integer" } } }, "content": content }, "204": {},
            } },
            "post": { "requestBody": { "required": true, "content": content }, "responses": { "204": {} } },
            "put": { "requestBody": { "content": acts }, "responses": { "204": {} } },
        } },
        "components": { "schemas": { "thing": thing, "closed": closed }, "parameters": { "size": size } },
    });
    Schema::parse(document.to_string().as_bytes()).unwrap()
}

fn of_answer(body: &serde_json::Value) -> Vec<String> {
    small().check(&Request::new("GET", "/v2/things/1"), &Response::json(200, body))
}

fn of_body(body: &serde_json::Value) -> Vec<String> {
    small().check(&Request::new("POST", "/v2/things/1").json(body), &Response::empty())
}

#[test]
fn parameters_are_held_to_their_rules() {
    let of = |method: &str, path: &str| small().check(&Request::new(method, path), &Response::empty());
    assert_eq!(of("GET", "/v2/things/1?size=9"), Vec::<String>::new());
    for bad in [
        "/v2/things/one",
        "/v2/things/1?size=10",
        "/v2/things/1?size=x",
        "/v2/things/1?colour=red",
        "/v2/things",
        "/v2/things/1?size=1&size=1",
    ] {
        assert_eq!(of("GET", bad).len(), 1, "{bad}: {:?}", of("GET", bad));
    }
    assert_eq!(of("DELETE", "/v2/things/1").len(), 1);
    // A call that describes no body has none.
    let with_body = small().check(&Request::new("GET", "/v2/things/1").json(&json!({})), &Response::empty());
    assert_eq!(with_body.len(), 1);
}

#[test]
fn bodies_are_held_to_their_rules() {
    assert_eq!(of_body(&json!({ "name": "abc", "kind": "a", "note": null, "ref": 1, "list": [2, 4.0] })), Vec::<String>::new());
    let bad = [
        json!({}),
        json!({ "name": "ABC" }),
        json!({ "name": "abcde" }),
        json!({ "name": "abc", "id": 7 }),
        json!({ "name": "abc", "kind": "c" }),
        json!({ "name": null }),
        json!({ "name": "abc", "list": [1] }),
        json!({ "name": "abc", "ref": true }),
        json!({ "name": "abc", "at": "yesterday" }),
        json!({ "name": "abc", "nmae": "x" }),
    ];
    for body in bad {
        assert_eq!(of_body(&body).len(), 1, "{body}: {:?}", of_body(&body));
    }
    let none = small().check(&Request::new("POST", "/v2/things/1"), &Response::empty());
    assert_eq!(none.len(), 1);
    // What a word chooses counts alone.
    let put = |body: &serde_json::Value| small().check(&Request::new("PUT", "/v2/things/1").json(body), &Response::empty());
    assert_eq!(put(&json!({ "id": "x" })), Vec::<String>::new());
    assert!(!put(&json!({ "id": "x", "name": "abc" })).is_empty());
}

#[test]
fn answers_are_held_to_their_rules() {
    assert_eq!(of_answer(&json!({ "id": 1, "name": "abc", "more": true })), Vec::<String>::new());
    assert_eq!(of_answer(&json!({ "id": "1", "name": "abc" })).len(), 1);
    assert_eq!(of_answer(&json!({ "name": "abc" })).len(), 1);
    let request = Request::new("GET", "/v2/things/1");
    assert_eq!(small().check(&request, &Response::json(500, &json!({}))).len(), 1);
    assert_eq!(small().check(&request, &Response { body: b"{}".to_vec(), ..Response::empty() }).len(), 1);
    let mut headed = Response::json(200, &json!({ "id": 1, "name": "abc" }));
    headed.headers.push(("left".to_owned(), "many".to_owned()));
    assert_eq!(small().check(&request, &headed).len(), 1);
    assert!(Schema::parse(b"{}").is_err());
}

/// What is there beyond what Moorline needs, and is not simulated.
const LEFT_OUT: [&str; 6] =
    ["/v2/firewalls", "/v2/reserved_ips", "/v2/volumes", "/v2/projects", "destroy_with_associated_resources", "/v2/droplets/actions"];

#[test]
fn every_call_needs_the_scopes_that_the_official_description_names() {
    let Some(official) = official() else { return println!("skipped: MOORLINE_DO_SCHEMA names no openapi.json") };
    let mut seen = 0;
    for (method, path, mut scopes) in official.calls() {
        let path = path.replace(['{', '}'], "");
        if let Some(own) = crate::api::scopes(&method, &path) {
            scopes.sort();
            let mut own: Vec<&str> = own.to_vec();
            own.sort_unstable();
            assert_eq!(own, scopes, "{method} {path}");
            seen += 1;
        }
    }
    assert!(seen >= 27, "{seen}");
}

#[test]
fn what_is_not_simulated_is_known() {
    let Some(official) = official() else { return println!("skipped: MOORLINE_DO_SCHEMA names no openapi.json") };
    for (method, path, _) in official.calls() {
        let is_left_out = LEFT_OUT.iter().any(|part| path.contains(part)) || (method != "GET" && path.starts_with("/v2/account"));
        let is_image = path.starts_with("/v2/images") && matches!(method.as_str(), "POST" | "PUT");
        let is_known = crate::api::scopes(&method, &path).is_some();
        assert!(is_known || is_left_out || is_image, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_against_the_official_description_is_kept() {
    if official().is_none() {
        return println!("skipped: MOORLINE_DO_SCHEMA names no openapi.json");
    }
    let client = super::Client::new(crate::setup::Setup::default());
    let mut body = super::wanted("fine", &[]);
    body["user_date"] = json!("#!/bin/sh");
    client.call("POST", "/v2/droplets", Some(&body), 202).await;
    client.get("/v2/droplets?per_page=500").await;
    client.get("/v2/droplets?tag=x").await;
    client.call("GET", "/v2/nonsense", None, 404).await;
    let wrong = client.sim.inspect(|world| world.wrong.clone());
    let words = ["user_date", "per_page", "tag", "nonsense"];
    assert!(wrong.len() == 4 && words.iter().zip(&wrong).all(|(word, line)| line.contains(word)), "{wrong:#?}");
    let list = json!({ "droplets": [{ "id": "1" }], "links": {}, "meta": {} });
    let faults = official().unwrap().check(&Request::new("GET", "/v2/droplets"), &Response::json(200, &list));
    assert!(
        faults.iter().any(|fault| fault.contains("meta.total")) && faults.iter().any(|fault| fault.contains("droplets[0].id")),
        "{faults:#?}"
    );
}
