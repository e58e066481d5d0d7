//! An agent is killed everywhere, and what it did is checked against what the engine saw.

#[cfg(test)]
mod burst;
#[cfg(test)]
mod points;
#[cfg(test)]
mod rounds;
