//! Values that have a form of their own, as the API's description has them.
//!
//! Source: the patterns and formats of the API pages `PUT /nodes/{node}/qemu/{vmid}/config` and `PUT /nodes/{node}/lxc/{vmid}/config`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names;
use super::scalar::{self, Wrong};

/// What any text is.
pub(super) fn any(_: &str) -> Result<(), Wrong> {
    Ok(())
}

/// A machine's share of the processor's time, whatever a host makes of it.
pub(super) fn machine_share(text: &str) -> Result<(), Wrong> {
    scalar::integer(text, 1, 262_144).map(drop)
}

/// A container's.
pub(super) fn container_share(text: &str) -> Result<(), Wrong> {
    scalar::integer(text, 0, 500_000).map(drop)
}

/// `startdate`.
pub(super) fn start_date(text: &str) -> Result<(), Wrong> {
    let are = |text: &str, between: char, lengths: &[usize]| {
        let parts: Vec<&str> = text.split(between).collect();
        parts.len() == lengths.len() && parts.iter().zip(lengths).all(|(part, most)| (1..=*most).contains(&part.len()) && are_digits(part))
    };
    let (day, time) = text.split_once('T').map_or((text, None), |(day, time)| (day, Some(time)));
    let has_year = day.split('-').next().is_some_and(|year| year.len() == 4);
    let is_date = has_year && are(day, '-', &[4, 2, 2]) && time.is_none_or(|time| are(time, ':', &[2, 2, 2]));
    right(text == "now" || is_date, text, "no start date: write `now`, `2026-11-23` or `2026-11-23T10:00:00`")
}

/// `hotplug`.
pub(super) fn hotplug(text: &str) -> Result<(), Wrong> {
    let is_feature = |word: &str| matches!(word, "network" | "disk" | "cpu" | "memory" | "usb" | "cloudinit");
    let is_one = matches!(text, "0" | "1") || text.split([',', ';', ' ']).filter(|word| !word.is_empty()).all(is_feature);
    right(is_one, text, "nothing that is plugged: `0`, `1`, or some of network, disk, cpu, memory, usb and cloudinit")
}

/// The name of a storage.
pub(super) fn storage(text: &str) -> Result<(), Wrong> {
    if text.is_empty() { Ok(()) } else { names::storage(text) }
}

/// Addresses of name servers, of a container.
pub(super) fn name_servers(text: &str) -> Result<(), Wrong> {
    let is_one = |word: &str| word.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok());
    each(text, is_one, "no address of a name server")
}

/// Domains.
pub(super) fn domains(text: &str) -> Result<(), Wrong> {
    each(text, |word| names::dns(word).is_ok(), "no domain")
}

/// One line that a terminal shows as it is.
pub(super) fn command(text: &str) -> Result<(), Wrong> {
    right(!text.chars().any(char::is_control), text, "no command: it has what no terminal shows")
}

fn each(text: &str, is_one: impl Fn(&str) -> bool, not: &str) -> Result<(), Wrong> {
    let wrong = text.split([',', ';', ' ']).filter(|word| !word.is_empty()).find(|word| !is_one(word));
    wrong.map_or(Ok(()), |wrong| right(false, wrong, not))
}

/// Numbers and ranges of them, with `;` between.
pub(super) fn ranges(text: &str) -> Result<String, Wrong> {
    let text = parts(text);
    let is_range = |part: &str| part.split_once('-').map_or_else(|| is_count(part), |(from, to)| is_count(from) && is_count(to));
    right(text.split(';').all(is_range), &text, "no list of numbers and ranges, such as `0-3;8`").map(|()| text)
}

/// Numbers with `;` between.
pub(super) fn numbers(text: &str) -> Result<String, Wrong> {
    let text = parts(text);
    right(text.split(';').all(is_count), &text, "no list of numbers, such as `4;8`").map(|()| text)
}

/// Options of a mount.
pub(super) fn mount_options(text: &str) -> Result<String, Wrong> {
    let text = parts(text);
    let is_option = |part: &str| matches!(part, "discard" | "lazytime" | "noatime" | "nodev" | "noexec" | "nosuid");
    right(text.split(';').all(is_option), &text, "no list of discard, lazytime, noatime, nodev, noexec and nosuid").map(|()| text)
}

/// Kinds of file systems.
pub(super) fn file_systems(text: &str) -> Result<String, Wrong> {
    let text = parts(text);
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b';' | b' ');
    right(!text.is_empty() && text.bytes().all(is_inner), &text, "no list of file systems, such as `nfs;cifs`").map(|()| text)
}

/// The name of a mapping or folder of the cluster.
pub(super) fn config_id(text: &str) -> Result<String, Wrong> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_one = text.len() > 1 && text.bytes().all(is_inner) && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    right(is_one, text, "no name of it: letters, digits, `-` and `_`, beginning with a letter").map(|()| text.to_owned())
}

