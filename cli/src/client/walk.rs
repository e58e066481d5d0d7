//! From the trust root that this machine pinned to the newest one, version by version. Pure.

use moorline_common::fault::{Code, Fault};
use moorline_common::sign::Envelope;
use moorline_common::trust::TrustRoot;

/// Where the walk ended.
#[derive(Debug, Clone)]
pub struct Walk {
    /// Every verified root, version 1 first.
    pub chain: Vec<Envelope>,
    /// The newest.
    pub newest: TrustRoot,
    /// How many roots the hub lacks that this machine has seen.
    pub hub_lacks: usize,
}

/// Every version of a chain, verified from `pin` on.
///
/// # Errors
/// As [`walk`].
pub fn versions(pin: &str, chain: &[Envelope]) -> Result<Vec<TrustRoot>, Fault> {
    let mut versions: Vec<TrustRoot> = Vec::with_capacity(chain.len());
    for envelope in chain {
        let next = match versions.last() {
            None => TrustRoot::verify_first(envelope.clone(), pin)?,
            Some(newest) => newest.verify_next(envelope.clone())?,
        };
        versions.push(next.into_statement());
    }
    Ok(versions)
}

/// Verifies `stored` from `pin` on, then goes on with what the hub offers.
///
/// # Errors
/// [`Code::NoTrustRoot`] when neither side has a root; [`Code::BadRoot`] or signature codes when a
/// root does not follow from the one before, or the hub shows another one than this machine has seen.
pub fn walk(pin: &str, stored: &[Envelope], offered: &[Envelope]) -> Result<Walk, Fault> {
    for (version, (ours, theirs)) in stored.iter().zip(offered).enumerate() {
        if ours.payload != theirs.payload {
            return Err(Fault::new(
                Code::BadRoot,
                format!("the hub shows another trust root version {} than the one this machine has verified", version + 1),
            ));
        }
    }
    let chain: Vec<Envelope> = stored.iter().chain(offered.iter().skip(stored.len())).cloned().collect();
    let newest = versions(pin, &chain)?.pop().ok_or_else(|| Fault::new(Code::NoTrustRoot, "the hub has no trust root yet"))?;
    let hub_lacks = stored.len().saturating_sub(offered.len());
    Ok(Walk { chain, newest, hub_lacks })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use moorline_common::id::{ClusterId, UnixSeconds};
    use moorline_common::sign::{PrivateKey, Signed};

    pub(crate) fn root(version: u64, recovery: &PrivateKey, operator: &PrivateKey) -> Envelope {
        let operators = [("ann".to_owned(), operator.public())];
        let forever = UnixSeconds(u64::from(u32::MAX));
        let root = TrustRoot {
            version,
            ..TrustRoot::first(ClusterId::parse("acme").unwrap(), &operators, &recovery.public(), UnixSeconds(1), forever)
        };
        Signed::seal(&root, &[recovery]).unwrap().envelope().clone()
    }

    #[test]
    fn a_walk_follows_the_hub_only_along_signatures() {
        let (recovery, operator, thief) =
            (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]), PrivateKey::from_seed(&[3; 32]));
        let (one, two) = (root(1, &recovery, &operator), root(2, &recovery, &operator));
        let pin = TrustRoot::pin(&one);
        let newest = walk(&pin, &[], &[one.clone(), two.clone()]).unwrap();
        assert_eq!((newest.newest.version, newest.hub_lacks), (2, 0));
        let forged = root(2, &thief, &thief);
        assert!(walk(&pin, &[], &[one.clone(), forged.clone()]).is_err());
        assert_eq!(walk(&pin, &[one.clone(), two.clone()], &[one.clone(), forged]).unwrap_err().code, Code::BadRoot);
        assert_eq!(walk(&pin, &[one.clone(), two], std::slice::from_ref(&one)).unwrap().hub_lacks, 1);
        assert_eq!(walk("00", &[], &[one]).unwrap_err().code, Code::BadRoot);
        assert_eq!(walk(&pin, &[], &[]).unwrap_err().code, Code::NoTrustRoot);
    }
}
