//! The calls with a query: what their parameters may be, and how they are routed.

use std::{ops::RangeInclusive, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use super::{
    gate::{Gate, Pool, Refusal, Reply},
    nowhere,
};
use crate::vendors::sandbox::World;

/// One documented `GET`.
pub struct Get {
    pub path: &'static str,
    /// Its group of faults.
    pub faults: &'static str,
    pub pool: Pool,
    /// Every documented parameter; a name ending in `[]` may come several times.
    pub parameters: &'static [&'static str],
    pub answer: fn(&Query) -> Result<Reply, Refusal>,
}

impl Get {
    /// Adds the route; any other method on the path is a violation.
    pub fn route(&'static self, routes: &mut web::ServiceConfig) {
        let handler = move |world: web::Data<World>, request: HttpRequest| self.serve(world.into_inner(), request);
        let anything_else = web::route().to(nowhere);
        routes.service(web::resource(self.path).route(web::get().to(handler)).default_service(anything_else));
    }

    async fn serve(&'static self, world: Arc<World>, request: HttpRequest) -> HttpResponse {
        let gate = match Gate::open(&world, &request, self.faults, self.pool, false) {
            Ok(gate) => gate,
            Err(answer) => return *answer,
        };
        let reply = Query::read(&world, self, request.query_string()).and_then(|query| (self.answer)(&query));
        gate.answer(&world, &request, reply).await
    }
}

/// The parameters of a call, checked as they are read. A parameter of the wrong form is a violation.
pub struct Query<'a> {
    pub world: &'a World,
    pub path: &'static str,
    pairs: Vec<(String, String)>,
}

impl<'a> Query<'a> {
    fn read(world: &'a World, get: &Get, raw: &str) -> Result<Self, Refusal> {
        if raw.contains("last_edit.time[") {
            return Err(Refusal::forbidden(world, "the brackets of last_edit.time[gt] must be percent-encoded"));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(raw.as_bytes()).into_owned() {
            if !get.parameters.contains(&name.as_str()) {
                return Err(Refusal::forbidden(world, format!("{}: `{name}` is not documented", get.path)));
            }
            if !name.ends_with("[]") && pairs.iter().any(|(known, _)| *known == name) {
                return Err(Refusal::forbidden(world, format!("{}: `{name}` came twice", get.path)));
            }
            pairs.push((name, value));
        }
        Ok(Self { world, path: get.path, pairs })
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that must be there.
    pub fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).ok_or_else(|| self.forbidden(format!("{name} is required")))
    }

    pub fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        let read = |text: &str| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ if *range.end() == u64::MAX => Err(self.forbidden(format!("{name} must be an integer"))),
            _ => {
                Err(self.forbidden(format!("{name} must be an integer between {} and {}", range.start(), range.end())))
            }
        };
        self.text(name).map(read).transpose()
    }

    /// False when it is not there.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        Ok(self.one_of(name, &["false", "true"])?.is_some_and(|value| value == "true"))
    }

    pub fn one_of(&self, name: &str, values: &[&str]) -> Result<Option<&str>, Refusal> {
        match self.text(name) {
            Some(value) if !values.contains(&value) => {
                Err(self.forbidden(format!("{name} must be {}", values.join(" or "))))
            }
            value => Ok(value),
        }
    }

    /// ISO 8601 with an offset.
    pub fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Refusal> {
        let read = |text: &str| match DateTime::parse_from_rfc3339(text) {
            Ok(time) => Ok(time.to_utc()),
            Err(_) if text.contains(' ') => Err(self.forbidden(format!("{name}: a + must be percent-encoded"))),
            Err(_) => Err(self.forbidden(format!("{name} must be an ISO 8601 time with an offset"))),
        };
        self.text(name).map(read).transpose()
    }

    /// `YYYY-MM-DD`.
    pub fn date(&self, name: &str) -> Result<Option<NaiveDate>, Refusal> {
        let read = |text: &str| match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            Ok(date) if text.len() == "2026-01-01".len() => Ok(date),
            _ => Err(self.forbidden(format!("{name} must be a date as YYYY-MM-DD"))),
        };
        self.text(name).map(read).transpose()
    }

    /// `yyyy-MM-DDTHH:mm:ss`.
    pub fn local_time(&self, name: &str) -> Result<Option<NaiveDateTime>, Refusal> {
        let read = |text: &str| {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S")
                .map_err(|_| self.forbidden(format!("{name} must be a time as yyyy-MM-DDTHH:mm:ss")))
        };
        self.text(name).map(read).transpose()
    }

    /// 400 for something the documents forbid.
    pub fn forbidden(&self, message: impl AsRef<str>) -> Refusal {
        Refusal::forbidden(self.world, format!("{}: {}", self.path, message.as_ref()))
    }
}
