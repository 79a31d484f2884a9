//! The HTTP edge: extract, authorise, call one operation, shape the view. Knows no vendor, no table and no rule of an
//! export. `routes` below is the whole API in reading order; the OpenAPI document is made from the same list, so
//! what is served and what is published cannot differ.

pub mod auth;
mod body;
mod callbacks;
mod caller;
mod catalog;
mod conditions;
mod connections;
mod data;
mod deliveries;
mod destinations;
mod docs;
mod events;
mod examples;
mod export_view;
mod exports;
mod files;
mod health;
mod links;
pub mod openapi;
mod openapi_30;
mod paging;
mod problem;
mod problem_pages;
mod query;
mod requests;
mod responses;
mod routes;
mod schedules;
mod vendors;
mod webhooks;

use std::sync::{Arc, LazyLock};

use actix_web::{
    App, Error, HttpRequest,
    body::BoxBody,
    dev::{ServiceFactory, ServiceRequest, ServiceResponse},
    http::header::{ALLOW, HeaderValue},
    middleware::from_fn,
    web,
};
use tokio_util::sync::CancellationToken;
use url::Url;
use utoipa_actix_web::service_config::ServiceConfig;

use self::{
    auth::Authenticator,
    openapi::Published,
    problem::{Answer, ApiError},
};
use crate::{
    exports::problem::{Code, Problem},
    operations::Gateway,
};

/// What the API is served from; cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub gateway: Gateway,
    pub auth: Arc<Authenticator>,
    /// What callers reach, if the operator said it. Links lie below it.
    pub public_url: Option<Url>,
    /// Cancelled when the server stops: waiting answers and live streams end at once.
    pub stopping: CancellationToken,
}

/// What the edge itself needs, besides the operations.
struct Edge {
    auth: Arc<Authenticator>,
    public_url: Option<Url>,
    stopping: CancellationToken,
    published: &'static Published,
}

static PUBLISHED: LazyLock<Published> = LazyLock::new(Published::new);

/// Every route, in reading order.
fn routes(config: &mut ServiceConfig) {
    config
        .service(exports::submit_export)
        .service(exports::list_exports)
        .service(exports::get_export)
        .service(exports::cancel_export)
        .service(exports::retry_export)
        .service(exports::delete_export)
        .service(events::list_events)
        .service(events::list_attempts)
        .service(files::list_files)
        .service(files::download_file)
        .service(files::describe_file)
        .service(data::download_data)
        .service(data::describe_data)
        .service(links::make_link)
        .service(links::follow_link)
        .service(links::describe_link)
        .service(vendors::list_vendors)
        .service(vendors::get_vendor)
        .service(connections::list_connections)
        .service(connections::get_connection)
        .service(connections::put_connection)
        .service(connections::delete_connection)
        .service(connections::rotate_credentials)
        .service(connections::check_connection)
        .service(catalog::list_catalog)
        .service(catalog::list_dashboard)
        .service(catalog::get_quota)
        .service(destinations::list_destinations)
        .service(destinations::get_destination)
        .service(destinations::put_destination)
        .service(destinations::delete_destination)
        .service(destinations::rotate_destination_credentials)
        .service(destinations::check_destination)
        .service(schedules::create_schedule)
        .service(schedules::list_schedules)
        .service(schedules::get_schedule)
        .service(schedules::change_schedule)
        .service(schedules::delete_schedule)
        .service(schedules::pause_schedule)
        .service(schedules::resume_schedule)
        .service(schedules::list_runs)
        .service(webhooks::create_webhook_endpoint)
        .service(webhooks::list_webhook_endpoints)
        .service(webhooks::get_webhook_endpoint)
        .service(webhooks::change_webhook_endpoint)
        .service(webhooks::delete_webhook_endpoint)
        .service(webhooks::rotate_webhook_secret)
        .service(deliveries::list_deliveries)
        .service(deliveries::replay_delivery)
        .service(deliveries::replay_deliveries)
        .service(callbacks::vendor_callback)
        .service(health::healthz)
        .service(health::readyz)
        .service(docs::openapi_31)
        .service(docs::openapi_30)
        .service(docs::list_problems)
        .service(docs::explain_problem)
        .service(docs::index);
}

/// The application, one for each server thread.
pub fn app(
    api: Api,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>,
> {
    let Api { gateway, auth, public_url, stopping } = api;
    edge(Edge { auth, public_url, stopping, published: &PUBLISHED }, |config| {
        config.app_data(web::Data::new(gateway));
        routes(config);
    })
}

fn edge(
    edge: Edge,
    routes: impl FnOnce(&mut ServiceConfig),
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>,
> {
    App::new()
        .app_data(web::Data::new(edge))
        .wrap(from_fn(requests::observe))
        .configure(|config| routes(&mut ServiceConfig::new(config)))
        .configure(docs::browser)
        .default_service(web::to(unmatched))
}

/// No route fits: either the path is unknown, or it does not have the method.
async fn unmatched(request: HttpRequest, edge: web::Data<Edge>) -> Answer {
    let Some(allowed) = edge.published.routes.allowed(request.path()) else {
        return Err(Problem::new(Code::NotFound, "there is nothing at this path").into());
    };
    let error = ApiError::from(Problem::new(Code::MethodNotAllowed, format!("use one of {allowed}")));
    Err(match HeaderValue::from_str(&allowed) {
        Ok(value) => error.with_header(ALLOW, value),
        Err(_) => error,
    })
}

#[cfg(test)]
mod tests;
