//! Braze: users of segments, of the global control group and by their ids; figures over time; lists of what a workspace
//! has; suppressed addresses.
//!
//! Exports of many users are jobs at Braze ([`segment_export`], [`bucket`]); all else is asked for in parts, whose
//! answers are the data: [`profiles`], [`series`], [`suppressions`] and [`lists`], the last two read through [`pages`].
//! Calls go through [`api`], which knows budgets and answers. Start at [`Braze`]; the field list is in [`fields`], the
//! user object in [`records`].

mod api;
mod bucket;
mod fields;
mod lists;
mod pages;
mod profiles;
mod records;
pub mod sandbox;
mod segment_export;
mod series;
mod series_rows;
mod spec;
mod suppressions;
mod times;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::Utc;
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

pub use self::spec::SPEC;
use self::{
    api::{Api, Endpoint, Pool},
    bucket::Bucket,
    fields::{Ask, Place, Sources},
    lists::{Things, Wish},
    profiles::Profiles,
    records::BrazeUsers,
    segment_export::{Exports, Whom},
    series_rows::Points,
    suppressions::Addresses,
};
use super::{
    Account, CatalogPage, CatalogQuery, Download, Exchanges, Inquiry, Next, Pending, Plan, Progress, Submitted, Ticket,
    Vendor, VendorError, VendorFile, Work, http::decided, settings, shared::Budget,
};
use crate::exports::{
    fields::Selection,
    mapping::ValueMaps,
    parameters::{AudienceKind, Parameters},
    problem::{Code, FieldError},
    records::Records,
    request::{ExportRequest, Format, escape_pointer, from_json},
};

const SEGMENTS: Endpoint = Endpoint { path: "/segments/list", permission: "segments.list", pool: Pool::Default };

/// The name of the one part of what is one list.
const WHOLE: &str = "all";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    base_url: String,
    bucket: Option<bucket::Settings>,
}

/// One workspace.
struct Braze {
    api: Api,
    sources: Sources,
    bucket: Option<Bucket>,
}

fn connect(account: Account) -> Result<Arc<dyn Vendor>, Vec<FieldError>> {
    let mut errors = settings::check_mapping(&account.mapping);
    let mut kept = |error: FieldError| errors.push(error);
    let (mut base, mut bucket) = (None, None);
    match from_json::<Settings>(account.settings.clone(), "/settings") {
        Ok(settings) => {
            base = settings::base_url(&settings.base_url).map_err(&mut kept).ok();
            let opened = settings.bucket.map(|bucket| Bucket::open(&bucket, &account.credentials, &account.http));
            bucket = opened.and_then(|opened| opened.map_err(&mut kept).ok());
        }
        Err(error) => kept(error),
    }
    let mut all_kept = |more: Vec<FieldError>| errors.extend(more);
    let key = credentials(&account).map_err(&mut all_kept).ok();
    let sources = Sources::read(&account.mapping).map_err(&mut all_kept).ok();
    let sources = sources.map(|sources| Sources { values: account.values, ..sources });
    match (base, key, sources) {
        (Some(base), Some(key), Some(sources)) if errors.is_empty() => {
            Ok(Arc::new(Braze { api: Api::new(base, key, account.http, account.shared), sources, bucket }))
        }
        _ => Err(errors),
    }
}

/// The API key; the bucket's credentials come in a pair or not at all.
fn credentials(account: &Account) -> Result<SecretString, Vec<FieldError>> {
    let pair = [bucket::ACCESS_KEY_ID, bucket::SECRET_ACCESS_KEY];
    let is_of_bucket = |name: &String| pair.contains(&name.as_str());
    let own = account.credentials.iter().filter(|(name, _)| !is_of_bucket(name));
    let without_bucket = Account {
        settings: serde_json::Value::Null,
        credentials: own.map(|(name, value)| (name.clone(), value.clone())).collect(),
        mapping: super::Mapping::new(),
        values: ValueMaps::default(),
        http: account.http.clone(),
        shared: account.shared.clone(),
    };
    let key = settings::only_credential(&without_bucket, "api_key");
    let missing = pair.iter().find(|name| !account.credentials.contains_key(**name));
    match missing.filter(|_| account.credentials.keys().any(is_of_bucket)) {
        Some(missing) => {
            let pointer = format!("/credentials/{}", escape_pointer(missing));
            let error = FieldError::new(pointer, "required", "a bucket's key id and secret come together");
            Err(key.err().unwrap_or_default().into_iter().chain([error]).collect())
        }
        None => key,
    }
}

