//! `report`: the results of saved analyses. All cells are text, columns have display names that may repeat, and nothing
//! says which of them are figures. Source: `developer-manual/open-api/analysis-api/query-{event,funnel,retention,
//! frequency}-analysis.md`.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering},
};

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeZone, Utc};
use serde_json::{Value, value::RawValue};
use url::Url;

use super::{
    pages::{Api, Listing},
    place::Place,
    wire::{About, is_path_part},
};
use crate::exports::{
    parameters::{Interval, Report, ReportKind},
    problem::{Code, FieldError},
    records::{BadRecord, Emit, Framing, Member, Record, Records},
    rows::{Cell, MetricRow, Object, Row},
};
use crate::vendors::{
    Download, Exchanges, VendorError,
    http::below,
    object::{self, text},
};

/// The most rows of an event analysis in one call. Source: `query-event-analysis.md`, parameter `limit`.
const MAX_LIMIT: u64 = 50_000;
const ROWS: &str = "resultRows";
const ABOUT: About = About { not_found: "CDP has no such address; check `base_url` and project", by_key: true };
/// Times come without a zone; presumably they are the console's, which are Beijing's.
const BEIJING_OFFSET_SECS: i32 = 8 * 3600;
/// The header of a column of times, in small letters.
const TIME: [&str; 17] = [
    "时间",
    "日期",
    "统计时间",
    "统计日期",
    "小时",
    "天",
    "日",
    "周",
    "月",
    "time",
    "date",
    "datetime",
    "hour",
    "day",
    "week",
    "month",
    "timestamp",
];
/// Headers of columns that narrow figures, also where they hold numbers.
const DIMENSIONS: [&str; 12] = [
    "目标用户",
    "对比值",
    "对比维度",
    "行为",
    "年龄",
    "性别",
    "城市",
    "target user",
    "compare value",
    "behavior",
    "behaviour",
    "age",
];
/// What the header of a dimension ends with, e.g. `活跃天数 区间范围`.
const DIMENSION_ENDS: [&str; 5] = ["范围", "版本", "编号", " id", "range"];
/// What stands where there is no figure.
const NO_FIGURE: [&str; 8] = ["", "-", "--", "null", "nan", "n/a", "∞", "infinity"];
/// What is in the header of a figure. Asked only where the cells do not tell.
const FIGURE_WORDS: [&str; 12] =
    ["率", "数", "量", "比", "均", "总", "时长", "金额", "rate", "ratio", "count", "total"];

/// The path's name of a kind of report.
const fn path_kind(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Chart => "olap_event",
        ReportKind::Funnel => "funnel",
        ReportKind::Retention => "retention",
        ReportKind::Frequency => "frequency",
    }
}

/// The paths of a report, in the order in which they are to be tried.
///
/// # Errors
/// What CDP cannot be told: a result comes as it is saved.
pub fn paths(report: &Report, place: &Place) -> Result<Vec<String>, Vec<FieldError>> {
    let target = &report.report;
    let saved = "CDP answers an analysis as it is saved there; leave it out";
    let mut errors: Vec<_> = [
        ("/parameters/window", report.window.is_some()),
        ("/parameters/interval", report.interval.is_some()),
        ("/parameters/report/conversion_window_days", target.conversion_window_days.is_some()),
        ("/parameters/report/split", target.split.is_some()),
        ("/parameters/report/statistic", target.statistic.is_some()),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(pointer, _)| FieldError::new(pointer, "not_supported", saved))
    .collect();
    if !is_path_part(&target.id) {
        errors.push(FieldError::new("/parameters/report/id", "invalid", "the id in the analysis' address"));
    }
    if errors.is_empty() { Ok(place.analyses(path_kind(target.kind), &target.id)) } else { Err(errors) }
}

/// Asks for the result at each path until one is there; only that of an event analysis has pages.
///
/// # Errors
/// What the last of the calls fails with.
pub async fn read(
    api: &Api,
    base: &Url,
    kind: ReportKind,
    paths: &[String],
    exchanges: &Exchanges,
) -> Result<Option<Download>, VendorError> {
    let limit = (kind == ReportKind::Chart).then_some(MAX_LIMIT);
    let mut unknown = None;
    for path in paths {
        let listing = Listing { url: below(base, path), limit, records: ROWS, about: ABOUT };
        match listing.read(api.clone(), exchanges).await {
            Ok(download) => return Ok(Some(download)),
            Err(error) if error.code == Code::VendorRejectedRequest => {
                exchanges.decide(error.message.clone());
                unknown = Some(error);
            }
            Err(error) => {
                exchanges.decide(error.message.clone());
                return Err(error);
            }
        }
    }
    unknown.map_or(Ok(None), Err)
}

