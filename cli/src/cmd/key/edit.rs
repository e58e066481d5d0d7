//! Changes of a trust root. Pure: each gives the next version's content, or says why not.

use std::collections::BTreeSet;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::KeyId;
use moorline_common::op::{Act, Class};
use moorline_common::sign::PayloadType;
use moorline_common::trust::{OPERATOR_ROLE, ROOT_ROLE, Role, RootKey, TrustRoot};

use crate::error::Failure;

/// The fewest digits that name a key by the beginning of its id.
const ID_DIGITS_MIN: usize = 8;

/// What [`set_role`] changes; `None` and empty leave what is there.
#[derive(Debug, Clone, Default)]
pub(super) struct RoleChange {
    pub keys: Vec<KeyName>,
    pub threshold: Option<u32>,
    pub hosts: Vec<String>,
    pub kinds: Vec<String>,
    pub max_class: Option<Class>,
}

/// A key as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyName {
    /// One that the root knows: its name, its id, or at least the first eight digits of it.
    Known(String),
    /// A new one, with its name.
    New(String, [u8; 32]),
}

/// The key that `wanted` names. A name that several bear must be told apart by the id.
pub(super) fn find(root: &TrustRoot, wanted: &str) -> Result<KeyId, Failure> {
    let by_id = |id: &KeyId| id.as_str() == wanted || (wanted.len() >= ID_DIGITS_MIN && id.as_str().starts_with(wanted));
    let live = root.keys.iter().filter(|(id, key)| key.name == wanted && !root.revoked.contains(*id)).map(|(id, _)| id);
    let any = root.keys.iter().filter(|(_, key)| key.name == wanted).map(|(id, _)| id);
    let ways: [Vec<&KeyId>; 3] = [
        root.keys.keys().chain(&root.revoked).filter(|id| by_id(id)).collect::<BTreeSet<_>>().into_iter().collect(),
        live.collect(),
        any.collect(),
    ];
    let found = ways.into_iter().find(|ids| !ids.is_empty()).unwrap_or_default();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Failure::from(Fault::new(Code::NotFound, format!("the trust root version {} has no key `{wanted}`", root.version)))
            .with_remedy("list its keys with `moorctl key ls`")),
        several => {
            let ids: Vec<&str> = several.iter().map(|id| id.as_str()).collect();
            Err(Failure::usage(format!("several keys are called `{wanted}`: {}", ids.join(", ")), "name the one that is meant by its id"))
        }
    }
}

/// Puts a key into a role of the trust root.
pub(super) fn add(root: &mut TrustRoot, name: String, public: [u8; 32], role: &str) -> Result<(), Failure> {
    if !root.roles.contains_key(role) {
        return Err(no_role(role));
    }
    let id = know(root, name, public)?;
    root.roles.entry(role.to_owned()).and_modify(|r| {
        r.keys.insert(id);
    });
    Ok(())
}

/// Lists a key that the root does not know yet, by a name that no key bears which counts.
fn know(root: &mut TrustRoot, name: String, public: [u8; 32]) -> Result<KeyId, Failure> {
    let id = KeyId::of_key(&public);
    if root.revoked.contains(&id) {
        return Err(Fault::new(Code::RevokedKey, format!("the key of `{name}` was revoked before")).into());
    }
    if let Some(held) = root.keys.get(&id) {
        let message = format!("this key is in the trust root already, as `{}`; nothing was signed", held.name);
        return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("check that the key is the one that was meant"));
    }
    let bearer = root.keys.iter().find(|(held, key)| key.name == name && !root.revoked.contains(*held));
    if let Some((held, _)) = bearer {
        let message = format!("another key of the trust root is called `{name}` ({held}); nothing was signed");
        return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy(
            "choose another name, so that everybody knows whose signature counts; `moorctl key rotate` replaces one's own key",
        ));
    }
    root.keys.insert(id.clone(), RootKey { name, public });
    Ok(id)
}

