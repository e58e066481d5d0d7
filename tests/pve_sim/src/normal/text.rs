//! Tags, descriptions and sizes.

/// Tags as they are kept: parted by `,`, `;` and spaces, each once, joined by `;`; lower-cased unless the datacenter says that case
/// counts, sorted unless it says that the config's order counts. Source: `PVE::GuestHelpers::get_unique_tags`.
#[must_use]
pub fn tags(text: &str, is_case_sensitive: bool, keeps_order: bool) -> String {
    let mut all: Vec<String> = Vec::new();
    for word in text.split([',', ';', ' ']).filter(|word| !word.is_empty()) {
        let word = if is_case_sensitive { word.to_owned() } else { word.to_lowercase() };
        if !all.contains(&word) {
            all.push(word);
        }
    }
    if !keeps_order {
        all.sort();
    }
    all.join(";")
}

/// A description of a virtual machine as it is read back from its file: without white space at its end; nothing for `0` and nothing.
/// Source: `PVE::QemuServer::write_vm_config`, `parse_vm_config`.
#[must_use]
pub fn machine_description(text: &str) -> Option<String> {
    let kept = text.trim_end();
    (!kept.is_empty() && text != "0").then(|| kept.to_owned())
}

/// The same of a container, each of whose lines gets an end. Empty lines at its end are lost. Source: `PVE::LXC::Config::parse_pct_config`.
#[must_use]
pub fn container_description(text: &str) -> Option<String> {
    if text.is_empty() || text == "0" {
        return None;
    }
    // Perl's `split` leaves out what is empty at the end; a text of nothing but line ends has no lines.
    let kept = text.trim_end_matches('\n');
    (!kept.is_empty()).then(|| format!("{kept}\n"))
}

/// A size in bytes, of the text of one: `8`, `8G`, `1.5T`.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match text.get(digits.len()..)? {
        "" => 0_u32,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    scaled(digits, 1_u64.checked_shl(shift)?)
}

/// A decimal number times a whole one, rounded down, without going through a fraction of the machine's.
#[must_use]
pub fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || part.len() > 9 || !(whole.bytes().chain(part.bytes())).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let tenth = 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part: u64 = if part.is_empty() { 0 } else { part.parse().ok()? };
    whole.checked_mul(unit)?.checked_add(u64::try_from(u128::from(part) * u128::from(unit) / u128::from(tenth)).ok()?)
}

/// A size as it is written: with the largest unit of which it is a multiple. Source: `PVE::JSONSchema::format_size`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let (mut left, mut unit) = (bytes, "");
    for next in ["K", "M", "G", "T"] {
        if left == 0 || left % 1024 != 0 {
            break;
        }
        (left, unit) = (left / 1024, next);
    }
    format!("{left}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_one_sorted_lower_case_set_unless_the_datacenter_says_otherwise() {
        assert_eq!(tags("Prod, db;web db", false, false), "db;prod;web");
        assert_eq!(tags("Prod db prod", true, true), "Prod;db;prod");
    }

    #[test]
    fn descriptions_lose_or_get_their_end() {
        assert_eq!(machine_description("\na\r\nb \n\n"), Some("\na\r\nb".to_owned()));
        assert_eq!((machine_description("0"), machine_description(""), machine_description(" \n")), (None, None, None));
        assert_eq!(container_description("value"), Some("value\n".to_owned()));
        assert_eq!(container_description("a\n\nb\n\n"), Some("a\n\nb\n".to_owned()));
        assert_eq!((container_description(""), container_description("\n")), (None, None));
    }

    #[test]
    fn sizes_have_the_largest_unit_that_fits() {
        for (text, written) in [("8192M", "8G"), ("1024G", "1T"), ("8G", "8G"), ("528K", "528K"), ("1.5G", "1536M"), ("1000", "1000")] {
            assert_eq!(size(bytes(text).unwrap()), written);
        }
        assert_eq!((bytes("8X"), bytes("G"), bytes("-1G")), (None, None, None));
    }
}
