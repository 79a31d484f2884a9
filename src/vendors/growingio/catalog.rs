//! Lists: segments, dashboards, the charts of one dashboard, and the rules that tag elements.
//! Each is one answer, which is the data. Live catalogs are the same calls read by the same code.
//! Start at [`poll`] or [`page`]; items are read in [`rows`].

mod rows;

use std::sync::Arc;

use serde_json::{Value, json, value::RawValue};

use self::rows::{Items, ListRows};
use super::{
    api::Api,
    no_plan, not_supported,
    statistics::{Body, Get, data, is_absent, malformed, parsed, path_part, separator},
};
use crate::{
    exports::{
        parameters::{AudienceKind, Parameters},
        problem::{Code, FieldError},
        records::Records,
        request::ExportRequest,
        rows::CatalogRow,
    },
    vendors::{
        CatalogKind, CatalogPage, CatalogQuery, Exchanges, Inquiry, Next, Plan, Progress, VendorError, Work,
        http::{Peeked, decided},
        object::{Members, text},
    },
};

/// The only part of a list.
const PART: &str = "list";

/// A list and where it is.
struct List {
    items: Items,
    get: Get,
}

/// What would be asked for: the parts, and the calls they stand for.
///
/// # Errors
/// Fields that cannot be served, with pointers into the request body.
pub fn parts(api: &Api, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
    let list = List::asked(api, request)?;
    let mut warnings = Vec::new();
    if let Parameters::Audiences(audiences) = &request.parameters {
        if audiences.kind.is_some_and(|kind| kind != AudienceKind::Segment) {
            let detail = "GrowingIO lists audiences of kind `segment`";
            return Err(vec![FieldError::new("/parameters/kind", "not_supported", detail)]);
        }
        if audiences.details {
            warnings.push("`details` adds nothing: GrowingIO tells no more of a segment than its list does".into());
        }
    }
    Ok(Plan {
        calls: vec![list.get.planned()],
        work: Work::Parts(vec![PART.to_owned()]),
        windows: Vec::new(),
        warnings,
    })
}

/// Asks for one part.
///
/// # Errors
/// What the call fails with.
pub async fn poll(
    api: &Api,
    request: &ExportRequest,
    _part: &str,
    _inquiry: &Inquiry<'_>,
    exchanges: &Exchanges,
) -> Result<Progress, VendorError> {
    let list = List::asked(api, request).map_err(|_| no_plan())?;
    let answer = list.get.open(api, list.items.body(), exchanges).await;
    let answer = answer.map_err(|error| list.items.absent(error)).and_then(|answer| list.items.checked(answer));
    let progress = answer.map(|answer| match list.items {
        Items::Rules => {
            let tag = separator(&answer);
            data(answer, "csv", tag)
        }
        _ => data(answer, "json", ""),
    });
    decided(exchanges, progress, |_| "the list came with the answer".into())
}

/// How the records of the request are read.
pub fn records(api: &Api, request: &ExportRequest) -> Arc<dyn Records> {
    // A request that cannot be planned is never asked for, so it has no records to read.
    Arc::new(ListRows::new(List::asked(api, request).map_or(Items::Segments, |list| list.items)))
}

/// One page of a catalog, live: the whole list.
///
/// # Errors
/// What the call fails with; `not_found` for a dashboard that does not exist.
pub async fn page(api: &Api, query: &CatalogQuery, exchanges: &Exchanges) -> Result<CatalogPage, VendorError> {
    let list = List::of(api, query).ok_or_else(|| not_here("GrowingIO has no such catalog"))?;
    let answer = list.get.list("catalog", api, list.items.body(), exchanges).await.map_err(|error| {
        if is_absent(&error) && query.id.is_some() {
            return not_here("GrowingIO has no such dashboard");
        }
        list.items.absent(error)
    });
    let page = answer.and_then(|answer| list.items.page(&answer));
    decided(exchanges, page, |page| format!("listed, rows: {}", page.rows.len()))
}

