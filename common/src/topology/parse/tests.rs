//! Tests of the whole way from text to file and slices.

use std::collections::BTreeMap;

use super::super::*;
use super::*;
use crate::canonical::{to_canonical, version_hash};
use crate::id::HostId;

fn host() -> BoundHost {
    BoundHost {
        host_id: HostId::of_key(&[1; 32]),
        name: HostName::parse("h").unwrap(),
        labels: BTreeMap::from([("site".to_owned(), "sydney".to_owned())]),
    }
}

fn spec_of(text: &str) -> HostSpec {
    let slices = load(text).and_then(|file| file.slice(&[host()])).unwrap_or_else(|p| panic!("{}", render_all(&p, "t")));
    slices.hosts.into_values().next().unwrap()
}

/// One service from lines in flow style; networks `n` and volume `v` exist.
fn service(keys: &str) -> ServiceSpec {
    let text = format!(
        "topology: t\nhosts: {{ h: {{ docker: {{ networks: {{ n: , m: }}, volumes: {{ v: }}, services: {{ o: {{ image: o }}, s: {{ image: i, {keys} }} }} }} }} }}"
    );
    spec_of(&text).docker.unwrap().services.remove("s").unwrap()
}

fn canonical(spec: &impl serde::Serialize) -> String {
    String::from_utf8(to_canonical(spec).unwrap()).unwrap()
}

#[test]
fn every_spelling_of_one_meaning_is_one_service() {
    for spellings in [
        &["environment: {A: 1, B: x}", "environment: [B=x, A=1]", "environment: [\"A=1\", 'B=x']"][..],
        &["labels: {a: \"1\"}", "labels: [a=1]"],
        &["command: serve 'a b' c", "command: [serve, a b, c]", "command: [serve, \"a b\", 'c']"],
        &[
            "ports: [\"8080:80\"]",
            "ports: [{target: 80, published: 8080}]",
            "ports: [8080:80/tcp]",
            "ports: [{target: \"80\", published: \"8080\", protocol: tcp}]",
        ],
        &["ports: [80]", "ports: [\"80\"]", "ports: [{target: 80}]"],
        &["ports: [1-3:4-6]", "ports: [3:6, 2:5, \"1:4\"]"],
        &["ports: [\"[::1]:80:80\"]", "ports: [\"::1:80:80\"]", "ports: [{target: 80, published: 80, host_ip: \"0:0:0:0:0:0:0:1\"}]"],
        &["networks: [n, m]", "networks: {m: , n: {}}"],
        &["networks: [default]", "x-nothing: 1"],
        &[
            "volumes: [\"v:/a\"]",
            "volumes: [\"v:/a:rw\"]",
            "volumes: [\"v:/a/\"]",
            "volumes: [{type: volume, source: v, target: /a, read_only: false}]",
        ],
        &["volumes: [/a]", "volumes: [{type: volume, target: //a}]"],
        &["volumes: [\"/h:/a:ro\"]", "volumes: [{type: bind, source: /h/, target: /a, read_only: true}]"],
        &["depends_on: [o]", "depends_on: {o: {condition: service_started}}"],
        &["healthcheck: {disable: true}", "healthcheck: {test: [NONE]}"],
        &["healthcheck: {test: curl x}", "healthcheck: {test: [CMD-SHELL, curl x]}"],
        &["healthcheck: {interval: 90s}", "healthcheck: {interval: 1m30s}", "healthcheck: {interval: 1.5m}"],
        &["restart: no", "restart: \"no\""],
        &["restart: on-failure", "restart: \"on-failure:0\""],
        &["stop_signal: term", "stop_signal: SIGTERM"],
        &["user: 1000", "user: \"1000\""],
        &["mem_limit: 512m", "mem_limit: 512MB", "mem_limit: 0.5g", "mem_limit: 536870912"],
        &["cpus: 1.5", "cpus: \"1.50\""],
        &["cap_add: [net_admin, ALL]", "cap_add: [all, CAP_NET_ADMIN]"],
        &["security_opt: [\"no-new-privileges:true\"]", "security_opt: [no-new-privileges]", "security_opt: [no-new-privileges=true]"],
        &["devices: [/dev/kvm]", "devices: [\"/dev/kvm:/dev/kvm:mrw\"]", "devices: [{source: /dev/kvm}]", "devices: [\"/dev/kvm:rwm\"]"],
        &["extra_hosts: [\"a:1.2.3.4\"]", "extra_hosts: {a: 1.2.3.4}", "extra_hosts: [a=1.2.3.4]", "extra_hosts: {a: [1.2.3.4]}"],
        &["ulimits: {nofile: 5}", "ulimits: {nofile: {soft: 5, hard: 5}}"],
        &["dns: 9.9.9.9", "dns: [9.9.9.9]"],
        &["sysctls: {a: 1}", "sysctls: [a=1]"],
        &["group_add: [5]", "group_add: [\"5\"]"],
    ] {
        for other in spellings {
            assert_eq!(canonical(&service(other)), canonical(&service(spellings[0])), "{other}");
        }
    }
}

