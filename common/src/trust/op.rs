//! Who may order which operation.

use std::collections::BTreeSet;

use super::{ROOT_ROLE, Role, TrustRoot, check_host, threshold};
use crate::fault::{Code, Fault};
use crate::id::{HostName, KeyId};
use crate::op::{Class, OpStatement, Order};
use crate::sign::{PayloadType, Signed};
use crate::statement::HostBinding;

impl Role {
    fn reaches_op(&self, kind: &str, host: &HostName) -> bool {
        let is_named = self.kinds.iter().any(|k| k == PayloadType::Op.word() || k.strip_prefix("op.") == Some(kind));
        is_named && self.reaches_host(host)
    }

    fn signs_ops(&self, class: Class) -> bool {
        self.max_class >= class && self.kinds.iter().any(|k| k == PayloadType::Op.word() || k.starts_with("op."))
    }
}

impl TrustRoot {
    /// Verifies an order for the host of `binding`, up to who may sign what: signatures, cluster, host, epoch, root version,
    /// scope, class and its threshold. Time, nonce, key and local policy are the host's to judge.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_op(&self, signed: Signed<OpStatement>, binding: &HostBinding) -> Result<Order, Fault> {
        let signers = self.live_signers(signed.envelope())?;
        let op = signed.into_verified(signers)?;
        let statement = op.statement();
        self.check_cluster(&statement.cluster)?;
        check_host(&statement.host_id, &binding.host_id)?;
        if statement.host_epoch != binding.host_epoch {
            return Err(Fault::new(Code::WrongEpoch, "the order is for an earlier life of this host"));
        }
        if statement.root_version > self.version {
            return Err(Fault::new(
                Code::RootBehind,
                format!("the order was signed under root version {}, this host has {}", statement.root_version, self.version),
            ));
        }
        let act = statement.act()?;
        let class = act.class(&statement.resource);
        self.check_op_scope(op.signers(), act.kind(), class, &binding.name)?;
        Ok(Order { intent: statement.intent()?, statement: op.into_statement(), act, class })
    }

    /// Some role must reach the operation by its own threshold, and the signers of all such roles together must be as
    /// many as the class asks for.
    pub(super) fn check_op_scope(&self, signers: &BTreeSet<KeyId>, kind: &str, class: Class, host: &HostName) -> Result<(), Fault> {
        let mut refusal = None;
        let mut able: BTreeSet<&KeyId> = BTreeSet::new();
        let mut is_met = false;
        for (name, role) in self.roles.iter().filter(|(name, _)| *name != ROOT_ROLE) {
            if role.keys.is_disjoint(signers) || !role.reaches_op(kind, host) {
                continue;
            }
            if role.max_class < class {
                let most = role.max_class;
                refusal.get_or_insert_with(|| {
                    Fault::new(Code::ClassDenied, format!("role `{name}` signs operations up to {most}, this is {class}"))
                });
                continue;
            }
            able.extend(role.keys.intersection(signers));
            match threshold(role, signers, name) {
                Ok(()) => is_met = true,
                Err(fault) => refusal = Some(fault),
            }
        }
        if !is_met {
            let no_role = || Fault::new(Code::OutOfScope, format!("no role of the signers may sign `{kind}` for host {host}"));
            return Err(refusal.unwrap_or_else(no_role));
        }
        let needed = self.class_threshold(class);
        if able.len() < usize::try_from(needed).unwrap_or(usize::MAX) {
            return Err(Fault::new(
                Code::ThresholdNotMet,
                format!("an operation of class {class} needs {needed} keys, {} signed", able.len()),
            ));
        }
        Ok(())
    }

    /// Keys that count and may sign some operation of `class`.
    pub(super) fn op_keys(&self, class: Class) -> BTreeSet<&KeyId> {
        let roles = self.roles.iter().filter(|(name, role)| *name != ROOT_ROLE && role.signs_ops(class));
        roles.map(|(_, role)| role).flat_map(|role| &role.keys).filter(|key| !self.revoked.contains(*key)).collect()
    }

    /// How many distinct keys must sign an operation of `class`.
    #[must_use]
    pub fn class_threshold(&self, class: Class) -> u32 {
        self.class_thresholds.get(&class).copied().unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::RootKey;
    use super::*;
    use crate::canonical::to_canonical;
    use crate::id::{ClusterId, HostEpoch, HostId, IdempotencyKey, Nonce, OpId, ResourceId, UnixSeconds, sha256_hex};
    use crate::sign::PrivateKey;
    use crate::testing::{binding, key};

    fn role(keys: &[u8], threshold: u32, hosts: &str, kinds: &[&str], max_class: Class) -> Role {
        Role {
            keys: keys.iter().map(|&k| key(k).id()).collect(),
            threshold,
            hosts: vec![hosts.to_owned()],
            kinds: kinds.iter().map(|&k| k.to_owned()).collect(),
            max_class,
        }
    }

    /// Keys 2 and 3 order everything, 4 up to R2 on shops, 5 nothing but `stop`, 6 and 7 only together; R4 takes two.
    fn root() -> TrustRoot {
        let mut root = TrustRoot::first(ClusterId::parse("c").unwrap(), &[], &key(1).public(), UnixSeconds(1), UnixSeconds(1000));
        root.version = 4;
        root.keys.extend((2..=7).map(|k| (key(k).id(), RootKey { name: k.to_string(), public: key(k).public() })));
        root.roles.insert("operator".to_owned(), role(&[2, 3], 1, "*", &["op"], Class::P));
        root.roles.insert("shops".to_owned(), role(&[4], 1, "shop-*", &["op"], Class::R2));
        root.roles.insert("stoppers".to_owned(), role(&[5], 1, "*", &["op.stop"], Class::R3));
        root.roles.insert("pairs".to_owned(), role(&[6, 7], 2, "*", &["op"], Class::R4));
        root.class_thresholds = BTreeMap::from([(Class::R4, 2)]);
        root
    }

    fn statement(kind: &str, resource: &str) -> OpStatement {
        let host = binding("shop-1");
        OpStatement {
            cluster: host.cluster,
            op_id: OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap(),
            idempotency_key: IdempotencyKey::parse("k").unwrap(),
            host_id: host.host_id,
            host_epoch: host.host_epoch,
            resource: ResourceId::parse(resource).unwrap(),
            incarnation: None,
            kind: kind.to_owned(),
            params: json!({}),
            precondition: None,
            not_before: UnixSeconds(10),
            expires_at: UnixSeconds(910),
            nonce: Nonce::parse("0".repeat(32)).unwrap(),
            root_version: 4,
            reason: String::new(),
            saga: None,
        }
    }

    fn verify(statement: &OpStatement, signers: &[u8], host: &str) -> Result<Class, Code> {
        let keys: Vec<PrivateKey> = signers.iter().map(|&s| key(s)).collect();
        let signed = Signed::seal(statement, &keys.iter().collect::<Vec<_>>()).unwrap();
        root().verify_op(signed, &binding(host)).map(|order| order.class).map_err(|f| f.code)
    }

    #[test]
    fn who_may_order_what_is_decided_by_role_host_kind_and_class() {
        let (stop, destroy) = (statement("stop", "docker/container/c"), statement("destroy", "docker/container/c"));
        let volume = statement("destroy", "docker/volume/v");
        for (op, signers, host, expected) in [
            (&stop, &[2][..], "db-1", Ok(Class::R2)),
            (&stop, &[4], "shop-1", Ok(Class::R2)),
            (&stop, &[4], "db-1", Err(Code::OutOfScope)),
            (&destroy, &[4], "shop-1", Err(Code::ClassDenied)),
            (&destroy, &[2], "db-1", Ok(Class::R3)),
            (&stop, &[5], "db-1", Ok(Class::R2)),
            (&destroy, &[5], "db-1", Err(Code::OutOfScope)),
            (&stop, &[6], "db-1", Err(Code::ThresholdNotMet)),
            (&stop, &[6, 7], "db-1", Ok(Class::R2)),
            (&volume, &[2], "db-1", Err(Code::ThresholdNotMet)),
            (&volume, &[2, 2], "db-1", Err(Code::ThresholdNotMet)),
            (&volume, &[2, 3], "db-1", Ok(Class::R4)),
            (&volume, &[2, 4], "shop-1", Err(Code::ThresholdNotMet)),
            (&volume, &[6, 7], "db-1", Ok(Class::R4)),
            (&stop, &[1], "db-1", Err(Code::OutOfScope)),
            (&stop, &[8], "db-1", Err(Code::UnknownKey)),
        ] {
            assert_eq!(verify(op, signers, host), expected, "{} on {} by {signers:?} for {host}", op.kind, op.resource);
        }
    }

    #[test]
    fn an_order_for_anybody_else_is_refused_in_the_order_of_the_checks() {
        let good = statement("stop", "docker/container/c");
        let mut bad = OpStatement { kind: "explode".to_owned(), ..good.clone() };
        assert_eq!(verify(&bad, &[2], "shop-1"), Err(Code::UnknownKind));
        bad.root_version = 5;
        assert_eq!(verify(&bad, &[2], "shop-1"), Err(Code::RootBehind));
        bad.host_epoch = HostEpoch::parse("f".repeat(32)).unwrap();
        assert_eq!(verify(&bad, &[2], "shop-1"), Err(Code::WrongEpoch));
        bad.host_id = HostId::of_key(&[0; 32]);
        assert_eq!(verify(&bad, &[2], "shop-1"), Err(Code::WrongHost));
        bad.cluster = ClusterId::parse("d").unwrap();
        assert_eq!(verify(&bad, &[2], "shop-1"), Err(Code::WrongCluster));
        for window in [(10, 9), (10, 10 + crate::op::OP_WINDOW_MAX_S + 1)] {
            let op = OpStatement { not_before: UnixSeconds(window.0), expires_at: UnixSeconds(window.1), ..good.clone() };
            assert_eq!(verify(&op, &[2], "shop-1"), Err(Code::BadParams));
        }
    }

    #[test]
    fn a_class_that_more_keys_must_sign_than_there_are_makes_a_root_that_is_refused() {
        let mut root = root();
        assert_eq!(root.check(), Ok(()));
        root.class_thresholds.insert(Class::P, 3);
        assert_eq!(root.check().unwrap_err().code, Code::BadRoot);
        root.class_thresholds.insert(Class::P, 2);
        assert_eq!(root.check(), Ok(()));
        root.revoked.insert(key(2).id());
        assert_eq!(root.check().unwrap_err().code, Code::BadRoot);
    }

    #[test]
    fn the_intent_is_what_is_done_and_nothing_else() {
        let one = statement("stop", "docker/container/c");
        let mut other = OpStatement { reason: "again".to_owned(), nonce: Nonce::parse("1".repeat(32)).unwrap(), ..one.clone() };
        assert_eq!(one.intent(), other.intent());
        other.incarnation = Some("x".to_owned());
        assert_ne!(one.intent(), other.intent());
        other.params = serde_json::from_str(r#"{"b":{"z":1,"y":"\u0001/é"},"a":null}"#).unwrap();
        let canonical = to_canonical(&json!({
            "host_id": other.host_id, "resource": other.resource, "incarnation": "x",
            "kind": "stop", "params": other.params, "precondition": null,
        }));
        assert_eq!(other.intent().unwrap(), sha256_hex(&canonical.unwrap()));
    }
}
