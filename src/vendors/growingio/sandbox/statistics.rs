//! Charts, funnels and retentions that are answered at once (v1 without a prefix, and `/v2`).

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, json};

use super::{
    NAME,
    access::{Call, Refusal, either},
    reports::{Asked, Form, HEAVY, INTERVALS, Layout, Report, ReportKind},
    segments::request_timeout,
};
use crate::vendors::sandbox::World;

/// `GET /projects/{project}/charts/{id}.json`.
pub async fn chart_version_1(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(at_once(&world, &request, "chart", Form::One).await)
}

/// `GET /v2/projects/{project}/charts/{id}.json`.
pub async fn chart(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(at_once(&world, &request, "chart", Form::Two).await)
}

/// `GET /v2/projects/{project}/funnels/{id}.json`.
pub async fn funnel(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(at_once(&world, &request, "funnel", Form::Two).await)
}

/// `GET /v2/projects/{project}/retentions/{id}.json`.
pub async fn retention(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(at_once(&world, &request, "retention", Form::Two).await)
}

async fn at_once(
    world: &web::Data<World>,
    request: &HttpRequest,
    kind: &str,
    form: Form,
) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.chart")?;
    let query = call.query(parameters(kind));
    if form == Form::One && !(query.contains_key("startTime") && query.contains_key("endTime")) {
        return Err(call.bad_request("`startTime` and `endTime` are required"));
    }
    let asked = asked(world, kind, &query).map_err(|message| call.bad_request(&message))?;
    let report = Report::named(kind, &call.path("id")).ok_or_else(|| call.unknown_id())?;
    if form == Form::One && report.kind == ReportKind::Chart(Layout::Bubble) {
        return Err(call.refused("bubble charts are not supported"));
    }
    if report.id == HEAVY || world.fault("growingio.chart.timeout") {
        return Err(request_timeout(world).await);
    }
    world.note(NAME, |activity| activity.submissions += 1);
    let seed = world.config.seed;
    Ok(call.json_from(move |file| report.write(form, &asked, seed, file)).await)
}

/// The query parameters of a kind of report.
pub fn parameters(kind: &str) -> &'static [&'static str] {
    match kind {
        "chart" => &["interval", "startTime", "endTime"],
        "funnel" => &["conversionWindow", "startTime", "endTime"],
        "retention" => &["range", "startTime", "endTime"],
        _ => &["split", "interval", "statistic", "startTime", "endTime"],
    }
}

/// Reads the query; the error says what is not as documented.
pub fn asked(world: &World, kind: &str, query: &BTreeMap<String, String>) -> Result<Asked, String> {
    let wrong = |name: &str, is: &str| format!("`{name}` is {is}");
    let number = |name: &str| match query.get(name).map(|text| text.parse::<i64>()) {
        None => Ok(None),
        Some(Ok(number)) if number > 0 => Ok(Some(number)),
        Some(_) => Err(wrong(name, "a positive whole number")),
    };
    let usual = Asked::usual(world.now());
    let (start_ms, end_ms) = match (number("startTime")?, number("endTime")?) {
        (None, None) => (usual.start_ms, usual.end_ms),
        // Seconds instead of milliseconds lie in January 1970.
        (Some(start), Some(end)) if start <= end && start > 86_400_000_000 => (start, end),
        (Some(_), Some(_)) => return Err("`startTime` and `endTime` are Unix milliseconds, in this order".into()),
        _ => return Err("`startTime` and `endTime` come together".into()),
    };
    let mut repeated = Map::new();
    let text = |name: &str| query.get(name).map(String::as_str);
    let mut interval_ms = match (text("interval"), number("interval")) {
        (None, _) => usual.interval_ms,
        (Some(name), _) if kind == "frequency" && INTERVALS[1..].iter().any(|(known, _)| *known == name) => {
            INTERVALS.iter().find(|(known, _)| *known == name).map_or(usual.interval_ms, |(_, ms)| *ms)
        }
        (_, Ok(Some(ms)))
            if INTERVALS.iter().any(|(name, known)| *known == ms && (kind, *name) != ("frequency", "hour")) =>
        {
            ms
        }
        _ => return Err(wrong("interval", "none of the documented ones")),
    };
    match kind {
        "funnel" => drop(repeated.insert("conversionWindow".into(), json!(number("conversionWindow")?.unwrap_or(1)))),
        "retention" => {
            let range = text("range").unwrap_or("day");
            let known = INTERVALS[1..].iter().find(|(name, _)| *name == range);
            interval_ms = known.map(|(_, ms)| *ms).ok_or_else(|| wrong("range", "day, week or month"))?;
            repeated.insert("range".into(), json!(range));
        }
        "frequency" => {
            if text("statistic").is_some_and(|known| !["max", "min", "avg", "median", "0.25", "0.75"].contains(&known))
            {
                return Err(wrong("statistic", "max, min, avg, median, 0.25 or 0.75"));
            }
            let is_list = |text: &str| {
                let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                inner.is_some_and(|list| list.split(',').all(|number| number.trim().parse::<u64>().is_ok()))
            };
            if text("split").is_some_and(|text| !["10", "15", "25"].contains(&text) && !is_list(text)) {
                return Err(wrong("split", "10, 15, 25 or a list of numbers"));
            }
        }
        _ => {}
    }
    Ok(Asked { start_ms, end_ms, interval_ms, repeated })
}
