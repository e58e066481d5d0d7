//! Secrets and configs: where their values come from, and how services have them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::super::inputs::join;
use super::super::keys;
use super::super::node::{Node, Value, shorten};
use super::super::sealed::{Origin, SealedKind, SealedMount, SealedSpec};
use super::super::vars::Why;
use super::docker::{non_empty, optional};
use super::mounts::mode;
use super::values::{absolute_path, decimal, name};
use super::walk::Walker;

/// Reads an entry under `secrets` or `configs`. While it is open, it has no origin.
pub(crate) fn object(w: &mut Walker<'_>, node: &Node, kind: SealedKind) -> SealedSpec {
    let keys = match kind {
        SealedKind::Secret => &keys::SECRET,
        SealedKind::Config => &keys::CONFIG,
    };
    let before = w.problems.len();
    if matches!(node.value, Value::Scalar { .. }) && !node.is_null() && !node.is_wrong() {
        // It may be the value itself.
        w.report_why(node.at, Why::new(format!("expected {} (a map), found a value", keys.name)).help(origins(kind)));
        return SealedSpec::default();
    }
    let fields = optional(w, node, keys);
    let Some(fields) = fields else {
        if w.problems.len() == before {
            nowhere(w, node, kind);
        }
        return SealedSpec::default();
    };
    let named: Vec<&str> = keys.keys.iter().map(|k| k.name).filter(|key| fields.get(key).is_some()).collect();
    match named.as_slice() {
        [] if w.problems.len() == before => nowhere(w, node, kind),
        [] | [_] => {}
        [first, second, ..] => {
            let why = format!("`{first}` and `{second}` both name the value of this {}; only one of them can be", kind.word());
            w.within(*second, |w| w.report(fields.key_at(second), why));
        }
    }
    let file = w.get(&fields, "file", |w, n| w.parsed(n, path)).map(Origin::File);
    let environment = w.get(&fields, "environment", |w, n| w.parsed(n, variable)).map(Origin::Environment);
    let content = w.get(&fields, "content", |w, n| w.parsed(n, |text| Ok(text.to_owned()))).map(Origin::Content);
    SealedSpec { origin: file.or(environment).or(content), digest: String::new() }
}

fn nowhere(w: &mut Walker<'_>, node: &Node, kind: SealedKind) {
    w.report_why(node.at, Why::new(format!("this {} says nowhere where its value comes from", kind.word())).help(origins(kind)));
}

const fn origins(kind: SealedKind) -> &'static str {
    match kind {
        SealedKind::Secret => "name a `file`, or a variable by `environment`",
        SealedKind::Config => "name a `file`, a variable by `environment`, or write its `content`",
    }
}

fn path(text: &str) -> Result<String, Why> {
    let text = non_empty(text)?;
    if text.starts_with("~/") || text == "~" {
        return Err(Why::new("`~` is not replaced in a path").help("write the path relative to the topology file, or beginning with `/`"));
    }
    Ok(join("", &text))
}

fn variable(text: &str) -> Result<String, Why> {
    let text = non_empty(text)?;
    let Some((name, _)) = text.split_once('=') else { return Ok(text) };
    // What follows is the value.
    let name = shorten(name.trim());
    let instead = if name.is_empty() { "NAME" } else { &name };
    Err(Why::new(format!("`{name}=…` cannot be a variable's name"))
        .help(format!("write `environment: {instead}`, and set the value in the environment or in `.env`")))
}

/// Reads `secrets` or `configs` of a service.
pub(super) fn mounts(w: &mut Walker<'_>, node: &Node, kind: SealedKind) -> Option<BTreeMap<String, SealedMount>> {
    let mut out = BTreeMap::new();
    for (n, item) in w.list(node, &format!("a list of {}", kind.section())).iter().enumerate() {
        let mount = w.within(format!("[{n}]"), |w| match &item.value {
            Value::Map(_) => long_form(w, item, kind),
            Value::Scalar { .. } | Value::List(_) => w.parsed(item, |text| {
                Ok((format!("{}{}", kind.folder(), name(text)?), SealedMount { source: text.to_owned(), ..SealedMount::default() }))
            }),
        });
        let Some((target, mount)) = mount else { continue };
        w.mark(&target, item.at);
        match out.entry(target) {
            Entry::Vacant(vacant) => {
                vacant.insert(mount);
            }
            Entry::Occupied(taken) => {
                w.within(format!("[{n}]"), |w| w.report(item.at, format!("something is mounted at `{}` already", taken.key())));
            }
        }
    }
    Some(out)
}

fn long_form(w: &mut Walker<'_>, node: &Node, kind: SealedKind) -> Option<(String, SealedMount)> {
    let keys = match kind {
        SealedKind::Secret => &keys::SECRET_MOUNT,
        SealedKind::Config => &keys::CONFIG_MOUNT,
    };
    let (before, varied_before) = (w.problems.len(), std::mem::take(&mut w.varied));
    let fields = w.object(node, keys)?;
    let source = w.get(&fields, "source", |w, n| w.parsed(n, name));
    let target = w.get(&fields, "target", |w, n| w.parsed(n, |text| in_folder(kind, text)));
    let uid = w.get(&fields, "uid", id);
    let gid = w.get(&fields, "gid", id);
    let mode = w.get(&fields, "mode", |w, n| {
        let mode = mode(w, n)?;
        if mode > 0o777 {
            w.report(n.at, "a file of values has permissions to read, write and run, and no other bits");
        }
        Some(mode)
    });
    // An open or wrong part makes the whole unknown.
    let open = w.varied;
    w.varied |= varied_before;
    if open || w.problems.len() > before {
        return None;
    }
    let source = source?;
    let target = target.unwrap_or_else(|| format!("{}{source}", kind.folder()));
    Some((target, SealedMount { source, uid, gid, mode }))
}

fn in_folder(kind: SealedKind, text: &str) -> Result<String, Why> {
    let text = non_empty(text)?;
    let path = absolute_path(&if text.starts_with('/') { text } else { format!("{}{text}", kind.folder()) })?;
    if path == "/" { Err(Why::new("`/` is no file")) } else { Ok(path) }
}

fn id(w: &mut Walker<'_>, node: &Node) -> Option<u32> {
    let filled = w.scalar(node, "the number of a user or group")?;
    w.understood(filled, node.at, |text| {
        let id = decimal(text).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        id.ok_or_else(|| {
            Why::new(format!("`{}` is no number of a user or group", shorten(text)))
                .help("names of users are the image's own: write the number")
        })
    })
}
