//! The newest that this machine has seen, against what a hub shows. Pure.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId};

use crate::home::Floors;

/// Notes the newest revision that the hub shows of `topology`: generation 0 for none, an empty
/// `source_sha256` for a revision without a verified source.
///
/// # Errors
/// [`Code::GenerationRegressed`] when a higher one was seen before; [`Code::Equivocation`] when the same
/// one was seen with another source.
pub(super) fn note_revision(floors: &mut Floors, topology: &TopologyId, generation: Generation, source_sha256: &str) -> Result<(), Fault> {
    let seen = floors.topologies.get(topology).cloned().unwrap_or_default();
    if generation < seen.generation {
        let shown = if generation.0 == 0 { "no revision".to_owned() } else { format!("generation {generation}") };
        let message = format!("the hub shows {shown} of `{topology}`, this machine has seen generation {}", seen.generation);
        return Err(Fault::new(Code::GenerationRegressed, message));
    }
    if generation.0 == 0 || source_sha256.is_empty() {
        // Nothing that was signed stands behind the number: it must not move the floor.
        return Ok(());
    }
    let same = generation == seen.generation;
    if same && !seen.source_sha256.is_empty() && seen.source_sha256 != source_sha256 {
        let message = format!("the hub shows another generation {generation} of `{topology}` than the one this machine has seen");
        return Err(Fault::new(Code::Equivocation, message));
    }
    let floor = floors.topologies.entry(topology.clone()).or_default();
    floor.generation = generation;
    source_sha256.clone_into(&mut floor.source_sha256);
    Ok(())
}

/// Notes that the hub's newest revision is what this machine wants: pushed just now, or found to say the same.
/// The floor falls only if the operator said `lower`.
pub(super) fn note_pushed(floors: &mut Floors, topology: &TopologyId, generation: Generation, source_sha256: &str, lower: bool) {
    let floor = floors.topologies.entry(topology.clone()).or_default();
    if lower || generation > floor.generation {
        floor.generation = generation;
        source_sha256.clone_into(&mut floor.source_sha256);
    }
    floor.pushed = generation;
}

/// Notes the serial of a host's verified binding.
///
/// # Errors
/// [`Code::GenerationRegressed`] when a higher one was seen before: the newer binding is withheld.
pub(super) fn note_serial(floors: &mut Floors, host: &HostId, serial: u64) -> Result<(), Fault> {
    let seen = floors.bindings.entry(host.clone()).or_insert(serial);
    if serial < *seen {
        let message = format!("the hub shows its binding number {serial}, this machine has seen {seen}");
        return Err(Fault::new(Code::GenerationRegressed, message));
    }
    *seen = serial;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<(), Fault>) -> Option<Code> {
        result.err().map(|f| f.code)
    }

    #[test]
    fn a_hub_that_is_behind_or_shows_something_else_is_noticed() {
        let mut floors = Floors::default();
        let edge = TopologyId::parse("edge").unwrap();
        let mut note = |generation, sha: &str| code(note_revision(&mut floors, &edge, Generation(generation), sha));
        assert_eq!(note(0, ""), None);
        assert_eq!(note(3, "a"), None);
        assert_eq!(note(3, "a"), None);
        assert_eq!(note(3, "b"), Some(Code::Equivocation));
        assert_eq!(note(2, "x"), Some(Code::GenerationRegressed));
        assert_eq!(note(0, ""), Some(Code::GenerationRegressed));
        // A restored hub that adopted what its agents hold has no source of it.
        assert_eq!(note(3, ""), None);
        assert_eq!(note(3, "b"), Some(Code::Equivocation), "the source seen before is still known");
        // A number without a signature burns nothing.
        assert_eq!(note(999, ""), None);
        assert_eq!(note(4, "c"), None);
        assert_eq!(note(4, "d"), Some(Code::Equivocation));
    }

    #[test]
    fn an_older_binding_than_one_seen_does_not_count() {
        let mut floors = Floors::default();
        let host = HostId::of_key(&[1; 32]);
        assert_eq!(code(note_serial(&mut floors, &host, 2)), None);
        assert_eq!(code(note_serial(&mut floors, &host, 1)), Some(Code::GenerationRegressed));
        assert_eq!(code(note_serial(&mut floors, &host, 3)), None);
        assert_eq!(floors.bindings.get(&host), Some(&3));
    }
}
