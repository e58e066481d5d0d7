//! Whether a value stands anywhere that it must not: as it is, in hex, in base64 wherever that falls on it, and in base64 of that.
//!
//! A search that finds nothing proves nothing by itself: [`Leaks::check`] shows first that it would find each value in each form in
//! each place.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Values are told apart by this many of their first bytes, in each form.
const HEAD: usize = 8;

/// Values that must stand nowhere.
#[derive(Default)]
pub struct Leaks {
    forms: BTreeMap<[u8; HEAD], Vec<Vec<u8>>>,
    plants: Vec<Vec<u8>>,
}

impl Leaks {
    /// Looks for `values`, of 12 bytes at least.
    ///
    /// # Errors
    /// For a shorter one: what stands of it in base64 would be found anywhere.
    pub fn of<'v>(values: impl IntoIterator<Item = &'v str>) -> Result<Self> {
        let mut leaks = Self::default();
        for value in values {
            ensure!(value.len() >= 12, "too short to be looked for");
            let plain = value.as_bytes().to_vec();
            let hex = hex::encode(value);
            let mut forms = vec![plain.clone(), hex.to_uppercase().into_bytes(), hex.clone().into_bytes()];
            let once = in_base64(&plain);
            forms.extend(once.iter().flat_map(|form| in_base64(form)));
            forms.extend(once);
            for form in forms {
                let Some(head) = form.first_chunk::<HEAD>() else { continue };
                leaks.forms.entry(*head).or_default().push(form);
            }
            leaks.plants.extend([plain, STANDARD.encode(format!("{{\"x\":\"{value}\"}}")).into_bytes(), hex.into_bytes()]);
            leaks.plants.push(STANDARD.encode(format!("{{{}}}", STANDARD.encode(format!(" {value} ")))).into_bytes());
        }
        Ok(leaks)
    }

    /// Whether one of them stands in `bytes`.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let begins_here = |at: usize| {
            let rest = bytes.get(at..).unwrap_or_default();
            rest.first_chunk::<HEAD>().and_then(|head| self.forms.get(head)).is_some_and(|forms| forms.iter().any(|f| rest.starts_with(f)))
        };
        (0..bytes.len()).any(begins_here)
    }

    /// The files below `folder` that have one, but for those whose path is among `but`. What goes while this looks is no failure: programs
    /// are at work there.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn files(&self, folder: &Path, but: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            let Some(entries) = unless_gone(std::fs::read_dir(folder))? else { continue };
            for entry in entries {
                let Some((path, kind)) = unless_gone(entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))))? else { continue };
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() && !but.contains(&path) && self.is_in(&std::fs::read(&path).unwrap_or_default()) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    /// Checks that no file below `folder` has one but those of `but`, after showing that a value in each form would be found in each
    /// of `places`, which are files or folders below it: at the end of a file, and in a new file of a folder.
    ///
    /// # Errors
    /// With the files that have one, and the plants that were not found.
    pub fn check(&self, folder: &Path, but: &[PathBuf], places: &[PathBuf]) -> Result<()> {
        let found = self.files(folder, but)?;
        ensure!(found.is_empty(), "values stand in {found:?}");
        let mut planted = Vec::new();
        for (place, n) in places.iter().flat_map(|place| (0..self.plants.len()).map(move |n| (place, n))) {
            let (copy, before) = if place.is_dir() {
                (place.join(format!("planted-{n}")), Vec::new())
            } else {
                // A copy beside it: programs have the file itself open.
                (place.with_extension(format!("planted-{n}")), std::fs::read(place)?)
            };
            let plant = self.plants.get(n).map(Vec::as_slice).unwrap_or_default();
            std::fs::write(&copy, [before.as_slice(), b"\0before ", plant, b" after"].concat())?;
            planted.push(copy);
        }
        let mut found = self.files(folder, but)?;
        planted.iter().try_for_each(std::fs::remove_file)?;
        found.sort();
        planted.sort();
        ensure!(found == planted, "planted {planted:?}, and found {found:?}");
        Ok(())
    }
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What of `bytes` surely stands in base64 of a text that has them, in each of the three ways in which that may fall on them.
fn in_base64(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for before in ["", " ", "  "] {
        let text = [before.as_bytes(), bytes].concat();
        for encoded in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
            // The first and last letters hold bits of what is around.
            forms.extend(encoded.as_bytes().get(4..encoded.len().saturating_sub(4)).map(<[u8]>::to_vec));
        }
    }
    forms.sort();
    forms.dedup();
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_every_form_wherever_it_stands_and_no_other_is() {
        let value = "marked-value-0123";
        let leaks = Leaks::of([value]).unwrap();
        for around in ["", "a", "ab", "abc", "abcd"] {
            let text = format!("{around}{value}{around}");
            let (once, hex) = (STANDARD.encode(&text), hex::encode(&text));
            let url = URL_SAFE.encode(&text);
            for form in [text, once.clone(), url, hex.to_uppercase(), hex, STANDARD.encode(format!("{around}\"{once}\"{around}"))] {
                assert!(leaks.is_in(format!("..{form}..").as_bytes()), "{around} {form}");
            }
        }
        assert!(!leaks.is_in(b"marked-value-0124") && !leaks.is_in(STANDARD.encode("marked-value-9999").as_bytes()));
        assert!(Leaks::of(["short"]).is_err());
    }
}
