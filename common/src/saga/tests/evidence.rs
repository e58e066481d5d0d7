//! What hosts are shown is verified.
