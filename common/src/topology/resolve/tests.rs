//! What a topology becomes with what it takes from elsewhere, read and sliced as `moorctl` does.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{BoundHost, Inputs, Problem, Reading, ServiceSpec, read, render_all};
use crate::id::{HostId, HostName};

fn inputs(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Inputs {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Inputs { variables: map(variables), files: map(files), ..Inputs::default() }
}

fn host() -> BoundHost {
    let labels = BTreeMap::from([("site".to_owned(), "sydney".to_owned())]);
    BoundHost { host_id: HostId::of_key(&[7; 32]), name: HostName::parse("shop-17").unwrap(), labels }
}

/// A topology whose one host has the services `text`, in a form with two blanks before each.
fn topology(services: &str) -> String {
    format!(
        "topology: edge\nhosts:\n  shop-17:\n    docker:\n      networks: {{ front: }}\n      volumes: {{ data: }}\n      services:\n{services}\n"
    )
}

fn reading(services: &str, inputs: &Inputs) -> Reading {
    read(topology(services).as_bytes(), inputs)
}

fn services(services: &str, inputs: &Inputs) -> BTreeMap<String, ServiceSpec> {
    let file = reading(services, inputs).file.unwrap_or_else(|problems| panic!("{}", render_all(&problems, "x")));
    let slices = file.slice(&[host()]).unwrap_or_else(|problems| panic!("{}", render_all(&problems, "x")));
    slices.hosts.into_values().next().and_then(|spec| spec.docker).map(|docker| docker.services).unwrap_or_default()
}

fn problems(text: &str, inputs: &Inputs) -> Vec<String> {
    let told = |p: Problem| format!("{}:{}:{} {}", p.file.as_deref().unwrap_or_default(), p.position.line, p.position.column, p.message);
    reading(text, inputs).file.unwrap_err().into_iter().map(told).collect()
}

fn warnings(text: &str, inputs: &Inputs) -> Vec<String> {
    let told = |p: Problem| format!("{}:{} {}: {}", p.file.as_deref().unwrap_or_default(), p.position.line, p.path, p.message);
    reading(text, inputs).warnings.into_iter().map(told).collect()
}

#[test]
fn variables_stand_wherever_a_value_does_and_are_what_their_place_takes() {
    let text = r#"        site:
          image: "nginx:${TAG:-1.27}"
          hostname: $NUMBER
          command: serve $WORDS "${WORDS}" $$HOME ${host.name}
          ports: ["${PORT}:80"]
          init: ${YES}
          cpu_shares: ${NUMBER}
          stop_grace_period: ${SPAN:-10s}
          environment: { "A_$NUMBER": "$PRICE", B: "${YES} ${host.labels.site}", C: "$YES" }
          healthcheck: { test: "test $NUMBER -eq 5", retries: "$NUMBER" }"#;
    let given = inputs(&[("NUMBER", "5"), ("WORDS", "a b"), ("PORT", "8080"), ("YES", "true"), ("PRICE", "5$ ${host.name} $NUMBER")], &[]);
    let site = services(text, &given).remove("site").unwrap();
    assert_eq!((site.image.as_str(), site.hostname.as_deref()), ("nginx:1.27", Some("5")));
    assert_eq!(site.command.unwrap(), ["serve", "a", "b", "a b", "$HOME", "shop-17"]);
    assert_eq!(site.ports.first().and_then(|p| p.published), Some(8080));
    assert_eq!((site.options.init, site.options.cpu_shares), (Some(true), Some(5)));
    assert_eq!(site.environment["A_$NUMBER"], "5$ ${host.name} $NUMBER", "keys are no values, and values are not looked at again");
    assert_eq!((site.environment["B"].as_str(), site.environment["C"].as_str()), ("true sydney", "true"));
    assert_eq!(site.healthcheck.unwrap().test[1], "test 5 -eq 5");
    let asked = reading(text, &given).asked;
    let names: BTreeSet<&str> = asked.variables.iter().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["NUMBER", "PORT", "PRICE", "SPAN", "TAG", "WORDS", "YES"]));
}

