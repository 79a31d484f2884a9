//! The API explains itself: the OpenAPI documents, a browser for them, and a page for every problem.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, VARY},
    web,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    Edge,
    problem::{Answer, ApiError},
    problem_pages,
    responses::Absent,
};
use crate::exports::problem::{Category, Code};

/// Where to go from here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Index {
    #[schema(example = "Headgate")]
    pub name: &'static str,
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    #[schema(example = "/docs/")]
    pub docs: &'static str,
    #[schema(example = "/openapi.json")]
    pub openapi: &'static str,
    #[schema(example = "/problems")]
    pub problems: &'static str,
}

/// What a problem code means.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemPage {
    pub code: Code,
    #[schema(example = "The request is not valid")]
    pub title: &'static str,
    /// The usual HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    pub category: Category,
    /// Whether the same request can succeed later without a change.
    pub retryable: bool,
    /// The page in Markdown: meaning, what to do, whether to retry.
    pub page: &'static str,
}

/// Every problem code.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemPageList {
    pub data: Vec<ProblemPage>,
    /// Always empty: all of them come at once.
    pub next_page_token: String,
}

/// OpenAPI 3.1
///
/// This document.
#[utoipa::path(
    tag = "service", security(()),
    responses((status = 200, description = "The document.", body = Object)),
)]
#[get("/openapi.json")]
pub async fn openapi_31(edge: web::Data<Edge>) -> HttpResponse {
    document(&edge.published.text_31)
}

/// OpenAPI 3.0.3
///
/// The same document for generators that know only OpenAPI 3.0.
#[utoipa::path(
    tag = "service", security(()),
    responses((status = 200, description = "The document.", body = Object)),
)]
#[get("/openapi-3.0.json")]
pub async fn openapi_30(edge: web::Data<Edge>) -> HttpResponse {
    document(&edge.published.text_30)
}

/// List problem codes
#[utoipa::path(
    tag = "service", security(()),
    responses((status = 200, description = "Every code.", body = ProblemPageList)),
)]
#[get("/problems")]
pub async fn list_problems() -> HttpResponse {
    let data = Code::ALL.iter().copied().map(problem_page).collect();
    HttpResponse::Ok().json(ProblemPageList { data, next_page_token: String::new() })
}

/// Explain a problem code
///
/// Where the `type` of every problem leads. HTML unless JSON or Markdown is asked for.
#[utoipa::path(
    tag = "service", security(()),
    params(("code" = String, Path, description = "The code, e.g. `export_not_finished`.")),
    responses(
        (status = 200, description = "The page.", content(
            (String = "text/html"),
            (ProblemPage = "application/json"),
            (String = "text/markdown"),
        )),
        Absent,
    ),
)]
#[get("/problems/{code}")]
pub async fn explain_problem(request: HttpRequest, name: web::Path<String>) -> Answer {
    let code = Code::ALL.iter().copied().find(|code| code.as_str() == *name);
    let code = code.ok_or_else(|| ApiError::not_found("problem code"))?;
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut answer = HttpResponse::Ok();
    answer.insert_header((VARY, "Accept"));
    let position = |media_type| accept.find(media_type).unwrap_or(usize::MAX);
    let (html, json, markdown) = (position("text/html"), position("json"), position("text/markdown"));
    Ok(if json < html.min(markdown) {
        answer.json(problem_page(code))
    } else if markdown < html {
        answer.content_type("text/markdown; charset=utf-8").body(problem_pages::markdown(code))
    } else {
        answer
            .content_type("text/html; charset=utf-8")
            .insert_header((CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"))
            .body(problem_pages::html(code))
    })
}

/// Where to begin
#[utoipa::path(
    tag = "service", security(()),
    responses((status = 200, description = "Where to go from here.", body = Index)),
)]
#[get("/")]
pub async fn index() -> HttpResponse {
    HttpResponse::Ok().json(Index {
        name: "Headgate",
        version: env!("CARGO_PKG_VERSION"),
        docs: "/docs/",
        openapi: "/openapi.json",
        problems: "/problems",
    })
}

/// Paths of [`browser`].
pub const BROWSER_PATHS: &[&str] = &["/docs", "/docs/{tail}*"];

/// A browser for the document at `/docs/`, served from this binary: it loads nothing from elsewhere.
pub fn browser(config: &mut web::ServiceConfig) {
    let ui = Config::from("/openapi.json").validator_url("none").use_base_layout();
    config
        .route(
            "/docs",
            web::get().to(async || HttpResponse::PermanentRedirect().insert_header((LOCATION, "/docs/")).finish()),
        )
        .service(SwaggerUi::new("/docs/{_:.*}").config(ui));
}

fn document(text: &'static str) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").insert_header((CACHE_CONTROL, "public, max-age=300")).body(text)
}

fn problem_page(code: Code) -> ProblemPage {
    ProblemPage {
        code,
        title: code.title(),
        status: code.status(),
        category: code.category(),
        retryable: code.retryable(),
        page: problem_pages::markdown(code),
    }
}