#[async_trait]
impl Vendor for Braze {
    fn plan(&self, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
        let mut windows = Vec::new();
        let (calls, work) = match &request.parameters {
            Parameters::AudienceMembers { audience, selection, refresh } => {
                let whom = Whom::of(audience).map_err(|error| vec![error])?;
                if *refresh {
                    let detail = "Braze computes audiences by itself and cannot be asked to";
                    return Err(vec![FieldError::new("/parameters/refresh", "not_supported", detail)]);
                }
                (whom.planned(&self.ask(request, selection, whom.place())?), whom.work())
            }
            Parameters::UserProfiles { identifiers, selection } => {
                let ask = self.ask(request, selection, Place::Profiles)?;
                let parts = profiles::parts(identifiers);
                (profiles::planned(&parts, identifiers, &ask), Work::Parts(parts))
            }
            Parameters::MetricSeries(series) => {
                let now = Utc::now();
                series::check(series, now)?;
                let parts = series::parts(series, now);
                windows = parts.iter().filter_map(|part| times::window(part)).collect();
                (series::planned(series, &parts), Work::Parts(parts))
            }
            Parameters::Suppressions(suppressions) => {
                let parts = suppressions::parts(suppressions.window);
                windows = parts.iter().filter_map(|part| times::window(part)).collect();
                (suppressions::planned(suppressions.kind, &parts), Work::Parts(parts))
            }
            Parameters::Audiences(audiences) if audiences.kind.is_some_and(|kind| kind != AudienceKind::Segment) => {
                let detail = "Braze lists audiences of kind `segment`";
                return Err(vec![FieldError::new("/parameters/kind", "not_supported", detail)]);
            }
            parameters => {
                let Some(wish) = Wish::of(parameters) else {
                    let detail = "Braze has no such dataset";
                    return Err(vec![FieldError::new("/dataset", "not_supported", detail)]);
                };
                (wish.planned(), Work::Parts(vec![WHOLE.to_owned()]))
            }
        };
        Ok(Plan { calls, work, windows, warnings: Vec::new() })
    }

    fn budgets(&self) -> Vec<Budget> {
        self.api.budgets()
    }

    fn max_concurrent(&self) -> Option<u32> {
        Some(segment_export::MAX_CONCURRENT)
    }

