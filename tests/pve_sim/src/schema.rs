//! Requests against the API's own description: the `apidoc.json` that Proxmox VE's documentation is made of. It is given, never part of
//! this project.
//!
//! Source of its rules: `PVE::JSONSchema::validate`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use regex::Regex;
use serde_json::Value;

/// The description of an API.
#[derive(Debug)]
pub struct Schema {
    methods: Vec<Method>,
}

#[derive(Debug)]
struct Method {
    path: Vec<Segment>,
    verb: String,
    parameters: BTreeMap<String, Value>,
    /// Whether others may stand beside them.
    is_open: bool,
}

#[derive(Debug, PartialEq)]
enum Segment {
    Fixed(String),
    Named(String),
}

impl Schema {
    /// Reads the description.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let roots: Vec<Value> = serde_json::from_slice(json).context("the API's description is no JSON list")?;
        let mut methods = Vec::new();
        let mut nodes = roots;
        while let Some(mut node) = nodes.pop() {
            if let Some(Value::Array(children)) = node.get_mut("children").map(Value::take) {
                nodes.extend(children);
            }
            let path = node.get("path").and_then(Value::as_str).context("a node has no path")?;
            let path: Vec<Segment> = path.split('/').filter(|part| !part.is_empty()).map(segment).collect();
            for (verb, info) in node.get("info").and_then(Value::as_object).into_iter().flatten() {
                let parameters = &info["parameters"];
                let properties = parameters["properties"].as_object().cloned().unwrap_or_default();
                let is_open =
                    parameters["additionalProperties"].as_i64() == Some(1) || parameters["additionalProperties"].as_bool() == Some(true);
                let path = path.iter().map(Segment::again).collect();
                methods.push(Method { path, verb: verb.clone(), parameters: properties.into_iter().collect(), is_open });
            }
        }
        if methods.is_empty() {
            bail!("the API's description has no methods");
        }
        Ok(Self { methods })
    }

    /// Checks a call: its path without the prefix of the API, decoded, and its parameters.
    ///
    /// # Errors
    /// Everything that the API would not take.
    pub fn check(&self, verb: &str, path: &str, parameters: &[(String, String)]) -> Result<(), Vec<String>> {
        let wrong = self.errors(verb, path, parameters);
        if wrong.is_empty() {
            return Ok(());
        }
        let line = |(key, words): (String, String)| if key.is_empty() { words } else { format!("{verb} {path}: {key}: {words}") };
        Err(wrong.into_iter().map(line).collect())
    }

    /// The same by parameter, in the API's words where there is one fault; under the empty name when there is no such call.
    #[must_use]
    pub fn errors(&self, verb: &str, path: &str, parameters: &[(String, String)]) -> BTreeMap<String, String> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        self.errors_of(verb, &parts, parameters)
    }

    /// The same for a path in its parts, of which the last may have slashes in it.
    #[must_use]
    pub fn errors_of(&self, verb: &str, parts: &[&str], parameters: &[(String, String)]) -> BTreeMap<String, String> {
        let found = self.methods.iter().filter(|method| method.verb == verb).find_map(|method| Some((method, method.names(parts)?)));
        let Some((method, named)) = found else {
            return BTreeMap::from([(String::new(), format!("{verb} /{} is no method of the API", parts.join("/")))]);
        };
        let mut wrong = BTreeMap::new();
        let mut given: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, value) in
            named.iter().map(|(key, value)| (key.as_str(), *value)).chain(parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())))
        {
            given.entry(key).or_default().push(value);
        }
        for (key, values) in &given {
            let Some(rule) = method.parameter(key) else {
                if !method.is_open {
                    wrong.insert((*key).to_owned(), UNKNOWN.to_owned());
                }
                continue;
            };
            if let Some(fault) = values.iter().find_map(|value| fault(rule, value)) {
                wrong.insert((*key).to_owned(), fault);
            }
            let is_list = rule["type"] == "array" || rule["format"].as_str().is_some_and(|format| format.ends_with("-list"));
            if values.len() > 1 && !is_list {
                wrong.insert((*key).to_owned(), "type check failed - got ARRAY: it stands there twice".to_owned());
            }
            let needs = rule["requires"].as_str().filter(|needed| !given.contains_key(needed));
            if let Some(needed) = needs {
                wrong.insert((*key).to_owned(), format!("missing property - '{key}' requires this property: {needed}"));
            }
        }
        for (key, rule) in &method.parameters {
            if !is_optional(rule) && !key.ends_with("[n]") && !given.contains_key(key.as_str()) {
                wrong.insert(key.clone(), "property is missing and it is not optional".to_owned());
            }
        }
        wrong
    }
}

