//! Classic GrowingIO's wire, simulated: the signed token request, raw data v1 and v2, statistics v1 and v2, and the
//! asynchronous V3 exporter, as `developer-manual/api-reference/` documents them. Start at [`routes`].

mod access;
mod catalog;
mod columns;
mod demo;
mod events;
mod exporter;
mod faults;
mod links;
mod raw;
mod raw_files;
mod reports;
mod segments;
mod slices;
mod statistics;
mod token;
mod users;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

pub use self::{
    columns::{Kind, event_types},
    demo::demo_connection,
    faults::FAULTS,
    reports::{Form, Report, ReportKind},
    slices::{Granularity, Slice},
    token::kill_token,
    users::MAPPING,
};
use crate::vendors::sandbox::World;

const NAME: &str = "growingio";
/// The project's UID, as statistics and the token request want it.
pub const PROJECT_UID: &str = "nxog09md";
/// The project's ID, as raw data and the token request want it.
pub const AI: &str = "2a1b4018cd954ec2bcc69da5138bdb96";
/// The project's public key.
pub const CLIENT_ID: &str = "e1d3c5b7a9f04826b1d0c3e5f7a98642";
/// The project's private key.
pub const PRIVATE_KEY: &str = "sandbox-private-key-0123456789abcdef";
/// A token made by hand in the console: it never expires.
pub const TOKEN: &str = "c0nso1e70ken5a2db0c0ffee4aaa22c7679f49beb97d5a2db0c0ffee00112233";

/// Adds the simulator's routes.
pub fn routes(routes: &mut web::ServiceConfig, world: Arc<World>) {
    routes.app_data(web::Data::from(world)).route("/auth/token", web::post().to(token::issue));
    routes
        .route("/v2/insights/{export_type}/{data_type}/{ai}/{date}.json", web::get().to(raw::one_type))
        .route("/v2/insights/{export_type}/{ai}/{date}.json", web::get().to(raw::all_types))
        .route("/insights/{ai}/{date}.json", web::get().to(raw::version_1))
        .route("/objects/{folder}/{file}", web::route().to(links::raw_file))
        .route("/buckets/segment-download-jobs/{day}/{job}/{file}", web::route().to(links::segment_file));
    routes
        .route("/projects/{project}/dashboards.json", web::get().to(catalog::dashboards))
        .route("/projects/{project}/dashboards/{id}.json", web::get().to(catalog::dashboard))
        .route("/projects/{project}/rules.csv", web::get().to(catalog::rules))
        .route("/projects/{project}/segmentations.json", web::get().to(segments::list))
        .route("/projects/{project}/segmentations/{id}/users.csv", web::get().to(segments::users))
        .route("/projects/{project}/charts/{id}.json", web::get().to(statistics::chart_version_1))
        .route("/v2/projects/{project}/charts/{id}.json", web::get().to(statistics::chart))
        .route("/v2/projects/{project}/funnels/{id}.json", web::get().to(statistics::funnel))
        .route("/v2/projects/{project}/retentions/{id}.json", web::get().to(statistics::retention))
        .route("/v1/api/projects/{project}/vars/{who:peoples|visitors}", web::get().to(segments::variables));
    let exporter = "/v3/exporter/projects/{project}";
    routes
        .route(&format!("{exporter}/charts/{{id}}"), web::get().to(exporter::chart))
        .route(&format!("{exporter}/funnels/{{id}}"), web::get().to(exporter::funnel))
        .route(&format!("{exporter}/retentions/{{id}}"), web::get().to(exporter::retention))
        .route(&format!("{exporter}/frequencies/{{id}}"), web::get().to(exporter::frequency))
        .route(&format!("{exporter}/segmentations/{{id}}/users"), web::get().to(exporter::segment_users))
        .default_service(web::route().to(nowhere));
}

async fn nowhere(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    world.refuse(NAME, "not_found");
    world.violation(NAME, format!("{} {} is not documented", request.method(), request.path()));
    access::not_found()
}

#[cfg(test)]
mod tests;
