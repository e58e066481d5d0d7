//! Guests beside an engine of containers: what is away of the one keeps the other from nothing, and nobody takes what was seen before for
//! what is.

use moorline_common::observe::EngineState;
use moorline_pve_sim::world::faults::{CallFault, Wrong};
use tokio::time::Instant;

use super::ops::setup;
use super::*;
use crate::driver::Driver as _;
use crate::driver::host::HostDriver;
use crate::limits::{OBSERVE_TIMEOUT, PVE_ANSWER_WITHIN, PVE_LOOK_BESIDE};
use crate::testing::FakeDriver;

fn both(bench: &Bench) -> (HostDriver<FakeDriver, InProcess>, FakeDriver) {
    let engine = FakeDriver::default();
    let client = Client::new(InProcess(bench.sim.clone()), "pve-1".to_owned(), TOKEN.to_owned());
    (HostDriver::new(Some(engine.clone()), Some(PveDriver::new(client, bench.owned.clone())), &bench.owned), engine)
}

fn states(observed: &Observed) -> (EngineState, EngineState, usize) {
    let pve = observed.pve.as_ref().unwrap();
    (observed.engine, pve.engine, pve.guests.len())
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_now_is_shown_as_it_was_and_as_away() {
    use EngineState::{Ready, Unreachable};
    let bench = Bench::new(setup(true));
    let (host, engine) = both(&bench);
    let all = bench.look().await.pve.unwrap().guests.len();
    assert_eq!(states(&host.observe().await.unwrap()), (Ready, Ready, all));
    for wrong in [Wrong::StatusBefore(401), Wrong::StatusBefore(500), Wrong::StatusBefore(596), Wrong::LoseRequest] {
        let fault = CallFault { method: None, path: "/version$".to_owned(), next: None, then: wrong.clone() };
        bench.sim.change(|world| world.faults.calls = vec![fault]);
        let seen = host.observe().await.unwrap();
        assert_eq!(states(&seen), (Ready, Unreachable, all), "{wrong:?}: nothing is planned on what was there before");
        assert!(seen.pve.unwrap().error.is_some());
        bench.sim.change(|world| world.faults.calls.clear());
        assert_eq!(states(&host.observe().await.unwrap()), (Ready, Ready, all));
    }
    engine.with(|fake| fake.unreachable = true);
    assert_eq!(states(&host.observe().await.unwrap()), (Unreachable, Ready, all));
    bench.sim.change(|world| world.faults.unreachable = true);
    assert!(host.observe().await.is_err(), "of nothing at all anything is known");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_holds_up_no_container() {
    let bench = Bench::new(setup(true));
    let (host, _engine) = both(&bench);
    host.observe().await.unwrap();
    let hang = CallFault { method: None, path: String::new(), next: None, then: Wrong::Hang };
    bench.sim.change(|world| world.faults.calls = vec![hang]);
    for limit in [PVE_LOOK_BESIDE, PVE_ANSWER_WITHIN] {
        assert!(limit < OBSERVE_TIMEOUT);
        let began = Instant::now();
        let seen = host.observe().await.unwrap();
        assert_eq!((seen.engine, seen.pve.unwrap().engine), (EngineState::Ready, EngineState::Unreachable));
        assert_eq!(began.elapsed().as_secs(), limit.as_secs());
    }
    bench.sim.change(|world| world.faults.calls.clear());
    assert_eq!(host.observe().await.unwrap().pve.unwrap().engine, EngineState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_cut_off_leaves_less_for_the_next_one() {
    let mut setup = Setup::default();
    for number in 500..520 {
        setup = setup.with_guest(moorline_pve_sim::world::guest::Kind::Qemu, number, false, &[("name", "db"), ("tags", "moorline")]);
    }
    let bench = Bench::new(setup);
    let slow = CallFault { method: None, path: "/snapshot$".to_owned(), next: None, then: Wrong::TakesMs(9_000) };
    bench.sim.change(|world| world.faults.calls = vec![slow]);
    let mut looks = 0;
    while let Err(error) = bench.driver.observe().await {
        looks += 1;
        assert!(looks < 5, "{error}");
    }
    assert!(looks > 0, "one look is not enough");
}
