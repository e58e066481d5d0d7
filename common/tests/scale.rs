//! A large fleet is sliced in one go.

use moorline_common::id::{HostId, HostName};
use moorline_common::topology::{self, BoundHost};

#[test]
fn a_thousand_hosts_get_their_own_slices() {
    let mut text =
        String::from("topology: big\nprofiles:\n  web:\n    docker:\n      networks: { front: {}, back: {} }\n      services:\n");
    for n in 0..20 {
        text.push_str(&format!(
            "        s{n}:\n          image: nginx:1.27\n          environment: {{ HOST: \"${{host.name}}\", A: 1, B: 2 }}\n          networks: [front, back]\n          \
             ports: [\"{}:80\"]\n          healthcheck: {{ test: [CMD, \"true\"], interval: 5s }}\n",
            8000 + n
        ));
    }
    text.push_str("hosts:\n  \"site=sydney\": { use: [web] }\n");
    let file = topology::load(&text).unwrap();
    let hosts: Vec<BoundHost> = (0..1000u32)
        .map(|n| BoundHost {
            host_id: HostId::parse(format!("{n:064x}")).unwrap(),
            name: HostName::parse(format!("shop-{n}")).unwrap(),
            labels: [("site".to_owned(), "sydney".to_owned())].into(),
        })
        .collect();
    let slices = file.slice(&hosts).unwrap();
    assert_eq!(slices.hosts.len(), 1000);
    let last = slices.hosts[&hosts[999].host_id].docker.as_ref().unwrap();
    assert_eq!(last.services["s19"].environment["HOST"], "shop-999");
}
