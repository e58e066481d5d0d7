//! Values as an operator has them, and what hosts make of what is sealed to them.

use super::*;
use crate::desired;
use crate::home::{ContextFacts, Home};
use crate::inputs;
use crate::revision::tests::{host, host_binding};
use moorline_common::id::{ClusterId, Generation, UnixSeconds, VersionHash};
use moorline_common::topology::{self, Inputs};

const FILE: &str = "topology: edge\nhosts:\n  a:\n    docker:\n      secrets: { one: { file: one.txt }, two: { environment: TWO } }\n      \
                    configs: { three: { content: \"on ${host.name}\" } }\n      \
                    services: { site: { image: x, secrets: [one, two], configs: [three] } }\n  \
                    late:\n    docker:\n      secrets: { four: { file: four.txt }, five: { file: five.txt } }\n      services: { site: { image: x, secrets: [four, five] } }\n";

fn context(dir: &Path) -> Context {
    let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: "00".into() };
    Home::open(Some(dir.join("home"))).unwrap().store_context("one", facts, b"{}").unwrap()
}

/// The text with what is in the folder: `TWO` is in `.env`.
fn source(dir: &Path, context: &Context) -> Result<Source, Failure> {
    let mut source = desired::parse("edge.yaml", FILE, &Inputs::default()).unwrap();
    source.place = Some(Place::of(dir, &[]).unwrap());
    source.read_secrets(context, &[BoundHost::from(&host_binding(10, "a"))])?;
    Ok(source)
}

fn fill(dir: &Path) {
    for (name, content) in [("one.txt", &b"first\0value"[..]), (".env", b"TWO=second\n"), ("four.txt", b"fourth")] {
        std::fs::write(dir.join(name), content).unwrap();
    }
}

/// What the host with that sealing key reads.
fn opened(seed: u8, sealed: &str) -> Result<Vec<u8>, String> {
    let name = Hrp::parse("age-secret-key-").unwrap();
    let text = bech32::encode_upper::<Bech32>(name, &[seed; 32]).unwrap();
    let identity: age::x25519::Identity = text.parse().unwrap();
    age::decrypt(&identity, &STANDARD.decode(sealed).unwrap()).map_err(|e| e.to_string())
}

/// A binding whose host has the secret key of that seed.
fn binding(seed: u8, name: &str) -> HostBinding {
    let sealing_key = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([seed; 32])).to_bytes();
    HostBinding { sealing_key, ..host_binding(seed, name) }
}

fn sealed(sealer: &Sealer<'_>, spec: &HostSpec, binding: &HostBinding) -> Result<Sealed, Failure> {
    let id = &binding.host_id;
    let mut all = sealer.seal(&BTreeMap::from([(id.clone(), spec.clone())]), &BTreeMap::from([(id, binding)]))?;
    Ok(all.remove(id).unwrap_or_default())
}

fn slice(binding: &HostBinding, sealed: Sealed) -> SliceStatement {
    SliceStatement {
        cluster: binding.cluster.clone(),
        topology: TopologyId::parse("edge").unwrap(),
        generation: Generation(1),
        host_id: binding.host_id.clone(),
        content: serde_json::json!({}),
        version_hash: VersionHash::of_bytes(b""),
        issued_at: UnixSeconds(1),
        deliver_by: UnixSeconds(1),
        sealed,
        fallback: None,
        at_once: false,
    }
}

#[test]
fn values_are_sealed_to_the_host_and_are_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    fill(dir.path());
    let source = source(dir.path(), &context).unwrap();
    let keys: Vec<&String> = source.inputs.digests.keys().collect();
    assert_eq!(keys.len(), 4, "what a later host has is taken if it is there: {keys:?}");
    assert!(!format!("{source:?}").contains("second") && !serde_json::to_string(&source.inputs).unwrap().contains("second"));
    let own = binding(10, "a");
    let desired = source.slice_bound(&[BoundHost::from(&own)]).unwrap();
    let spec = &desired.hosts[&own.host_id];
    let sealer = Sealer { context: &context, topology: &source.file.topology, values: &source.values, earlier: Vec::new() };
    let sealed = sealed(&sealer, spec, &own).unwrap();
    let docker = spec.docker.as_ref().unwrap();
    let value = |digest: &str| opened(10, &sealed.values[digest]).unwrap();
    assert_eq!(value(&docker.secrets["one"].digest), b"first\0value");
    assert_eq!(value(&docker.secrets["two"].digest), b"second");
    assert_eq!(value(&docker.configs["three"].digest), b"on a");
    assert!(opened(11, &sealed.values[&docker.secrets["one"].digest]).is_err());
    slice(&own, sealed).require_sealed(spec, &own.sealing_key).unwrap();
}

