//! What is fuzzed: every parser of outside bytes, with what must hold of whatever it accepts. The suite replays the corpus
//! through the same functions.

use moorline_common::enrol::JoinToken;
use moorline_common::id::{
    ClusterId, HostEpoch, HostId, HostName, IdempotencyKey, KeyId, Nonce, OpId, ResourceId, TopologyId, VersionHash,
};
use moorline_common::journal;
use moorline_common::op::{OpStatement, Receipt};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::{HostBinding, ObservedReport, SliceStatement, TopologyStatement};
use moorline_common::topology::dotenv;
use moorline_common::topology::parse::load_bytes;
use moorline_common::trust::TrustRoot;

/// A target's name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] =
    [("variables", variables), ("envelope", envelope), ("journal", segment), ("topology", topology), ("token", token), ("names", names)];

/// An envelope that is read is written back as it was meant; any statement inside is read or refused.
pub fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::from_json(bytes) else { return };
    let again = Envelope::from_json(&envelope.to_json());
    assert_eq!(again.as_ref(), Ok(&envelope), "what is written is read back");
    let _ = Signed::<SliceStatement>::new(envelope.clone()).and_then(|s| s.peek()).and_then(|s| s.spec());
    let _ = Signed::<OpStatement>::new(envelope.clone()).and_then(|s| s.peek()).and_then(|s| s.act().and(s.intent()));
    let _ = Signed::<TopologyStatement>::new(envelope.clone()).and_then(|s| s.peek());
    let _ = Signed::<HostBinding>::new(envelope.clone()).and_then(|s| s.peek());
    let _ = Signed::<ObservedReport>::new(envelope.clone()).and_then(|s| s.peek());
    let _ = Signed::<Receipt>::new(envelope.clone()).and_then(|s| s.peek());
    let pin = TrustRoot::pin(&envelope);
    if let Ok(root) = TrustRoot::verify_first(envelope.clone(), &pin) {
        // A root that vouches for itself must not be its own successor.
        assert!(root.statement().verify_next(envelope).is_err());
    }
}

/// What is good of a segment is good by itself, and says the same.
pub fn segment(bytes: &[u8]) {
    let mut seen = 0_u64;
    let scan = journal::scan(bytes, |_, _| seen += 1);
    let good = bytes.get(..scan.good_bytes).unwrap_or_default();
    let mut again = 0_u64;
    let prefix = journal::scan(good, |_, _| again += 1);
    assert_eq!((prefix.good_bytes, prefix.head, again), (scan.good_bytes, scan.head, seen));
}

/// A topology that is read is read the same again.
pub fn topology(bytes: &[u8]) {
    match load_bytes(bytes) {
        Ok(file) => assert_eq!(Ok(file), load_bytes(bytes)),
        Err(problems) => assert!(!problems.is_empty(), "a refusal says why"),
    }
}

/// A file of variables that is read once is read the same again, whatever is set outside of it.
pub fn variables(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for format in [dotenv::Format::Compose, dotenv::Format::Raw] {
        let read = || dotenv::variables(text, format, &mut |name| (name.len() % 2 == 0).then(|| name.to_owned()));
        match read() {
            Ok(found) => {
                assert!(found.iter().all(|v| !v.name.is_empty() && v.at.line > 0));
                assert_eq!(Ok(found), read());
            }
            Err(problems) => assert!(!problems.is_empty(), "a refusal says why"),
        }
    }
}

/// A token that is read is written back as it was.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = JoinToken::decode(text) {
        let line = token.encode();
        assert_eq!(JoinToken::decode(&line).map(|t| t.encode()).ok(), Some(line));
    }
}

/// A name that is taken is safe to show and to put into a path or label.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut shown = Vec::new();
    shown.extend(HostId::parse(text).map(|n| n.to_string()));
    shown.extend(KeyId::parse(text).map(|n| n.to_string()));
    shown.extend(HostEpoch::parse(text).map(|n| n.to_string()));
    shown.extend(VersionHash::parse(text).map(|n| n.to_string()));
    shown.extend(ClusterId::parse(text).map(|n| n.to_string()));
    shown.extend(TopologyId::parse(text).map(|n| n.to_string()));
    shown.extend(HostName::parse(text).map(|n| n.to_string()));
    shown.extend(OpId::parse(text).map(|n| n.to_string()));
    shown.extend(Nonce::parse(text).map(|n| n.to_string()));
    shown.extend(IdempotencyKey::parse(text).map(|n| n.to_string()));
    if let Ok(resource) = ResourceId::parse(text) {
        assert!(resource.is_host() || format!("{}/{}", resource.kind(), resource.name()) == text);
        shown.push(resource.to_string());
    }
    for name in shown {
        assert_eq!(name, text);
        assert!(
            name.bytes().all(|b| b.is_ascii_graphic()) && !name.contains(['\\', '"']) && name.len() <= 300 || text.starts_with("docker/")
        );
    }
}