#[test]
fn a_variable_that_is_not_set_is_an_error_at_its_place_and_no_other_beside_it() {
    let text =
        "        site: { image: $IMAGE, init: $YES, ports: [$PORT], x-note: $NOTE, environment: [\"A=$A\", B=1] }\n        x: { image: 5 }";
    let expected = [
        ":8:24 the variable `IMAGE` is not set",
        ":8:38 the variable `YES` is not set",
        ":8:52 the variable `PORT` is not set",
        ":8:89 the variable `A` is not set",
        ":9:21 expected text, found the number 5",
    ];
    assert_eq!(problems(text, &Inputs::default()), expected);
}

#[test]
fn variables_are_filled_under_docker_and_nowhere_else() {
    let text = "topology: edge\nx-top: $NOT\npolicy: { drift: $NOT }\nhosts: { shop-17: { use: [$NOT] } }\n";
    let reading = read(text.as_bytes(), &inputs(&[("NOT", "heal")], &[]));
    assert!(reading.file.is_err());
    assert!(reading.asked.variables.is_empty(), "{:?}", reading.asked);
}

#[test]
fn files_of_variables_stand_under_what_the_service_says_itself() {
    let text = r#"        site:
          image: nginx
          env_file: [base.env, ./conf/../site.env, { path: raw.env, format: raw }, { path: none.env, required: false }]
          environment: [B=own, PASSED, LOST]"#;
    let files = [("base.env", "A=base\nB=base\nC=base\nPASSED=base\n"), ("site.env", "C=${D:-$A}\nE='$x'\n"), ("raw.env", "F='$x'\n")];
    let given = inputs(&[("PASSED", "5$"), ("A", "outer")], &files);
    let site = services(text, &given).remove("site").unwrap();
    let environment: Vec<(&str, &str)> = site.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(environment, [("A", "base"), ("B", "own"), ("C", "outer"), ("E", "$x"), ("F", "'$x'"), ("PASSED", "5$")]);
    let reading = reading(text, &given);
    assert_eq!(reading.asked.files, BTreeSet::from(["base.env", "site.env", "raw.env", "none.env"].map(str::to_owned)));
    assert_eq!(reading.asked.variables, BTreeSet::from(["A", "D", "LOST", "PASSED"].map(str::to_owned)));
    assert_eq!(
        warnings(text, &given),
        [":11 hosts.shop-17.docker.services.site.environment[2]: the variable `LOST` is not set, so nothing is passed on"]
    );
}

#[test]
fn the_forms_of_an_environment_do_not_matter_to_what_is_put_under_it() {
    let given = inputs(&[("P", "p")], &[("a.env", "A=file\nB=file\n")]);
    for environment in ["", "environment: { A: own, P: }", "environment: [A=own, P]", "environment:"] {
        let text = format!("        site: {{ image: nginx, env_file: a.env, {environment} }}");
        let site = services(&text, &given).remove("site").unwrap();
        assert_eq!(site.environment["B"], "file", "{environment}");
        if environment.contains("own") {
            assert_eq!((site.environment["A"].as_str(), site.environment["P"].as_str()), ("own", "p"));
        }
    }
}

#[test]
fn what_is_passed_on_and_not_set_is_not_taken_from_a_file() {
    for environment in ["[LOST]", "{ LOST: }"] {
        let text = format!("        site: {{ image: nginx, env_file: a.env, environment: {environment} }}");
        let given = inputs(&[], &[("a.env", "LOST=file\nB=file\n")]);
        let site = services(&text, &given).remove("site").unwrap();
        assert_eq!(site.environment.keys().collect::<Vec<_>>(), ["B"], "{environment}");
    }
}

#[test]
fn a_file_that_many_services_name_cannot_fill_the_memory() {
    let large = format!("A={}\n", "x".repeat(500_000));
    let text: String = (0..40).map(|n| format!("        s{n}: {{ image: x, env_file: a.env }}\n")).collect();
    let found = problems(text.trim_end(), &inputs(&[], &[("a.env", &large)]));
    assert!(found.iter().any(|p| p.contains("larger than 16 MiB")), "{}", found.len());
}

