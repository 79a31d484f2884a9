//! Braze's REST API for exports, simulated as `_docs/_api/endpoints/` documents it: exports of a segment and of the
//! global control group, users by their ids, lists and details, series, and suppression lists. Start at [`routes`].
//! Not simulated: `/feed/*`, which is retired, and the unlisted `url_info`.

mod activity;
mod archive;
mod bucket;
mod campaigns;
mod canvases;
mod demo;
mod exports;
mod faults;
mod figures;
mod gate;
mod links;
mod lists;
mod order;
mod profiles;
mod query;
mod segments;
mod series;
mod suppressions;
mod users;
mod vocabulary;

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde_json::json;
use url::Url;

pub use self::{
    faults::FAULTS,
    users::{Asked, FIELDS},
};
use self::{
    gate::{Budget, Pool, Refusal},
    query::Get,
};
use crate::vendors::sandbox::{DEMO_FIELDS, DemoConnection, World, vendor_base};

const NAME: &str = "braze";
/// The key that may do everything.
pub const API_KEY: &str = "sandbox-braze-key";
/// A known key without the permissions `users.export.*`.
pub const API_KEY_WITHOUT_EXPORT: &str = "sandbox-braze-key-without-export";
/// The control group's own segment id, as in the keys of its objects.
pub const GLOBAL_CONTROL_GROUP: &str = "6c0ffee0-0000-4000-8000-000000000001";

/// Every documented `GET`.
const GETS: [&[Get]; 7] = [
    segments::GETS,
    campaigns::GETS,
    canvases::GETS,
    vocabulary::GETS,
    series::GETS,
    suppressions::GETS,
    canvases::SERIES,
];

/// Adds the simulator's routes.
pub fn routes(routes: &mut web::ServiceConfig, world: Arc<World>) {
    routes.app_data(web::Data::from(world));
    let post = |path: &str, handler: actix_web::Route| {
        web::resource(path.to_owned()).route(handler).default_service(web::route().to(nowhere))
    };
    routes
        .service(post("/users/export/segment", web::post().to(exports::of_segment)))
        .service(post("/users/export/global_control_group", web::post().to(exports::of_control_group)))
        .service(post("/users/export/ids", web::post().to(profiles::by_ids)))
        .service(post("/export/segment/cancel", web::post().to(exports::cancel)))
        .service(post("/users/export/segment/cancel", web::post().to(exports::cancel_elsewhere)));
    for get in GETS.into_iter().flatten() {
        get.route(routes);
    }
    routes.route("/files/{name}", web::route().to(links::file)).default_service(web::route().to(nowhere));
}

/// The connection a newcomer needs; the key is [`API_KEY`].
pub fn demo_connection(base: &Url) -> DemoConnection {
    DemoConnection {
        name: "demo-braze",
        vendor: NAME,
        body: json!({
            "vendor": NAME,
            "display_name": "Braze (sandbox)",
            "settings": {"base_url": vendor_base(base, NAME)},
            "credentials": {"api_key": API_KEY},
            "mapping": {},
        }),
        audience: json!({"kind": "segment", "id": segment_id(1)}),
        fields: DEMO_FIELDS,
        truth: demo::without_fields,
        faults: FAULTS,
        datasets: demo::DATASETS,
    }
}

/// An address or a method that no page documents.
async fn nowhere(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    world.violation(NAME, format!("{} {} is not documented", request.method(), request.path()));
    let refusal = Refusal { status: StatusCode::NOT_FOUND, reason: "not_found", message: "Not Found".to_owned() };
    refusal.answer(&world, Budget::spend(&world, Pool::Default, Instant::now()).0)
}

/// The address the client knows this simulator by.
fn own_address(request: &HttpRequest) -> String {
    let info = request.connection_info();
    format!("{}://{}/{NAME}", info.scheme(), info.host())
}

/// The API identifier of the segment of that number.
pub fn segment_id(number: u64) -> String {
    format!("5a1b0c2d-0000-4000-8000-{number:012}")
}

fn segment_number(id: &str) -> Option<u64> {
    numbered(id, segment_id)
}

/// The number whose identifier this is.
fn numbered(id: &str, spell: fn(u64) -> String) -> Option<u64> {
    let number = id.get(id.len().saturating_sub(12)..)?.parse().ok()?;
    (spell(number) == id).then_some(number)
}

#[cfg(test)]
mod tests;
