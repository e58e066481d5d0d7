//! A simulated Proxmox VE, as strict as the real one.

pub mod schema;
