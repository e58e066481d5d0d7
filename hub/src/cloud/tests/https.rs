//! The client over real connections.

use moorline_common::fault::Code;
use moorline_do_sim::https::Server;

use super::super::Provider as _;
use super::*;

async fn server() -> (Server, Sim) {
    let sim = Sim::new(Setup::prompt());
    (Server::start(sim.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap(), sim)
}

#[tokio::test]
async fn an_authority_of_the_configuration_is_trusted_and_no_other() {
    let (server, sim) = server().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.url = Url::parse(&server.url()).unwrap();
    let error = DigitalOcean::new(&config).unwrap().create_droplet(&web().wanted).await.unwrap_err();
    // Nothing was sent, the token least of all.
    assert_eq!((error.code(), error.maybe_done()), (Code::CloudUnreachable, false), "{error}");
    assert!(sim.inspect(|world| world.requests.is_empty()));

    let path = dir.path().join("ca.pem");
    std::fs::write(&path, server.authority_pem()).unwrap();
    config.ca_file = Some(path);
    let provider = DigitalOcean::new(&config).unwrap();
    let made = provider.create_droplet(&web().wanted).await.unwrap();
    assert_eq!(provider.droplet(made.droplet.id).await.unwrap().name, "web-1");
    assert_eq!(provider.inventory().await.unwrap().len(), 1);
    provider.tag(made.droplet.id, "ops").await.unwrap();
    provider.untag(made.droplet.id, "ops").await.unwrap();
    provider.delete_droplet(made.droplet.id).await.unwrap();
    assert!(provider.inventory().await.unwrap().is_empty());
}

#[test]
fn an_authorities_file_that_is_none_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    for content in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&path, content).unwrap();
        let config = CloudConfig { ca_file: Some(path.clone()), ..config(dir.path()) };
        let Err(error) = DigitalOcean::new(&config) else { panic!("{content:?} was taken") };
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
    let config = CloudConfig { ca_file: Some(dir.path().join("missing")), ..config(dir.path()) };
    assert!(DigitalOcean::new(&config).is_err());
}
