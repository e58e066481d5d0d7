//! The vault on real folders, one of them in memory.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use moorline_common::topology::SealedKind;

use super::*;
use crate::identity::StateDir;

/// A folder in memory; tests that need one are told apart by it.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

struct Bench {
    state: tempfile::TempDir,
    memory: tempfile::TempDir,
    keys: HostKeys,
    vault: Arc<Vault>,
}

fn bench() -> Bench {
    let (state, memory) = (tempfile::tempdir().unwrap(), memory());
    let keys = StateDir(state.path().to_owned()).ensure_keys().unwrap();
    let vault = Arc::new(Vault::new(&memory.path().join("secrets"), state.path(), &keys).unwrap());
    Bench { state, memory, keys, vault }
}

fn file(digest: &str, mode: u32) -> SealedFile {
    SealedFile { kind: SealedKind::Secret, digest: digest.repeat(32), uid: None, gid: None, mode, name: "db".to_owned() }
}

fn sealed(keys: &HostKeys, value: &[u8]) -> String {
    STANDARD.encode(age::encrypt(&keys.sealing_identity().unwrap().to_public(), value).unwrap())
}

impl Bench {
    fn offer(&self, digest: &str, value: &[u8]) {
        let values = BTreeMap::from([(digest.repeat(32), sealed(&self.keys, value))]);
        self.vault.offer(&Sealed { to: self.keys.sealing_key(), values });
    }

    fn read(&self, file: &SealedFile) -> Option<Vec<u8>> {
        std::fs::read(self.vault.path(file)).ok()
    }

    fn files(&self, folder: &Path) -> usize {
        walk(folder).len()
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.into_iter().flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_value_is_in_memory_with_its_rights_and_on_the_disk_only_sealed() {
    let b = bench();
    b.offer("0f", b"marked value");
    let (open, closed) = (file("0f", 0o444), file("0f", 0o400));
    b.vault.put(&open).unwrap();
    b.vault.put(&closed).unwrap();
    assert_eq!((b.read(&open).unwrap(), b.read(&closed).unwrap()), (b"marked value".to_vec(), b"marked value".to_vec()));
    assert_eq!(std::fs::metadata(b.vault.path(&closed)).unwrap().permissions().mode() & 0o7777, 0o400);
    let folder = b.vault.path(&open).parent().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for path in walk(b.state.path()) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(12).any(|part| part == b"marked value"), "{}", path.display());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o077, 0, "{}", path.display());
    }
    assert_eq!(b.vault.file_at(b.vault.path(&open).to_str().unwrap()), Some(open));
    assert_eq!(b.vault.file_at("/etc/passwd"), None);
    assert_eq!(b.vault.file_at(folder.join("other").to_str().unwrap()), None);
}

#[test]
fn what_a_reboot_takes_comes_back_without_the_slice() {
    let b = bench();
    b.offer("0f", b"value");
    let file = SealedFile { uid: Some(12), gid: Some(34), ..file("0f", 0o440) };
    b.vault.put(&file).unwrap();
    for path in walk(b.memory.path()) {
        std::fs::remove_file(path).unwrap();
    }
    // Another agent on the same folders, which has accepted nothing.
    let again = Vault::new(&b.memory.path().join("secrets"), b.state.path(), &b.keys).unwrap();
    again.put_all_back();
    assert_eq!(b.read(&file).unwrap(), b"value");
    let found = std::fs::metadata(b.vault.path(&file)).unwrap();
    assert_eq!((found.uid(), found.gid()), (12, 34));
    assert!(matches!(again.put(&self::file("1f", 0o444)), Err(VaultError::Unknown(_))), "what was never here is told");
}

#[test]
fn a_file_that_is_not_as_it_should_be_is_written_anew() {
    let b = bench();
    b.offer("0f", b"value");
    let file = file("0f", 0o400);
    b.vault.put(&file).unwrap();
    let path = b.vault.path(&file);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(b.vault.put(&file).is_err(), "what an engine made in its place is not removed unseen");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, "half").unwrap();
    b.vault.put(&file).unwrap();
    assert_eq!(b.read(&file).unwrap(), b"value");
    assert_eq!(b.files(b.memory.path()), 1, "no temporary file stays");
}