#[test]
fn what_is_wrong_with_a_file_of_variables_is_told_where_it_is() {
    let text = r#"        site:
          image: nginx
          env_file: [missing.env, wrong.env, "~/x.env", "${host.name}.env", 5, { file: x }, { path: wrong.env, required: maybe }]"#;
    let found = problems(text, &inputs(&[], &[("wrong.env", "A=1\nB=${NONE}\n")]));
    let expected = [
        ":10:22 the file `missing.env` is not there",
        ":10:46 `~` is not replaced in a path",
        ":10:57 a path, or a map with `path` cannot differ from host to host here",
        ":10:77 expected a path, or a map with `path`, found the number 5",
        ":10:80 a file of variables needs the key `path`",
        ":10:88 a file of variables has no key `file`",
        ":10:122 expected true or false, found the text \"maybe\"",
        "wrong.env:2:3 the variable `NONE` is not set",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_looks_like_a_credential_is_warned_of_and_never_shown() {
    let text = r#"        site:
          image: nginx
          env_file: a.env
          environment: { DB_PASSWORD: "$PW", API_KEY_FILE: /run/x, URL: "postgres://a:hunter2@db/x" }"#;
    let given = inputs(&[("PW", "hunter2")], &[("a.env", "X=1\nTOKEN=hunter2\n")]);
    let found = warnings(text, &given);
    let places: Vec<&str> = found.iter().map(|w| w.split(": ").next().unwrap()).collect();
    let expected = [
        ":11 hosts.shop-17.docker.services.site.environment.DB_PASSWORD",
        ":11 hosts.shop-17.docker.services.site.environment.URL",
        "a.env:2 hosts.shop-17.docker.services.site.env_file.TOKEN",
    ];
    assert_eq!(places, expected);
    let all = render_all(&reading(text, &given).warnings, "x");
    assert!(!all.contains("hunter2") && all.contains("`secrets`"), "{all}");
}

#[test]
fn a_service_takes_over_what_it_extends_by_the_rules_of_the_specification() {
    let base = r#"services:
  base:
    image: nginx:1
    command: [a, b]
    environment: [A=1, B=1]
    labels: { x: "1" }
    ports: ["80:80", "127.0.0.1:81:81"]
    volumes: ["data:/data", "/srv/moorline/x:/x"]
    cap_drop: [ALL]
    dns: 1.1.1.1
    networks: [default]
    depends_on: [other]
    healthcheck: { test: [CMD, a], interval: 5s }
    logging: { driver: json-file, options: { max-size: 10m } }
    ulimits: { nofile: 10, nproc: { soft: 1, hard: 2 } }
  middle: { extends: base, command: [c], restart: always }
"#;
    let text = r#"        site:
          extends: { file: base.yml, service: middle }
          image: nginx:2
          environment: { B: "2", C: "3" }
          labels: [y=2]
          ports: ["80:80", "82:82"]
          volumes: ["data:/x"]
          cap_drop: [ALL, NET_RAW]
          dns: [2.2.2.2]
          networks: { front: { aliases: [www] } }
          depends_on: { more: { condition: service_healthy } }
          healthcheck: { test: "true" }
          logging: { driver: local }
          ulimits: { nofile: { soft: 1, hard: 2 } }
        other: { image: x }
        more: { image: x }"#;
    let site = services(text, &inputs(&[], &[("base.yml", base)])).remove("site").unwrap();
    assert_eq!((site.image.as_str(), site.command.unwrap(), site.restart.is_some()), ("nginx:2", vec!["c".to_owned()], true));
    assert_eq!(
        site.environment.into_iter().collect::<Vec<_>>(),
        [("A", "1"), ("B", "2"), ("C", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
    assert_eq!(site.labels.len(), 2);
    assert_eq!(site.ports.iter().map(|p| p.target).collect::<Vec<_>>(), [80, 81, 82]);
    let mounts: Vec<(&str, Option<&str>)> = site.volumes.iter().map(|(t, m)| (t.as_str(), m.source.as_deref())).collect();
    assert_eq!(mounts, [("/data", Some("data")), ("/x", Some("data"))]);
    assert_eq!(site.options.dns.unwrap().len(), 2);
    assert_eq!(site.networks.keys().collect::<Vec<_>>(), ["default", "front"]);
    assert_eq!(site.depends_on.keys().collect::<Vec<_>>(), ["more", "other"]);
    assert_eq!(site.options.cap_drop.unwrap_or_default().len(), 2);
    assert_eq!(site.options.ulimits.unwrap_or_default().len(), 2);
    let check = site.healthcheck.unwrap();
    assert!(check.interval.is_some() && check.test == ["CMD-SHELL", "true"]);
    let logging = format!("{:?}", site.options.logging);
    assert!(logging.contains("local") && !logging.contains("max-size"), "another driver begins anew: {logging}");
}

#[test]
fn a_service_of_another_file_brings_what_is_relative_to_that() {
    let text = "        site: { extends: { file: base/web.yml, service: web }, environment: { A: own } }";
    let files = [
        (
            "base/web.yml",
            "services:\n  web:\n    extends: { file: ../more/root.yml, service: root }\n    env_file: web.env\n  unused: { image: $NEVER }\n",
        ),
        ("more/root.yml", "x-image: &i \"nginx:$TAG\"\nservices: { root: { image: *i, env_file: [root.env], environment: [A=root] } }\n"),
        ("base/web.env", "B=web\nC=web\n"),
        ("more/root.env", "C=root\nD=root\n"),
    ];
    let given = inputs(&[("TAG", "1.27")], &files);
    let site = services(text, &given).remove("site").unwrap();
    let environment: Vec<(&str, &str)> = site.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!((site.image.as_str(), environment), ("nginx:1.27", vec![("A", "own"), ("B", "web"), ("C", "web"), ("D", "root")]));
    let asked = reading(text, &given).asked;
    assert_eq!(asked.files, files.iter().map(|(path, _)| (*path).to_owned()).collect());
    assert!(!asked.variables.contains("NEVER"), "what is not used asks for nothing");
}

#[test]
fn what_is_wrong_in_another_file_is_told_with_its_name_and_line() {
    let web =
        "services:\n  web:\n    image: nginx\n    prots: [80]\n    ports: [x]\n  loop: { extends: { file: ../web.yml, service: loop } }\n";
    let text = r#"        a: { extends: { file: web.yml, service: web } }
        b: { extends: { file: web.yml, service: wbe } }
        c: { extends: { file: none.yml, service: web } }
        d: { extends: { file: bad.yml, service: web } }
        e: { extends: { file: list.yml, service: web } }
        f: { extends: g }
        g: { extends: f }
        h: { extends: h, image: x }
        i: { extends: { file: web.yml } }
        j: { extends: { fil: x, service: k } }
        k: { extends: [x] }
        l: { extends: nothing }"#;
    let found = problems(text, &inputs(&[], &[("web.yml", web), ("bad.yml", "services: [\n"), ("list.yml", "- a\n")]));
    let expected = [
        ":9:49 there is no service `wbe` in `web.yml`",
        ":10:31 the file `none.yml` is not there",
        ":13:23 services extend each other in a circle: `g` → `f` → `g`",
        ":14:23 services extend each other in a circle: `f` → `g` → `f`",
        ":15:23 service `h` extends itself",
        ":16:23 an extends section needs the key `service`",
        ":17:25 an extends section has no key `fil`",
        ":18:23 expected a service's name, or a map with `service` and `file`, found a list",
        ":19:23 there is no service `nothing` in `hosts.shop-17.docker.services`",
    ];
    let (own, others): (Vec<String>, Vec<String>) = found.into_iter().partition(|p| p.starts_with(':'));
    assert_eq!(own, expected);
    let starts = [
        "bad.yml:",
        "list.yml:1:1 `list.yml` is no Compose file",
        "web.yml:4:5 a service has no key `prots`",
        "web.yml:5:13 `x` is no port",
    ];
    assert_eq!(others.len(), starts.len(), "{others:?}");
    for start in starts {
        assert!(others.iter().any(|p| p.starts_with(start)), "{start}: {others:?}");
    }
}

#[test]
fn chains_and_what_they_bring_are_bounded() {
    let mut text = String::from("        s0: { image: x }");
    for n in 1..40 {
        text.push_str(&format!("\n        s{n}: {{ extends: s{} }}", n - 1));
    }
    let found = problems(&text, &Inputs::default());
    assert!(found[0].contains("more than 32 services extend each other in a row"), "{found:?}");
    let mut text = format!("        base: {{ image: x, command: [{}] }}", "x,".repeat(50_000));
    for n in 0..30 {
        text.push_str(&format!("\n        s{n}: {{ extends: base }}"));
    }
    let found = problems(&text, &Inputs::default());
    assert!(found.iter().any(|p| p.contains("holds more than 1000000 values")), "{}", found.len());
}

#[test]
fn profiles_of_compose_take_a_service_out_unless_one_is_enabled() {
    let text = r#"        site: { image: x }
        debug: { image: x, profiles: [debug, "${MORE:-all}"], depends_on: [site] }"#;
    assert_eq!(services(text, &Inputs::default()).len(), 1);
    for enabled in ["debug", "x,debug", "*", " all "] {
        assert_eq!(services(text, &inputs(&[("COMPOSE_PROFILES", enabled)], &[])).len(), 2, "{enabled}");
    }
    assert_eq!(services(text, &inputs(&[("COMPOSE_PROFILES", "debugger")], &[])).len(), 1);
    assert!(!reading("        site: { image: x }", &Inputs::default()).asked.variables.contains("COMPOSE_PROFILES"));
    let text = "        site: { image: x, depends_on: [debug] }\n        debug: { image: x, profiles: [debug] }";
    assert_eq!(
        problems(text, &Inputs::default()),
        [":8:40 service `site` depends on service `debug`, which is not enabled: `COMPOSE_PROFILES` has none of its `profiles`"]
    );
    assert!(problems("        a: { image: x, profiles: debug }", &Inputs::default())[0].contains("expected a list of names"));
}

#[test]
fn the_values_of_secrets_are_not_asked_for_and_their_paths_are_filled_in() {
    let text = "topology: edge\nhosts:\n  shop-17:\n    docker:\n      secrets: { a: { file: \"${DIR}/a-${host.name}\" }, b: { environment: SECRET } }\n      \
                configs: { c: { content: \"x=$X\" } }\n      services: { site: { image: i, secrets: [a, b], configs: [c] } }\n";
    let given = inputs(&[("DIR", "./conf"), ("X", "1"), ("SECRET", "no")], &[("conf/a-shop-17", "no")]);
    let reading = read(text.as_bytes(), &given);
    assert_eq!(reading.asked.variables, BTreeSet::from(["DIR", "X"].map(str::to_owned)));
    assert!(reading.asked.files.is_empty());
    let docker = reading.file.unwrap().slice(&[host()]).unwrap().hosts.into_values().next().unwrap().docker.unwrap();
    let keys: Vec<String> = docker.sealed().map(|(kind, name, spec)| spec.origin.as_ref().unwrap().key(kind, name)).collect();
    assert_eq!(keys[..2], ["secrets.a file conf/a-shop-17", "secrets.b environment SECRET"]);
    assert!(keys[2].starts_with("configs.c content ") && !keys[2].contains("x=1"), "{keys:?}");
}

#[test]
fn secrets_of_an_extended_service_come_along_once_for_each_target() {
    let web = "services: { web: { image: i, secrets: [a, { source: b, target: bee }], configs: [c] } }";
    let text = "topology: edge\nhosts: { shop-17: { docker: { secrets: { a: { file: a }, b: { file: b }, d: { file: d } }, configs: { c: { file: c } }, \
                services: { site: { extends: { file: web.yml, service: web }, secrets: [a, { source: d, target: bee }] } } } } }\n";
    let file = read(text.as_bytes(), &inputs(&[], &[("web.yml", web)])).file.unwrap_or_else(|p| panic!("{}", render_all(&p, "x")));
    let docker = file.slice(&[host()]).unwrap().hosts.into_values().next().unwrap().docker.unwrap();
    let site = &docker.services["site"];
    let secrets: Vec<(&str, &str)> = site.secrets.iter().map(|(t, m)| (t.as_str(), m.source.as_str())).collect();
    assert_eq!(secrets, [("/run/secrets/a", "a"), ("/run/secrets/bee", "d")]);
    assert_eq!(site.configs.keys().collect::<Vec<_>>(), ["/c"]);
}
