//! The image that tests and demo run: one static program of ours, imported. Needs no registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use bollard::query_parameters as query;
use futures_util::StreamExt as _;
use moorline_common::id::sha256_hex;

use crate::binaries;
use crate::engine::Engine;

/// The image's name, as the example topologies use it.
pub const IMAGE: &str = "moorline-demo:1";
const SOURCE: &str = include_str!("../demo-app/main.rs");
const BLOCK: usize = 512;
/// The program under the names that topologies call it by.
const LINKS: [&str; 4] = ["bin/sleep", "bin/true", "bin/check", "bin/cat"];

/// Makes [`IMAGE`] on the engine unless it is there already. Returns whether it was made now.
///
/// # Errors
/// When the program cannot be compiled or the engine refuses the image.
pub fn ensure(engine: &Engine) -> Result<bool> {
    let label = format!("moorline.demo.source={}", sha256_hex(SOURCE.as_bytes()));
    let (key, value) = label.split_once('=').context("label")?;
    if let Ok(image) = engine.block_on(engine.docker().inspect_image(IMAGE))
        && image.config.and_then(|c| c.labels).and_then(|l| l.get(key).cloned()).is_some_and(|v| v == value)
    {
        return Ok(false);
    }
    let tar = archive(&std::fs::read(program()?)?);
    let changes = vec![
        "ENTRYPOINT [\"/bin/moorline-demo\"]".to_owned(),
        "CMD [\"serve\"]".to_owned(),
        "ENV PATH=/bin".to_owned(),
        format!("LABEL {label}"),
    ];
    let (repo, tag) = IMAGE.split_once(':').context("image name")?;
    let options = query::CreateImageOptionsBuilder::new().from_src("-").repo(repo).tag(tag).changes(changes).build();
    engine.block_on(async {
        let mut stream = std::pin::pin!(engine.docker().create_image(Some(options), Some(bollard::body_full(tar.into())), None));
        while let Some(progress) = stream.next().await {
            progress.context("importing the demo's image")?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(true)
}

/// Takes [`IMAGE`] away again, if no container uses it.
///
/// # Errors
/// When the engine refuses.
pub fn remove(engine: &Engine) -> Result<()> {
    engine.block_on(engine.docker().remove_image(IMAGE, None::<query::RemoveImageOptions>, None))?;
    Ok(())
}

/// The compiled program, kept beside the other programs.
fn program() -> Result<PathBuf> {
    let digest = sha256_hex(SOURCE.as_bytes());
    let path = binaries::folder()?.join(format!("moorline-demo-app-{}", digest.get(..12).unwrap_or("x")));
    if !path.is_file() {
        compile(&path).context("compiling the demo's program with rustc")?;
    }
    Ok(path)
}

fn compile(path: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(path.parent().context("folder")?)?;
    let source = work.path().join("main.rs");
    std::fs::write(&source, SOURCE)?;
    let made = work.path().join("moorline-demo");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["--crate-name", "moorline_demo", "-o"])
        .arg(&made)
        .arg(&source);
    crate::process::run(rustc, b"", crate::limits::COMMAND)?.ok()?;
    std::fs::rename(&made, path)?;
    Ok(())
}

/// A tar archive (POSIX ustar) with the program and its links.
fn archive(program: &[u8]) -> Vec<u8> {
    let mut tar = Vec::with_capacity(program.len() + 16 * BLOCK);
    tar.extend(header("bin/", 0o755, 0, b'5', ""));
    tar.extend(header("tmp/", 0o1777, 0, b'5', ""));
    tar.extend(header("bin/moorline-demo", 0o755, program.len(), b'0', ""));
    tar.extend(program);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    for link in LINKS {
        tar.extend(header(link, 0o755, 0, b'2', "/bin/moorline-demo"));
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

fn header(name: &str, mode: u32, size: usize, kind: u8, link: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block.iter_mut().skip(at).zip(text).for_each(|(b, t)| *b = *t);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let mut put = |at: usize, text: &[u8]| block.iter_mut().skip(at).zip(text).for_each(|(b, t)| *b = *t);
    put(148, format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_made_without_a_registry_and_made_once() {
        let Some(engine) = Engine::system().unwrap() else { return };
        ensure(&engine).unwrap();
        assert!(!ensure(&engine).unwrap(), "the second time it is there already");
        let image = engine.block_on(engine.docker().inspect_image(IMAGE)).unwrap();
        let config = image.config.unwrap();
        assert_eq!(config.entrypoint.unwrap_or_default(), ["/bin/moorline-demo"]);
        assert_eq!(config.cmd.unwrap_or_default(), ["serve"]);
    }

    #[test]
    fn the_archive_is_one_that_tar_reads() {
        let archive = archive(b"program");
        assert_eq!(archive.len() % BLOCK, 0);
        assert_eq!(archive.get(257..262), Some(b"ustar".as_slice()));
        let sum =
            archive.iter().take(BLOCK).enumerate().map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) }).sum::<u32>();
        let field = String::from_utf8_lossy(archive.get(148..154).unwrap_or_default()).into_owned();
        assert_eq!(u32::from_str_radix(&field, 8), Ok(sum));
    }
}
