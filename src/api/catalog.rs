//! What can be exported over a connection, and what is left of its budgets.

use actix_web::{HttpRequest, HttpResponse, get, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    caller::{Authorized, ExportsRead},
    problem::{Answer, ApiError},
    query::Query,
    responses::{Absent, BadQuery, Denied, VendorAtFault, VendorBusy},
};
use crate::{
    exports::{parameters::CatalogKind, rows::CatalogRow},
    operations::{
        Gateway,
        catalog::{self as operation, Quota},
    },
};

const DEFAULT_PAGE_SIZE: i64 = 50;
const MAX_PAGE_SIZE: i64 = 200;

/// One thing that can be exported, the same shape for every vendor and kind.
#[derive(Debug, Serialize, ToSchema)]
pub struct CatalogItem {
    /// What an export's parameters want.
    #[schema(example = "5a1b0c2d-0000-4000-8000-000000000001")]
    pub id: String,
    #[schema(example = "segment")]
    pub kind: String,
    #[schema(required = true, example = "Everybody who bought in May")]
    pub name: Option<String>,
    #[schema(required = true)]
    pub description: Option<String>,
    /// How many users it has, where the vendor tells.
    #[schema(required = true)]
    pub size: Option<i64>,
    /// In the vendor's words.
    #[schema(required = true)]
    pub status: Option<String>,
    /// RFC 3339, or a date where the vendor tells no more.
    #[schema(required = true)]
    pub created_at: Option<String>,
    /// RFC 3339, or a date where the vendor tells no more.
    #[schema(required = true)]
    pub updated_at: Option<String>,
    /// Everything else the vendor tells, by its own names.
    #[schema(value_type = Object)]
    pub vendor: Value,
}

/// One page of a catalog.
#[derive(Debug, Serialize, ToSchema)]
pub struct CatalogList {
    pub data: Vec<CatalogItem>,
    /// Give it back as `page_token` for the next page; empty on the last.
    pub next_page_token: String,
}

/// One budget of a vendor account and what is left of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Quota)]
pub struct QuotaView {
    #[schema(example = "requests")]
    pub name: &'static str,
    pub description: &'static str,
    #[schema(example = 250_000)]
    pub limit: i64,
    /// ISO 8601 duration in which `limit` calls may be made; null where it is a number at once.
    #[schema(required = true, example = "PT1H")]
    pub window: Option<String>,
    #[schema(example = 1_200)]
    pub used: i64,
    #[schema(example = 248_800)]
    pub remaining: i64,
    /// When the current window ends, once one has begun.
    #[schema(required = true)]
    pub resets_at: Option<DateTime<Utc>>,
}

/// The budgets of a vendor account.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaList {
    pub data: Vec<QuotaView>,
    /// Always empty: all of them come at once.
    pub next_page_token: String,
}

/// List a catalog
///
/// What can be exported there, live from the vendor: for choosing ids.
#[utoipa::path(
    tag = "connections",
    security(("bearer" = ["exports:read"])),
    params(
        ("name" = String, Path, description = "The connection's name."),
        ("kind" = String, Path, description = "`audiences`, `dashboards`, `campaigns`, `canvases` or `events`, as far as the vendor has them."),
        ("page_size" = Option<i64>, Query, minimum = 1, description = "How many at most: 50 unless given; more than 200 counts as 200."),
        ("page_token" = Option<String>, Query, description = "`next_page_token` of the page before."),
    ),
    responses(
        (status = 200, description = "One page.", body = CatalogList), BadQuery, Denied, Absent, VendorAtFault, VendorBusy,
    ),
)]
#[get("/v1/connections/{name}/catalog/{kind}")]
pub async fn list_catalog(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
) -> Answer {
    let (name, kind) = path.into_inner();
    let kind = match kind.as_str() {
        "audiences" => CatalogKind::Audiences,
        "dashboards" => CatalogKind::Dashboards,
        "campaigns" => CatalogKind::Campaigns,
        "canvases" => CatalogKind::Canvases,
        "events" => CatalogKind::Events,
        _ => return Err(ApiError::not_found("kind of catalog")),
    };
    page(&caller, &gateway, &request, &name, kind, None).await
}

