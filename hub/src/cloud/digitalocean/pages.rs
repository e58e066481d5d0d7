//! Listings, page by page. A link to the next page is followed on the API's own host only: the token goes nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;
use serde_json::Value;

use super::super::budgets::{PAGES_MAX, PER_PAGE};
use super::super::{CloudError, Result};
use super::client::{Access, Client, Transport, Verb};
use super::wire::Misread;

/// Where the API is.
#[derive(Debug, Clone)]
pub(super) struct Base(Url);

impl Base {
    pub(super) fn new(url: Url) -> Self {
        Self(url)
    }

    /// The address of a resource: `path` behind the version, each part encoded.
    pub(super) fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.0.clone();
        // A base of https has a path always.
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().push("v2").extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// A link of the API's.
    pub(super) fn follow(&self, link: &str) -> Result<Url> {
        let garbled = |message: String| CloudError::Garbled { message, maybe_done: false };
        let url = self.0.join(link).map_err(|error| garbled(format!("the link to the next page is none: {error}")))?;
        let place = |url: &Url| (url.scheme().to_owned(), url.host().map(|host| host.to_owned()), url.port_or_known_default());
        if place(&url) != place(&self.0) || !url.username().is_empty() || url.password().is_some() {
            let to = url.host_str().unwrap_or_default();
            return Err(garbled(format!(
                "the link to the next page leads to {}://{to}, and not to {}; it was not followed",
                url.scheme(),
                self.0
            )));
        }
        Ok(url)
    }
}

impl<T: Transport> Client<T> {
    /// Everything on all pages under `key`, as it comes: what moves while the pages are turned may be there twice.
    pub(super) async fn list<I>(
        &self,
        access: &Access,
        path: &[&str],
        query: &[(&str, &str)],
        key: &str,
        read: impl Fn(&Value) -> std::result::Result<I, Misread>,
    ) -> Result<Vec<I>> {
        let per_page = PER_PAGE.to_string();
        let mut query = query.to_vec();
        query.push(("per_page", &per_page));
        let mut url = self.base.url(path, &query);
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        loop {
            if seen.len() >= PAGES_MAX {
                return Err(CloudError::Garbled { message: format!("more than {PAGES_MAX} pages of {key}"), maybe_done: false });
            }
            if !seen.insert(url.to_string()) {
                return Err(CloudError::Garbled { message: format!("the pages of {key} lead in a circle"), maybe_done: false });
            }
            let page = self.call(access, Verb::Get, url, None).await?;
            let items = page.get(key).and_then(Value::as_array).ok_or_else(|| Misread::new(key, "a list"))?;
            for item in items {
                found.push(read(item)?);
            }
            match page.pointer("/links/pages/next").and_then(Value::as_str) {
                Some(next) => url = self.base.follow(next)?,
                None => return Ok(found),
            }
        }
    }
}

/// The same with each thing once, as it was seen last, in the order of their numbers.
pub(super) fn once<I, K: Ord>(found: Vec<I>, id: impl Fn(&I) -> K) -> Vec<I> {
    found.into_iter().map(|one| (id(&one), one)).collect::<BTreeMap<_, _>>().into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_nowhere_but_to_the_same_scheme_host_and_port() {
        let base = Base::new(Url::parse("https://api.digitalocean.com").unwrap());
        for good in ["https://api.digitalocean.com/v2/droplets?page=2", "https://API.digitalocean.com:443/v2/x", "/v2/droplets?page=2"] {
            base.follow(good).unwrap();
        }
        let bad = [
            "http://api.digitalocean.com/v2/droplets?page=2",
            "https://api.digitalocean.com:8443/v2/droplets",
            "https://api.digitalocean.com.evil.example/v2",
            "https://evil.example/v2",
            "//evil.example/v2",
            "https://api.digitalocean.com@evil.example/v2",
            "https://user@api.digitalocean.com/v2",
            "https://:secret@api.digitalocean.com/v2",
            "\\\\evil.example/v2",
            "file:///etc/passwd",
        ];
        for link in bad {
            assert!(base.follow(link).is_err(), "{link}");
        }
    }

    #[test]
    fn words_in_a_path_stay_in_their_place() {
        let base = Base::new(Url::parse("https://127.0.0.1:8443/").unwrap());
        assert_eq!(
            base.url(&["tags", "a/../b?c#d", "resources"], &[]).as_str(),
            "https://127.0.0.1:8443/v2/tags/a%2F..%2Fb%3Fc%23d/resources"
        );
        assert_eq!(
            base.url(&["droplets"], &[("tag_name", "saga:1&x")]).as_str(),
            "https://127.0.0.1:8443/v2/droplets?tag_name=saga%3A1%26x"
        );
    }
}
