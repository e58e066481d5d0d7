//! The inventory and the inbox of a cloud, on the simulated one.

use std::time::Duration;

use moorline_common::fault::Code;
use moorline_do_sim::world::hand::Hand;
use moorline_do_sim::{Setup, Sim};
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use serde_json::{Value, json};

use super::{DEADLINE, Kit};
use crate::cloud::{Clouds, DropletId, NewDroplet};
use crate::limits;
use crate::store::{CloudKind, NewProvisioned};

const DO: &str = "digitalocean";

/// A hub with a cloud whose inventory is synced when that is asked for.
struct Sky {
    kit: Kit,
    sim: Sim,
}

impl Sky {
    async fn new() -> Self {
        Self::of(None).await
    }

    async fn of(sync_every: Option<Duration>) -> Self {
        let mut kit = Kit::new().await;
        let sim = Sim::new(Setup { begins_at_ms: kit.clock.unix_ms(), ..Setup::prompt() });
        kit.stop().await;
        let (provider, mut clouds) = (crate::cloud::tests::provider(&sim, kit.home.path()), Clouds::default());
        match sync_every {
            Some(every) => clouds.add_synced(provider, every),
            None => clouds.add(provider),
        }
        kit.clouds = clouds;
        kit.start().await;
        Self { kit, sim }
    }

    /// A droplet that a saga made, with what that wanted.
    async fn provisioned(&self, spec: Value) -> u64 {
        let provider = self.kit.hub().clouds.get(DO).unwrap();
        let wanted = NewDroplet {
            name: "web-1".to_owned(),
            region: "fra1".to_owned(),
            size: "s-1vcpu-1gb".to_owned(),
            image: "debian-12-x64".to_owned(),
            tags: ["web".to_owned()].into(),
            ..NewDroplet::default()
        };
        let made = provider.create_droplet(&wanted).await.unwrap().droplet;
        let live = provider.droplet(DropletId(made.id.0)).await.unwrap();
        let new = NewProvisioned {
            cloud: DO.to_owned(),
            number: live.id.0,
            name: live.name.clone(),
            live: live.to_value(),
            spec,
            by: "saga".to_owned(),
            saga_id: None,
        };
        self.kit.hub().store.register_droplet(new).await.unwrap();
        live.id.0
    }

    fn hand(&self, hand: &Hand) {
        self.sim.change(|world| world.hand(hand).unwrap());
    }

    /// `checked`, `drifted_fields`, `new_drift`, `resolved_stale`.
    async fn scan(&self) -> [u64; 4] {
        let mut operator = self.kit.operator().await;
        let answer = operator.scan_drift(pb::ScanDriftRequest::default()).await.unwrap().into_inner();
        let [scan] = answer.scans.try_into().unwrap();
        let pb::CloudScan { cloud, checked, drifted_fields, new_drift, resolved_stale } = scan;
        assert_eq!(cloud, DO);
        [checked, drifted_fields, new_drift, resolved_stale]
    }

    async fn open(&self) -> Vec<pb::Drift> {
        let request = pb::ListDriftRequest::default();
        self.kit.operator().await.list_drift(request).await.unwrap().into_inner().drifts
    }

    async fn fields(&self) -> Vec<(String, String, String)> {
        let mut fields: Vec<_> = self.open().await.into_iter().map(|one| (one.field, one.expected, one.actual)).collect();
        fields.sort();
        fields
    }

    async fn accept(&self, drift: &pb::Drift, actual: &str) -> Result<pb::Drift, Code> {
        let drift = Some(pb::ShownDrift { id: drift.id, actual: actual.to_owned() });
        let request = pb::AcceptCloudDriftRequest { drift, reason: "it stays so".to_owned() };
        let accepted = self.kit.operator().await.accept_cloud_drift(request).await.map_err(|status| from_status(&status).code)?;
        Ok(accepted.into_inner().drift.unwrap())
    }

    async fn resources(&self, all: bool) -> Vec<pb::Resource> {
        let request = pb::ListResourcesRequest { all, ..Default::default() };
        self.kit.operator().await.list_resources(request).await.unwrap().into_inner().resources
    }

    async fn version(&self, number: u64) -> u64 {
        let resources = self.resources(false).await;
        resources.into_iter().find(|one| one.number == number).and_then(|one| one.spec).unwrap().version
    }

