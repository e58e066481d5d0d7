//! Sagas, from what an operator asks for to what is signed: a definition makes a [`Draft`], [`seal`] makes a plan of it and the orders
//! that the plan names.
//!
//! | module | what it owns |
//! |---|---|
//! | [`draft`] | what is to be done and what undoes it, before it is signed |
//! | [`given`] | what a definition is given: guests as their hosts report them, inputs |
//! | [`joining`] | how a droplet becomes a host |
//! | [`library`] | the definitions, one a file |
//! | [`own`] | the operator's own definitions, in YAML |
//! | [`push`] | the revisions that a saga pushes |
//! | [`rehearsal`] | a saga that fails on purpose |
//! | [`seal`] | the plan, its orders, and an operator's word |
//! | [`words`] | what people are shown before anything is signed |

pub mod draft;
pub mod given;
pub mod joining;
pub mod library;
pub mod own;
pub mod push;
pub mod rehearsal;
pub mod seal;
#[cfg(test)]
pub(crate) mod testing;
pub mod words;

pub use draft::{Builder, Draft, OnHost, Patience, Step, Task, What};
pub use given::Given;