/// Puts a new key in the place of `old` in every role. `old` is revoked and not only taken out: hosts then say
/// `revoked_key` of what it signed, nobody can add it again by mistake, and whoever finds its file has nothing.
pub(super) fn replace(root: &mut TrustRoot, old: &KeyId, public: [u8; 32]) -> Result<(), Failure> {
    let held = root.roles.values().any(|role| role.keys.contains(old));
    if !held || root.revoked.contains(old) {
        let message = format!("the key {} holds no role in trust root version {}", root.name_of(old), root.version.saturating_sub(1));
        return Err(Failure::from(Fault::new(Code::RevokedKey, message))
            .with_remedy("make a new key with `moorctl key new`, and let another operator add it with `moorctl key add`"));
    }
    let name = root.name_of(old);
    root.revoked.insert(old.clone());
    let new = know(root, name, public)?;
    for role in root.roles.values_mut() {
        if role.keys.remove(old) {
            role.keys.insert(new.clone());
        }
    }
    Ok(())
}

/// Revokes a key and takes it out of every role.
pub(super) fn revoke(root: &mut TrustRoot, id: &KeyId) -> Result<(), Failure> {
    let name = root.name_of(id);
    for (role_name, role) in &mut root.roles {
        if !role.keys.remove(id) {
            continue;
        }
        let left = u32::try_from(role.keys.len()).unwrap_or(u32::MAX);
        if left < role.threshold {
            let message =
                format!("role `{role_name}` needs {} keys, and without `{name}` it has {left}; nothing was signed", role.threshold);
            let remedy = match (role_name.as_str(), left) {
                (OPERATOR_ROLE, 0) => "replace the only operator's key with `moorctl key rotate`, or add another operator first".to_owned(),
                (ROOT_ROLE, 0) => "add another recovery key first: `moorctl key add NAME=PUBKEYHEX --role root`".to_owned(),
                _ => format!(
                    "add a key first, lower it with `moorctl key threshold {role_name} {left}`, or `moorctl key role rm {role_name}`"
                ),
            };
            return Err(Failure::from(Fault::new(Code::ThresholdNotMet, message)).with_remedy(remedy));
        }
    }
    root.revoked.insert(id.clone());
    Ok(())
}

/// Makes a role, or changes what is named of it.
pub(super) fn set_role(root: &mut TrustRoot, name: &str, change: RoleChange) -> Result<(), Failure> {
    for kind in &change.kinds {
        check_kind(name, kind)?;
    }
    let mut keys = BTreeSet::new();
    for key in change.keys {
        let id = match key {
            KeyName::Known(wanted) => find(root, &wanted)?,
            KeyName::New(name, public) => know(root, name, public)?,
        };
        if root.revoked.contains(&id) {
            return Err(Fault::new(Code::RevokedKey, format!("the key `{}` was revoked", root.name_of(&id))).into());
        }
        keys.insert(id);
    }
    let known = root.roles.get(name).cloned();
    if known.is_none() && (keys.is_empty() || change.hosts.is_empty() || change.kinds.is_empty()) {
        return Err(Failure::usage(
            format!("a new role needs keys, hosts and kinds; `{name}` does not exist yet"),
            "for example: moorctl key role set shops --keys bob --hosts 'shop-*' --kinds slice,topology,op --max-class R2",
        ));
    }
    let mut role = known.unwrap_or_else(|| Role {
        keys: BTreeSet::new(),
        threshold: 1,
        hosts: Vec::new(),
        kinds: BTreeSet::new(),
        max_class: Class::R4,
    });
    if !keys.is_empty() {
        role.keys = keys;
    }
    if !change.hosts.is_empty() {
        role.hosts = change.hosts;
    }
    if !change.kinds.is_empty() {
        role.kinds = change.kinds.into_iter().collect();
    }
    role.threshold = change.threshold.unwrap_or(role.threshold);
    role.max_class = change.max_class.unwrap_or(role.max_class);
    root.roles.insert(name.to_owned(), role);
    Ok(())
}

/// A role signs the kinds of statement that operators make, or single kinds of operation.
fn check_kind(role: &str, kind: &str) -> Result<(), Failure> {
    let daily = [PayloadType::Slice, PayloadType::Topology, PayloadType::HostBinding, PayloadType::Op].map(PayloadType::word);
    let is_op = kind.strip_prefix("op.").is_some_and(|op| Act::KINDS.contains(&op));
    if role == ROOT_ROLE {
        return Err(Failure::usage("the role `root` signs trust roots and nothing else", "leave --kinds out"));
    }
    if daily.contains(&kind) || is_op {
        return Ok(());
    }
    let message = format!("`{kind}` is nothing that a role can sign");
    Err(Failure::usage(message, format!("choose from {}, or op.KIND with one of {}", daily.join(", "), Act::KINDS.join(", "))))
}

