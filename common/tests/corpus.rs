//! What fuzzing has kept goes through every target again.

use std::path::Path;

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

#[test]
fn what_fuzzing_found_is_taken_or_refused_and_never_worse() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 4, "the corpus of {name} is there");
        for file in files {
            println!("{}", file.display());
            let bytes = std::fs::read(&file).unwrap();
            target(&bytes);
            // Every beginning of it, too, and it with one byte changed.
            for at in (0..bytes.len().min(2048)).step_by(1 + bytes.len().min(2048) / 24) {
                target(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] ^= 0x20;
                target(&changed);
            }
        }
    }
}