    async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        let answer = self.api.get("check", SEGMENTS, &[("page", "0".to_owned())], exchanges).await?;
        decided(exchanges, wire::checked(&answer, self.api.key()), |note| (*note).to_owned())?;
        match &self.bucket {
            Some(bucket) => bucket.check(exchanges).await,
            None => Ok(()),
        }
    }

    async fn verify(&self, request: &ExportRequest, exchanges: &Exchanges) -> Result<(), VendorError> {
        match &request.parameters {
            Parameters::AudienceMembers { audience, .. } => {
                let whom = Whom::of(audience).map_err(|error| invalid(&error))?;
                self.exports().verify(whom, exchanges).await
            }
            _ => Ok(()),
        }
    }

    async fn submit(
        &self,
        request: &ExportRequest,
        callback: Option<&Url>,
        _reconciling: bool,
        exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError> {
        let Parameters::AudienceMembers { audience, selection, .. } = &request.parameters else {
            return Err(no_plan());
        };
        let whom = Whom::of(audience).map_err(|error| invalid(&error))?;
        let ask = self.planned_ask(request, selection, whom.place())?;
        self.exports().submit(whom, callback, &ask, exchanges).await
    }

    async fn poll(
        &self,
        request: &ExportRequest,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        let verbatim = request.output.format == Format::Raw;
        match (inquiry.of, &request.parameters) {
            (Pending::Job(ticket), Parameters::AudienceMembers { audience, .. }) => {
                let whom = Whom::of(audience).map_err(|error| invalid(&error))?;
                self.exports().poll(whom, ticket, inquiry, exchanges).await
            }
            (Pending::Part(part), Parameters::UserProfiles { identifiers, selection }) => {
                let ask = self.planned_ask(request, selection, Place::Profiles)?;
                profiles::poll(&self.api, part, identifiers, &ask, exchanges).await
            }
            (Pending::Part(part), Parameters::MetricSeries(series)) => {
                series::poll(&self.api, part, series, exchanges).await
            }
            (Pending::Part(part), Parameters::Suppressions(wanted)) => {
                suppressions::poll(&self.api, part, *wanted, verbatim, exchanges).await
            }
            (Pending::Part(_), parameters) => {
                let wish = Wish::of(parameters).ok_or_else(no_plan)?;
                wish.poll(&self.api, verbatim, exchanges).await
            }
            (Pending::Job(_), _) => Err(no_plan()),
        }
    }

    async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        self.exports().open(file, exchanges).await
    }

    async fn cancel(
        &self,
        request: &ExportRequest,
        _ticket: Option<&Ticket>,
        exchanges: &Exchanges,
    ) -> Result<(), VendorError> {
        match &request.parameters {
            Parameters::AudienceMembers { audience, .. } => {
                let whom = Whom::of(audience).map_err(|error| invalid(&error))?;
                self.exports().cancel(whom, exchanges).await
            }
            _ => Ok(()),
        }
    }

    /// A request that cannot be planned is never carried out, so it has no records to read.
    fn records(&self, request: &ExportRequest) -> Arc<dyn Records> {
        let users = |place| {
            let selection = request.parameters.selection();
            let ask = self.ask(request, &selection, place).unwrap_or_default();
            BrazeUsers::new(selection, self.sources.clone(), ask)
        };
        match &request.parameters {
            Parameters::UserProfiles { .. } => Arc::new(Profiles::new(users(Place::Profiles))),
            Parameters::MetricSeries(series) => Arc::new(Points::new(series.clone())),
            Parameters::Suppressions(suppressions) => Arc::new(Addresses(suppressions.kind)),
            Parameters::AudienceMembers { audience, .. } => {
                Arc::new(users(Whom::of(audience).map_or(Place::Segment, Whom::place)))
            }
            _ => match Things::new(request) {
                Some(things) => Arc::new(things),
                None => Arc::new(users(Place::Segment)),
            },
        }
    }

    async fn catalog(&self, query: &CatalogQuery, exchanges: &Exchanges) -> Result<CatalogPage, VendorError> {
        lists::catalog(&self.api, query, exchanges).await
    }
}

impl Braze {
    const fn exports(&self) -> Exports<'_> {
        Exports { api: &self.api, bucket: self.bucket.as_ref() }
    }

    fn ask(&self, request: &ExportRequest, selection: &Selection, place: Place) -> Result<Ask, Vec<FieldError>> {
        Ask::new(selection, &self.sources, request.output.format == Format::Raw, place)
    }

    fn planned_ask(&self, request: &ExportRequest, selection: &Selection, place: Place) -> Result<Ask, VendorError> {
        self.ask(request, selection, place).map_err(|errors| errors.first().map_or_else(no_plan, invalid))
    }
}

/// The request was checked when it was accepted, but the connection's mapping may have changed since.
fn invalid(error: &FieldError) -> VendorError {
    VendorError::new(Code::InvalidRequest, Next::GiveUp, format!("{}: {}", error.pointer, error.detail))
}

fn no_plan() -> VendorError {
    VendorError::new(Code::Internal, Next::GiveUp, "the request cannot be planned")
}

#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod tests;
