//! Our code arrives at the published vectors, which `vectors/check.py` computes without it.
#![allow(clippy::unwrap_used)] // A panic here is a failed test.

use std::path::PathBuf;

use moorline_common::canonical::{from_strict_json, to_canonical, version_hash};
use moorline_common::enrol::{HostClaim, JoinToken};
use moorline_common::sign::{Envelope, PrivateKey, Signature, pae};
use serde_json::Value;

fn vectors(name: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    let vectors: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!vectors.is_empty());
    vectors
}

fn text<'v>(vector: &'v Value, key: &str) -> &'v str {
    vector[key].as_str().unwrap_or_else(|| panic!("{}: no {key}", vector["name"]))
}

fn key(value: &Value) -> [u8; 32] {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

#[test]
fn version_hashes_are_the_published_ones() {
    for vector in vectors("version-hash.json") {
        let canonical = String::from_utf8(to_canonical(&vector["content"]).unwrap()).unwrap();
        assert_eq!(canonical, text(&vector, "canonical"), "{}", vector["name"]);
        assert_eq!(version_hash(&vector["content"]).unwrap().as_str(), text(&vector, "hash"), "{}", vector["name"]);
        // The canonical text says the same again.
        assert_eq!(from_strict_json::<Value>(canonical.as_bytes()).unwrap(), vector["content"]);
    }
}

#[test]
fn signatures_are_the_published_ones() {
    for vector in vectors("dsse.json") {
        let name = &vector["name"];
        let signer = PrivateKey::from_seed(&key(&vector["seed"]));
        assert_eq!(hex::encode(signer.public()), text(&vector, "public"), "{name}");
        assert_eq!(signer.id().as_str(), text(&vector, "keyid"), "{name}");
        let message = pae(text(&vector, "payload_type"), text(&vector, "payload").as_bytes());
        assert_eq!(hex::encode(&message), text(&vector, "pae"), "{name}");
        let signature = signer.sign_raw(&message);
        assert_eq!(hex::encode(&signature), text(&vector, "signature"), "{name}");
        let envelope = Envelope {
            payload_type: text(&vector, "payload_type").to_owned(),
            payload: text(&vector, "payload").as_bytes().to_vec(),
            signatures: vec![Signature { keyid: signer.id(), sig: signature }],
        };
        assert_eq!(envelope.payload_sha256(), text(&vector, "payload_sha256"), "{name}");
        assert_eq!(Envelope::from_json(text(&vector, "envelope").as_bytes()).unwrap(), envelope, "{name}");
        let public = signer.public();
        assert!(envelope.verified_signers(|_| Some(&public)).unwrap().contains(&signer.id()), "{name}");
    }
}

#[test]
fn a_signature_counts_only_for_its_own_payload_and_type() {
    let vectors = vectors("dsse.json");
    for one in &vectors {
        for other in &vectors {
            let public = key(&other["public"]);
            let mut envelope = Envelope::from_json(text(one, "envelope").as_bytes()).unwrap();
            envelope.signatures[0].sig = hex::decode(text(other, "signature")).unwrap();
            assert_eq!(
                envelope.verified_signers(|_| Some(&public)).is_ok(),
                one["pae"] == other["pae"],
                "{} with {}",
                one["name"],
                other["name"]
            );
        }
    }
}

#[test]
fn join_tokens_derive_the_published_keys() {
    for vector in vectors("join-token.json") {
        let token = JoinToken::decode(text(&vector, "line")).unwrap();
        assert_eq!(token.encode().as_str(), text(&vector, "line"));
        assert_eq!((token.id.as_str(), token.expires.0), (text(&vector["token"], "id"), vector["token"]["expires"].as_u64().unwrap()));
        assert_eq!(hex::encode(*token.join_key()), text(&vector, "join_key"));
        assert_eq!(token.join_key_hash(), text(&vector, "join_key_hash"));
        assert_eq!(hex::encode(*token.mac_key()), text(&vector, "mac_key"));
        let claim = HostClaim {
            host_key: key(&vector["claim"]["host_key"]),
            sealing_key: key(&vector["claim"]["sealing_key"]),
            host_epoch: text(&vector["claim"], "host_epoch").parse().unwrap(),
            name: text(&vector["claim"], "name").parse().unwrap(),
        };
        assert_eq!(hex::encode(claim.mac(&token.mac_key())), text(&vector, "mac"));
        assert_eq!(claim.fingerprint(), text(&vector, "fingerprint"));
    }
}

#[test]
fn a_second_implementation_arrives_at_the_same_vectors() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/check.py");
    // Where there is no Python, the files were still checked by our own code above.
    let Ok(output) = std::process::Command::new("python3").arg(script).output() else { return };
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