#[test]
fn the_same_values_are_the_same_content_and_another_value_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    fill(dir.path());
    let hash = |source: &Source| {
        crate::revision::content_hash(source.slice_bound(&[BoundHost::from(&binding(10, "a"))]).unwrap().hosts.values().next().unwrap())
            .unwrap()
    };
    let first = source(dir.path(), &context).unwrap();
    let again = source(dir.path(), &context).unwrap();
    assert_eq!((hash(&first), &first.inputs), (hash(&again), &again.inputs));
    // Signed, the source says the same without any of the values.
    let signed = desired::parse("edge@1", FILE, &first.inputs).unwrap();
    assert_eq!(hash(&signed), hash(&first));
    std::fs::write(dir.path().join("one.txt"), "rotated").unwrap();
    let rotated = source(dir.path(), &context).unwrap();
    assert_ne!(hash(&rotated), hash(&first));
    assert!(!rotated.means_the_same_as(&first.text, &first.inputs));
    let other = self::context(&dir.path().join("other"));
    assert_ne!(hash(&source(dir.path(), &other).unwrap()), hash(&rotated), "another operator's key makes other digests");
}

#[test]
fn without_the_files_what_was_sealed_to_the_same_host_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    fill(dir.path());
    let first = source(dir.path(), &context).unwrap();
    let own = binding(10, "a");
    let spec = first.slice_bound(&[BoundHost::from(&own)]).unwrap().hosts.remove(&own.host_id).unwrap();
    let topology = &first.file.topology;
    let with = Sealer { context: &context, topology, values: &first.values, earlier: Vec::new() };
    let earlier = slice(&own, sealed(&with, &spec, &own).unwrap());
    let without = Sealer { values: &Values::none(), earlier: vec![&earlier], ..with };
    assert_eq!(sealed(&without, &spec, &own).unwrap(), earlier.sealed);
    for (what, changed) in [
        ("another host's", SliceStatement { host_id: binding(11, "b").host_id, ..earlier.clone() }),
        ("one to another key", SliceStatement { sealed: Sealed { to: [9; 32], ..earlier.sealed.clone() }, ..earlier }),
    ] {
        let sealer = Sealer { context: &context, topology, values: &Values::none(), earlier: vec![&changed] };
        let failure = sealed(&sealer, &spec, &own).unwrap_err();
        assert_eq!(failure.code, "secrets_missing", "{what}");
        let told = failure.details.join("\n");
        assert!(told.contains("secret `one` of host `a`: the file `one.txt`") && told.contains("the variable `TWO`"), "{told}");
    }

    // Noted where it was pushed from, the files are looked for there; another value than was signed does not count.
    let sealer = Sealer { context: &context, topology, values: &Values::none(), earlier: Vec::new() };
    first.note_place(&context).unwrap();
    let again = sealed(&sealer, &spec, &own).unwrap();
    assert_eq!(opened(10, &again.values[&spec.docker.as_ref().unwrap().secrets["one"].digest]).unwrap(), b"first\0value");
    std::fs::write(dir.path().join("one.txt"), "rotated").unwrap();
    let failure = sealed(&sealer, &spec, &own).unwrap_err();
    assert!(
        failure.details == ["secret `one` of host `a`: the file `one.txt`"] && failure.remedy.contains("moorctl push -f"),
        "{failure:?}"
    );
}

#[test]
fn a_pipe_with_variables_is_read_once_for_a_whole_command_and_never_noted() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    fill(dir.path());
    let (pipe, plain) = (dir.path().join("pipe"), dir.path().join("plain.env"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(&plain, "OTHER=1\n").unwrap();
    let text = FILE.replace("image: x", "image: \"x:$TAG\"").replace("four.txt", "one.txt").replace("file: five.txt", "environment: FIVE");
    let (folder, env_files) = (dir.path().to_owned(), [pipe.clone(), plain.clone()]);
    let (done, found) = std::sync::mpsc::channel();
    // Opened a second time, the pipe would wait for who never writes again.
    std::thread::spawn(move || {
        let named = inputs::Named::default();
        let machine = Machine { folder: &folder, env_files: &env_files, environment: &|_| None, named: named.clone() };
        let (_, inputs) = machine.read(text.as_bytes()).unwrap();
        let mut source = desired::parse("edge.yaml", &text, &inputs).unwrap();
        (source.place, source.named) = (Some(Place::of(&folder, &env_files).unwrap()), named);
        for _ in 0..2 {
            source.read_secrets(&context, &[BoundHost::from(&host_binding(10, "a"))]).unwrap();
        }
        source.note_place(&context).unwrap();
        done.send((source.inputs, context.place(&source.file.topology).unwrap().unwrap())).unwrap();
    });
    std::fs::write(&pipe, "TAG=1\nTWO=second\nFIVE=fifth\n").unwrap();
    let (inputs, noted) = found.recv_timeout(std::time::Duration::from_secs(20)).expect("the pipe is read again");
    assert_eq!((inputs.variables["TAG"].as_str(), inputs.digests.len()), ("1", 5));
    assert_eq!(noted, Place { folder: dir.path().to_owned(), env_files: vec![plain] });
}

#[test]
fn what_is_not_there_is_told_all_at_once_and_a_later_host_says_so_itself() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    let failure = source(dir.path(), &context).unwrap_err();
    assert_eq!(failure.details, ["secret `one`: the file `one.txt` is not there", "secret `two`: the variable `TWO` is not there"]);
    fill(dir.path());
    let source = source(dir.path(), &context).unwrap();
    let late = source.slice_bound(&[BoundHost::from(&binding(12, "late"))]).unwrap_err();
    assert_eq!((late.code, late.details), ("secrets_missing", vec!["secret `five`: the file `five.txt`".to_owned()]));
    std::fs::write(dir.path().join("one.txt"), vec![b'x'; topology::limits::SEALED_MAX + 1]).unwrap();
    assert!(self::source(dir.path(), &context).unwrap_err().message.contains("larger than 512 KiB"));
    std::fs::remove_file(dir.path().join("one.txt")).unwrap();
    std::fs::create_dir(dir.path().join("one.txt")).unwrap();
    assert!(self::source(dir.path(), &context).unwrap_err().message.contains("is no plain file"));
}