#[test]
fn a_kept_value_that_is_damaged_is_mended_from_the_slice() {
    let b = bench();
    let wanted = file("0f", 0o444);
    let damage = || {
        let kept = walk(&b.state.path().join(KEPT)).pop().unwrap();
        std::fs::write(&kept, b"\xff damaged").unwrap();
        std::fs::remove_file(b.vault.path(&wanted)).unwrap();
    };
    b.offer("0f", b"value");
    b.vault.put(&wanted).unwrap();
    damage();
    // Nothing has it any more, until it is pushed again.
    b.vault.offer(&Sealed::default());
    assert!(matches!(b.vault.put(&wanted), Err(VaultError::Closed(_))));
    b.offer("0f", b"value");
    b.vault.put(&wanted).unwrap();
    assert_eq!(b.read(&wanted).unwrap(), b"value");
    b.vault.offer(&Sealed::default());
    std::fs::remove_file(b.vault.path(&wanted)).unwrap();
    b.vault.put(&wanted).unwrap();
    assert_eq!(b.read(&wanted).unwrap(), b"value", "it was kept anew");
    // Lost altogether, the slice that is accepted still has it.
    std::fs::remove_dir_all(b.state.path().join(KEPT)).unwrap();
    b.offer("0f", b"value");
    assert!(!b.vault.is_empty());
}

#[test]
fn nothing_is_swept_away_that_a_container_has_or_is_made_with() {
    let b = bench();
    b.offer("0f", b"value");
    let (one, two) = (file("0f", 0o400), file("0f", 0o444));
    b.vault.put(&one).unwrap();
    b.vault.put(&two).unwrap();
    let used = BTreeSet::from([one.clone()]);
    let before = b.vault.mark();
    let hold = b.vault.hold();
    b.vault.sweep(b.vault.mark(), &used);
    assert!(b.read(&two).is_some(), "somebody is at it");
    drop(hold);
    b.vault.sweep(before, &used);
    assert!(b.read(&two).is_some(), "the look is older than what was made");
    b.vault.sweep(b.vault.mark(), &used);
    assert_eq!((b.read(&one).is_some(), b.read(&two).is_some()), (true, false));
    assert!(!b.vault.is_empty());
    std::fs::write(b.vault.path(&one).with_file_name(".1.0.tmp"), "of a killed agent").unwrap();
    b.vault.sweep(b.vault.mark(), &BTreeSet::new());
    assert_eq!((b.files(&b.state.path().join(KEPT)), b.files(b.memory.path())), (0, 0));
}

#[test]
fn what_was_sealed_to_another_host_is_refused_by_name() {
    let (b, other) = (bench(), bench());
    let spec: HostSpec =
        serde_json::from_value(serde_json::json!({ "docker": { "secrets": { "db": { "digest": "0f".repeat(32) } } } })).unwrap();
    let check =
        |value: String| b.vault.check(&spec, &Sealed { to: b.keys.sealing_key(), values: BTreeMap::from([("0f".repeat(32), value)]) });
    check(sealed(&b.keys, b"x")).unwrap();
    let mut damaged = sealed(&b.keys, b"marked value");
    damaged.replace_range(damaged.len() - 8..damaged.len() - 4, "AAAA");
    for wrong in [sealed(&other.keys, b"marked value"), damaged, "no base64".to_owned(), String::new()] {
        let fault = check(wrong).unwrap_err();
        assert_eq!(fault.code, Code::SecretsUnreadable);
        assert!(fault.message.contains("secret `db`") && !fault.message.contains("marked"), "{fault}");
    }
}

/// A new folder on a disk. `None`, with a line that says so, when no place for one is: many systems have `/tmp` in memory.
fn folder_on_disk() -> Option<tempfile::TempDir> {
    let target = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let places = [std::env::temp_dir(), "/var/tmp".into(), target];
    let mut disks = places.iter().filter(|place| matches!(standing(place, None, own()), Standing::OnDisk(_)));
    let folder = disks.find_map(|place| tempfile::tempdir_in(place).ok());
    if folder.is_none() {
        eprintln!("skipped: no folder of {places:?} is on a disk");
    }
    folder
}

#[test]
fn nothing_is_written_to_a_disk() {
    assert_eq!(standing(&memory().path().join("a/b"), None, own()), Standing::Good);
    let Some(disk) = folder_on_disk() else { return };
    let state = tempfile::tempdir().unwrap();
    let keys = StateDir(state.path().to_owned()).ensure_keys().unwrap();
    let on_disk = disk.path().join("no-memory/secrets");
    let vault = Arc::new(Vault::new(&on_disk, state.path(), &keys).unwrap());
    vault.offer(&Sealed { to: keys.sealing_key(), values: BTreeMap::from([("0f".repeat(32), sealed(&keys, b"x"))]) });
    let error = vault.put(&file("0f", 0o444)).unwrap_err().to_string();
    assert!(error.contains("is not in memory; mount a tmpfs there") && !on_disk.exists(), "{error}");
    assert!(matches!(standing(&on_disk, None, own()), Standing::OnDisk(_)));
}

fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// What stops the vault, and doctor's word on it.
fn refused(b: &Bench, planted: &SealedFile) -> String {
    let told = b.vault.put(planted).unwrap_err();
    assert!(matches!(told, VaultError::Folder(_)), "{told:?}");
    let Standing::Unsafe(why) = standing(&b.memory.path().join("secrets"), Some(&b.keys.host_id()), own()) else { panic!("{told}") };
    assert_eq!(why.to_string(), told.to_string());
    told.to_string()
}

#[test]
fn a_folder_that_somebody_else_made_is_neither_written_to_nor_believed() {
    let b = bench();
    b.offer("0f", b"value");
    let planted = file("0f", 0o444);
    let folder = b.vault.path(&planted).parent().unwrap().to_owned();
    let secrets = folder.parent().unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    // Even what looks like the file is not taken.
    std::fs::write(folder.join(planted.to_string()), "swapped").unwrap();
    for made in [&folder, secrets] {
        std::os::unix::fs::chown(made, Some(12_345), None).unwrap();
        let told = refused(&b, &planted);
        assert!(told.contains(&format!("{} belongs to user 12345", made.display())) && told.contains("`secrets_dir`"), "{told}");
        std::os::unix::fs::chown(made, Some(own()), None).unwrap();
    }
    for mode in [0o777, 0o770] {
        std::fs::set_permissions(secrets, std::fs::Permissions::from_mode(mode)).unwrap();
        let told = refused(&b, &planted);
        assert!(told.contains(&format!("others can write to {} (mode {mode:04o})", secrets.display())), "{told}");
    }
    // As /dev/shm itself: nobody else can put anything in the place of what is there.
    std::fs::set_permissions(secrets, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(folder.join(planted.to_string()), Some(12_345), None).unwrap();
    b.vault.put(&planted).unwrap();
    assert_eq!(b.read(&planted).unwrap(), b"value", "nor is a file that is somebody else's");
}

#[test]
fn a_link_or_a_file_in_the_folder_s_place_is_refused() {
    let b = bench();
    b.offer("0f", b"value");
    let planted = file("0f", 0o444);
    let folder = b.vault.path(&planted).parent().unwrap().to_owned();
    let elsewhere = memory();
    std::fs::create_dir(folder.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), &folder).unwrap();
    assert!(refused(&b, &planted).contains("is a link or a file"));
    assert!(walk(elsewhere.path()).is_empty());
    std::fs::remove_file(&folder).unwrap();
    std::fs::write(&folder, "").unwrap();
    assert!(refused(&b, &planted).contains("is a link or a file"));
    std::fs::remove_file(&folder).unwrap();
    b.vault.put(&planted).unwrap();
}

#[test]
fn a_link_of_a_stranger_on_the_way_is_refused_and_one_of_ours_is_followed() {
    let b = bench();
    b.offer("0f", b"value");
    let (target, secrets) = (memory(), b.memory.path().join("secrets"));
    std::os::unix::fs::symlink(target.path(), &secrets).unwrap();
    std::os::unix::fs::lchown(&secrets, Some(12_345), None).unwrap();
    assert!(refused(&b, &file("0f", 0o444)).contains("belongs to user 12345"));
    std::os::unix::fs::lchown(&secrets, Some(own()), None).unwrap();
    b.vault.put(&file("0f", 0o444)).unwrap();
    std::os::unix::fs::chown(target.path(), Some(12_345), None).unwrap();
    assert!(refused(&b, &file("0f", 0o444)).contains(&format!("{} belongs to", target.path().display())));
}

#[test]
fn a_folder_of_ours_that_is_open_is_closed() {
    let b = bench();
    b.offer("0f", b"value");
    let file = file("0f", 0o444);
    let folder = b.vault.path(&file).parent().unwrap().to_owned();
    let mode = || std::fs::metadata(&folder).unwrap().permissions().mode() & 0o7777;
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    b.vault.put(&file).unwrap();
    assert_eq!(mode(), 0o700);
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    b.vault.put(&file).unwrap();
    assert_eq!(mode(), 0o700, "also when the file is there");
}
