//! The driver over real connections: whom it trusts, and what goes wrong with lines.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_pve_sim::https::Server;
use moorline_pve_sim::setup::{SECRET, TOKEN};
use moorline_pve_sim::world::faults::Connections;
use moorline_pve_sim::{Setup, Sim};
use serde_json::{Value, json};

use super::super::client::{Call, CallError, Client, NoReply, Params, Transport, Verb};
use super::super::https::{Https, Trust, parse_fingerprint};
use super::{Bench, guests};

async fn host(setup: Setup) -> Server {
    Server::start(Sim::new(setup), "127.0.0.1:0".parse().unwrap()).await.unwrap()
}

fn pins(fingerprints: &[&str]) -> Trust {
    Trust::Pins(fingerprints.iter().map(|text| parse_fingerprint(text).unwrap()).collect())
}

fn line(server: &Server, trust: Trust) -> Https {
    Https::new(&server.url(), &format!("{TOKEN}={SECRET}"), trust).unwrap()
}

fn client(server: &Server, trust: Trust) -> Client<Https> {
    Client::new(line(server, trust), "pve-1".to_owned(), TOKEN.to_owned())
}

async fn version(client: &Client<Https>) -> Result<Value, CallError> {
    client.call(Verb::Get, &["version"], &Params::new()).await
}

#[tokio::test]
async fn a_certificate_that_is_none_of_the_pins_is_told_with_what_to_write_and_gets_no_request() {
    let server = host(Setup::default()).await;
    let first = server.fingerprint();
    assert!(version(&client(&server, pins(&[&first]))).await.is_ok());
    let second = server.swap_certificate().unwrap();
    let asked = || server.sim().inspect(|world| world.requests.len());
    let before = asked();
    let error = version(&client(&server, pins(&[&first]))).await.unwrap_err();
    let told = format!("{} shows a certificate that is none of the `fingerprints`; if it was renewed, add {second}", server.url());
    assert_eq!(error, CallError::NoReply(NoReply::NotSent(told)));
    assert_eq!(asked(), before, "who is not known gets no token to see");
    assert!(version(&client(&server, pins(&[&first, &second]))).await.is_ok(), "the next one may stand there before it is needed");
}

#[tokio::test]
async fn an_authority_vouches_for_names_that_it_signed_and_nobody_else_does() {
    let (server, other) = (host(Setup::default()).await, host(Setup::default()).await);
    let authority = |of: &Server| Trust::Authorities(of.certificate_pem().into_bytes());
    assert!(version(&client(&server, authority(&server))).await.is_ok());
    let error = version(&client(&server, authority(&other))).await.unwrap_err();
    assert!(matches!(&error, CallError::NoReply(NoReply::NotSent(why)) if why.contains("certificate")), "{error:?}");
    assert!(
        Https::new(&server.url(), "x", Trust::Authorities(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()))
            .is_err()
    );
}

#[tokio::test]
async fn a_line_that_is_dead_or_slow_holds_nobody_up_for_longer_than_the_call_may_take() {
    let server = host(Setup::default()).await;
    let line = line(&server, pins(&[&server.fingerprint()]));
    let call = |limit| Call { verb: Verb::Get, target: "/api2/json/version".to_owned(), form: None, limit: Duration::from_millis(limit) };
    for (fault, why) in [(Connections::HalfOpen, "did not answer in time"), (Connections::Cut, "cannot be reached")] {
        server.sim().change(|world| world.faults.connections = fault);
        let error = line.send(call(300)).await.unwrap_err().to_string();
        assert!(error.contains(why), "{fault:?}: {error}");
    }
    server.sim().change(|world| world.faults.connections = Connections::Slow);
    assert!(matches!(line.send(call(300)).await, Err(NoReply::Lost(why)) if why.contains("did not answer in time")));
    assert_eq!(line.send(call(60_000)).await.unwrap().status, 200, "it comes, if it is given the time");
}

/// Until 2025 hosts told what is wrong in the first line of an answer alone, and wrote numbers in lists as texts.
#[tokio::test]
async fn an_older_host_is_understood() {
    let server = host(Setup { old_errors: true, old_numbers: true, ..Setup::default() }).await;
    let trust = || pins(&[&server.fingerprint()]);
    let error = client(&server, trust()).of_node(Verb::Get, &["qemu", "4711", "config"], &Params::new()).await.unwrap_err();
    let told = error.into_driver(Code::OpFailed, "reading").message;
    assert!(told.contains("does not exist"), "{told}");

    let bench = Bench::over(line(&server, trust()), server.sim().clone(), Arc::default());
    let desired = guests(json!({ "101": { "type": "qemu", "state": "running", "config": { "name": "db", "scsi0": "local-lvm:1" } } }));
    let mut taken = Vec::new();
    while let [step, ..] = bench.plan(&desired, None).await.steps.as_slice() {
        bench.carry_out(&step.action).await.unwrap();
        taken.push(step.action.verb());
    }
    assert_eq!(taken, ["create", "update", "start"]);
}