    async fn events(&self, kind: &str) -> usize {
        let all = self.kit.hub().store.events(0, 999, false).await.unwrap();
        all.iter().filter(|event| event.kind == kind).count()
    }
}

fn text(field: &str, expected: &Value, actual: &Value) -> (String, String, String) {
    (field.to_owned(), expected.to_string(), actual.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_size_and_a_right_region_report_the_size_alone_and_what_is_accepted_is_found_no_more() {
    let sky = Sky::new().await;
    let number = sky.provisioned(json!({ "size": "s-2vcpu-2gb", "region": "fra1", "image": "debian-12-x64" })).await;
    assert_eq!(sky.scan().await, [1, 1, 1, 0]);
    assert_eq!(sky.fields().await, [text("size", &json!("s-2vcpu-2gb"), &json!("s-1vcpu-1gb"))]);
    let row = sky.open().await.pop().unwrap();
    assert_eq!((row.cloud.as_str(), row.host_id.as_str(), row.resource), (DO, "", format!("digitalocean/droplet/{number}")));
    assert_eq!(sky.scan().await, [1, 1, 0, 0], "the same is no news");
    assert_eq!(sky.version(number).await, 1);
    let row = sky.open().await.pop().unwrap();
    assert_eq!(sky.accept(&row, "\"s-9vcpu\"").await.unwrap_err(), Code::DriftMoved);
    let accepted = sky.accept(&row, &row.actual).await.unwrap();
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str(), accepted.accepted_generation), ("accepted", "it stays so", 2));
    assert_eq!((sky.version(number).await, sky.scan().await), (2, [1, 0, 0, 0]));
    assert_eq!(sky.accept(&row, &row.actual).await.unwrap_err(), Code::DriftResolved);
    assert_eq!((sky.events("cloud_drift_accepted").await, sky.events("drift_refused").await), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changes_by_hand_is_drift_until_it_is_mended() {
    let sky = Sky::new().await;
    let spec = json!({ "name": "web-1", "size": "s-1vcpu-1gb", "region": "fra1", "image": "debian-12-x64", "tags": ["web"] });
    let id = sky.provisioned(spec).await;
    assert_eq!(sky.scan().await, [1, 0, 0, 0]);
    sky.hand(&Hand::Rename { id, name: "db-1".to_owned() });
    sky.hand(&Hand::Resize { id, size: "s-2vcpu-2gb".to_owned() });
    sky.hand(&Hand::Tag { id, tag: "prod".to_owned() });
    assert_eq!(sky.scan().await, [1, 3, 3, 0]);
    let differs = [
        text("name", &json!("web-1"), &json!("db-1")),
        text("size", &json!("s-1vcpu-1gb"), &json!("s-2vcpu-2gb")),
        text("tags", &json!(["web"]), &json!(["prod", "web"])),
    ];
    assert_eq!(sky.fields().await, differs);
    sky.hand(&Hand::Rename { id, name: "web-1".to_owned() });
    sky.hand(&Hand::Untag { id, tag: "prod".to_owned() });
    assert_eq!(sky.scan().await, [1, 1, 0, 2]);
    assert_eq!(sky.fields().await, differs[1..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_droplet_that_somebody_deleted_is_told_of_until_that_is_accepted() {
    let sky = Sky::new().await;
    let id = sky.provisioned(json!({ "size": "s-2vcpu-2gb" })).await;
    assert_eq!(sky.scan().await, [1, 1, 1, 0]);
    sky.hand(&Hand::Delete { id });
    sky.kit.clock.advance(limits::RESOURCE_YOUNG);
    assert_eq!(sky.scan().await, [1, 1, 0, 0], "one listing proves nothing");
    assert_eq!(sky.scan().await, [1, 1, 1, 1]);
    assert_eq!(sky.fields().await, [text("exists", &json!(true), &json!(false))]);
    let [gone] = <[_; 1]>::try_from(sky.resources(false).await).unwrap();
    assert!(gone.deleted_unix_ms > 0 && gone.spec.is_some(), "it is expected, so it is shown");
    let row = sky.open().await.pop().unwrap();
    sky.accept(&row, "false").await.unwrap();
    assert_eq!((sky.scan().await, sky.resources(false).await.len(), sky.resources(true).await.len()), ([0, 0, 0, 0], 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_droplet_that_lingers_in_listings_never_comes_back() {
    let sky = Sky::new().await;
    let id = sky.provisioned(json!({ "size": "s-2vcpu-2gb" })).await;
    sky.scan().await;
    // Its deletion was answered, and the cloud goes on listing it.
    sky.kit.hub().store.bury(DO.to_owned(), CloudKind::Droplet, [id].into(), None).await.unwrap();
    for _ in 0..3 {
        assert_eq!(sky.scan().await, [0, 0, 0, 0]);
        assert!(sky.open().await.is_empty() && sky.resources(false).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_strangers_droplets_are_in_the_inventory_and_are_nobodys_drift() {
    let sky = Sky::new().await;
    let id = sky.provisioned(json!({})).await;
    sky.hand(&Hand::Snapshot { id, name: "by-hand".to_owned() });
    sky.hand(&Hand::Create {
        name: "theirs".to_owned(),
        region: "fra1".to_owned(),
        size: "s-1vcpu-1gb".to_owned(),
        image: "debian-12-x64".to_owned(),
        tags: Vec::new(),
    });
    assert_eq!(sky.scan().await, [1, 0, 0, 0]);
    let kinds: Vec<_> = sky.resources(false).await.into_iter().map(|one| (one.kind, one.name, one.spec.is_some())).collect();
    let of = |kind: &str, name: &str, has_spec| (kind.to_owned(), name.to_owned(), has_spec);
    assert_eq!(kinds, [of("droplet", "web-1", true), of("droplet", "theirs", false), of("snapshot", "by-hand", false)]);
    let only = pb::ListResourcesRequest { kind: "snapshot".to_owned(), cloud: DO.to_owned(), all: false };
    let mut operator = sky.kit.operator().await;
    assert_eq!(operator.list_resources(only.clone()).await.unwrap().into_inner().resources.len(), 1);
    let wrong = pb::ListResourcesRequest { kind: "volume".to_owned(), ..only.clone() };
    assert_eq!(from_status(&operator.list_resources(wrong).await.unwrap_err()).code, Code::InvalidArgument);
    let elsewhere = pb::ListResourcesRequest { cloud: "aws".to_owned(), ..only };
    assert_eq!(from_status(&operator.list_resources(elsewhere).await.unwrap_err()).code, Code::CloudUnconfigured);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_cannot_be_asked_is_told_of_once_and_nothing_is_forgotten() {
    let sky = Sky::new().await;
    sky.provisioned(json!({ "size": "s-2vcpu-2gb" })).await;
    sky.scan().await;
    let tokens = sky.sim.change(|world| std::mem::take(&mut world.setup.tokens));
    sky.kit.clock.advance(limits::RESOURCE_YOUNG);
    for _ in 0..3 {
        let refused = sky.kit.operator().await.scan_drift(pb::ScanDriftRequest::default()).await.unwrap_err();
        assert_eq!(from_status(&refused).code, Code::CloudUnauthorized);
    }
    assert_eq!((sky.events("cloud_sync_failed").await, sky.events("cloud_sync_works").await), (1, 0));
    assert_eq!((sky.resources(false).await.len(), sky.open().await.len()), (1, 1));
    sky.sim.change(|world| world.setup.tokens = tokens);
    assert_eq!(sky.scan().await, [1, 1, 0, 0]);
    sky.scan().await;
    assert_eq!((sky.events("cloud_sync_failed").await, sky.events("cloud_sync_works").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_synced_by_itself() {
    let sky = Sky::of(Some(Duration::from_millis(50))).await;
    sky.provisioned(json!({ "size": "s-2vcpu-2gb" })).await;
    let until = tokio::time::Instant::now() + DEADLINE;
    while sky.open().await.is_empty() {
        assert!(tokio::time::Instant::now() < until, "no look at the cloud");
        tokio::task::yield_now().await;
    }
    assert_eq!(sky.events("drift_detected").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_a_cloud_says_so() {
    let kit = Kit::new().await;
    let refused = kit.operator().await.scan_drift(pb::ScanDriftRequest::default()).await.unwrap_err();
    assert_eq!(from_status(&refused).code, Code::CloudUnconfigured);
}
