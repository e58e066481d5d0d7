//! What a topology file takes from this machine: the variables that it uses, and the files that it names. It is looked for where an
//! operator hands the file in, and nowhere else: what was signed brings its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::Args;
use moorline_common::topology::dotenv::{self, Format};
use moorline_common::topology::limits::{INPUT_MAX, SEALED_MAX};
use moorline_common::topology::{self, Asked, Inputs, Origin, Problem, Reading};
use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::error::{Failure, LocalCode};

/// Arguments of verbs that read a topology file.
#[derive(Debug, Clone, Default, Args)]
pub struct InputArgs {
    /// A file with variables for the topology file, instead of `.env` beside it; may be repeated, later ones win. What
    /// the environment has wins over all of them
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
}

/// Where variables, files and the values of secrets come from.
pub struct Machine<'m> {
    /// The folder of the topology file.
    pub folder: &'m Path,
    /// The files that were named instead of `.env`.
    pub env_files: &'m [PathBuf],
    /// The environment.
    pub environment: &'m dyn Fn(&str) -> Option<OsString>,
    /// What stands in those files.
    pub named: Named,
}

/// The variables of `.env`, or of the files that were named instead: read when the first one is needed, and once for a whole command,
/// as a pipe gives what it has only once. Its clones have the same.
#[derive(Clone, Default)]
pub struct Named(Arc<OnceLock<Result<BTreeMap<String, String>, Failure>>>);

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.write_str("Named")
    }
}

impl Machine<'_> {
    /// Reads a topology with all that it takes from here, and nothing besides.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn read(&self, bytes: &[u8]) -> Result<(Reading, Inputs), Failure> {
        self.gather(|inputs| topology::read(bytes, inputs), |reading| &reading.asked)
    }

    /// Looks with what is here until nothing more is asked for.
    ///
    /// # Errors
    /// A file that is there and cannot be read, or is no text; a wrong line in a file of variables.
    pub fn gather<T>(&self, look: impl Fn(&Inputs) -> T, asked: impl Fn(&T) -> &Asked) -> Result<(T, Inputs), Failure> {
        let (mut inputs, mut known) = (Inputs::default(), Asked::default());
        loop {
            let found = look(&inputs);
            let asked = asked(&found);
            if asked.variables.is_subset(&known.variables) && asked.files.is_subset(&known.files) {
                // What only an earlier look asked for was not needed after all.
                inputs.variables.retain(|name, _| asked.variables.contains(name));
                inputs.files.retain(|path, _| asked.files.contains(path));
                return Ok((look(&inputs), inputs));
            }
            for name in asked.variables.difference(&known.variables) {
                let value = self.variable(name)?;
                inputs.variables.extend(value.map(|value| (name.clone(), value)));
                within_bounds(&inputs)?;
            }
            for path in asked.files.difference(&known.files) {
                let content = read_text(&self.folder.join(path.as_str()), Form::Plain)?;
                inputs.files.extend(content.map(|content| (path.clone(), content)));
                within_bounds(&inputs)?;
            }
            known.variables.extend(asked.variables.iter().cloned());
            known.files.extend(asked.files.iter().cloned());
        }
    }

    /// The value of a secret or config; `None` when it is not here.
    ///
    /// # Errors
    /// A file that is there and cannot be read, or is too large; a wrong line in a file of variables.
    pub fn value(&self, origin: &Origin) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let value = match origin {
            Origin::Content(text) => Some(text.clone().into_bytes()),
            Origin::File(path) => read_bytes(&self.folder.join(path), SEALED_MAX, Form::Plain)?,
            Origin::Environment(name) => self.variable(name)?.map(String::into_bytes),
        };
        Ok(value.map(Zeroizing::new))
    }

    /// A variable of the environment, or else of the files.
    fn variable(&self, name: &str) -> Result<Option<String>, Failure> {
        let named = self.named.0.get_or_init(|| self.named_variables()).as_ref().map_err(Clone::clone)?;
        Ok(self.of_environment(name)?.or_else(|| named.get(name).cloned()))
    }

    fn of_environment(&self, name: &str) -> Result<Option<String>, Failure> {
        let Some(value) = (self.environment)(name) else { return Ok(None) };
        let wrong = |_| Failure::new(LocalCode::BadTopology, format!("the variable `{name}` is not UTF-8"), "set it to plain text");
        value.into_string().map(Some).map_err(wrong)
    }

    /// The variables of `.env`, or of the files that were named instead.
    fn named_variables(&self) -> Result<BTreeMap<String, String>, Failure> {
        let usual = [self.folder.join(".env")];
        let (paths, form) = if self.env_files.is_empty() { (&usual[..], Form::Plain) } else { (self.env_files, Form::Any) };
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        for path in paths {
            let Some(text) = read_text(path, form)? else {
                if self.env_files.is_empty() {
                    continue;
                }
                let message = format!("the file {} is not there", path.display());
                return Err(Failure::new(LocalCode::BadTopology, message, "check the path that --env-file names"));
            };
            let mut unreadable = None;
            let mut outer = |name: &str| match self.of_environment(name) {
                Ok(value) => value.or_else(|| all.get(name).cloned()),
                Err(failure) => {
                    unreadable = Some(failure);
                    None
                }
            };
            let found = dotenv::variables(&text, Format::Compose, &mut outer);
            if let Some(failure) = unreadable {
                return Err(failure);
            }
            let found = found.map_err(|problems| bad(&path.display().to_string(), Path::new(""), &problems))?;
            all.extend(found.into_iter().filter_map(|variable| Some((variable.name, variable.value?))));
        }
        Ok(all)
    }
}

