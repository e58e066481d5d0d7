//! What the driver makes of an engine that stalls or answers in part: a fake one on a socket, in virtual time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::{ClusterId, HostId};
use moorline_common::plan::{Action, ContainerTarget};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::lane::{Lanes, within};
use crate::limits::STEP_TIMEOUT;

/// How the fake engine answers a request: with a status and a body after a while, or never.
pub(super) type Answer = Option<(Duration, u16, Value)>;

pub(super) fn now(status: u16, body: Value) -> Answer {
    Some((Duration::ZERO, status, body))
}

fn owned() -> Ownership {
    Ownership { cluster: ClusterId::parse("home").unwrap(), host_id: HostId::of_key(&[3; 32]), known: Default::default() }
}

/// A driver for an engine that answers `"METHOD /path"` with `answer`, but tells its version by itself.
pub(super) fn driver(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (DockerDriver, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("engine.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone()));
        }
    });
    (DockerDriver::new(path, owned()), folder)
}

async fn serve<F: Fn(&str) -> Answer>(stream: UnixStream, answer: Arc<F>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut line, mut length) = (String::new(), String::new(), 0);
        while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
            if request.is_empty() {
                request = line.clone();
            }
            if let Some(("content-length", value)) = line.to_ascii_lowercase().trim().split_once(": ") {
                length = value.parse().unwrap();
            }
            line.clear();
        }
        if request.is_empty() {
            return;
        }
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        // `METHOD /v1.44/path?query HTTP/1.1`
        let mut words = request.split_whitespace();
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let path = target.split('?').next().unwrap();
        let path = path.strip_prefix("/v1.44").unwrap_or(path);
        let said = if path == "/version" {
            now(200, json!({ "Version": "99", "ApiVersion": "1.44" }))
        } else {
            answer(&format!("{method} {path}"))
        };
        let Some((after, status, body)) = said else { return std::future::pending().await };
        tokio::time::sleep(after).await;
        let body = if status == 204 { String::new() } else { body.to_string() };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }
}

fn step(action: Action) -> Step {
    Step {
        resource: moorline_common::plan::lower::container_resource("edge-a-1"),
        action,
        reason: String::new(),
        after: std::collections::BTreeSet::new(),
        tolerates: std::collections::BTreeSet::new(),
        heals: Vec::new(),
    }
}

fn create() -> Step {
    let target: ContainerTarget =
        serde_json::from_value(json!({ "name": "edge-a-1", "service": "a", "labels": {}, "spec": { "image": "demo:1" } })).unwrap();
    step(Action::CreateContainer(Arc::new(target)))
}

