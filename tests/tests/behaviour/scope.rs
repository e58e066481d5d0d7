//! A certificate reaches only what is its holder's, an operator's key only what the root gives it, and
//! what Moorline did not make it does not touch.

use base64::Engine as _;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters as query;
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_tests::fleet::{Drive, Fleet, OPERATOR, text};
use moorline_tests::image::IMAGE;
use moorline_tests::limits::{COMMAND, SOON};
use moorline_tests::operator::{Bundle, Operator};
use moorline_tests::process::run;
use moorline_tests::wait::wait_until;

use crate::setup::{EngineFleet, HOST, assert_says, services, sim_fleet};

#[test]
fn a_container_of_that_name_that_is_not_ours_is_left_alone_and_said() {
    let Some(t) = EngineFleet::start("stranger") else { return };
    let topology = t.topology();
    let name = format!("{topology}-site-1");
    let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
    let body = ContainerCreateBody { image: Some(IMAGE.to_owned()), ..ContainerCreateBody::default() };
    let stranger = t.engine.block_on(t.engine.docker().create_container(Some(options), body)).unwrap().id;

    t.fleet.push(&services(&topology, &["site", "cache"], "hello"), &[]).unwrap().ok().unwrap();
    let seen = wait_until("the host says that the name is taken", SOON, || {
        Ok(t.operator.host(HOST)?.last_error.is_some_and(|e| e.code == "not_owned"))
    });
    let rest = wait_until("the rest is applied", SOON, || Ok(t.engine.running(&topology)?.len() == 1));
    let found = t.engine.block_on(t.engine.docker().inspect_container(&stranger, None::<query::InspectContainerOptions>));
    let remove = query::RemoveContainerOptionsBuilder::new().force(true).build();
    t.engine.block_on(t.engine.docker().remove_container(&stranger, Some(remove))).unwrap();
    seen.unwrap();
    rest.unwrap();
    let state = found.unwrap().state.unwrap();
    assert_eq!(state.running, Some(false), "it was not even started");

    // With the stranger gone the way is free.
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
}

#[test]
fn a_bind_mount_outside_the_hosts_own_policy_is_refused_whoever_signed_it() {
    let (fleet, operator) = sim_fleet("policy");
    let yaml = services("edge", &["site"], "hello").replace("networks: [front]", "networks: [front]\n          volumes: [\"/etc:/data\"]");
    fleet.push(&yaml, &[]).unwrap().ok().unwrap();
    wait_until("the refusal is known", SOON, || Ok(operator.host(HOST)?.last_error.is_some_and(|e| e.code == "policy_denied"))).unwrap();
    assert_eq!(operator.host(HOST).unwrap().heartbeat.unwrap_or_default().topology, "");
}

#[test]
fn an_agents_certificate_opens_no_door_of_an_operator() {
    let (fleet, _operator) = sim_fleet("agentcert");
    let mut bundle = Bundle::read(&fleet.bundle_path(OPERATOR)).unwrap();
    let transport = std::fs::read(fleet.agent_dir(HOST).join("transport.json")).unwrap();
    let transport: serde_json::Value = serde_json::from_slice(&transport).unwrap();
    let chain = transport["chain"].as_array().unwrap().iter().map(|der| pem(&hex::decode(der.as_str().unwrap()).unwrap()));
    bundle.certificate_chain_pem = chain.collect();
    bundle.key_pem = transport["key_pem"].as_str().unwrap().to_owned();
    let stranger = Operator::connect(&bundle).unwrap();
    let status = stranger.call(|mut c| async move { c.list_hosts(pb::ListHostsRequest::default()).await }).unwrap_err();
    assert_eq!(from_status(&status).code.as_str(), "permission_denied", "{status:?}");
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64::engine::general_purpose::STANDARD.encode(der))
}

#[test]
fn a_second_operator_joins_by_the_documented_recipe_and_may_push() {
    let mut fleet = Fleet::prepare("recipe").unwrap();
    let (cluster, address) = (fleet.cluster().to_owned(), fleet.address());
    fleet.hub_command(&["init", "--cluster", &cluster, "--listen", &address, "--advertise", &address]).unwrap().ok().unwrap();
    fleet.start_hub().unwrap();
    fleet.hub_command(&["operator", "add", "bob"]).unwrap().ok().unwrap();

    // Bob makes his key, Ann names it in the trust root, Bob joins by the root's pin.
    let bob = fleet.root().join("bob");
    let on_bobs = |args: &[&str]| run(fleet.moorctl_command_in(&bob, args), b"", COMMAND).unwrap();
    let made = on_bobs(&["-o", "json", "key", "new", "bob"]).ok().unwrap().json().unwrap();
    let public = made["public"].as_str().unwrap().to_owned();
    let add = format!("bob={public}");
    let bundle = fleet.bundle_path(OPERATOR);
    let ann = fleet.moorctl(&["-o", "json", "init", "--bundle", text(&bundle).unwrap(), "--add-operator", &add]).unwrap().ok().unwrap();
    let pin = ann.json().unwrap()["root_pin"].as_str().unwrap().to_owned();
    let (bundle, key) = (fleet.bundle_path("bob"), bob.join("keys/bob.key"));
    on_bobs(&["init", "--bundle", text(&bundle).unwrap(), "--root-pin", &pin, "--key", text(&key).unwrap()]).ok().unwrap();

    let file = fleet.file("bob.yaml", services("edge", &["site"], "bob")).unwrap();
    let pushed = run(fleet.moorctl_command_in(&bob, &["push", "-f", text(&file).unwrap()]), b"", COMMAND).unwrap().ok().unwrap();
    assert_says(&pushed, &["generation 1"]);
    fleet.add_host(HOST, Drive::Sim, &[]).unwrap();
    fleet.wait_converged(&fleet.operator().unwrap(), HOST, "edge", 1).unwrap();
}
