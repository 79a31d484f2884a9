//! Names of custom events, custom attributes and products:
//! `_docs/_api/endpoints/export/{custom_events,custom_attributes,purchases}/`.

use serde_json::{Value, json};

use super::{
    gate::{Pool, Refusal, Reply},
    lists,
    query::{Get, Query},
};

const EVENTS_PER_PAGE: usize = 250;
const DESCRIBED_PER_PAGE: usize = 50;
/// Not documented.
const PRODUCTS_PER_PAGE: usize = 100;

const EVENTS: usize = 500;
const ATTRIBUTES: usize = 120;
const PRODUCTS: usize = 130;

pub const GETS: &[Get] = &[
    Get {
        path: "/events/list",
        faults: "braze.lists",
        pool: Pool::Names,
        parameters: &["page"],
        answer: |query| Ok(json!({"events": lists::page(query, events(), EVENTS_PER_PAGE)?}).into()),
    },
    Get {
        path: "/events",
        faults: "braze.lists",
        pool: Pool::Names,
        parameters: &["cursor"],
        answer: |query| described(query, "events", &events(), event),
    },
    Get {
        path: "/custom_attributes",
        faults: "braze.lists",
        pool: Pool::Names,
        parameters: &["cursor"],
        answer: |query| described(query, "attributes", &attributes(), attribute),
    },
    Get {
        path: "/purchases/product_list",
        faults: "braze.lists",
        pool: Pool::Names,
        parameters: &["page"],
        answer: |query| Ok(json!({"products": lists::page(query, products(), PRODUCTS_PER_PAGE)?}).into()),
    },
];

fn described(query: &Query, member: &str, names: &[String], row: fn(&str) -> Value) -> Result<Reply, Refusal> {
    let (range, link) = lists::by_cursor(query, names.len(), DESCRIBED_PER_PAGE)?;
    let rows: Vec<_> = names[range].iter().map(|name| row(name)).collect();
    Ok(Reply { link, ..json!({member: rows}).into() })
}

/// The names of all custom events, in alphabetical order.
pub fn events() -> Vec<String> {
    sorted(EVENTS, &["viewed_product", "added_to_cart", "shared, \"again\"", "签到", "50% & more + extra"], "event")
}

fn attributes() -> Vec<String> {
    sorted(ATTRIBUTES, &["plan", "age", "score", "vip", "favorite_food", "note", "最爱颜色 🎨"], "attribute")
}

/// The names of all products, in alphabetical order.
pub fn products() -> Vec<String> {
    sorted(PRODUCTS, &["sku-1", "sku-2", "会员年卡"], "product")
}

fn sorted(count: usize, special: &[&str], kind: &str) -> Vec<String> {
    let numbered = (special.len()..count).map(|number| format!("{kind}_{number:04}"));
    let mut names: Vec<String> = special.iter().map(ToString::to_string).chain(numbered).collect();
    names.sort_unstable();
    names
}

/// An event with its description. Some have none, and old ones lack `tag_names`.
pub fn event(name: &str) -> Value {
    let mut event = json!({
        "name": name,
        "description": (!name.len().is_multiple_of(3)).then(|| format!("When somebody did {name}")),
        "included_in_analytics_report": name.len().is_multiple_of(2),
        "status": if name.ends_with('7') { "Blocklisted" } else { "Active" },
    });
    if !name.ends_with('9') {
        event["tag_names"] = json!(if name.ends_with('5') { vec!["Checkout", "标签"] } else { vec![] });
    }
    event
}

fn attribute(name: &str) -> Value {
    let is_list = name.ends_with('3');
    json!({
        "array_length": if is_list { json!(25) } else { Value::Null },
        "data_type": if is_list { "Array" } else { "String (Automatically Detected)" },
        "description": (!name.len().is_multiple_of(2)).then(|| format!("What is known as {name}")),
        "name": name,
        "status": "Active",
        "tag_names": [],
    })
}
