//! Trust roots in a file: the whole chain, version 1 first, as one JSON list of envelopes.
//!
//! The last one may still lack signatures: so does a root travel from one key to the next.

use crate::canonical::from_strict_json;
use crate::fault::{Code, Fault};
use crate::sign::{Envelope, PayloadType, SIGNATURES_MAX};

/// The largest file with a chain of trust roots that is read, in bytes.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads a chain. Nothing in it is verified.
///
/// # Errors
/// [`Code::TooLarge`]; [`Code::BadEnvelope`] when it is not a list of envelopes, or empty; [`Code::WrongType`] when one
/// carries something else than a trust root.
pub fn read_chain(bytes: &[u8]) -> Result<Vec<Envelope>, Fault> {
    if bytes.len() > CHAIN_BYTES_MAX {
        return Err(Fault::new(Code::TooLarge, format!("a file of {} bytes; at most {CHAIN_BYTES_MAX} are read", bytes.len())));
    }
    let chain: Vec<Envelope> = from_strict_json(bytes)
        .map_err(|e| Fault::new(Code::BadEnvelope, format!("not a file of trust roots as `moorctl key export` writes it: {e}")))?;
    if chain.is_empty() {
        return Err(Fault::new(Code::BadEnvelope, "the file holds no trust root"));
    }
    for envelope in &chain {
        if envelope.payload_type != PayloadType::Root.as_str() {
            let got = crate::fault::cut(&envelope.payload_type);
            return Err(Fault::new(Code::WrongType, format!("the file holds `{got}`, which is no trust root")));
        }
        if envelope.signatures.len() > SIGNATURES_MAX {
            return Err(Fault::new(Code::BadEnvelope, format!("a trust root with more than {SIGNATURES_MAX} signatures")));
        }
    }
    Ok(chain)
}

/// Writes a chain as [`read_chain`] reads it.
#[must_use]
pub fn write_chain(chain: &[Envelope]) -> Vec<u8> {
    // A list of structs of strings always serialises.
    let mut bytes = serde_json::to_vec_pretty(chain).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_read_back_and_what_is_none_is_refused() {
        let envelope = Envelope { payload_type: PayloadType::Root.as_str().into(), payload: b"{}".to_vec(), signatures: Vec::new() };
        let chain = [envelope.clone(), envelope.clone()];
        assert_eq!(read_chain(&write_chain(&chain)).unwrap(), chain);
        let code = |bytes: &[u8]| read_chain(bytes).unwrap_err().code;
        assert_eq!(code(b"[]"), Code::BadEnvelope);
        assert_eq!(code(&envelope.to_json()), Code::BadEnvelope);
        let doubled = br#"[{"payloadType":"a","payloadType":"a","payload":"","signatures":[]}]"#;
        assert_eq!(code(doubled), Code::BadEnvelope);
        let slice = Envelope { payload_type: PayloadType::Slice.as_str().into(), ..envelope };
        assert_eq!(code(&write_chain(&[slice])), Code::WrongType);
    }
}
