//! Pages of listings.

use serde_json::{Value, json};

use super::Call;
use crate::request::{Response, encode};
use crate::world::faults::Shifts;

const PER_PAGE: usize = 20;
const PER_PAGE_MAX: usize = 200;

/// The page of a listing that is asked for.
pub(crate) fn page(call: &Call<'_>, key: &str, all: Vec<Value>) -> Response {
    let number = |name: &str| call.param(name).and_then(|text| text.parse::<usize>().ok()).filter(|number| *number > 0);
    let per_page = number("per_page").unwrap_or(PER_PAGE).min(PER_PAGE_MAX);
    let page = number("page").unwrap_or(1);
    let total = all.len();
    // How far one page's begin is from the next one's.
    let stride = match call.world.faults.shifts {
        Shifts::No => per_page,
        Shifts::Repeats => per_page.saturating_sub(1).max(1),
        Shifts::Skips => per_page.saturating_add(1),
    };
    let last = if total <= per_page { 1 } else { (total - per_page).div_ceil(stride) + 1 };
    let shown: Vec<Value> = all.into_iter().skip(stride.saturating_mul(page - 1)).take(per_page).collect();
    let mut pages = serde_json::Map::new();
    let mut link = |rel: &str, to: usize| pages.insert(rel.to_owned(), json!(url(call, to)));
    if page > 1 {
        link("first", 1);
        link("prev", page - 1);
    }
    if page < last {
        link("next", page + 1);
        link("last", last);
    }
    // There is nothing to link to where all is on one page.
    let links = if pages.is_empty() { json!({}) } else { json!({ "pages": pages }) };
    Response::json(200, &json!({ key: shown, "links": links, "meta": { "total": total } }))
}

fn url(call: &Call<'_>, page: usize) -> String {
    let base = call.world.faults.next_base.as_deref().unwrap_or(call.base);
    let mut query: Vec<String> = vec![format!("page={page}")];
    query.extend(call.query.iter().filter(|(name, _)| *name != "page").map(|(name, value)| format!("{name}={}", encode(value))));
    format!("{base}{}?{}", call.path, query.join("&"))
}
