//! A service's mounts: the short form, the long form, and memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::super::keys;
use super::super::node::{Kind, Node, Value, shorten};
use super::super::vars::Why;
use super::super::{MountKind, MountOptions, MountSpec};
use super::docker::non_empty;
use super::options::bytes;
use super::values::{absolute_path, name};
use super::walk::{Fields, Walker};

/// Ways in which mounts below a path on the host are seen on the other side.
const PROPAGATIONS: [&str; 6] = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];

/// Reads `volumes` of a service.
pub(super) fn mounts(w: &mut Walker<'_>, node: &Node) -> Option<BTreeMap<String, MountSpec>> {
    let mut out = BTreeMap::new();
    for (n, item) in w.list(node, "a list of mounts").iter().enumerate() {
        let mount = w.within(format!("[{n}]"), |w| match &item.value {
            Value::Map(_) => long_form(w, item),
            Value::Scalar { .. } | Value::List(_) => w.parsed(item, short_form),
        });
        let Some((target, spec)) = mount else { continue };
        w.mark(&target, item.at);
        match out.entry(target) {
            Entry::Vacant(vacant) => {
                vacant.insert(spec);
            }
            Entry::Occupied(taken) => {
                w.within(format!("[{n}]"), |w| w.report(item.at, format!("something is mounted at `{}` already", taken.key())));
            }
        }
    }
    Some(out)
}

/// Reads `tmpfs` of a service: the path in the container → the options of the mount.
pub(super) fn tmpfs(w: &mut Walker<'_>, node: &Node) -> Option<BTreeMap<String, String>> {
    let one = |w: &mut Walker<'_>, node: &Node| {
        w.parsed(node, |text| {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            Ok((absolute_path(path)?, options.to_owned()))
        })
    };
    let items = if let Value::List(items) = &node.value { items.as_slice() } else { std::slice::from_ref(node) };
    let mut out = BTreeMap::new();
    for (n, item) in items.iter().enumerate() {
        let found = if std::ptr::eq(item, node) { one(w, item) } else { w.within(format!("[{n}]"), |w| one(w, item)) };
        let Some((path, options)) = found else { continue };
        w.mark(&path, item.at);
        out.insert(path, options);
    }
    Some(out)
}

/// What may be the source of a mount.
fn source_of(kind: MountKind, text: &str) -> Result<String, Why> {
    match kind {
        MountKind::Volume if text.contains('/') => {
            Err(Why::new(format!("`{}` is no volume's name", shorten(text))).help("for a path on the host use `type: bind`"))
        }
        MountKind::Volume => name(text),
        MountKind::Bind => host_path(text),
        MountKind::Tmpfs => Err(Why::new("memory has no source")),
    }
}

fn host_path(text: &str) -> Result<String, Why> {
    if text.starts_with('/') {
        return absolute_path(text);
    }
    Err(Why::new(format!("`{}` is a relative path on the host", shorten(text)))
        .help("write it from `/` on: there is no working folder on the host that it could be relative to"))
}

/// `[source:]target[:options]`. Gives the target and what is there.
fn short_form(text: &str) -> Result<(String, MountSpec), Why> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => (None, *target, None),
        [target, mode @ ("ro" | "rw" | "nocopy")] if target.starts_with('/') => (None, *target, Some(*mode)),
        [source, target] => (Some(*source), *target, None),
        [source, target, mode] => (Some(*source), *target, Some(*mode)),
        _ => {
            return Err(Why::new(format!("`{}` is no mount", shorten(text)))
                .help("write it like `data:/var/lib/data`, `/srv/moorline/x:/x:ro`, or the long form"));
        }
    };
    let kind = match source {
        Some(source) if source.starts_with(['/', '.', '~']) || source.contains('/') => MountKind::Bind,
        Some(_) | None => MountKind::Volume,
    };
    let (read_only, options) = short_options(kind, mode.unwrap_or("rw"))?;
    let source = source.map(|s| source_of(kind, s)).transpose()?;
    if source.is_none() && !target.starts_with('/') {
        return Err(Why::new(format!("`{}` says no place in the container", shorten(text))).help("write it like `data:/var/lib/data`"));
    }
    Ok((absolute_path(target)?, MountSpec { kind, source, read_only, options }))
}

