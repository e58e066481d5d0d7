//! Tags of guests: words in one text.
//!
//! A cluster keeps them in lower case, or as they are written, by its `tag-style`: they are compared without their case, and written as
//! they were given. Source: `PVE::GuestHelpers::get_unique_tags`, `PVE::Tools::split_list`.

/// The tags in `text`.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| matches!(c, ',' | ';' | '\0') || c.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

/// Whether `tag` is among them.
#[must_use]
pub fn has(text: &str, tag: &str) -> bool {
    words(text).any(|word| word.eq_ignore_ascii_case(tag))
}

/// They and `tag`, each once.
#[must_use]
pub fn with(text: &str, tag: &str) -> String {
    joined(words(text).chain([tag]))
}

/// They without `tag`.
#[must_use]
pub fn without(text: &str, tag: &str) -> String {
    joined(words(text).filter(|word| !word.eq_ignore_ascii_case(tag)))
}

/// Each of them once, as it is written first, with `;` between.
#[must_use]
pub fn joined<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = Vec::new();
    for word in words {
        if !all.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            all.push(word);
        }
    }
    all.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_added_and_taken_out_in_any_case_and_keep_their_own() {
        let text = "Prod, db;web\tprod DB";
        assert_eq!(words(text).collect::<Vec<_>>(), ["Prod", "db", "web", "prod", "DB"]);
        assert!(has(text, "prod") && has(text, "WEB") && !has(text, "pro") && !has("", ""));
        assert_eq!(with(text, "moorline"), "Prod;db;web;moorline");
        assert_eq!((with("Moorline", "moorline").as_str(), with("", "moorline").as_str()), ("Moorline", "moorline"));
        assert_eq!(without("a;Moorline b", "moorline"), "a;b");
        assert_eq!(without("moorline", "moorline"), "");
    }
}
