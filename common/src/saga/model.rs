//! Anything may happen.
