//! Looking at the account, switching faults and doing things behind the API's back, beside the API under `/control/`. Nobody is asked who
//! they are: it is for tests on this machine.
//!
//! | call | what it does |
//! |---|---|
//! | `GET /control/world` | everything |
//! | `GET /control/billing` | `lines`: what was ever made; `alive`: what still costs |
//! | `GET /control/requests` | every call of the API |
//! | `GET /control/wrong` | what was wrong with calls and answers |
//! | `GET`, `POST /control/faults` | what goes wrong: [`Faults`] |
//! | `GET`, `POST /control/latencies` | how long things take, by name; what is not named stays |
//! | `POST /control/hand` | what people do in the control panel: a [`Hand`] |
//! | `POST /control/advance` | lets `{"ms": …}` go by at once |

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::request::{Request, Response, split_path};
use crate::sim::Sim;
use crate::world::faults::Faults;
use crate::world::hand::Hand;

/// What paths of such calls begin with.
pub const PREFIX: &str = "/control/";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    ms: u64,
}

/// Serves such a call.
pub fn answer(sim: &Sim, request: &Request) -> Response {
    let (path, _) = split_path(&request.path);
    let result = match (request.method.as_str(), path) {
        ("GET", "/control/world") => sim.inspect(|world| serde_json::to_value(world)).map_err(|error| error.to_string()),
        ("GET", "/control/billing") => Ok(sim.inspect(|world| json!({ "lines": world.ledger.lines, "alive": world.ledger.alive() }))),
        ("GET", "/control/requests") => Ok(sim.inspect(|world| json!(world.requests))),
        ("GET", "/control/wrong") => Ok(sim.inspect(|world| json!(world.wrong))),
        ("GET", "/control/faults") => Ok(sim.inspect(|world| json!(world.faults))),
        ("POST" | "PUT", "/control/faults") => read::<Faults>(&request.body).map(|faults| {
            sim.change(|world| world.faults = faults);
            Value::Null
        }),
        ("GET", "/control/latencies") => Ok(sim.inspect(|world| json!(world.setup.latencies))),
        ("POST" | "PUT", "/control/latencies") => read::<BTreeMap<String, u64>>(&request.body).and_then(|all| {
            sim.change(|world| all.iter().try_for_each(|(name, ms)| world.setup.latencies.set(name, *ms)))?;
            Ok(sim.inspect(|world| json!(world.setup.latencies)))
        }),
        ("POST", "/control/hand") => read::<Hand>(&request.body).and_then(|hand| sim.hand(&hand)).map(|()| Value::Null),
        ("POST", "/control/advance") => read::<Advance>(&request.body).map(|by| {
            sim.advance(by.ms);
            json!({ "now_ms": sim.now_ms() })
        }),
        _ => Err(format!("{} {path} is none of the simulator's calls", request.method)),
    };
    match result {
        Ok(value) => Response::json(200, &value),
        Err(words) => Response::failure(400, "bad_request", &words),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