/// Gathers for one host that has so many secrets, all of them needed or all of them of a host that may come.
fn gather_many(dir: &Path, count: usize, of: impl Fn(usize) -> String, needed: bool) -> Result<Gathered, Failure> {
    let objects: String = (0..count).map(|n| format!("        s{n}: {{ file: {} }}\n", of(n))).collect();
    let names: Vec<String> = (0..count).map(|n| format!("s{n}")).collect();
    let text = format!(
        "topology: edge\nhosts:\n  a:\n    docker:\n      secrets:\n{objects}      services: {{ site: {{ image: x, secrets: [{}] }} }}\n",
        names.join(", ")
    );
    let source = desired::parse("edge.yaml", &text, &Inputs::default()).unwrap();
    let docker = source.file.hosts.values().next().unwrap().own.docker.clone().unwrap();
    let specs = BTreeMap::from([(binding(10, "a").host_id, docker)]).into_iter().filter(|_| needed);
    let specs = specs.map(|(id, docker)| (id, HostSpec { docker: Some(docker), ..HostSpec::default() })).collect();
    let machine = Machine { folder: dir, env_files: &[], environment: &|_| None, named: inputs::Named::default() };
    gather(&machine, &[1; 32], &source.file, &specs)
}

#[test]
fn values_are_bounded_in_number_before_they_are_read_and_in_size_while_they_are() {
    let dir = tempfile::tempdir().unwrap();
    // A folder would be refused when it is read.
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    let failure = gather_many(dir.path(), DIGESTS_MAX + 1, |_| "folder".to_owned(), true).unwrap_err();
    assert!(failure.message.contains("more than 5000 secrets and configs"), "{failure:?}");
    let large = vec![b'x'; topology::limits::SEALED_MAX];
    let count = VALUES_MAX / large.len();
    std::fs::write(dir.path().join("large"), &large).unwrap();
    for n in 0..=count {
        std::fs::hard_link(dir.path().join("large"), dir.path().join(format!("large{n}"))).unwrap();
    }
    for needed in [true, false] {
        let failure = gather_many(dir.path(), count + 1, |n| format!("large{n}"), needed).unwrap_err();
        assert!(failure.is(Code::TooLarge) && failure.message.contains("larger than 64 MiB together"), "{failure:?}");
    }
    // One value is held once, whatever it is called.
    let gathered = gather_many(dir.path(), count + 1, |_| "large".to_owned(), true).unwrap();
    assert_eq!(gathered.digests.len(), count + 1);
}

#[test]
fn more_than_a_slice_can_carry_is_told_before_it_is_signed() {
    let own = binding(10, "a");
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    let mut values = Values::none();
    let mut objects = serde_json::Map::new();
    for n in 0..3_u8 {
        let digest = format!("{n:02x}").repeat(32);
        values.0.insert(digest.clone(), Arc::new(Zeroizing::new(vec![n; 400 * 1024])));
        objects.insert(format!("s{n}"), serde_json::json!({ "digest": digest }));
    }
    let spec: HostSpec = serde_json::from_value(serde_json::json!({ "docker": { "secrets": objects } })).unwrap();
    let topology = TopologyId::parse("edge").unwrap();
    let sealer = Sealer { context: &context, topology: &topology, values: &values, earlier: Vec::new() };
    assert!(sealed(&sealer, &spec, &own).unwrap_err().is(Code::TooLarge));
    assert_eq!(host(10, "a").host_id, own.host_id);
}
