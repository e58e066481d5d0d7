//! An answer about what is on the host: only the one who asked can read it.

use base64::Engine as _;
use moorline_common::fault::{Code, cut};
use moorline_common::op::Survey as Asked;
use moorline_common::survey::Survey;
use serde_json::json;

use super::{DriverError, DriverErrorKind, OpResult};

/// `survey`, sealed to the key that was named. The journal and the hub keep it as it is.
pub(super) fn sealed(survey: &Survey, asked: &Asked) -> Result<OpResult, DriverError> {
    let failed = |code, why: String| DriverError { kind: DriverErrorKind::Permanent, code, message: cut(&why) };
    let recipient: age::x25519::Recipient =
        asked.recipient.parse().map_err(|e: &str| failed(Code::BadParams, format!("the key that the answer is sealed to: {e}")))?;
    let text = serde_json::to_vec(survey).map_err(|e| failed(Code::Internal, format!("the answer cannot be written: {e}")))?;
    let sealed = age::encrypt(&recipient, &text).map_err(|e| failed(Code::Internal, format!("the answer cannot be sealed: {e}")))?;
    let sealed = base64::engine::general_purpose::STANDARD.encode(sealed);
    Ok(OpResult { result: json!({ "sealed": sealed }), fault: None })
}