/// Reads the results of an analysis.
#[derive(Default)]
pub struct Results {
    /// The pages are of different computations.
    mixed: AtomicBool,
}

impl Records for Results {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Json { records: &[ROWS] }
    }

    fn member<'r>(&'r self, _tag: &'r str) -> Box<dyn Member + 'r> {
        Box::new(Reading {
            results: self,
            page: 0,
            fetched: None,
            header: None,
            last: String::new(),
            before: String::new(),
        })
    }

    fn warnings(&self) -> Vec<String> {
        if self.mixed.load(Ordering::Relaxed) {
            vec!["CDP computed the analysis anew between two pages: rows may be missing or come twice".to_owned()]
        } else {
            Vec::new()
        }
    }
}

struct Reading<'r> {
    results: &'r Results,
    /// Which document the last row came from: the address of its head.
    page: usize,
    fetched: Option<String>,
    header: Option<Header>,
    /// The row before, and the last row of the page before.
    last: String,
    before: String,
}

/// What the columns are. Decided by the first row, since nothing else tells.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    given: Vec<String>,
    /// As given, but none twice.
    names: Vec<String>,
    time: Option<usize>,
    /// From here on all columns are figures: in every documented layout they come last.
    figures: usize,
    interval: Option<Interval>,
}

type Cells<'a> = Vec<Option<Cow<'a, str>>>;

impl Reading<'_> {
    /// The row and its cells, unless the page before ended with it.
    fn read<'a>(&mut self, record: Record<'a>) -> Result<Option<Vec<&'a RawValue>>, BadRecord> {
        let Record::Element { head, json } = record else { return Err(BadRecord("it is no row of a result".into())) };
        let row = serde_json::from_str::<Vec<&RawValue>>(json)
            .map_err(|_| BadRecord("a row of the result is not a list of cells".into()))?;
        let page = std::ptr::from_ref(head).addr();
        if page == self.page {
            self.before.clear();
        } else {
            self.page = page;
            self.turn(head, &row)?;
        }
        self.last.clear();
        self.last.push_str(json);
        Ok((self.before != json).then_some(row))
    }

    /// Another document has begun.
    fn turn(&mut self, head: &Value, first: &[&RawValue]) -> Result<(), BadRecord> {
        self.before = std::mem::take(&mut self.last);
        let fetched = head["analysisInfo"]["fetchedTime"].as_str().map(str::to_owned);
        if self.header.is_some() && fetched != self.fetched {
            self.results.mixed.store(true, Ordering::Relaxed);
        }
        self.fetched = fetched;
        let names = head["resultHeader"].as_array().ok_or(BadRecord("the result has no `resultHeader`".into()))?;
        let given: Vec<_> = names.iter().map(|name| name.as_str().unwrap_or_default().trim().to_owned()).collect();
        if self.header.as_ref().is_none_or(|header| header.given != given) {
            let first = first.iter().map(|cell| text(cell)).collect();
            self.header = Some(Header::new(given, &first, interval(&head["analysisInfo"]["granularity"])));
        }
        Ok(())
    }
}

impl Header {
    fn new(given: Vec<String>, first: &Cells<'_>, interval: Option<Interval>) -> Self {
        let cell = |column: usize| first.get(column).map(|cell| cell.as_deref().unwrap_or_default().trim());
        let is_figure = |column: usize| {
            let name = given[column].to_lowercase();
            if is_time_header(&name) || is_dimension_header(&name) {
                return false;
            }
            match cell(column) {
                // The first row is short: retentions have no figures for days to come.
                None => true,
                Some(cell) if number(cell).is_some() => true,
                Some(cell) if NO_FIGURE.contains(&cell.to_lowercase().as_str()) => {
                    column + 1 == given.len() || FIGURE_WORDS.iter().any(|word| name.contains(word))
                }
                Some(_) => false,
            }
        };
        let dimensions = (0..given.len()).rev().find(|column| !is_figure(*column)).map_or(0, |column| column + 1);
        // A result has at least one figure, be it that the first row has none.
        let figures = dimensions.min(given.len().saturating_sub(1));
        let known = (0..figures).find(|column| is_time_header(&given[*column].to_lowercase()));
        let time = known.or_else(|| (0..figures).find(|column| cell(*column).is_some_and(has_form_of_time)));
        Self { names: distinct(&given), given, time, figures, interval }
    }