pub(super) fn labels() -> Value {
    json!({
        LABEL_CLUSTER: "home", LABEL_HOST: owned().host_id.as_str(), "moorline.topology": "edge",
        "moorline.resource": "docker/container/edge-a-1", "moorline.spec": "x"
    })
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_begins_to_answer_is_no_dead_engine() {
    let (driver, _folder) = driver(|request| match request {
        "POST /containers/create" => now(404, json!({ "message": "No such image: demo:1" })),
        _ => None,
    });
    let error = driver.apply(&create()).await.unwrap_err();
    assert_eq!((error.kind, error.code), (DriverErrorKind::Retryable, Code::ImageUnavailable), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_fails_that_step_alone() {
    let (driver, _folder) = driver(|request| match request {
        "POST /containers/create" => now(201, json!({ "Id": "a", "Warnings": [] })),
        _ => None,
    });
    let error = driver.apply(&create()).await.unwrap_err();
    assert_eq!((error.kind, error.code), (DriverErrorKind::Retryable, Code::StepFailed), "{error}");
    assert!(error.message.contains("starting `edge-a-1`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_be_observed_in_time_is_unreachable() {
    let (driver, _folder) = driver(|_| None);
    assert_eq!(driver.observe().await.unwrap_err().kind, DriverErrorKind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_stop_may_take_as_long_as_the_container_was_granted() {
    let hours = Duration::from_secs(5 * 3600);
    let granting = move |grace: u64| {
        driver(move |request| match request {
            "GET /containers/a/json" => now(200, json!({ "Id": "a", "Config": { "Labels": labels(), "StopTimeout": grace } })),
            "POST /containers/a/stop" => Some((hours, 204, Value::Null)),
            "DELETE /containers/a" => now(204, Value::Null),
            _ => None,
        })
    };
    let remove = step(Action::RemoveContainer { id: "a".to_owned() });
    let (driver, _folder) = granting(hours.as_secs());
    let (lanes, patient) = (Lanes::new(1), remove.clone());
    let job = async move { within(STEP_TIMEOUT, driver.apply(&patient)).await };
    let turn = lanes.place(&remove.resource).unwrap().await.unwrap();
    let slow = tokio::spawn(async move { turn.work(job).await });
    let begun = tokio::time::Instant::now();
    let other = lanes.place(&moorline_common::plan::lower::container_resource("edge-b-1")).unwrap().await.unwrap();
    let at = other.work(async { tokio::time::Instant::now() }).await.unwrap();
    assert!(at - begun < hours, "nobody else waits for it");
    assert!(matches!(slow.await.unwrap(), Ok(Some(Ok(())))));
    let (driver, _folder) = granting(10);
    let error = driver.apply(&remove).await.unwrap_err();
    assert!(error.kind == DriverErrorKind::Retryable && error.message.contains("stopping"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_inspected_hides_no_other() {
    let listed =
        |name: &str| json!({ "Id": name, "Names": [format!("/edge-{name}-1")], "Image": "demo:1", "State": "running", "Labels": labels() });
    let (driver, _folder) = driver(move |request| match request {
        "GET /containers/json" => now(200, json!([listed("sick"), listed("gone"), listed("well")])),
        "GET /networks" => now(200, json!([])),
        "GET /volumes" => now(200, json!({ "Volumes": [], "Warnings": [] })),
        "GET /containers/sick/json" => now(500, json!({ "message": "a broken mount" })),
        "GET /containers/gone/json" => now(404, json!({ "message": "no such container" })),
        "GET /containers/well/json" => {
            now(200, json!({ "Id": "well", "Name": "/edge-well-1", "State": { "Status": "running" }, "Config": { "Labels": labels() } }))
        }
        _ => None,
    });
    let containers = driver.observe().await.unwrap().containers;
    assert_eq!(containers.keys().collect::<Vec<_>>(), ["edge-sick-1", "edge-well-1"]);
    let (sick, well) = (&containers["edge-sick-1"], &containers["edge-well-1"]);
    assert!(sick.config.is_none() && sick.owner.is_some(), "it is there, though not known");
    assert!(well.config.is_some() && well.owner.is_some());
}

/// An engine with one container of ours that runs, which answers all else with `answer`.
fn with_container(grace: u64, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (DockerDriver, tempfile::TempDir) {
    driver(move |request| match request {
        "GET /containers/edge-a-1/json" | "GET /containers/a/json" => {
            let state = json!({ "Status": "running", "StartedAt": "then", "FinishedAt": "before" });
            let config = json!({ "Labels": labels(), "StopTimeout": grace });
            now(200, json!({ "Id": "a", "Name": "/edge-a-1", "State": state, "Config": config }))
        }
        other => answer(other),
    })
}

fn order(resource: &str, act: Act) -> OpOrder {
    OpOrder {
        op_id: moorline_common::id::OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap(),
        resource: moorline_common::id::ResourceId::parse(resource).unwrap(),
        incarnation: None,
        state: None,
        act,
        wanted: std::collections::BTreeSet::new(),
    }
}

const CONTAINER: &str = "docker/container/edge-a-1";

#[tokio::test(start_paused = true)]
async fn of_an_operation_without_an_answer_nobody_knows_and_a_refusal_is_an_answer() {
    for act in [Act::Start, Act::Pause, Act::Stop { timeout_s: None }, Act::Destroy { volumes: true }] {
        let ordered = order(CONTAINER, act);
        let (silent, _folder) = with_container(10, |_| None);
        let evidence = silent.prepare(&ordered).await.unwrap();
        let error = silent.start(&ordered, &evidence).await.unwrap_err();
        assert_eq!((error.kind, error.code), (DriverErrorKind::Unreachable, Code::EngineUnreachable), "{ordered:?}: {error}");
        let (sick, _folder) = with_container(10, |_| now(500, json!({ "message": "a broken mount" })));
        let error = sick.start(&ordered, &evidence).await.unwrap_err();
        assert_eq!((error.kind, error.code), (DriverErrorKind::Retryable, Code::OpFailed), "{ordered:?}: {error}");
        assert!(error.message.contains("a broken mount"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_was_ordered_with_an_hour_has_an_hour_and_holds_up_nobody() {
    let hour = Duration::from_secs(3600);
    let (driver, _folder) = with_container(10, move |request| match request {
        "POST /containers/a/stop" | "POST /containers/a/restart" => Some((hour, 204, Value::Null)),
        _ => None,
    });
    let driver = Arc::new(driver);
    for act in [Act::Stop { timeout_s: Some(3600) }, Act::Restart { timeout_s: Some(3600) }] {
        let ordered = order(CONTAINER, act);
        let evidence = driver.prepare(&ordered).await.unwrap();
        let age = Duration::from_secs(3610);
        assert!(matches!(driver.adopt(&ordered, &evidence, None, age).await.unwrap(), Found::NotYet(_)));
        let (lanes, begun) = (Lanes::new(1), tokio::time::Instant::now());
        let (resource, engine) = (ordered.resource.clone(), driver.clone());
        let turn = lanes.place(&resource).unwrap().await.unwrap();
        let slow = tokio::spawn(async move { turn.work(async move { engine.start(&ordered, &evidence).await }).await });
        let other = lanes.place(&moorline_common::plan::lower::container_resource("edge-b-1")).unwrap().await.unwrap();
        let at = other.work(async { tokio::time::Instant::now() }).await.unwrap();
        assert!(at - begun < hour, "nobody else waits for it");
        assert!(matches!(slow.await.unwrap(), Ok(Ok(Begun::Done(_)))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_is_under_way_already_is_waited_for() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let (driver, _folder) = with_container(10, move |request| match request {
        "POST /containers/a/stop" => now(304, Value::Null),
        "DELETE /containers/a" if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3 => {
            now(409, json!({ "message": "removal of container a is already in progress" }))
        }
        "DELETE /containers/a" => now(404, json!({ "message": "no such container" })),
        _ => None,
    });
    let ordered = order(CONTAINER, Act::Destroy { volumes: false });
    let evidence = driver.prepare(&ordered).await.unwrap();
    assert!(matches!(driver.start(&ordered, &evidence).await, Ok(Begun::Done(_))));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_frozen_at_once_is_paused_in_the_end_or_the_operation_fails() {
    for (refusals, done) in [(3, true), (1000, false)] {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let (driver, _folder) = with_container(10, move |request| match request {
            "POST /containers/a/pause" if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < refusals => {
                now(500, json!({ "message": "Cannot pause container a: OCI runtime pause failed: unable to freeze: unknown" }))
            }
            "POST /containers/a/pause" => now(204, Value::Null),
            _ => None,
        });
        let ordered = order(CONTAINER, Act::Pause);
        let evidence = driver.prepare(&ordered).await.unwrap();
        match driver.start(&ordered, &evidence).await {
            Ok(Begun::Done(_)) => assert!(done),
            other => assert!(!done && other.is_err_and(|e| e.message.contains("unable to freeze"))),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_tells_which_image_came() {
    let (driver, _folder) = driver(|request| match request {
        "POST /images/create" => now(200, json!({ "status": "Status: Image is up to date" })),
        "GET /images/demo:1/json" => now(200, json!({ "Id": "sha256:00" })),
        _ => None,
    });
    let ordered = order("docker/image/demo:1", Act::Pull);
    let evidence = driver.prepare(&ordered).await.unwrap();
    let Begun::Done(done) = driver.start(&ordered, &evidence).await.unwrap() else { panic!("a pull is no task") };
    assert_eq!((done.result, done.fault), (json!({ "id": "sha256:00" }), None));
    let meant = OpOrder { incarnation: Some("sha256:11".to_owned()), ..ordered };
    assert_eq!(driver.prepare(&meant).await.unwrap_err().code, Code::IncarnationChanged);
}