fn short_options(kind: MountKind, mode: &str) -> Result<(bool, MountOptions), Why> {
    let mut options = MountOptions::default();
    let mut read_only = false;
    for option in mode.split(',') {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" if kind == MountKind::Volume => options.nocopy = Some(true),
            "z" | "Z" if kind == MountKind::Bind => options.selinux = Some(option.to_owned()),
            option if kind == MountKind::Bind && PROPAGATIONS.contains(&option) => options.propagation = Some(option.to_owned()),
            other => {
                let known =
                    if kind == MountKind::Bind { "`ro`, `rw`, `z`, `Z` and `rprivate` to `slave`" } else { "`ro`, `rw` and `nocopy`" };
                return Err(Why::new(format!("`{}` is no option of such a mount", shorten(other))).help(format!("there are {known}")));
            }
        }
    }
    Ok((read_only, options))
}

fn long_form(w: &mut Walker<'_>, node: &Node) -> Option<(String, MountSpec)> {
    let fields = w.object(node, &keys::MOUNT)?;
    let words = [("volume", MountKind::Volume), ("bind", MountKind::Bind), ("tmpfs", MountKind::Tmpfs)];
    let kind = w.get(&fields, "type", |w, n| w.one_of(n, &words));
    let target = w.get(&fields, "target", |w, n| w.parsed(n, absolute_path));
    let read_only = w.get(&fields, "read_only", Walker::truth).unwrap_or(false);
    let source_node = fields.get("source");
    let kind = kind?;
    let source = w.get(&fields, "source", |w, n| w.parsed(n, |text| source_of(kind, text)));
    if kind == MountKind::Bind && source_node.is_none() {
        w.report(fields.at, "a bind mount needs the key `source`: an absolute path on the host");
    }
    let options = long_options(w, &fields, kind);
    if source_node.is_some() && source.is_none() {
        return None;
    }
    let target = target?;
    if options.selinux.is_some() && (target.contains(':') || source.as_ref().is_some_and(|source| source.contains(':'))) {
        w.report(fields.at, "engines label no path with a colon in it: leave `selinux` out");
    }
    Some((target, MountSpec { kind, source, read_only, options }))
}

fn long_options(w: &mut Walker<'_>, fields: &Fields<'_>, kind: MountKind) -> MountOptions {
    let mut options = MountOptions::default();
    for (key, own) in [("bind", MountKind::Bind), ("volume", MountKind::Volume), ("tmpfs", MountKind::Tmpfs)] {
        if kind != own && fields.get(key).is_some() {
            w.within(key, |w| w.report(fields.key_at(key), format!("`{key}` says nothing about a mount of another type")));
        }
    }
    let propagations = PROPAGATIONS.map(|word| (word, word));
    w.get(fields, "bind", |w, n| {
        let fields = w.object(n, &keys::BIND_OPTIONS)?;
        options.create_host_path = w.get(&fields, "create_host_path", Walker::truth);
        options.propagation = w.get(&fields, "propagation", |w, n| w.one_of(n, &propagations)).map(str::to_owned);
        options.selinux = w.get(&fields, "selinux", |w, n| w.one_of(n, &[("z", "z"), ("Z", "Z")])).map(str::to_owned);
        Some(())
    });
    w.get(fields, "volume", |w, n| {
        let fields = w.object(n, &keys::VOLUME_OPTIONS)?;
        options.nocopy = w.get(&fields, "nocopy", Walker::truth);
        options.subpath = w.get(&fields, "subpath", |w, n| w.checked(n, subpath));
        Some(())
    });
    w.get(fields, "tmpfs", |w, n| {
        let fields = w.object(n, &keys::TMPFS_OPTIONS)?;
        options.mode = w.get(&fields, "mode", mode);
        options.size = w.get(&fields, "size", bytes);
        Some(())
    });
    options
}

/// A folder in a volume: it must not lead out of that.
fn subpath(text: &str) -> Result<String, Why> {
    let text = non_empty(text)?;
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(
            Why::new(format!("`{}` is no folder in the volume", shorten(&text))).help("write it without a leading `/` and without `..`")
        );
    }
    Ok(text)
}

/// Permissions in octal digits.
pub(super) fn mode(w: &mut Walker<'_>, node: &Node) -> Option<u32> {
    // In YAML, 1777 is a decimal number.
    if let Value::Scalar { text, kind: Kind::Int } = &node.value
        && !text.starts_with('0')
    {
        w.report_why(node.at, Why::new(format!("`{}` are no octal digits", shorten(text))).help(format!("write `0o{}`", shorten(text))));
        return None;
    }
    let filled = w.scalar(node, "permissions in octal digits such as `0o1777`")?;
    w.understood(filled, node.at, |text| {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777 && !digits.starts_with('+'));
        mode.ok_or_else(|| Why::new(format!("`{}` are no permissions in octal digits", shorten(text))).help("write them like `0o1777`"))
    })
}
