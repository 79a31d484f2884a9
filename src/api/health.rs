//! Whether the process lives, and whether it can serve.

use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{problem::Answer, responses::NotReady};
use crate::{
    exports::problem::{Code, Problem},
    operations::{Gateway, health as operation},
};

/// Seconds after which a load balancer should look again.
const RETRY_SECS: u64 = 5;

/// The process is up.
#[derive(Debug, Serialize, ToSchema)]
pub struct Liveness {
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// Is it alive?
///
/// Says only that the process answers. For liveness probes.
#[utoipa::path(
    tag = "service",
    security(()),
    responses((status = 200, description = "The process answers.", body = Liveness)),
)]
#[get("/healthz")]
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(Liveness { status: "ok" })
}

/// Is it ready?
///
/// Asks the database and the object store. For readiness probes.
#[utoipa::path(
    tag = "service",
    security(()),
    responses((status = 200, description = "It can serve.", body = Liveness), NotReady),
)]
#[get("/readyz")]
pub async fn readyz(gateway: web::Data<Gateway>) -> Answer {
    match operation::readiness(&gateway).await {
        Ok(()) => Ok(HttpResponse::Ok().json(Liveness { status: "ok" })),
        Err(missing) => {
            tracing::warn!(error = &missing as &dyn std::error::Error, "not ready");
            let problem = Problem::new(Code::ServiceUnavailable, missing.to_string());
            Err(problem.with_retry_after_secs(RETRY_SECS).into())
        }
    }
}
