//! What can be exported over a connection, live from the vendor, and what is left of its budgets.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Caller, Error, Gateway,
    accounts::{AccountError, OpenAccount},
    not_found,
};
use crate::{
    exports::{
        parameters::CatalogKind,
        problem::{Code, Problem, VendorBlame},
        rows::CatalogRow,
    },
    store::{self, budgets::BudgetKey},
    vendors::{CatalogQuery, Exchanges, Next, VendorError, shared::Pace},
};

/// One page of a catalog.
#[derive(Debug)]
pub struct CatalogPage {
    pub rows: Vec<CatalogRow<'static>>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Where a page begins: at a page of the vendor's, and how many of its rows were given already.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(default)]
    skip: usize,
}

impl Place {
    fn read(token: &str) -> Option<Self> {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()
    }

    fn token(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// At most `page_size` rows of a catalog, from where `page_token` says.
pub async fn list_catalog(
    gateway: &Gateway,
    caller: &Caller,
    connection: &str,
    kind: CatalogKind,
    id: Option<String>,
    page_size: usize,
    page_token: Option<&str>,
) -> Result<CatalogPage, Error> {
    let malformed = || Problem::new(Code::InvalidRequest, "`page_token` is not one that a page gave").with_status(400);
    let place = match page_token {
        Some(token) => Place::read(token).ok_or_else(malformed)?,
        None => Place::default(),
    };
    let account = open(gateway, caller, connection).await?;
    if !account.spec.catalogs.contains(&kind) {
        return Err(not_found("catalog at this connection's vendor"));
    }
    let mut rows = Vec::new();
    let mut place = place;
    loop {
        let query = CatalogQuery { kind, id: id.clone(), after: place.after.clone() };
        let page = account.vendor.catalog(&query, &Exchanges::default()).await;
        let page = page.map_err(|error| at_fault(account.spec.name, &error))?;
        let given = page.rows.len();
        let room = page_size - rows.len();
        rows.extend(page.rows.into_iter().skip(place.skip).take(room));
        if place.skip + room < given {
            place.skip += room;
            return Ok(CatalogPage { rows, next_page_token: place.token() });
        }
        let Some(next) = page.next else { return Ok(CatalogPage { rows, next_page_token: String::new() }) };
        place = Place { after: Some(next), skip: 0 };
        if rows.len() == page_size {
            return Ok(CatalogPage { rows, next_page_token: place.token() });
        }
    }
}

/// One budget and what is left of it.
#[derive(Debug)]
pub struct Quota {
    pub name: &'static str,
    pub says: &'static str,
    pub limit: i64,
    /// None for what is not counted in time: exports at once.
    pub window: Option<Duration>,
    pub used: i64,
    /// When `used` is 0 again, if it is counted in windows and one has begun.
    pub resets_at: Option<DateTime<Utc>>,
}

/// The budgets of the account behind a connection. Asks the vendor nothing.
pub async fn quota(gateway: &Gateway, caller: &Caller, connection: &str) -> Result<Vec<Quota>, Error> {
    let record = super::connections::get_connection(gateway, caller, connection).await?;
    let sealed = store::connections::sealed_by_id(&gateway.db, record.connection_id).await?;
    let account =
        gateway.open_account(&sealed.ok_or_else(|| not_found("connection"))?).map_err(|error| unusable(&error))?;
    let mut quotas = Vec::new();
    for budget in account.vendor.budgets() {
        let key = BudgetKey { vendor: account.spec.name, account: &budget.account, budget: budget.name };
        let (limit, used, resets_at) = match budget.pace {
            Pace::Counted => match store::budgets::read_count(&gateway.db, key).await? {
                Some(count) => (i64::from(count.call_limit), i64::from(count.used), count.resets_at),
                None => (i64::from(budget.limit), 0, None),
            },
            Pace::Spaced => (i64::from(budget.limit), store::budgets::taken_slots(&gateway.db, key).await?, None),
        };
        quotas.push(Quota {
            name: budget.name,
            says: budget.says,
            limit,
            window: Some(budget.window),
            used: used.min(limit),
            resets_at,
        });
    }
    if let Some(limit) = account.vendor.max_concurrent() {
        quotas.push(Quota {
            name: "concurrent_exports",
            says: "Exports of this connection that are being prepared at the vendor",
            limit: i64::from(limit),
            window: None,
            used: store::slots::taken(&gateway.db, record.connection_id).await?,
            resets_at: None,
        });
    }
    Ok(quotas)
}

async fn open(gateway: &Gateway, caller: &Caller, name: &str) -> Result<OpenAccount, Error> {
    if !caller.may_use(name) {
        return Err(not_found("connection"));
    }
    let record = store::connections::by_name(&gateway.db, name).await?.ok_or_else(|| not_found("connection"))?;
    let sealed = store::connections::sealed_by_id(&gateway.db, record.connection_id).await?;
    gateway.open_account(&sealed.ok_or_else(|| not_found("connection"))?).map_err(|error| unusable(&error))
}

fn unusable(error: &AccountError) -> Error {
    tracing::warn!(error = %error, "a connection cannot be opened");
    Problem::new(Code::Internal, "the connection's credentials cannot be opened; the operator must look").into()
}

/// A vendor's failure as the answer to a call that waited for it.
fn at_fault(vendor: &str, error: &VendorError) -> Error {
    let blame =
        VendorBlame { name: vendor.to_owned(), http_status: error.http_status, message: Some(error.message.clone()) };
    let problem = Problem::new(error.code, error.message.clone()).with_vendor(blame);
    match error.next {
        Next::WaitForBudget { after } | Next::Wait { after: Some(after) } => {
            problem.with_retry_after_secs(after.as_secs().max(1)).into()
        }
        _ => problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_reads_back_and_other_text_does_not() {
        let place = Place { after: Some("3".into()), skip: 50 };
        assert_eq!(Place::read(&place.token()), Some(place));
        assert_eq!(Place::read(&Place::default().token()), Some(Place::default()));
        assert!(Place::read("x").is_none() && Place::read("AAAA").is_none());
    }
}