/// What is said of a parameter that there is not.
const UNKNOWN: &str = "property is not defined in schema and the schema does not allow additional properties";

fn segment(part: &str) -> Segment {
    match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => Segment::Named(name.to_owned()),
        None => Segment::Fixed(part.to_owned()),
    }
}

impl Segment {
    fn again(&self) -> Self {
        match self {
            Segment::Fixed(text) => Segment::Fixed(text.clone()),
            Segment::Named(name) => Segment::Named(name.clone()),
        }
    }
}

impl Method {
    /// What the path's own parameters are, if it is this method's.
    fn names<'p>(&self, parts: &[&'p str]) -> Option<Vec<(String, &'p str)>> {
        if parts.len() != self.path.len() {
            return None;
        }
        let mut named = Vec::new();
        for (segment, part) in self.path.iter().zip(parts) {
            match segment {
                Segment::Fixed(text) if text == part => {}
                Segment::Fixed(_) => return None,
                Segment::Named(name) => named.push((name.clone(), *part)),
            }
        }
        Some(named)
    }

    /// The rule of a parameter: its own, or that of its family, as `net[n]` for `net0`.
    fn parameter(&self, key: &str) -> Option<&Value> {
        let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let family = (stem.len() < key.len()).then(|| format!("{stem}[n]"));
        self.parameters.get(key).or_else(|| self.parameters.get(&family?))
    }
}

/// Perl has no booleans: 1 and "1" mean yes.
fn is_optional(rule: &Value) -> bool {
    rule["optional"].as_i64() == Some(1) || rule["optional"].as_str() == Some("1")
}

fn number(rule: &Value, key: &str) -> Option<f64> {
    rule[key].as_f64().or_else(|| rule[key].as_str()?.parse().ok())
}

