//! `moorctl schema`: the JSON Schema of the topology file.

use crate::error::Failure;
use crate::render::Ui;

/// Prints it, always as JSON: that is what editors read.
///
/// # Errors
/// When standard output is closed.
pub fn run(ui: &mut Ui) -> Result<u8, Failure> {
    let schema = moorline_common::topology::json_schema();
    let text = serde_json::to_string_pretty(&schema).map_err(|e| Failure::local(format!("cannot write JSON: {e}")))?;
    ui.text(&format!("{text}\n"))?;
    Ok(0)
}
