//! Moorline's agent: makes one host match its operator-signed slice.

pub mod driver;