/// What is too much is not gathered first.
fn within_bounds(inputs: &Inputs) -> Result<(), Failure> {
    inputs.excess().map_or(Ok(()), |problem| Err(bad("the topology file", Path::new(""), &[problem])))
}

/// What a file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A plain file: it is read more than once, and by other machines as it was.
    Plain,
    /// Also a pipe, which an operator named for this one command.
    Any,
}

/// The text of a file; `None` when there is none.
fn read_text(path: &Path, form: Form) -> Result<Option<String>, Failure> {
    let Some(bytes) = read_bytes(path, INPUT_MAX, form)? else { return Ok(None) };
    let wrong = |_| Failure::new(LocalCode::BadTopology, format!("{} is not UTF-8", path.display()), "save the file as UTF-8");
    String::from_utf8(bytes).map(Some).map_err(wrong)
}

/// The bytes of a file; `None` when there is none.
fn read_bytes(path: &Path, max: usize, form: Form) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |e: &std::io::Error| {
        Failure::file("read", path, e).with_remedy("the topology file takes this file: make it readable, or take it out")
    };
    let flags = match form {
        // To open a pipe waits for somebody to write.
        Form::Plain => OFlag::O_NONBLOCK,
        Form::Any => OFlag::empty(),
    };
    let file = match std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    // Of the file that was opened, not of what has its name by now.
    if form == Form::Plain && !file.metadata().map_err(|e| failed(&e))?.is_file() {
        let message = format!("{} is no plain file", path.display());
        let remedy = "put a file with the content itself there; variables from a pipe are taken by `--env-file`";
        return Err(Failure::new(LocalCode::BadTopology, message, remedy));
    }
    // One byte more than may be, so that too much is told as such.
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    // A character may be cut there.
    if bytes.len() > max {
        let message = format!("{} is larger than {} KiB", path.display(), max / 1024);
        return Err(Failure::new(LocalCode::BadTopology, message, "large content belongs into an image or a volume"));
    }
    Ok(Some(bytes))
}

