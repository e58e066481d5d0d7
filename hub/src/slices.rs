//! What the hub needs to know about a slice. Pure.

use moorline_common::fault::Fault;
use moorline_common::plan::desired_resources;
use moorline_common::sign::Verified;
use moorline_common::statement::SliceStatement;

use crate::store::NewSlice;

/// A verified slice as the store wants it, with the resources that must be there once it is applied.
///
/// # Errors
/// As [`SliceStatement::spec`].
pub fn from_verified(slice: &Verified<SliceStatement>) -> Result<NewSlice, Fault> {
    let statement = slice.statement();
    let spec = statement.spec()?;
    Ok(NewSlice {
        host_id: statement.host_id.clone(),
        version_hash: statement.version_hash.clone(),
        payload_sha256: slice.envelope().payload_sha256(),
        empty: spec.is_empty(),
        resources: desired_resources(&statement.topology, &spec),
        envelope: slice.envelope().to_json(),
    })
}
