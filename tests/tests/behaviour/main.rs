//! What Moorline promises, tried on real processes with real TLS, and on the real engine where the
//! promise is about it. One file per promise.

#[cfg(test)]
mod adopted;
mod bad_input;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod cordon;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod engine_restart;
#[cfg(test)]
mod evil_orders;
#[cfg(test)]
mod evil_sagas;
#[cfg(test)]
mod foreign_client;
#[cfg(test)]
mod guests;
#[cfg(test)]
mod heal;
#[cfg(test)]
mod inbox;
mod inputs;
#[cfg(test)]
mod join;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod maintenance;
#[cfg(test)]
mod noop;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod options;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod pulls;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod replaced;
mod repush;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod sagas;
mod scope;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod shown;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod trial;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod two_hubs;
#[cfg(test)]
mod two_keys;
#[cfg(test)]
mod units;