/// The name of a network interface or bridge.
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    right(!text.is_empty() && text.bytes().all(is_inner), text, "no name of a network interface").map(|()| text.to_owned())
}

/// A device on the USB.
pub(super) fn usb_device(text: &str) -> Result<String, Wrong> {
    let is_hex = |part: &str| {
        let digits = part.strip_prefix("0x").unwrap_or(part);
        digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let is_id = text.split_once(':').is_some_and(|(vendor, product)| is_hex(vendor) && is_hex(product));
    let is_port = text.split_once('-').is_some_and(|(bus, ports)| is_count(bus) && ports.split('.').all(is_count));
    let is_one = is_id || is_port || text.eq_ignore_ascii_case("spice");
    right(is_one, text, "no device: `spice`, an id such as `1234:abcd`, or a port such as `1-2.3`").map(|()| text.to_owned())
}

/// What is written in base64, or could be.
pub(super) fn base64(text: &str) -> Result<String, Wrong> {
    let digits = text.strip_suffix('=').map_or(text, |text| text.strip_suffix('=').unwrap_or(text));
    let is_one = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
    right(is_one, text, "neither letters and digits alone nor base64: write it in base64, with `base64=1` beside it")
        .map(|()| text.to_owned())
}

/// A serial number of a disk.
pub(super) fn disk_serial(text: &str) -> Result<String, Wrong> {
    percent_encoded(text, 60)
}

/// The model of a disk.
pub(super) fn disk_model(text: &str) -> Result<String, Wrong> {
    percent_encoded(text, 120)
}

fn percent_encoded(text: &str, most: usize) -> Result<String, Wrong> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"-%_.!~*'()".contains(&b);
    let is_one = (1..=most).contains(&text.len()) && text.bytes().all(is_inner);
    right(is_one, text, &format!("no such text: percent-encoded, with at most {most} bytes")).map(|()| text.to_owned())
}

/// The product that a disk says it is.
pub(super) fn disk_product(text: &str) -> Result<String, Wrong> {
    disk_word(text, 16)
}

/// Its vendor.
pub(super) fn disk_vendor(text: &str) -> Result<String, Wrong> {
    disk_word(text, 8)
}

fn disk_word(text: &str, most: usize) -> Result<String, Wrong> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b' ');
    let is_one = (1..=most).contains(&text.len()) && text.bytes().all(is_inner);
    right(is_one, text, &format!("no such name: at most {most} letters, digits, `-`, `_` and spaces")).map(|()| text.to_owned())
}

/// The name of a disk in the world.
pub(super) fn world_wide_name(text: &str) -> Result<String, Wrong> {
    let is_one = text.strip_prefix("0x").is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    right(is_one, text, "no world wide name: `0x` and 16 hex digits").map(|()| text.to_owned())
}

/// An address of IPv4 with its network, or how it is got.
pub(super) fn ipv4(text: &str) -> Result<String, Wrong> {
    let is_net = network(text, |address| address.parse::<Ipv4Addr>().is_ok(), 32);
    right(is_net || matches!(text, "dhcp" | "manual"), text, "no address with its network: `10.0.0.2/24`, or `dhcp`")
        .map(|()| text.to_owned())
}

/// The same of IPv6.
pub(super) fn ipv6(text: &str) -> Result<String, Wrong> {
    let is_net = network(text, |address| address.parse::<Ipv6Addr>().is_ok(), 128);
    let is_one = is_net || matches!(text, "auto" | "dhcp" | "manual");
    right(is_one, text, "no address with its network: `2001:db8::2/64`, `auto` or `dhcp`").map(|()| text.to_owned())
}

fn network(text: &str, is_address: impl Fn(&str) -> bool, most: u8) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    is_address(address) && is_count(bits) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// A gateway of IPv4.
pub(super) fn gateway4(text: &str) -> Result<String, Wrong> {
    right(text.parse::<Ipv4Addr>().is_ok(), text, "no address, such as `10.0.0.1`").map(|()| text.to_owned())
}

/// The same of IPv6.
pub(super) fn gateway6(text: &str) -> Result<String, Wrong> {
    right(text.parse::<Ipv6Addr>().is_ok(), text, "no address, such as `2001:db8::1`").map(|()| text.to_owned())
}

fn parts(text: &str) -> String {
    text.split(';').map(str::trim).collect::<Vec<_>>().join(";")
}

fn are_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn is_count(text: &str) -> bool {
    !text.is_empty() && are_digits(text)
}

fn right(is_right: bool, text: &str, not: &str) -> Result<(), Wrong> {
    if is_right { Ok(()) } else { Err(Wrong::new(format!("`{}` is {not}", crate::fault::cut(text)))) }
}