#[test]
fn numbers_and_truth_values_in_an_environment_keep_their_spelling() {
    let s = service("environment: {V: 3.10, HEX: 0x1F, YES: yes, T: True, N: 007, E: \"\"}");
    let seen: Vec<(&str, &str)> = s.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(seen, [("E", ""), ("HEX", "0x1F"), ("N", "007"), ("T", "true"), ("V", "3.10"), ("YES", "yes")]);
}

#[test]
fn the_hash_knows_content_only() {
    let yaml = "# words\ntopology: t\nx-team: shops\nhosts:\n  h:\n    docker:\n      services:\n        b: { image: i }\n        a:\n          image: 'i'\n          \
                command: [x, y]\n";
    let reordered = "hosts:\n  h: { docker: { services: { a: { command: x y, image: i }, b: { image: \"i\" } } } }\ntopology: t\n";
    let json = r#"{"hosts":{"h":{"docker":{"services":{"b":{"image":"i"},"a":{"image":"i","command":["x","y"]}}}}},"topology":"t"}"#;
    let hash = version_hash(&spec_of(yaml)).unwrap();
    assert_eq!(version_hash(&spec_of(reordered)).unwrap(), hash);
    assert_eq!(version_hash(&spec_of(json)).unwrap(), hash);
    assert_ne!(version_hash(&spec_of(&json.replace("\"y\"", "\"z\""))).unwrap(), hash);
    assert_eq!(canonical(&spec_of(json)), r#"{"docker":{"services":{"a":{"command":["x","y"],"image":"i"},"b":{"image":"i"}}}}"#);
}

#[test]
fn profiles_merge_in_order_and_the_entry_wins() {
    let text = r#"
topology: t
policy: { drift: inbox }
profiles:
  one:
    docker:
      networks: { n: { driver: bridge, labels: { a: "1", b: "1" } } }
      services:
        s: { image: "i:1", command: one, environment: { A: 1, B: 1 }, ports: ["1:1", "2:2"], networks: [n], volumes: ["/a:/x", "/b:/y"],
             healthcheck: { test: [CMD, a], interval: 1s } }
  two:
    docker:
      networks: { n: { internal: true, labels: { b: "2" } }, m: {} }
      services:
        s: { environment: [B=2, C=2], ports: ["3:3"], networks: { m: { aliases: [z] } }, volumes: ["/c:/x"], healthcheck: { test: [CMD, b] } }
hosts:
  h:
    use: [one, two]
    docker: { services: { s: { image: "i:2", environment: { C: 3 } } } }
"#;
    let spec = spec_of(text);
    assert_eq!(spec.policy, Some(Policy { drift: DriftPolicy::Inbox, ..Policy::default() }));
    assert_eq!(
        canonical(&spec.docker.unwrap()),
        concat!(
            r#"{"networks":{"m":{},"n":{"driver":"bridge","internal":true,"labels":{"a":"1","b":"2"}}},"#,
            r#""services":{"s":{"command":["one"],"environment":{"A":"1","B":"2","C":"3"},"#,
            r#""healthcheck":{"interval":1000000000,"test":["CMD","b"]},"image":"i:2","networks":{"m":{"aliases":["z"]},"n":{}},"#,
            r#""ports":[{"protocol":"tcp","published":3,"target":3}],"#,
            r#""volumes":{"/x":{"source":"/c","type":"bind"},"/y":{"source":"/b","type":"bind"}}}}}"#
        )
    );
}

#[test]
fn an_empty_list_of_ports_takes_the_profiles_ports_away() {
    let text = |own: &str| {
        format!(
            "topology: t\nprofiles: {{ p: {{ docker: {{ services: {{ s: {{ image: i, ports: [\"1:1\"] }} }} }} }} }}\n\
             hosts: {{ h: {{ use: [p], docker: {{ services: {{ s: {{ {own} }} }} }} }} }}"
        )
    };
    assert_eq!(spec_of(&text("hostname: x")).docker.unwrap().services["s"].ports.len(), 1);
    assert!(spec_of(&text("ports: []")).docker.unwrap().services["s"].ports.is_empty());
}

#[test]
fn variables_are_filled_wherever_text_stands() {
    let s = service(
        "environment: {A: \"${host.name}\"}, hostname: \"${host.labels.site}\", command: \"x ${host.labels.site} $$A\", \
         labels: [\"l=${host.id}\"]",
    );
    assert_eq!(s.environment["A"], "h");
    assert_eq!(s.hostname.as_deref(), Some("sydney"));
    assert_eq!(s.command.unwrap(), ["x", "sydney", "$A"]);
    assert_eq!(s.labels["l"], HostId::of_key(&[1; 32]).as_str());
}

#[test]
fn variables_in_typed_places_are_read_for_each_host() {
    let text = |label: &str| {
        format!(
            "topology: t\nhosts:\n  h:\n    docker:\n      networks: {{ n: {{ ipam: {{ config: [{{ subnet: \"10.${{host.labels.{label}}}.0.0/16\" }}] }} }} }}\n      \
             services: {{ s: {{ image: i, ports: [\"${{host.labels.{label}}}:80\"], networks: {{ n: {{ ipv4_address: \"10.${{host.labels.{label}}}.0.9\" }} }} }} }}\n"
        )
    };
    let mut host = host();
    host.labels.insert("n".to_owned(), "40".to_owned());
    host.labels.insert("big".to_owned(), "400".to_owned());
    let slices = load(&text("n")).unwrap().slice(&[host.clone()]).unwrap();
    let docker = slices.hosts[&host.host_id].docker.as_ref().unwrap();
    assert_eq!(docker.networks["n"].ipam.as_ref().unwrap().config[0].subnet, "10.40.0.0/16");
    assert_eq!(docker.services["s"].ports.first().unwrap().published, Some(40));
    let problems = load(&text("big")).unwrap().slice(&[host.clone()]).unwrap_err();
    assert!(problems[0].message.contains("`10.400.0.0/16` is no subnet (on host h)"), "{problems:?}");
}

#[test]
fn selectors_match_labels_and_unbound_names_wait() {
    let text = "topology: t\nhosts:\n  \"site=sydney\": {}\n  \"site=perth\": {}\n  later: {}\n  sooner: {}\n";
    let slices = load(text).unwrap().slice(&[host()]).unwrap();
    assert_eq!(slices.hosts.len(), 1);
    assert!(slices.hosts.values().all(HostSpec::is_empty));
    assert_eq!(slices.pending, ["later", "sooner"]);
}

#[test]
fn an_entry_without_docker_objects_is_the_empty_slice() {
    for own in ["{}", "{ docker: {} }", "{ docker: { services: {}, networks: } }"] {
        let spec = spec_of(&format!("topology: t\nhosts: {{ h: {own} }}"));
        assert_eq!(canonical(&spec), "{}", "{own}");
    }
}

#[test]
fn json_is_read_as_it_is_and_a_byte_order_mark_is_no_content() {
    assert!(load("\u{feff}{\"topology\": \"t\",\n\t\"hosts\": {}}").is_ok());
}

/// A host with these secrets and configs and the service `s`.
fn sealed(objects: &str, keys: &str) -> String {
    format!("topology: t\nhosts:\n  h:\n    docker:\n      {objects}\n      services: {{ s: {{ image: i, {keys} }} }}\n")
}

#[test]
fn secrets_and_configs_have_their_usual_places_in_every_spelling() {
    let objects = "secrets: { a: { file: ./x/../a.txt }, b: { environment: B } }\n      configs: { c: { content: \"on ${host.name}\" }, d: { file: /etc/d }, unused: { file: u } }";
    let keys = "secrets: [a, { source: b, target: bee, uid: \"33\", gid: 44, mode: 0400 }], configs: [c, { source: d, target: /etc/d.conf }, { source: d, target: x/y, mode: 0o440 }]";
    let spec = spec_of(&sealed(objects, keys));
    let docker = spec.docker.unwrap();
    let origins: Vec<(&str, Option<&Origin>)> = docker.sealed().map(|(_, name, spec)| (name.as_str(), spec.origin.as_ref())).collect();
    let (file, content) = (|path: &str| Origin::File(path.to_owned()), Origin::Content("on h".to_owned()));
    let (a, b, d) = (file("a.txt"), Origin::Environment("B".to_owned()), file("/etc/d"));
    assert_eq!(origins, [("a", Some(&a)), ("b", Some(&b)), ("c", Some(&content)), ("d", Some(&d))], "what no service has is left out");
    let s = &docker.services["s"];
    let mount = |source: &str| SealedMount { source: source.to_owned(), ..SealedMount::default() };
    let secrets = [
        ("/run/secrets/a".to_owned(), mount("a")),
        ("/run/secrets/bee".to_owned(), SealedMount { uid: Some(33), gid: Some(44), mode: Some(0o400), ..mount("b") }),
    ];
    assert_eq!(s.secrets, secrets.into());
    let configs = [
        ("/c".to_owned(), mount("c")),
        ("/etc/d.conf".to_owned(), mount("d")),
        ("/x/y".to_owned(), SealedMount { mode: Some(0o440), ..mount("d") }),
    ];
    assert_eq!(s.configs, configs.into());
    let long = spec_of(&sealed("secrets: { a: { file: a.txt } }", "secrets: [{ source: a, target: /run/secrets/a }]"));
    assert_eq!(long, spec_of(&sealed("secrets: { a: { file: a.txt } }", "secrets: [a]")));
}

#[test]
fn a_slice_has_digests_and_nothing_of_where_values_come_from() {
    let mut spec = spec_of(&sealed("secrets: { a: { file: path-of-it } }", "secrets: [a]"));
    let missing = spec.know_sealed(&BTreeMap::new()).unwrap_err();
    assert_eq!(missing, [("secret `a`".to_owned(), Origin::File("path-of-it".to_owned()))]);
    let digests = BTreeMap::from([("secrets.a file path-of-it".to_owned(), "0f".repeat(32))]);
    spec.know_sealed(&digests).unwrap();
    let text = canonical(&spec);
    assert!(text.contains(&format!(r#""secrets":{{"a":{{"digest":"{}"}}}}"#, "0f".repeat(32))) && !text.contains("path-of-it"), "{text}");
    assert_eq!(spec.sealed_digests(), BTreeMap::from([("0f".repeat(32).as_str(), "secret `a`".to_owned())]));
}

fn told_of_sealed(objects: &str, keys: &str) -> Vec<String> {
    let problems = load(&sealed(objects, keys)).unwrap_err();
    problems
        .into_iter()
        .map(|p| format!("{} {}{}", p.position.line, p.message, p.help.map(|h| format!(" ({h})")).unwrap_or_default()))
        .collect()
}

#[test]
fn a_value_where_its_place_should_be_named_is_not_shown() {
    let name = "(write `environment: TOKEN`, and set the value in the environment or in `.env`)";
    for (objects, expected) in [
        ("secrets: { a: { environment: TOKEN=hunter2 } }", format!("5 `TOKEN=…` cannot be a variable's name {name}")),
        ("configs: { a: { environment: \"TOKEN =hunter2=x\" } }", format!("5 `TOKEN=…` cannot be a variable's name {name}")),
        ("secrets: { a: { environment: =hunter2 } }", format!("5 `=…` cannot be a variable's name {}", name.replace("TOKEN", "NAME"))),
        (
            "secrets: { a: hunter2 }",
            "5 expected a secret (a map), found a value (name a `file`, or a variable by `environment`)".to_owned(),
        ),
        (
            "configs: { a: 4711 }",
            "5 expected a config (a map), found a value (name a `file`, a variable by `environment`, or write its `content`)".to_owned(),
        ),
    ] {
        assert_eq!(told_of_sealed(objects, ""), [expected], "{objects}");
    }
}

#[test]
fn what_is_wrong_with_secrets_and_configs_is_told_at_its_line() {
    for (objects, keys, expected) in [
        (
            "secrets: { a: { file: a } }",
            "secrets: [b]",
            "6 service `s` has the secret `b`, which is not defined (define it under `docker.secrets`, as in `b: { file: ./b }`)",
        ),
        (
            "configs: { a: { file: a } }",
            "secrets: [a]",
            "6 service `s` has the secret `a`, which is not defined (define it under `docker.secrets`, as in `a: { file: ./a }`)",
        ),
        ("secrets: { a: }", "", "5 this secret says nowhere where its value comes from (name a `file`, or a variable by `environment`)"),
        (
            "configs: { a: { } }",
            "",
            "5 this config says nowhere where its value comes from (name a `file`, a variable by `environment`, or write its `content`)",
        ),
        (
            "secrets: { a: { file: a, environment: A } }",
            "",
            "5 `file` and `environment` both name the value of this secret; only one of them can be",
        ),
        ("secrets: { a: { content: x } }", "", "5 a secret has no key `content`"),
        (
            "secrets: { a: { external: true } }",
            "",
            "5 `external` has no meaning here (name the `file` or the variable (`environment`) that has the value: no store of secrets is asked)",
        ),
        (
            "secrets: { a: { file: a, name: b } }",
            "",
            "5 `name` has no meaning here (leave it out: the key itself is the name, and `target` of the service the path in the container)",
        ),
        (
            "secrets: { a: { file: ~/a } }",
            "",
            "5 `~` is not replaced in a path (write the path relative to the topology file, or beginning with `/`)",
        ),
        ("secrets: { a: { file: a } }", "secrets: [a, { source: a }]", "6 something is mounted at `/run/secrets/a` already"),
        ("secrets: { a: { file: a } }", "secrets: [a], volumes: [/run/secrets/a]", "6 something is mounted at `/run/secrets/a` already"),
        ("secrets: { a: { file: a } }", "secrets: [{ source: a, mode: 440 }]", "6 `440` are no octal digits (write `0o440`)"),
        (
            "secrets: { a: { file: a } }",
            "secrets: [{ source: a, mode: 0o4444 }]",
            "6 a file of values has permissions to read, write and run, and no other bits",
        ),
        (
            "secrets: { a: { file: a } }",
            "secrets: [{ source: a, uid: www }]",
            "6 `www` is no number of a user or group (names of users are the image's own: write the number)",
        ),
        ("secrets: { a: { file: a } }", "secrets: [{ target: a }]", "6 a secret of a service needs the key `source`"),
        (
            "secrets: { a: { file: a } }",
            "secrets: [{ source: a, target: ../a }]",
            "6 `/run/secrets/../a` holds `..` (write the path that is meant)",
        ),
    ] {
        assert_eq!(told_of_sealed(objects, keys), [expected], "{objects} {keys}");
    }
    let top = load("topology: t\nsecrets: { a: { file: a } }\nhosts: { h: {} }\n").unwrap_err();
    assert_eq!(top[0].help.as_deref(), Some("write them under `docker` of the profile or host whose services have them"));
}

#[test]
fn parts_give_secrets_by_name_and_services_have_them_by_target() {
    let text = "topology: t\nprofiles:\n  p: { docker: { secrets: { a: { file: one }, b: { file: b } }, services: { s: { image: i, secrets: [a, b] } } } }\n\
                hosts:\n  h: { use: [p], docker: { secrets: { a: { file: two }, c: { file: c } }, services: { s: { secrets: [{ source: c, target: b }] } } } }\n";
    let docker = spec_of(text).docker.unwrap();
    let names: Vec<&str> = docker.secrets.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "c"], "nothing has `b` any more");
    assert_eq!(docker.secrets["a"].origin, Some(Origin::File("two".to_owned())));
    let sources: Vec<(&str, &str)> = docker.services["s"].secrets.iter().map(|(t, m)| (t.as_str(), m.source.as_str())).collect();
    assert_eq!(sources, [("/run/secrets/a", "a"), ("/run/secrets/b", "c")]);
}