fn not_here(message: &str) -> VendorError {
    VendorError::new(Code::NotFound, Next::GiveUp, message)
}

impl List {
    fn asked(api: &Api, request: &ExportRequest) -> Result<Self, Vec<FieldError>> {
        let items = match &request.parameters {
            Parameters::Audiences(_) => Items::Segments,
            Parameters::EventRules => Items::Rules,
            Parameters::Dashboards(dashboards) => match &dashboards.id {
                Some(id) => Items::Charts { dashboard: id.clone() },
                None => Items::Dashboards,
            },
            _ => return Err(not_supported()),
        };
        let get = items.get(api).map_err(|error| vec![error])?;
        Ok(Self { items, get })
    }

    fn of(api: &Api, query: &CatalogQuery) -> Option<Self> {
        let items = match (query.kind, &query.id) {
            (CatalogKind::Audiences, None) => Items::Segments,
            (CatalogKind::Dashboards, None) => Items::Dashboards,
            (CatalogKind::Dashboards, Some(id)) => Items::Charts { dashboard: id.clone() },
            _ => return None,
        };
        let get = items.get(api).ok()?;
        Some(Self { items, get })
    }
}

impl Items {
    fn get(&self, api: &Api) -> Result<Get, FieldError> {
        let list = match self {
            Self::Segments => "segmentations.json".to_owned(),
            Self::Dashboards => "dashboards.json".to_owned(),
            Self::Charts { dashboard } => format!("dashboards/{}.json", path_part(dashboard, "/parameters/id")?),
            Self::Rules => "rules.csv".to_owned(),
        };
        Ok(Get::new(format!("/projects/{}/{list}", api.project())))
    }

    const fn body(&self) -> Body {
        match self {
            Self::Segments | Self::Dashboards => Body::Array,
            Self::Charts { .. } => Body::Object,
            Self::Rules => Body::Text,
        }
    }

    fn absent(&self, error: VendorError) -> VendorError {
        let message = match self {
            Self::Charts { .. } => "GrowingIO has no such dashboard",
            _ => "GrowingIO has no such list for this project",
        };
        if is_absent(&error) { super::statistics::not_found(message) } else { error }
    }

    /// What is small is looked at as a whole: an object without charts is a complaint, not an empty dashboard.
    fn checked(&self, answer: Peeked) -> Result<Peeked, VendorError> {
        if answer.is_whole && *self != Self::Rules {
            let document = parsed(&answer)?;
            if matches!(self, Self::Charts { .. }) && document.get("charts").is_none() {
                return Err(malformed("GrowingIO answered a dashboard without `charts`".into()));
            }
        }
        Ok(answer)
    }

    fn page(&self, answer: &Peeked) -> Result<CatalogPage, VendorError> {
        let undocumented = || malformed("GrowingIO's list is not what is documented".into());
        let body = answer.text();
        let (head, list) = match self {
            Self::Charts { .. } => {
                let dashboard = Members::read(body).map_err(|_| undocumented())?;
                let text_of = |name: &str| dashboard.get(name).and_then(text);
                let charts = dashboard.get("charts").ok_or_else(undocumented)?;
                (json!({"id": text_of("id"), "name": text_of("name")}), charts.get().as_bytes())
            }
            _ => (Value::Null, body),
        };
        let items: Option<Vec<&RawValue>> = serde_json::from_slice(list).map_err(|_| undocumented())?;
        let row = |item: &RawValue| {
            let members = Members::read(item.get().as_bytes()).map_err(|_| undocumented())?;
            self.row(members, &head).map(CatalogRow::into_owned).map_err(|_| undocumented())
        };
        let rows = items.unwrap_or_default().into_iter().map(row).collect::<Result<_, _>>()?;
        Ok(CatalogPage { rows, next: None })
    }
}

#[cfg(test)]
mod tests;
