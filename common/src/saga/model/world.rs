//! The hub, the hosts, the operators and the time.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Fate, Ledger, Try};
use super::*;
use crate::op::{Outcome, Receipt};
use crate::saga::tests::Saga;

pub struct World {
    pub dice: Dice,
    pub saga: Saga,
    pub ledger: Ledger,
    /// The journals of all hosts; each knows its own tries.
    pub journal: BTreeMap<Try, Own>,
    /// What hosts have signed, and what operators have.
    pub receipts: Vec<Receipt>,
    pub words: Vec<Word>,
    /// Orders that have not come to their host, and answers that have not come back.
    orders: BTreeSet<Try>,
    answers: Vec<(Try, End)>,
    /// All that happened.
    log: Vec<(Event, u64)>,
    pub stuck: BTreeSet<StuckWhy>,
    /// Begun on a host; nothing to undo there; refused when something was left out; taken from a hostile hub.
    pub judged: [u32; 4],
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let plan = plans::any_plan(&mut dice);
        let saga = Saga { state: State::new(&plan), plan, now_ms: 1_000_000 };
        Self {
            dice,
            saga,
            ledger: Ledger::default(),
            journal: BTreeMap::new(),
            receipts: Vec::new(),
            words: Vec::new(),
            orders: BTreeSet::new(),
            answers: Vec::new(),
            log: Vec::new(),
            stuck: BTreeSet::new(),
            judged: [0; 4],
        }
    }

    /// One thing happens.
    pub fn happen(&mut self) {
        match self.dice.below(20) {
            0..=6 => self.begin_one(),
            7..=10 => self.deliver_one(false),
            11..=14 => self.hear_one(),
            15 => self.pass_time(),
            16 => self.wait_one(),
            17 | 18 => self.say_something(),
            _ => self.attempt_nonsense(),
        }
    }

    /// Everything comes to its host and back, hosts do what they are told, and somebody follows the remedies.
    pub fn come_to_rest(&mut self) {
        for _ in 0..2000 {
            if self.saga.status().is_final() {
                return;
            }
            let next = self.saga.state.next(&self.saga.plan, self.saga.now_ms);
            if !self.orders.is_empty() {
                self.deliver_one(true);
            } else if !self.answers.is_empty() {
                self.hear_one();
            } else if !next.begin.is_empty() {
                self.begin_one();
            } else if let Some(wake_ms) = next.wake_ms {
                self.saga.now_ms = wake_ms;
            } else if let Some((step, side)) = next.late.first() {
                assert!(self.apply(Event::Late { step: *step, side: *side }));
            } else {
                let verb = self.saga.remedy();
                assert!(self.say(verb), "the remedy is refused");
            }
        }
        panic!("it comes to no rest: {:?}", self.saga.state);
    }

    /// Takes in an event; whether it was legal. What must always hold is looked at here.
    fn apply(&mut self, event: Event) -> bool {
        let before = self.saga.state.clone();
        if self.saga.try_apply(&event).is_err() {
            assert_eq!(self.saga.state, before, "{event:?} was refused and changed something");
            return false;
        }
        self.log.push((event, self.saga.now_ms));
        self.check();
        true
    }

    fn check(&mut self) {
        let Saga { plan, state, now_ms } = &self.saga;
        let next = state.next(plan, *now_ms);
        let status = state.status(plan);
        let stuck = state.stuck(plan);
        if self.dice.one_in(8) {
            let read: State = serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap();
            assert_eq!((&read, &read.next(plan, *now_ms)), (state, &next));
        }
        if status.is_final() {
            assert_eq!((next, stuck), (Next::default(), None));
            self.ledger.end(plan, status);
            return;
        }
        let goes_on = !next.begin.is_empty() || !next.late.is_empty() || next.wake_ms.is_some();
        assert_ne!(goes_on, stuck.is_some(), "it must either go on or be stuck, and not both: {state:?}");
        assert_eq!(status == Status::Stuck, stuck.is_some());
        if let Some(stuck) = stuck {
            self.stuck.insert(stuck.why);
            self.check_remedy();
        }
    }

    /// What the remedies name is legal, and brings it on: each may leave but another reason.
    fn check_remedy(&self) {
        let Saga { plan, state, now_ms } = &self.saga;
        let mut saga = Saga { plan: plan.clone(), state: state.clone(), now_ms: *now_ms };
        for _ in 0..=plan.steps.len() {
            if saga.stuck().is_none() {
                return;
            }
            let verb = saga.remedy();
            saga.try_apply(&Event::Said(verb)).unwrap_or_else(|why| panic!("the remedy is refused: {why}; {state:?}"));
        }
        panic!("no remedy helps: {state:?}");
    }

    /// The same events again.
    pub fn check_replay(&self) {
        let mut state = State::new(&self.saga.plan);
        for (event, now_ms) in &self.log {
            state.apply(&self.saga.plan, event, *now_ms).unwrap();
        }
        assert_eq!(state, self.saga.state);
    }

    fn begin_one(&mut self) {
        let begin = self.saga.state.next(&self.saga.plan, self.saga.now_ms).begin;
        let Some((step, side)) = self.dice.pick(&begin) else { return };
        let attempt = self.saga.state.line(step, side).unwrap().attempt + 1;
        let of = (step, side, attempt);
        self.ledger.begin(&self.saga.plan, of);
        if self.saga.plan.host_act(step, side).is_some() {
            let line = self.saga.state.line(step, side).unwrap();
            let task = self.saga.plan.task(step, side).unwrap();
            assert_eq!(line.order(task, attempt), Some(order_hash(step, side, attempt).as_str()), "no order is signed for {of:?}");
            self.check_shown(of);
        }
        assert!(self.apply(Event::Begin { step, side }));
        self.orders.insert(of);
    }

    /// An order comes to its host, or what the hub does is done.
    fn deliver_one(&mut self, is_kind: bool) {
        let orders: Vec<Try> = self.orders.iter().copied().collect();
        let Some(of) = self.dice.pick(&orders) else { return };
        self.orders.remove(&of);
        let luck = if is_kind { 0 } else { self.dice.below(16) };
        if self.saga.plan.host_act(of.0, of.1).is_none() {
            let effect = luck % 2 == 1;
            let failed = End::Failed { fault: fault(Code::Internal), effect, signed: false, again: luck % 3 == 0 };
            self.answers.push((of, if luck < 10 { super::super::tests::done() } else { failed }));
            return;
        }
        let (outcome, code) = match self.judge(of) {
            Ok(Turn::Nothing) => (Outcome::Succeeded, None),
            Ok(Turn::Go { .. }) => match luck {
                0..=7 => (Outcome::Succeeded, None),
                8 | 9 => (Outcome::Failed, Some(Code::OpFailed)),
                10 => (Outcome::Failed, Some(Code::IncarnationChanged)),
                11 => (Outcome::Refused, Some(Code::PolicyDenied)),
                12 => (Outcome::Refused, Some(Code::PreconditionFailed)),
                13 => (Outcome::Refused, Some(Code::Busy)),
                14 => (Outcome::Expired, Some(Code::Expired)),
                _ => (Outcome::Indeterminate, Some(Code::Indeterminate)),
            },
            Err(refused) => (Outcome::Refused, Some(refused.code)),
        };
        self.host_says(of, outcome, code);
    }

    fn host_says(&mut self, of: Try, outcome: Outcome, code: Option<Code>) {
        let own = match outcome {
            Outcome::Succeeded => Some(Own::Succeeded { result: serde_json::Value::Null }),
            Outcome::Failed => Some(Own::Failed),
            Outcome::Indeterminate => Some(Own::Open),
            Outcome::Expired | Outcome::Cancelled | Outcome::Refused => None,
        };
        self.journal.extend(own.map(|own| (of, own)));
        let receipt = receipt(&self.saga.plan, of.0, of.1, of.2, outcome, code);
        self.answers.push((of, End::of_receipt(&receipt, of.1)));
        self.receipts.push(receipt);
    }

    /// An answer comes back. One that nobody waits for any more changes nothing.
    fn hear_one(&mut self) {
        let at = self.dice.below(self.answers.len());
        if self.answers.is_empty() {
            return;
        }
        let ((step, side, attempt), end) = self.answers.remove(at);
        let fate = match &end {
            End::Succeeded { .. } => Fate::Done,
            End::Failed { effect: true, .. } => Fate::Failed,
            End::Failed { effect: false, .. } => Fate::Nothing,
            End::Doubt { .. } => Fate::Open,
        };
        let is_open = |line: &Line| matches!(line.phase, Phase::Under | Phase::Silent | Phase::Doubt) && line.attempt == attempt;
        let is_waited_for = !self.saga.status().is_final() && self.saga.state.line(step, side).is_some_and(is_open);
        if is_waited_for {
            self.ledger.tries.insert((step, side, attempt), fate);
        }
        let is_doubt = matches!(end, End::Doubt { .. });
        assert_eq!(self.apply(Event::Ended { step, side, attempt, end }), is_waited_for);
        // Some operators find out.
        if is_doubt && self.dice.one_in(3) {
            let (outcome, code) = if self.dice.one_in(2) { (Outcome::Succeeded, None) } else { (Outcome::Failed, Some(Code::OpFailed)) };
            self.host_says((step, side, attempt), outcome, code);
        }
    }

    fn pass_time(&mut self) {
        self.saga.now_ms += [1, 9_999, 10_000, 60_000, 4_000_000][self.dice.below(5)];
        for (step, side) in self.saga.state.next(&self.saga.plan, self.saga.now_ms).late {
            // One that was late may have made another one's turn the last.
            self.apply(Event::Late { step, side });
        }
    }

    fn wait_one(&mut self) {
        let begin = self.saga.state.next(&self.saga.plan, self.saga.now_ms).begin;
        let Some((step, side)) = self.dice.pick(&begin) else { return };
        assert_eq!(self.apply(Event::Wait { step, fault: fault(Code::Waiting) }), side == Side::Do);
    }

    fn say_something(&mut self) {
        let step = self.dice.below(self.saga.plan.steps.len());
        let side = if self.dice.one_in(2) { Side::Do } else { Side::Undo };
        let verb = match self.dice.below(32) {
            0 => Verb::Abandon,
            1..=3 => self.saga.abort(),
            4 => Verb::Abort { begun: u32::try_from(self.dice.below(5)).unwrap() },
            5..=8 => Verb::Skip { step, side },
            9..=14 if self.saga.status() == Status::Stuck => self.saga.remedy(),
            _ => match self.saga.plan.task(step, side) {
                None => Verb::Retry { step, side, orders: Vec::new() },
                Some(task) if task.act.host().is_none() => Verb::Retry { step, side, orders: Vec::new() },
                Some(task) => {
                    let used = self.saga.state.line(step, side).unwrap().allowed(task);
                    let more = u32::try_from(1 + self.dice.below(2)).unwrap();
                    Verb::Retry { step, side, orders: (used + 1..=used + more).map(|attempt| order_hash(step, side, attempt)).collect() }
                }
            },
        };
        self.say(verb);
    }

    fn say(&mut self, verb: Verb) -> bool {
        // What a word allows counts from when it is taken, and so also for what is looked at at once.
        let skipped = self.ledger.skipped.clone();
        if let Verb::Skip { step, side } = &verb {
            self.ledger.skipped.insert((*step, *side));
        }
        if !self.apply(Event::Said(verb.clone())) {
            self.ledger.skipped = skipped;
            return false;
        }
        if let Verb::Retry { step, side, orders } = &verb {
            let task = self.saga.plan.task(*step, *side).unwrap();
            let more = if task.act.host().is_some() { u32::try_from(orders.len()).unwrap() } else { task.attempts };
            *self.ledger.more.entry((*step, *side)).or_default() += more;
        }
        self.words.push(word(&self.saga.plan, verb));
        true
    }

    /// Something that cannot be.
    fn attempt_nonsense(&mut self) {
        let step = self.dice.below(self.saga.plan.steps.len() + 1);
        let side = if self.dice.one_in(2) { Side::Do } else { Side::Undo };
        let next = self.saga.state.next(&self.saga.plan, self.saga.now_ms);
        let attempt = self.saga.state.line(step, side).map_or(0, |line| line.attempt);
        let is_turn = next.begin.contains(&(step, side));
        let is_under = self.saga.state.line(step, side).is_some_and(|line| line.phase == Phase::Under);
        let event = match self.dice.below(5) {
            0 if !is_turn => Event::Begin { step, side },
            1 if !is_turn && !is_under => Event::Late { step, side },
            2 if !next.begin.contains(&(step, Side::Do)) => Event::Wait { step, fault: fault(Code::Waiting) },
            3 if self.saga.plan.host_act(step, side).is_some() => Event::Said(Verb::Retry { step, side, orders: Vec::new() }),
            _ => Event::Ended { step, side, attempt: attempt + 1, end: super::super::tests::done() },
        };
        assert!(!self.apply(event.clone()), "{event:?} is nonsense");
    }
}