/// Takes a role away; its keys keep their other roles.
pub(super) fn rm_role(root: &mut TrustRoot, name: &str) -> Result<(), Failure> {
    if matches!(name, ROOT_ROLE | OPERATOR_ROLE) {
        return Err(Failure::usage(format!("the role `{name}` cannot be taken away"), "change it with `moorctl key role set`"));
    }
    root.roles.remove(name).map(|_| ()).ok_or_else(|| no_role(name))
}

/// Sets how many keys of a role must sign.
pub(super) fn set_threshold(root: &mut TrustRoot, role: &str, threshold: u32) -> Result<(), Failure> {
    root.roles.get_mut(role).map(|role| role.threshold = threshold).ok_or_else(|| no_role(role))
}

/// Sets how many keys any operation of a class needs; 1 is what is not listed.
pub(super) fn set_class_threshold(root: &mut TrustRoot, class: Class, threshold: u32) {
    if threshold == 1 {
        root.class_thresholds.remove(&class);
    } else {
        root.class_thresholds.insert(class, threshold);
    }
}

fn no_role(name: &str) -> Failure {
    Failure::from(Fault::new(Code::NotFound, format!("the trust root has no role `{name}`")))
        .with_remedy("list its roles with `moorctl key ls`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::{keys, trust};
    use moorline_common::sign::PrivateKey;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&[seed; 32])
    }

    fn with_bob() -> TrustRoot {
        let mut root = trust();
        add(&mut root, "bob".into(), key(9).public(), OPERATOR_ROLE).unwrap();
        root
    }

    #[test]
    fn a_key_is_added_once_and_never_renamed() {
        let mut root = with_bob();
        assert!(root.roles[OPERATOR_ROLE].keys.contains(&key(9).id()));
        for again in [key(9), keys().0] {
            let before = root.clone();
            assert_eq!(add(&mut root, "eve".into(), again.public(), OPERATOR_ROLE).unwrap_err().code, "already_exists");
            assert_eq!(root, before);
        }
        let twice = add(&mut root, "bob".into(), key(8).public(), OPERATOR_ROLE).unwrap_err();
        assert!(twice.code == "already_exists" && twice.message.contains("`bob`"), "{twice:?}");
        assert_eq!(add(&mut root, "eve".into(), key(8).public(), "nobody").unwrap_err().code, "not_found");
        let eve = RoleChange { keys: vec![KeyName::New("bob".into(), key(8).public())], ..RoleChange::default() };
        assert_eq!(set_role(&mut root, OPERATOR_ROLE, eve).unwrap_err().code, "already_exists");
        revoke(&mut root, &key(9).id()).unwrap();
        add(&mut root, "bob".into(), key(8).public(), OPERATOR_ROLE).unwrap();
    }

    #[test]
    fn a_key_is_found_by_name_or_id_and_never_by_guess() {
        let mut root = with_bob();
        let bob = key(9).id();
        assert_eq!(find(&root, "bob").unwrap(), bob);
        assert_eq!(find(&root, bob.as_str()).unwrap(), bob);
        assert_eq!(find(&root, bob.as_str().get(..8).unwrap()).unwrap(), bob);
        assert_eq!(find(&root, bob.as_str().get(..7).unwrap()).unwrap_err().code, "not_found");
        // A root that was made before names were told apart.
        root.keys.insert(key(8).id(), RootKey { name: "bob".into(), public: key(8).public() });
        assert_eq!(find(&root, "bob").unwrap_err().code, "usage");
        revoke(&mut root, &bob).unwrap();
        assert_eq!(find(&root, "bob").unwrap(), key(8).id(), "the one that still counts");
        assert_eq!(find(&root, bob.as_str()).unwrap(), bob);
    }

    #[test]
    fn a_replaced_key_is_revoked_and_its_successor_has_its_roles_and_name() {
        let mut root = with_bob();
        root.roles.insert("shops".into(), Role { hosts: vec!["shop-*".into()], ..root.roles[OPERATOR_ROLE].clone() });
        replace(&mut root, &key(9).id(), key(8).public()).unwrap();
        for role in [OPERATOR_ROLE, "shops"] {
            assert!(root.roles[role].keys.contains(&key(8).id()) && !root.roles[role].keys.contains(&key(9).id()));
        }
        assert_eq!((root.name_of(&key(8).id()).as_str(), root.revoked.contains(&key(9).id())), ("bob", true));
        assert_eq!(replace(&mut root, &key(9).id(), key(7).public()).unwrap_err().code, "revoked_key");
        assert_eq!(add(&mut root, "bob".into(), key(9).public(), OPERATOR_ROLE).unwrap_err().code, "revoked_key");
        assert_eq!(root.check(), Ok(()));
    }

    #[test]
    fn a_revocation_that_leaves_too_few_keys_is_refused_with_what_to_do() {
        let mut root = trust();
        let refused = revoke(&mut root.clone(), &keys().1.id()).unwrap_err();
        assert!(refused.is(Code::ThresholdNotMet) && refused.remedy.contains("key rotate"), "{refused:?}");
        let refused = revoke(&mut root.clone(), &keys().0.id()).unwrap_err();
        assert!(refused.remedy.contains("--role root"), "{refused:?}");
        add(&mut root, "bob".into(), key(9).public(), OPERATOR_ROLE).unwrap();
        set_threshold(&mut root, OPERATOR_ROLE, 2).unwrap();
        assert!(revoke(&mut root.clone(), &key(9).id()).unwrap_err().remedy.contains("key threshold operator 1"));
        set_threshold(&mut root, OPERATOR_ROLE, 1).unwrap();
        revoke(&mut root, &key(9).id()).unwrap();
        assert_eq!(root.check(), Ok(()));
    }

    #[test]
    fn a_role_is_made_whole_and_then_changed_in_part() {
        let mut root = trust();
        let change = |keys: &[KeyName], hosts: &str, kinds: &str| RoleChange {
            keys: keys.to_vec(),
            hosts: Some(hosts).filter(|h| !h.is_empty()).map(str::to_owned).into_iter().collect(),
            kinds: kinds.split(',').filter(|k| !k.is_empty()).map(str::to_owned).collect(),
            ..RoleChange::default()
        };
        let bob = KeyName::New("bob".into(), key(9).public());
        assert_eq!(set_role(&mut root.clone(), "shops", change(std::slice::from_ref(&bob), "", "op")).unwrap_err().code, "usage");
        assert_eq!(set_role(&mut root.clone(), "shops", change(std::slice::from_ref(&bob), "*", "op.fly")).unwrap_err().code, "usage");
        assert_eq!(set_role(&mut root.clone(), "root", change(&[], "", "slice")).unwrap_err().code, "usage");
        set_role(&mut root, "shops", change(&[bob], "shop-*", "slice,op.stop")).unwrap();
        set_role(&mut root, "shops", RoleChange { max_class: Some(Class::R2), ..change(&[KeyName::Known("bob".into())], "", "") }).unwrap();
        let role = &root.roles["shops"];
        assert_eq!((role.max_class, role.hosts.as_slice(), role.keys.len()), (Class::R2, &["shop-*".to_owned()][..], 1));
        assert_eq!(root.check(), Ok(()));
        rm_role(&mut root, "shops").unwrap();
        assert_eq!(rm_role(&mut root, "shops").unwrap_err().code, "not_found");
        assert_eq!(rm_role(&mut root, OPERATOR_ROLE).unwrap_err().code, "usage");
    }

    #[test]
    fn a_threshold_that_nobody_can_meet_makes_no_root() {
        let mut root = trust();
        set_threshold(&mut root, OPERATOR_ROLE, 2).unwrap();
        assert_eq!(root.check().unwrap_err().code, Code::BadRoot);
        let mut root = with_bob();
        set_class_threshold(&mut root, Class::R4, 2);
        assert_eq!(root.check(), Ok(()));
        set_class_threshold(&mut root, Class::R4, 3);
        assert_eq!(root.check().unwrap_err().code, Code::BadRoot);
        set_class_threshold(&mut root, Class::R4, 1);
        assert!(root.class_thresholds.is_empty());
    }
}
