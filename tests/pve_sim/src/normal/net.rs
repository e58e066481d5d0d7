//! Network cards. A card without an address gets a new one at every write.

use std::collections::BTreeMap;

use super::property::{flag, map, pairs, print};

/// The models under which a card's address may stand: `virtio=BC:24:11:…`.
const MODELS: [&str; 15] = [
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
    "igb",
];

/// `net[n]` of a virtual machine, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its model.
    pub model: String,
    /// Its address, if it was given one.
    pub mac: Option<String>,
    /// The rest.
    pub rest: BTreeMap<String, String>,
}

impl Card {
    /// Reads it. Nothing without a model.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (mut model, mut mac, mut rest) = (None, None, BTreeMap::new());
        for (key, value) in pairs(text, "model") {
            match key.as_str() {
                "model" => model = Some(value),
                "macaddr" => mac = Some(value),
                key if MODELS.contains(&key) => (model, mac) = (Some(key.to_owned()), Some(value)),
                "firewall" | "link_down" => drop(rest.insert(key, flag(&value))),
                _ => drop(rest.insert(key, value)),
            }
        }
        Some(Self { model: model?, mac, rest })
    }

    /// Writes it: the model with its address first, the rest sorted. Source: `PVE::QemuServer::Network::print_net`.
    #[must_use]
    pub fn print(&self, new_mac: impl FnOnce() -> String) -> String {
        let mac = self.mac.clone().unwrap_or_else(new_mac);
        print(&format!("{}={mac}", self.model), &[], &self.rest)
    }

    /// Whether a running machine takes `new` in this one's place without losing the card. Source: `vmconfig_update_net`.
    #[must_use]
    pub fn is_changed_in_place_by(&self, new: &Self) -> bool {
        let same = |key: &str| self.rest.get(key) == new.rest.get(key);
        self.model == new.model
            && self.mac == new.mac
            && same("queues")
            && same("mtu")
            && self.rest.contains_key("bridge")
            && new.rest.contains_key("bridge")
    }
}

/// `net[n]` of a container: its name first, the rest sorted, with an address and its type. Source: `parse_lxc_network`, `print_lxc_network`.
#[must_use]
pub fn interface(text: &str, new_mac: impl FnOnce() -> String) -> String {
    let mut all = map(text, "name");
    for key in ["firewall", "link_down"] {
        if let Some(value) = all.get_mut(key) {
            *value = flag(value);
        }
    }
    all.entry("hwaddr".to_owned()).or_insert_with(new_mac);
    all.insert("type".to_owned(), "veth".to_owned());
    print("", &["name"], &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_written_with_its_model_and_address_first() {
        let new = || "BC:24:11:00:00:01".to_owned();
        for (given, kept) in [
            ("virtio,tag=5,firewall=on,bridge=vmbr0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,tag=5"),
            ("bridge=vmbr0,model=e1000,macaddr=bc:24:11:aa:00:01", "e1000=bc:24:11:aa:00:01,bridge=vmbr0"),
            ("virtio=BC:24:11:AA:00:02,rate=1.5", "virtio=BC:24:11:AA:00:02,rate=1.5"),
        ] {
            assert_eq!(Card::parse(given).unwrap().print(new), kept);
        }
        assert_eq!(Card::parse("bridge=vmbr0"), None);
    }

    #[test]
    fn an_interface_gets_an_address_and_a_type() {
        let kept = interface("ip=dhcp,bridge=vmbr0,name=eth0,firewall=yes", || "BC:24:11:00:00:02".to_owned());
        assert_eq!(kept, "name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:02,ip=dhcp,type=veth");
    }
}