    fn name(&self, column: usize) -> Cow<'_, str> {
        self.names.get(column).map_or_else(|| format!("column {}", column + 1).into(), Into::into)
    }
}

impl Member for Reading<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        let Some(row) = self.read(record)? else { return Ok(()) };
        let Some(header) = &self.header else { return Ok(()) };
        let (mut time, mut dimensions) = (None, Vec::new());
        for (column, cell) in row.iter().enumerate().take(header.figures) {
            let Some(cell) = text(cell) else { continue };
            let as_time = (header.time == Some(column)).then(|| utc(&cell)).flatten();
            match as_time {
                Some(as_time) => time = Some(as_time),
                // Also the name of a row of totals, `全部`, where others have their time.
                None => dimensions.push((header.name(column), Cell::Text(cell))),
            }
        }
        for (column, cell) in row.iter().enumerate().skip(header.figures) {
            emit(&Row::Metric(MetricRow {
                metric: header.name(column),
                time: time.as_deref().map(Cow::Borrowed),
                interval: header.interval,
                dimensions: Object(dimensions.clone()),
                value: text(cell).and_then(|cell| number(cell.trim())).map(Cow::Owned),
            }))?;
        }
        Ok(())
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let Some(row) = self.read(record)? else { return Ok(()) };
        let Some(header) = &self.header else { return Ok(()) };
        let names: Vec<_> = (0..row.len()).map(|column| header.name(column)).collect();
        object::write(names.iter().zip(row).map(|(name, cell)| (name.as_ref(), cell)), out)
            .map_err(|_| BadRecord("a row cannot be written as JSON".into()))
    }
}

/// Display names, none twice: what repeats gets ` (2)`, ` (3)`.
fn distinct(given: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(given.len());
    for (index, name) in given.iter().enumerate() {
        let mut count = 1 + given[..index].iter().filter(|before| *before == name).count();
        let mut distinct = if count == 1 { name.clone() } else { format!("{name} ({count})") };
        while names.contains(&distinct) {
            count += 1;
            distinct = format!("{name} ({count})");
        }
        names.push(distinct);
    }
    names
}

fn is_time_header(name: &str) -> bool {
    TIME.contains(&name)
}

fn is_dimension_header(name: &str) -> bool {
    DIMENSIONS.contains(&name) || DIMENSION_ENDS.iter().any(|end| name.ends_with(end))
}

/// A figure as it is written. A percentage is the number before its sign: `12.5%` is 12.5.
fn number(cell: &str) -> Option<Box<RawValue>> {
    let digits = cell.strip_suffix('%').unwrap_or(cell).trim_end();
    let is_number = digits.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    is_number.then(|| RawValue::from_string(digits.to_owned()).ok()).flatten()
}

fn interval(granularity: &Value) -> Option<Interval> {
    match granularity.as_str()?.to_ascii_lowercase().as_str() {
        "hour" => Some(Interval::Hour),
        "day" => Some(Interval::Day),
        "week" => Some(Interval::Week),
        "month" => Some(Interval::Month),
        _ => None,
    }
}

fn has_form_of_time(cell: &str) -> bool {
    cell.contains(['-', '/']) && utc(cell).is_some()
}

/// A time of the vendor's in UTC; none for what is no time.
fn utc(cell: &str) -> Option<String> {
    let cell = cell.trim();
    let written = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    if let Ok(time) = DateTime::parse_from_rfc3339(cell) {
        return Some(written(time.with_timezone(&Utc)));
    }
    let full =
        ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M"];
    let days = ["%Y-%m-%d", "%Y/%m/%d", "%Y%m%d"];
    let local = full.iter().find_map(|format| NaiveDateTime::parse_from_str(cell, format).ok());
    let day = || days.iter().find_map(|format| NaiveDate::parse_from_str(cell, format).ok());
    let month = || NaiveDate::parse_from_str(&format!("{cell}-01"), "%Y-%m-%d").ok();
    let local = local.or_else(|| Some(day().or_else(month)?.and_time(NaiveTime::MIN)))?;
    let beijing = FixedOffset::east_opt(BEIJING_OFFSET_SECS)?;
    Some(written(beijing.from_local_datetime(&local).single()?.with_timezone(&Utc)))
}