/// The refusal of a file, with every problem at its line. Other files are named as seen from here, by way of `folder`.
#[must_use]
pub fn bad(name: &str, folder: &Path, problems: &[Problem]) -> Failure {
    let count = match problems.len() {
        1 => "a problem".to_owned(),
        n => format!("{n} problems"),
    };
    let details = problems.iter().flat_map(|p| from_here(p, folder).render(name).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    Failure::new(
        LocalCode::BadTopology,
        format!("{name} has {count}; nothing was sent"),
        "correct the lines above; `moorctl schema` helps editors to check",
    )
    .with_details(details)
}

/// The same problem, its file named as seen from here.
#[must_use]
pub fn from_here(problem: &Problem, folder: &Path) -> Problem {
    let file = problem.file.as_deref().map(|file| folder.join(file).display().to_string().into());
    Problem { file, ..problem.clone() }
}

/// A topology's text with all that it takes, as an operator reads it.
#[must_use]
pub fn shown(source: &str, inputs: &Inputs) -> String {
    if inputs.is_empty() {
        return source.to_owned();
    }
    let mut text = source.to_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, value) in &inputs.variables {
        text.push_str(&format!("# variable {name}={value:?}\n"));
    }
    for (path, content) in &inputs.files {
        text.push_str(&format!("# file {path}\n"));
        content.lines().for_each(|line| text.push_str(&format!("#   {line}\n")));
    }
    for (image, digest) in &inputs.pins {
        text.push_str(&format!("# image {image} is {digest}\n"));
    }
    for (what, digest) in &inputs.digests {
        // Enough to see that it is another one.
        text.push_str(&format!("# {what} is sealed, by the digest {}\n", digest.get(..12).unwrap_or(digest)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"topology: edge
hosts:
  shop-17:
    docker:
      services:
        site:
          image: "nginx:${TAG:-${OTHER}}"
          hostname: ${NAME}
          env_file: conf/site.env
          extends: { file: base/web.yml, service: web }
"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    fn read(dir: &Path, env_files: &[PathBuf], environment: &[(&str, &str)]) -> Result<(Reading, Inputs), Failure> {
        let environment = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        Machine { folder: dir, env_files, environment: &environment, named: Named::default() }.read(TEXT.as_bytes())
    }

    const WEB: (&str, &str) = ("base/web.yml", "services: { web: { env_file: web.env, labels: { tag: $TAG } } }");

    #[test]
    fn all_that_is_used_is_taken_and_nothing_besides() {
        let dir = folder(&[
            WEB,
            (".env", "TAG=${VERSION}\nNAME=from-file\nUNUSED=1\nOTHER=2\n"),
            ("conf/site.env", "A=$NAME\nB=$HOME_OF_IT\n"),
            ("base/web.env", "C=1\n"),
            ("unused.env", "D=1\n"),
        ]);
        let environment = [("NAME", "from-environment"), ("VERSION", "1.27"), ("HOME_OF_IT", "/x"), ("PATH", "/bin")];
        let (reading, inputs) = read(dir.path(), &[], &environment).unwrap();
        assert!(reading.file.is_ok(), "{:?}", reading.file);
        let variables: Vec<(&str, &str)> = inputs.variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(variables, [("HOME_OF_IT", "/x"), ("NAME", "from-environment"), ("TAG", "1.27")]);
        assert_eq!(inputs.files.keys().collect::<Vec<_>>(), ["base/web.env", "base/web.yml", "conf/site.env"]);
        let again = topology::read(TEXT.as_bytes(), &inputs);
        assert_eq!(again.file, reading.file, "what was taken says the same anywhere");
    }

    #[test]
    fn files_that_are_named_stand_instead_of_the_usual_one() {
        let dir = folder(&[
            WEB,
            (".env", "NAME=usual\n"),
            ("a.env", "TAG=1\nNAME=a\n"),
            ("b.env", "NAME=b-$TAG\n"),
            ("conf/site.env", ""),
            ("base/web.env", ""),
        ]);
        let named = [dir.path().join("a.env"), dir.path().join("b.env")];
        let (_, inputs) = read(dir.path(), &named, &[]).unwrap();
        assert_eq!((inputs.variables["NAME"].as_str(), inputs.variables["TAG"].as_str()), ("b-1", "1"));
        let failure = read(dir.path(), &[dir.path().join("none.env")], &[]).err().unwrap();
        assert!(failure.message.contains("none.env is not there"), "{failure}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_by_its_place_as_seen_from_here() {
        let dir = folder(&[("conf/site.env", "A=${UNSET}\n"), ("base/web.yml", "services: { web: { imag: x } }")]);
        let (reading, _) = read(dir.path(), &[], &[("TAG", "1"), ("NAME", "n")]).unwrap();
        let failure = bad("edge.yaml", Path::new("conf.d"), &reading.file.unwrap_err());
        let all = failure.details.join("\n");
        assert!(all.contains("conf.d/conf/site.env:1:3: error: the variable `UNSET` is not set"), "{all}");
        assert!(all.contains("conf.d/base/web.yml:1:20: error: a service has no key `imag`"), "{all}");
        let dir = folder(&[(".env", "NAME='x\n")]);
        let failure = read(dir.path(), &[], &[]).err().unwrap();
        assert!(failure.details.join("\n").contains(".env:1:6: error: the ' that begins here has no end"), "{failure:?}");
        let dir = folder(&[WEB, (".env", "NAME=n\nTAG=1"), ("conf/site.env", &"x".repeat(INPUT_MAX + 1))]);
        assert!(read(dir.path(), &[], &[]).err().unwrap().message.contains("larger than 512 KiB"));
    }

    /// What `read` gives; a test that hangs ends here.
    fn in_time<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, found) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(read()));
        found.recv_timeout(std::time::Duration::from_secs(20)).expect("somebody waits for a pipe")
    }

    fn pipe(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    #[test]
    fn a_pipe_where_a_plain_file_belongs_is_refused_and_not_waited_for() {
        for name in [".env", "conf/site.env"] {
            let dir = folder(&[WEB, ("base/web.env", ""), ("conf/other.env", "")]);
            pipe(dir.path(), name);
            let env = [("TAG", "1"), ("NAME", "n")];
            let failure = in_time(move || read(dir.path(), &[], &env).err().unwrap());
            assert!(failure.message.ends_with(&format!("{name} is no plain file")) && failure.remedy.contains("--env-file"), "{failure:?}");
        }
        let dir = folder(&[]);
        let path = pipe(dir.path(), "secret.txt");
        // Whatever a look at its name said before.
        assert!(in_time(move || read_bytes(&path, SEALED_MAX, Form::Plain)).unwrap_err().message.contains("is no plain file"));
        std::fs::create_dir(dir.path().join(".env")).unwrap();
        assert!(read(dir.path(), &[], &[]).err().unwrap().message.ends_with(".env is no plain file"));
    }

    #[test]
    fn variables_come_from_a_pipe_that_was_named_also_when_its_writer_is_late() {
        let dir = folder(&[WEB, ("base/web.env", ""), ("conf/site.env", "")]);
        let path = pipe(dir.path(), "pipe");
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "TAG=1\nNAME=piped\n")
        });
        let inputs = in_time(move || read(dir.path(), &[path], &[]).map(|(_, inputs)| inputs).unwrap());
        assert_eq!(inputs.variables["NAME"], "piped");
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn a_file_of_variables_that_is_no_text_is_refused_and_not_shown() {
        let dir = folder(&[WEB]);
        std::fs::write(dir.path().join(".env"), b"NAME=hunter2\xff\n").unwrap();
        let failure = read(dir.path(), &[], &[]).err().unwrap();
        assert!(failure.message.ends_with(".env is not UTF-8") && !format!("{failure:?}").contains("hunter2"), "{failure:?}");
    }

    #[test]
    fn what_is_signed_is_shown_whole() {
        assert_eq!(shown("x", &Inputs::default()), "x");
        let inputs = Inputs {
            variables: BTreeMap::from([("A".to_owned(), "1\n2".to_owned())]),
            files: BTreeMap::from([("a.env".to_owned(), "X=1\nY=2".to_owned())]),
            pins: BTreeMap::from([("app:1".to_owned(), "sha256:0".to_owned())]),
            digests: BTreeMap::from([("secrets.a file b".to_owned(), "0123456789abcdef".to_owned())]),
        };
        assert_eq!(
            shown("x", &inputs),
            "x\n# variable A=\"1\\n2\"\n# file a.env\n#   X=1\n#   Y=2\n# image app:1 is sha256:0\n# secrets.a file b is sealed, by the digest 0123456789ab\n"
        );
    }
}
