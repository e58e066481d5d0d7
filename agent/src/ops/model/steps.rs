//! What may happen.

use proptest::prelude::*;

/// What an operator signs.
#[derive(Debug, Clone)]
pub struct Draft {
    pub kind: u8,
    pub resource: u8,
    /// One of a few keys; `None`: one of its own.
    pub key: Option<u8>,
    /// The nonce of an earlier order.
    pub nonce_of: Option<u8>,
    pub window: u8,
    pub signers: u8,
    pub wrong_epoch: bool,
    pub generation: u8,
    /// Handed in at once.
    pub now: bool,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Step {
    Sign(Draft),
    /// Any order that was signed, again or for the first time.
    Deliver(u8),
    /// Signs and hands in an order about an earlier one.
    Cancel(u8),
    Resolve(u8, bool),
    /// The hub acknowledges a receipt, or something else than it.
    Heard(u8, bool),
    /// The next generation, of other content or signed anew.
    Slice(bool),
    /// `kill -9`; of the records that wait for the disk so many get there.
    Crash(u8),
    /// A stop as asked for, and a start.
    Restart,
    Pass(u32),
    /// The wall clock is set so many seconds from the right time.
    SetClock(i64),
    Reboot,
    Unreachable(bool),
    Deafen,
    Late,
    Slow(u8),
    SlowDisk(u8),
    FullDisk(bool),
    Forget,
    Revoke,
    /// The host's policy after its next start.
    Deny(bool),
    Turns(u8),
}

fn any_draft() -> impl Strategy<Value = Draft> {
    let rare = |some: BoxedStrategy<u8>| prop_oneof![4 => Just(None), 1 => some.prop_map(Some)];
    let odd = prop_oneof![12 => Just(false), 1 => Just(true)];
    (
        0..16u8,
        0..3u8,
        prop_oneof![2 => Just(None), 1 => (0..3u8).prop_map(Some)],
        rare((0..8u8).boxed()),
        prop_oneof![8 => Just(0u8), 4 => 1..8u8],
        prop_oneof![6 => Just(0u8), 4 => Just(1), 3 => 2..6u8],
        odd,
        prop_oneof![6 => Just(0u8), 1 => Just(1), 1 => Just(2)],
        prop_oneof![5 => Just(true), 1 => Just(false)],
    )
        .prop_map(|(kind, resource, key, nonce_of, window, signers, wrong_epoch, generation, now)| Draft {
            kind,
            resource,
            key,
            nonce_of,
            window,
            signers,
            wrong_epoch,
            generation,
            now,
        })
}

pub fn any_step() -> impl Strategy<Value = Step> {
    let n = || 0..12u8;
    let offset = prop_oneof![
        2 => Just(0i64),
        1 => -100i64..100,
        1 => -7200i64..7200,
        1 => -40 * 86400i64..40 * 86400,
        1 => Just(73 * 365 * 86400i64),
    ];
    prop_oneof![
        14 => any_draft().prop_map(Step::Sign),
        5 => n().prop_map(Step::Deliver),
        2 => n().prop_map(Step::Cancel),
        2 => (n(), any::<bool>()).prop_map(|(n, done)| Step::Resolve(n, done)),
        3 => (n(), prop_oneof![3 => Just(true), 1 => Just(false)]).prop_map(|(n, right)| Step::Heard(n, right)),
        2 => any::<bool>().prop_map(Step::Slice),
        4 => (0..6u8).prop_map(Step::Crash),
        1 => Just(Step::Restart),
        4 => prop_oneof![3 => 0..5u32, 3 => 5..50u32, 1 => 50..2000u32].prop_map(Step::Pass),
        3 => offset.prop_map(Step::SetClock),
        1 => Just(Step::Reboot),
        1 => any::<bool>().prop_map(Step::Unreachable),
        1 => Just(Step::Deafen),
        2 => Just(Step::Late),
        2 => (0..20u8).prop_map(Step::Slow),
        2 => (0..20u8).prop_map(Step::SlowDisk),
        1 => any::<bool>().prop_map(Step::FullDisk),
        1 => Just(Step::Forget),
        1 => Just(Step::Revoke),
        1 => any::<bool>().prop_map(Step::Deny),
        8 => prop_oneof![3 => 0..12u8, 1 => 12..120u8].prop_map(Step::Turns),
    ]
}
