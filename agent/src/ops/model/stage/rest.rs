//! When nothing happens any more: everything ends, and every receipt is there.

use std::time::Duration;

use moorline_common::id::UnixSeconds;
use moorline_common::op::State;
use serde_json::json;

use super::{CLUSTER, Stage, turns};
use crate::intake::judge::Own;
use crate::ledger::Ledger;
use crate::limits::PVE_MARGIN;
use crate::ops::Standing;
use crate::ops::model::world::World;

/// By then it is proven of everything whether it happened.
const REST: Duration = Duration::from_secs(PVE_MARGIN.as_secs() + 15);

impl<W: World> Stage<W> {
    /// All becomes well again; then everything ends, some of it by an operator's word.
    pub async fn come_to_rest(&mut self) -> Result<(), String> {
        self.machine.unreachable(false);
        self.machine.deafen(0);
        self.machine.delay(0);
        self.machine.slow(0);
        self.journal.delay(0);
        self.journal.fill(false);
        self.changes(|known| known.full = false);
        let floor = Ledger::new(self.db.clone()).time_floor().unwrap().now(&crate::clock::Clock.boot()).0;
        // The operators' clocks are wrong, too; all go by the latest time that anybody has signed.
        self.ahead = floor.saturating_sub(self.now());
        self.clocks.set_wall(UnixSeconds(self.now()));
        for _ in 0..self.signed.len() + 4 {
            tokio::time::sleep(REST).await;
            turns(200).await;
            self.known().before.clear();
            let open: Vec<(String, State)> =
                self.known().ends().into_iter().filter(|(_, state, _)| !state.is_terminal()).map(|(id, state, _)| (id, state)).collect();
            let doubtful = open.iter().position(|(_, state)| *state == State::Indeterminate);
            match (open.is_empty(), doubtful) {
                (true, _) => return Ok(()),
                (false, None) => return Err(format!("nothing moves, and these have not ended: {open:?}")),
                (false, Some(n)) => {
                    let index = self.signed.iter().position(|p| p.statement.op_id.as_str() == open[n].0).unwrap();
                    let back = self.signed.len() - 1 - index;
                    self.about(u8::try_from(back).unwrap(), "resolve", json!({ "outcome": "failed" }));
                }
            }
        }
        Err("operations that are in doubt cannot be resolved".to_owned())
    }

    /// Every receipt is there to be sent, until the hub has heard of it.
    pub fn check_receipts(&self) -> Result<(), String> {
        let own = Own::of(&CLUSTER.keys);
        let told = self.agent.as_ref().unwrap().ops.standings(&self.journal, &own, 0).list;
        let ends = self.known().ends();
        for (id, state, heard) in ends {
            let receipt = told.iter().find_map(|standing| match standing {
                Standing::Over(receipt) if receipt.op_id.as_str() == id => Some(receipt.outcome.as_str()),
                Standing::Over(_) | Standing::UnderWay { .. } | Standing::Refused { .. } => None,
            });
            if receipt != (!heard).then_some(self.known().outcome(&id, state)) {
                return Err(format!("{id} is {state}, heard: {heard}; its receipt says {receipt:?}"));
            }
        }
        Ok(())
    }
}
