//! Single values of Proxmox VE's configs: however they are spelled, one form of each.
//!
//! Source: `PVE::JSONSchema::check_type`, `parse_size` and `format_size`.

/// What is wrong with a value of a guest's config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(String);

impl Wrong {
    /// With these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// The same, of one key within a value.
    #[must_use]
    pub fn within(self, key: &str) -> Self {
        Self(format!("`{key}`: {}", self.0))
    }
}

/// How a host writes yes and no.
#[must_use]
pub const fn flag(yes: bool) -> &'static str {
    if yes { "1" } else { "0" }
}

/// Yes or no: `1`, `on`, `yes` and `true`, and their opposites, in any case.
///
/// # Errors
/// [`Wrong`] for anything else.
pub fn boolean(text: &str) -> Result<bool, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Ok(true),
        "0" | "off" | "no" | "false" => Ok(false),
        _ => Err(Wrong::new(format!("`{text}` is neither yes nor no: write 1 or 0"))),
    }
}

/// A whole number within bounds.
///
/// # Errors
/// [`Wrong`] for what is none, or is beyond them.
pub fn integer(text: &str, from: i64, to: i64) -> Result<i64, Wrong> {
    let n: i64 = text.parse().map_err(|_| Wrong::new(format!("`{text}` is no whole number")))?;
    if (from..=to).contains(&n) {
        return Ok(n);
    }
    let bounds = if to == i64::MAX { format!("at least {from}") } else { format!("from {from} to {to}") };
    Err(Wrong::new(format!("{n} is out of bounds: it is {bounds}")))
}

/// A number with a fraction, not below 0, without needless zeros: `0.50` and `.5` are `0.5`.
///
/// # Errors
/// [`Wrong`] for what is none.
pub fn number(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::new(format!("`{text}` is no number"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |part: &str| part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(wrong());
    }
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    Ok(if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") })
}

/// One of `words`.
///
/// # Errors
/// [`Wrong`] for any other.
pub fn word(text: &str, words: &[&str]) -> Result<String, Wrong> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` is not one of {}", words.join(", "))))
}

/// The address of a network card, in upper case.
///
/// # Errors
/// [`Wrong`] for what is none, and for addresses of groups.
pub fn mac(text: &str) -> Result<String, Wrong> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_octet = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if parts.len() != 6 || !parts.iter().all(is_octet) {
        return Err(Wrong::new(format!("`{text}` is no address of a network card, such as BC:24:11:00:00:0A")));
    }
    let first = parts.first().and_then(|octet| u8::from_str_radix(octet, 16).ok()).unwrap_or(1);
    if first & 1 == 1 {
        return Err(Wrong::new(format!("`{text}` is the address of a group: its first octet is even for one card")));
    }
    Ok(text.to_ascii_uppercase())
}

/// A UUID, in lower case.
///
/// # Errors
/// [`Wrong`] for what is none.
pub fn uuid(text: &str) -> Result<String, Wrong> {
    if is_uuid(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Wrong::new(format!("`{text}` is no UUID, such as 6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e")))
}

/// Whether a text is a UUID.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()))
}

const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// A size in bytes: `8G`, `8192M`, `8589934592`; units are powers of 1024.
///
/// # Errors
/// [`Wrong`] for what is none.
pub fn size(text: &str) -> Result<u64, Wrong> {
    let wrong = || Wrong::new(format!("`{text}` is no size, such as 8G"));
    let unit = UNITS.iter().find_map(|(letter, bits)| Some((text.strip_suffix(*letter)?, *bits)));
    let (digits, bits) = unit.unwrap_or((text, 0));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) || fraction.len() > 6 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let bytes = whole.checked_mul(1 << bits).ok_or_else(wrong)?;
    if fraction.is_empty() {
        return Ok(bytes);
    }
    let parts: u64 = fraction.parse().map_err(|_| wrong())?;
    let of = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let more = u128::from(parts) * (1_u128 << bits) / u128::from(of);
    u64::try_from(more).ok().and_then(|more| bytes.checked_add(more)).ok_or_else(wrong)
}

/// A size as hosts write it: with the greatest unit of which it is a whole number.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let fits = |bits: &u32| bytes > 0 && bytes.is_multiple_of(1 << bits);
    match UNITS.iter().rev().find(|(_, bits)| fits(bits)) {
        Some((letter, bits)) => format!("{}{letter}", bytes >> bits),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_one_form_each() {
        for (text, yes) in [("1", true), ("on", true), ("Yes", true), ("TRUE", true), ("0", false), ("off", false), ("no", false)] {
            assert_eq!(boolean(text), Ok(yes), "{text}");
        }
        assert!(boolean("2").is_err() && boolean("").is_err());
        for (text, number) in [("0.50", "0.5"), (".5", "0.5"), ("2", "2"), ("2.0", "2"), ("007", "7"), ("0", "0")] {
            assert_eq!(super::number(text).as_deref(), Ok(number), "{text}");
        }
        for bad in ["", ".", "-1", "1e3", "1.2.3", "one"] {
            assert!(super::number(bad).is_err(), "{bad}");
        }
        assert_eq!(integer("8", 1, 8), Ok(8));
        assert!(integer("9", 1, 8).is_err() && integer("8.0", 1, 8).is_err());
        assert_eq!(mac("bc:24:11:00:00:0a").as_deref(), Ok("BC:24:11:00:00:0A"));
        assert!(mac("01:24:11:00:00:0a").unwrap_err().to_string().contains("group"));
    }

    #[test]
    fn sizes_are_bytes_and_are_written_with_the_greatest_unit_that_is_exact() {
        for (text, bytes, written) in [
            ("8G", 8 << 30, "8G"),
            ("8192M", 8 << 30, "8G"),
            ("1024G", 1 << 40, "1T"),
            ("8589934592", 8 << 30, "8G"),
            ("1.5G", 3 << 29, "1536M"),
            ("4M", 4 << 20, "4M"),
            ("528K", 528 << 10, "528K"),
            ("1000", 1000, "1000"),
            ("0", 0, "0"),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size_text(bytes), written);
        }
        for bad in ["", "G", "-1G", "8g", "8GB", "99999999999T", "1.2.3G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
