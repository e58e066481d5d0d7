//! Sagas: work of several steps that ends, is undone, or stands still where everybody sees it.
//!
//! An operator signs the whole [`Plan`]: its steps, what undoes each, and every order to a host that they may take. The hub
//! only says when a step's turn has come, by [`State::next`]; a host believes no word of that and is shown it, see [`Shown`].
//!
//! ```text
//! pending ──► running ──► completed
//!    │           │  └───► compensating ──► rolled_back
//!    ▼           ▼              │
//! cancelled    stuck ◄──────────┘        stuck ──► abandoned, or on again
//! ```
//!
//! | module | what it decides |
//! |---|---|
//! | `plan` | what a well-formed plan is |
//! | `check` | what must hold in it |
//! | `cloud` | what is done in clouds |
//! | `word` | what an operator may say of a saga that is under way |
//! | `state` | what has happened, what is next, and why nothing is |
//! | `answer` | what a host's receipt says of a try |
//! | `proof` | what a host must be shown before it takes an order of a saga |
//! | `words` | what people are told |

mod answer;
mod check;
mod cloud;
mod plan;
mod proof;
mod state;
mod word;
mod words;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use cloud::{CloudAct, CloudDroplet, CloudWork, DropletRef};
pub use plan::{
    ATTEMPTS_MAX, Act, Condition, HostAct, HubAct, Kind, NewHost, OfSaga, PLAN_MAX, Plan, PublicKey, STEPS_MAX, Side, Step, StepNumber,
    TRIES_MAX, Task, WINDOW_MAX_S,
};
pub use proof::{Own, Shown, Turn};
pub use state::{Cause, End, Event, Final, Illegal, Line, Next, Phase, State, Status, StepState, StepStatus, Stuck, StuckWhy};
pub use word::{Verb, Word};
pub use words::step_by_words;