/// What is wrong with a value by its rule.
fn fault(rule: &Value, text: &str) -> Option<String> {
    match rule["type"].as_str().unwrap_or("string") {
        "boolean" if !matches!(text.to_ascii_lowercase().as_str(), "0" | "1" | "on" | "off" | "yes" | "no" | "true" | "false") => {
            return Some(format!("type check ('boolean') failed - got '{text}'"));
        }
        "integer" if text.parse::<i64>().is_err() => return Some(format!("type check ('integer') failed - got '{text}'")),
        "number" if text.parse::<f64>().is_err() => return Some(format!("type check ('number') failed - got '{text}'")),
        "integer" | "number" => {
            let n: f64 = text.parse().ok()?;
            if let Some(least) = number(rule, "minimum").filter(|least| n < *least) {
                return Some(format!("value must have a minimum value of {least}"));
            }
            if let Some(most) = number(rule, "maximum").filter(|most| n > *most) {
                return Some(format!("value must have a maximum value of {most}"));
            }
        }
        _ => {}
    }
    let length = text.chars().count();
    let bound = |key: &str| rule[key].as_u64().and_then(|n| usize::try_from(n).ok());
    if let Some(most) = bound("maxLength").filter(|most| length > *most) {
        return Some(format!("value may only be {most} characters long"));
    }
    if let Some(least) = bound("minLength").filter(|least| length < *least) {
        return Some(format!("value must be at least {least} characters long"));
    }
    if let Some(words) = rule["enum"].as_array()
        && !words.iter().any(|word| word.as_str() == Some(text) || word.as_i64().is_some_and(|n| text.parse() == Ok(n)))
    {
        let words = words.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect::<Vec<_>>();
        return Some(format!("value '{text}' does not have a value in the enumeration '{}'", words.join(", ")));
    }
    if let Some(pattern) = rule["pattern"].as_str() {
        match compiled(&format!("^(?:{})$", of_perl(pattern))) {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => return Some(format!("value does not match the regex pattern {pattern}")),
            Err(error) => return Some(format!("its pattern cannot be read: {error}")),
        }
    }
    match &rule["format"] {
        Value::Object(format) => properties_fault(format, text),
        Value::String(name) => format_fault(name, text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// A regular expression, made once.
fn compiled(pattern: &str) -> Result<Regex, regex::Error> {
    static MADE: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = made.get(pattern) {
        return Ok(known.clone());
    }
    let new = Regex::new(pattern)?;
    made.insert(pattern.to_owned(), new.clone());
    Ok(new)
}

/// A regular expression of Perl's as one of Rust's.
fn of_perl(pattern: &str) -> String {
    pattern.replace("(?^:", "(?:").replace("(?^i:", "(?i:").replace("{,", "{0,").replace("\\0", "\\x00")
}

/// What is wrong with a property string. Source: `PVE::JSONSchema::parse_property_string`.
fn properties_fault(format: &serde_json::Map<String, Value>, text: &str) -> Option<String> {
    let is_default = |rule: &Value| rule["default_key"].as_i64() == Some(1) || rule["default_key"].as_str() == Some("1");
    let default = format.iter().find(|(_, rule)| is_default(rule)).map(|(key, _)| key.as_str());
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (mut key, value) = match (part.split_once('='), default) {
            (Some(pair), _) => pair,
            (None, Some(default)) => (default, part),
            (None, None) => return Some(format!("`{part}` has no key")),
        };
        if let Some(first) = format.get(key).and_then(|rule| rule["keyAlias"].as_str())
            && seen.insert(first, key).is_some()
        {
            return Some(format!("`{first}` stands there twice"));
        }
        if let Some(alias) = format.get(key).and_then(|rule| rule["alias"].as_str()) {
            key = alias;
        }
        let Some(rule) = format.get(key) else { return Some(format!("`{key}` is no key of it")) };
        if seen.insert(key, value).is_some() {
            return Some(format!("`{key}` stands there twice"));
        }
        if let Some(fault) = fault(rule, value) {
            return Some(format!("{key}: {fault}"));
        }
    }
    let missing = format.iter().find(|(key, rule)| !is_optional(rule) && rule["alias"].is_null() && !seen.contains_key(key.as_str()));
    missing.map(|(key, _)| format!("`{key}` is missing"))
}

/// What is wrong with a value by a named format, of those that requests of ours have.
fn format_fault(name: &str, text: &str) -> Option<String> {
    let matches = |pattern: &str| compiled(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(text));
    let each = |separators: &[char], pattern: &str| {
        text.split(separators)
            .filter(|part| !part.is_empty())
            .all(|part| compiled(&format!("^(?:{pattern})$")).is_ok_and(|r| r.is_match(part)))
    };
    const LABEL: &str = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?";
    let is_good = match name {
        "pve-node" => matches(LABEL),
        "pve-vmid" => matches("[1-9][0-9]{2,8}"),
        "pve-storage-id" => matches("(?i)[a-z][a-z0-9\\-_.]*[a-z0-9]"),
        "pve-configid" => matches("(?i)[a-z][a-z0-9_-]+"),
        "pve-configid-list" => each(&[',', ';', ' '], "(?i)[a-z][a-z0-9_-]+"),
        "pve-tag-list" => each(&[',', ';', ' '], "(?i)[a-z0-9_][a-z0-9_\\-+.]*"),
        "pve-volume-id" => matches("(?i)[a-z][a-z0-9\\-_.]*[a-z0-9]:.+"),
        "pve-volume-id-or-qm-path" => {
            text == "none" || text == "cdrom" || text.starts_with('/') || matches("(?i)[a-z][a-z0-9\\-_.]*[a-z0-9]:.+")
        }
        "dns-name" => matches(&format!("{LABEL}(\\.{LABEL})*")),
        "mac-addr" => matches("(?i)[a-f0-9][02468ace](:[a-f0-9]{2}){5}"),
        "disk-size" => matches("\\d+(\\.\\d+)?[KMGT]?"),
        "urlencoded" => matches("[-%a-zA-Z0-9_.!~*'()]*"),
        "pve-startup-order" => matches("((order=)?\\d+|(up|down)=\\d+)(,((order=)?\\d+|(up|down)=\\d+))*"),
        // The others are looked at by what serves the request.
        _ => true,
    };
    (!is_good).then(|| format!("invalid format - value '{text}' does not look like a valid {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small description of the same make.
    fn small() -> Schema {
        let json = serde_json::json!([{ "path": "/nodes", "children": [{ "path": "/nodes/{node}/qemu/{vmid}/config", "info": { "PUT": { "parameters": {
            "additionalProperties": 0, "properties": {
                "node": { "type": "string", "format": "pve-node" },
                "vmid": { "type": "integer", "format": "pve-vmid", "minimum": 100, "maximum": 999_999_999 },
                "cores": { "type": "integer", "minimum": 1, "optional": 1 },
                "onboot": { "type": "boolean", "optional": 1 },
                "bios": { "type": "string", "enum": ["seabios", "ovmf"], "optional": 1 },
                "vendor": { "type": "string", "pattern": "(?^:[A-Z]{,4})", "optional": 1 },
                "net[n]": { "type": "string", "optional": 1, "format": {
                    "model": { "type": "string", "enum": ["virtio", "e1000"], "default_key": 1 },
                    "macaddr": { "type": "string", "format": "mac-addr", "optional": 1 },
                    "virtio": { "alias": "macaddr", "keyAlias": "model" },
                    "firewall": { "type": "boolean", "optional": 1 },
                } },
            } } } } }] }]);
        Schema::parse(json.to_string().as_bytes()).unwrap()
    }

    fn call(pairs: &[(&str, &str)]) -> Result<(), Vec<String>> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        small().check("PUT", "/nodes/pve-1/qemu/101/config", &pairs)
    }

    #[test]
    fn what_the_api_takes_passes_and_all_else_is_named() {
        for good in [
            vec![("cores", "4"), ("onboot", "1"), ("bios", "ovmf"), ("vendor", "QEMU")],
            vec![("net0", "virtio=BC:24:11:00:00:0A,firewall=1"), ("net31", "model=e1000")],
            vec![],
        ] {
            assert_eq!(call(&good), Ok(()), "{good:?}");
        }
        for (bad, says) in [
            (("cores", "0"), "minimum value of 1"),
            (("cores", "four"), "type check ('integer')"),
            (("onboot", "maybe"), "type check ('boolean')"),
            (("bios", "uefi"), "in the enumeration"),
            (("vendor", "LONGER"), "does not match the regex"),
            (("net0", "virtio=01:24:11:00:00:0A"), "mac-addr"),
            (("net0", "virtio,model=e1000"), "twice"),
            (("net0", "firewall=1"), "`model` is missing"),
            (("net0", "virtio,speed=1"), "`speed`"),
            (("memory", "512"), "not defined"),
        ] {
            let wrong = call(&[bad]).unwrap_err();
            assert!(wrong.len() == 1 && wrong[0].contains(says), "{bad:?}: {wrong:?}");
        }
        assert!(call(&[("cores", "1"), ("cores", "2")]).unwrap_err()[0].contains("twice"));
        assert!(small().check("POST", "/nodes/n/qemu/101/config", &[]).unwrap_err()[0].contains("no method"));
        assert!(small().check("PUT", "/nodes/n/qemu/99/config", &[]).is_err());
    }

    /// The official description, where it is given: every key that a topology may name is one of the API's, and what is written for it is taken.
    #[test]
    fn what_is_written_for_every_key_is_taken_by_the_official_description() {
        use moorline_common::pve::keys::{self, GuestKind};
        use moorline_common::pve::value;
        let Some(path) = std::env::var_os("MOORLINE_PVE_SCHEMA") else {
            return println!("skipped: MOORLINE_PVE_SCHEMA names no apidoc.json");
        };
        let schema = Schema::parse(&std::fs::read(path).unwrap()).unwrap();
        for (kind, example) in [(GuestKind::Qemu, QEMU), (GuestKind::Lxc, LXC)] {
            for (key, known) in keys::all(kind) {
                let wanted: Vec<&str> = example.iter().filter(|(name, _)| *name == key).map(|(_, text)| *text).collect();
                assert!(!wanted.is_empty(), "{key} has no example");
                for wanted in wanted {
                    let sent = value::written(known.shape, wanted, None).unwrap();
                    let path = format!("/nodes/pve-1/{}/101/config", kind.as_str());
                    assert_eq!(schema.check("PUT", &path, &[(key.clone(), sent)]), Ok(()), "{key}");
                }
            }
        }
    }

    /// Values that somebody could write for a key: of any kind, and with every pair of its format so.
    fn made_up(shape: moorline_common::pve::keys::Shape, example: &str) -> Vec<String> {
        use moorline_common::pve::keys::Shape;
        let words = [
            "",
            "0",
            "1",
            "-1",
            "2",
            "1.5",
            "16",
            "64",
            "300000",
            "99999999999",
            "yes",
            "foo",
            "a b",
            "a,b",
            "a;b",
            "a_b",
            "ä",
            "=",
            "+",
            "none",
            "now",
            "2026-11-23",
            "26-1-1",
            "q35",
            "pc-q35-9",
            "virt-9.0",
            "dhcp",
            "10.0.0.2",
            "10.0.0.2/24",
            "fe80::1",
            "0x1",
            "0x0123456789abcdef",
            "1-2",
            "1-2;3",
            "nodev;noexec",
            "cdrom",
            "/dev/sda",
            "local:8",
            "local:a",
            "l:8",
            "spice",
            "1234:abcd",
            "BC:24:11:00:00:0A",
            "01:24:11:00:00:0A",
            "6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e",
            "8G",
            "8g",
        ];
        let words: Vec<String> =
            words.iter().map(|word| (*word).to_owned()).chain([17, 41, 61, 600, 9000].map(|n| "x".repeat(n))).collect();
        let (Shape::Props(format) | Shape::Volume(format) | Shape::Card(format, _) | Shape::Identity(format, _)) = shape else {
            return words;
        };
        let with = |(key, _): &(&str, _)| {
            let rest: Vec<&str> = example.split(',').filter(|part| !part.starts_with(&format!("{key}="))).collect();
            words.iter().map(|word| format!("{},{key}={word}", rest.join(","))).collect::<Vec<_>>()
        };
        words.iter().cloned().chain(format.keys.iter().flat_map(with)).collect()
    }

    /// The official description, where it is given: what it refuses of values made up is refused before anything is sent.
    #[test]
    fn what_is_taken_of_values_made_up_the_official_description_takes() {
        use moorline_common::pve::keys::{self, GuestKind};
        use moorline_common::pve::value;
        let Some(path) = std::env::var_os("MOORLINE_PVE_SCHEMA") else {
            return println!("skipped: MOORLINE_PVE_SCHEMA names no apidoc.json");
        };
        let schema = Schema::parse(&std::fs::read(path).unwrap()).unwrap();
        let (mut wrong, mut refused) = (Vec::new(), 0);
        for (kind, example) in [(GuestKind::Qemu, QEMU), (GuestKind::Lxc, LXC)] {
            let call = format!("/nodes/pve-1/{}/101/config", kind.as_str());
            for (key, known) in keys::all(kind) {
                let (_, example) = example.iter().find(|(name, _)| *name == key).unwrap();
                for text in made_up(known.shape, example) {
                    let taken = value::check(known, &text).and_then(|()| value::written(known.shape, &text, None));
                    match taken.map(|sent| (schema.check("PUT", &call, &[(key.clone(), sent.clone())]), sent)) {
                        Err(_) => refused += usize::from(schema.check("PUT", &call, &[(key.clone(), text)]).is_err()),
                        // Nothing is sent then.
                        Ok((_, sent)) if sent.is_empty() => {}
                        Ok((Err(why), _)) => wrong.push(why.concat()),
                        Ok((Ok(()), _)) => {}
                    }
                }
            }
        }
        assert!(wrong.is_empty() && refused > 1000, "{refused} were refused, and these should have been:\n{}", wrong.join("\n"));
    }

    const QEMU: &[(&str, &str)] = &[
        ("acpi", "no"),
        ("affinity", "0-3"),
        ("agent", "enabled=yes,fstrim_cloned_disks=1"),
        ("agent", "enabled=0,fstrim_cloned_disks=1"),
        ("allow-ksm", "0"),
        ("arch", "x86_64"),
        ("audio0", "driver=none,device=AC97"),
        ("autostart", "1"),
        ("balloon", "512"),
        ("bios", "ovmf"),
        ("boot", "order=scsi0;net0"),
        ("cicustom", "user=local:snippets/u.yaml"),
        ("cipassword", "$6$salt$hash"),
        ("citype", "nocloud"),
        ("ciupgrade", "off"),
        ("ciuser", "op"),
        ("cores", "4"),
        ("cpu", "host,flags=+aes;-pcid"),
        ("cpulimit", "2.50"),
        ("cpuunits", "200"),
        ("description", "a\nb"),
        ("efidisk0", "local-lvm:1,efitype=4m,pre-enrolled-keys=1"),
        ("freeze", "0"),
        ("hookscript", "local:snippets/h.pl"),
        ("hostpci0", "mapping=gpu,pcie=on"),
        ("hotplug", "network,disk"),
        ("hugepages", "any"),
        ("ide0", "local:iso/a.iso,media=cdrom"),
        ("ipconfig0", "ip=dhcp"),
        ("ivshmem", "size=32,name=x"),
        ("keephugepages", "1"),
        ("keyboard", "de"),
        ("kvm", "1"),
        ("localtime", "yes"),
        ("machine", "q35,viommu=intel"),
        ("memory", "2048"),
        ("migrate_downtime", "0.5"),
        ("migrate_speed", "10"),
        ("name", "db.example"),
        ("nameserver", "10.0.0.1"),
        ("net0", "firewall=on,bridge=vmbr0,model=virtio"),
        ("numa", "true"),
        ("numa0", "cpus=0-1,memory=512"),
        ("onboot", "on"),
        ("ostype", "l26"),
        ("protection", "1"),
        ("reboot", "0"),
        ("rng0", "/dev/urandom,max_bytes=512"),
        ("sata0", "local-lvm:8"),
        ("scsi0", "local-lvm:8,discard=on,ssd=yes,iothread=1"),
        ("scsihw", "virtio-scsi-single"),
        ("searchdomain", "example"),
        ("serial0", "socket"),
        ("shares", "500"),
        ("smbios1", "uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e"),
        ("sockets", "2"),
        ("spice_enhancements", "foldersharing=yes"),
        ("sshkeys", "ssh-ed25519 AA+/= a@b\nssh-rsa BB c"),
        ("startdate", "now"),
        ("startup", "order=2,up=30"),
        ("tablet", "0"),
        ("tags", "Prod db"),
        ("tdf", "1"),
        ("tpmstate0", "local-lvm:1,version=v2.0"),
        ("usb0", "spice,usb3=yes"),
        ("vcpus", "2"),
        ("vga", "type=virtio,memory=64"),
        ("virtio0", "local-lvm:8"),
        ("virtiofs0", "share,cache=never"),
        ("vmgenid", "1"),
        ("vmstatestorage", "local-lvm"),
        ("watchdog", "action=reset,model=ib700"),
    ];

    const LXC: &[(&str, &str)] = &[
        ("arch", "amd64"),
        ("cmode", "shell"),
        ("console", "no"),
        ("cores", "2"),
        ("cpulimit", "1.5"),
        ("cpuunits", "50"),
        ("debug", "1"),
        ("description", "a"),
        ("entrypoint", "/sbin/other"),
        ("features", "nesting=yes"),
        ("hostname", "cache"),
        ("memory", "1024"),
        ("mp0", "local-lvm:8,mp=/data,backup=yes"),
        ("nameserver", "10.0.0.1"),
        ("net0", "name=eth0,bridge=vmbr0,ip=dhcp,firewall=on"),
        ("onboot", "1"),
        ("ostype", "debian"),
        ("protection", "1"),
        ("rootfs", "local-lvm:8"),
        ("searchdomain", "example"),
        ("startup", "3"),
        ("swap", "0"),
        ("tags", "a,b"),
        ("timezone", "host"),
        ("tty", "1"),
        ("unprivileged", "1"),
    ];
}