/// List the charts of a dashboard
#[utoipa::path(
    tag = "connections",
    security(("bearer" = ["exports:read"])),
    params(
        ("name" = String, Path, description = "The connection's name."),
        ("id" = String, Path, description = "The dashboard's id."),
        ("page_size" = Option<i64>, Query, minimum = 1, description = "How many at most: 50 unless given; more than 200 counts as 200."),
        ("page_token" = Option<String>, Query, description = "`next_page_token` of the page before."),
    ),
    responses(
        (status = 200, description = "One page.", body = CatalogList), BadQuery, Denied, Absent, VendorAtFault, VendorBusy,
    ),
)]
#[get("/v1/connections/{name}/catalog/dashboards/{id}")]
pub async fn list_dashboard(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
) -> Answer {
    let (name, id) = path.into_inner();
    if id.trim().is_empty() || id.len() > 255 || id.chars().any(char::is_control) {
        return Err(ApiError::not_found("dashboard"));
    }
    page(&caller, &gateway, &request, &name, CatalogKind::Dashboards, Some(id)).await
}

async fn page(
    caller: &Authorized<ExportsRead>,
    gateway: &Gateway,
    request: &HttpRequest,
    name: &str,
    kind: CatalogKind,
    id: Option<String>,
) -> Answer {
    let query = Query::read(request, &["page_size", "page_token"])?;
    let page_size = match query.integer("page_size")? {
        None => DEFAULT_PAGE_SIZE,
        Some(size) if size >= 1 => size.min(MAX_PAGE_SIZE),
        Some(_) => return Err(ApiError::malformed("`page_size` is a whole number from 1")),
    };
    let name = super::connections::possible(name)?;
    let page_size = usize::try_from(page_size).unwrap_or(1);
    let page = operation::list_catalog(gateway, caller, name, kind, id, page_size, query.text("page_token")).await?;
    Ok(HttpResponse::Ok().json(CatalogList {
        data: page.rows.into_iter().map(CatalogItem::from).collect(),
        next_page_token: page.next_page_token,
    }))
}

/// Read a connection's quota
///
/// The vendor's budgets and what is left of them, counted over all replicas and corrected by what the vendor says.
#[utoipa::path(
    tag = "connections",
    security(("bearer" = ["exports:read"])),
    params(("name" = String, Path, description = "The connection's name.")),
    responses((status = 200, description = "The budgets.", body = QuotaList), Denied, Absent),
)]
#[get("/v1/connections/{name}/quota")]
pub async fn get_quota(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Answer {
    let quotas = operation::quota(&gateway, &caller, super::connections::possible(&name)?).await?;
    let data = quotas.into_iter().map(QuotaView::from).collect();
    Ok(HttpResponse::Ok().json(QuotaList { data, next_page_token: String::new() }))
}

impl From<CatalogRow<'static>> for CatalogItem {
    fn from(row: CatalogRow<'static>) -> Self {
        let text = |text: Option<std::borrow::Cow<'static, str>>| text.map(std::borrow::Cow::into_owned);
        Self {
            id: row.id.into_owned(),
            kind: row.kind.into_owned(),
            name: text(row.name),
            description: text(row.description),
            size: row.size,
            status: text(row.status),
            created_at: text(row.created_at),
            updated_at: text(row.updated_at),
            vendor: serde_json::to_value(&row.vendor).unwrap_or_default(),
        }
    }
}

impl From<Quota> for QuotaView {
    fn from(quota: Quota) -> Self {
        Self {
            name: quota.name,
            description: quota.says,
            limit: quota.limit,
            window: quota.window.map(super::vendors::duration),
            used: quota.used,
            remaining: quota.limit - quota.used,
            resets_at: quota.resets_at,
        }
    }
}
