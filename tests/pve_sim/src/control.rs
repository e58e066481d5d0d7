//! Looking at the cluster, switching faults and doing things behind the API's back, beside the API under `/sim/`. Nobody is asked who they
//! are: it is for tests on this machine.
//!
//! | call | what it does |
//! |---|---|
//! | `GET /sim/world` | everything |
//! | `GET`, `PUT /sim/faults` | what goes wrong |
//! | `POST /sim/hand` | what people do on the host: a [`Hand`] |
//! | `GET /sim/requests` | every call of the API |
//! | `GET /sim/effects` | what happened to guests |
//! | `GET /sim/wrong` | what was wrong with calls |
//! | `POST /sim/certificate` | takes another certificate, and answers its fingerprint |

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::request::{Answer, Request, split_path};
use crate::sim::Sim;
use crate::world::faults::Faults;
use crate::world::hand::Hand;

/// Serves such a call.
pub fn answer(sim: &Sim, request: &Request, swap_certificate: impl FnOnce() -> Result<String, String>) -> Answer {
    let (path, _) = split_path(&request.path);
    let result = match (request.method.as_str(), path) {
        ("GET", "/sim/world") => sim.inspect(|world| serde_json::to_value(world)).map_err(|error| error.to_string()),
        ("GET", "/sim/faults") => Ok(sim.inspect(|world| json!(world.faults))),
        ("PUT", "/sim/faults") => read::<Faults>(&request.body).map(|faults| {
            sim.change(|world| world.faults = faults);
            Value::Null
        }),
        ("POST", "/sim/hand") => read::<Hand>(&request.body).and_then(|hand| sim.hand(&hand)).map(|()| Value::Null),
        ("GET", "/sim/requests") => Ok(sim.inspect(|world| json!(world.requests))),
        ("GET", "/sim/effects") => Ok(sim.inspect(|world| json!(world.effects))),
        ("GET", "/sim/wrong") => Ok(sim.inspect(|world| json!(world.wrong))),
        ("POST", "/sim/certificate") => swap_certificate().map(|fingerprint| json!({ "fingerprint": fingerprint })),
        _ => Err(format!("{} {path} is none of the simulator's calls", request.method)),
    };
    match result {
        Ok(value) => Answer { status: 200, reason: "OK".to_owned(), body: value.to_string().into_bytes() },
        Err(words) => Answer::failure(400, &words, &BTreeMap::new(), false),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
