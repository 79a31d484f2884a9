//! The rows of charts, funnels, retentions and frequencies as `metric.v1`.
//! A row is an array of cells aligned with `meta`; some charts do not list their time there, so that rows are a cell
//! longer. Layouts: `api/statistics-api/definition/{get-charts,getfunnel,get-retention}.md`.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, SecondsFormat, TimeDelta};
use serde_json::{Value, value::RawValue};

use crate::{
    exports::{
        parameters::Interval,
        records::{BadRecord, Emit, Framing, Member, Record, Records},
        rows::{Cell, MetricRow, Object, Row},
    },
    vendors::{
        growingio::table::distinct,
        object::{self, text},
    },
};

/// A download ends here without a word: the documents name the number, but no sign of a cut.
pub const MAX_ROWS: u64 = 200_000;
/// The columns that every answer of the second and third API may have, in the vendor's words.
const TARGET_USER: &str = "目标用户";
const TIME: &str = "时间";
/// What can be a time in Unix milliseconds: the years 2000 to 2100.
const EPOCH_MS: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;
/// The vendor's clock has no daylight saving.
const BEIJING_SECS: i32 = 8 * 3600;

/// Which generation of the API gave an answer. Their rows differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/projects/…`: rows begin with the time.
    First,
    /// `/v2/projects/…` and the exporter: rows begin with the target user.
    Later,
}

impl Form {
    /// As [`VendorData::tag`](crate::vendors::VendorData::tag).
    pub const fn tag(self) -> &'static str {
        match self {
            Self::First => "v1",
            Self::Later => "v2",
        }
    }
}

/// Reads the answer of one report.
pub struct ReportRows {
    /// What was asked for, in case that the answer does not say.
    interval: Option<Interval>,
    rows: AtomicU64,
}

impl ReportRows {
    pub const fn new(interval: Option<Interval>) -> Self {
        Self { interval, rows: AtomicU64::new(0) }
    }
}

impl Records for ReportRows {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Json { records: &["data"] }
    }

    fn member<'r>(&'r self, tag: &'r str) -> Box<dyn Member + 'r> {
        let form = if tag == Form::First.tag() { Form::First } else { Form::Later };
        Box::new(Answer { report: self, form, layout: None })
    }

    fn warnings(&self) -> Vec<String> {
        if self.rows.load(Ordering::Relaxed) != MAX_ROWS {
            return Vec::new();
        }
        vec![format!("the report has exactly {MAX_ROWS} rows, which is all that GrowingIO gives: more may be missing")]
    }
}

/// An answer being read.
struct Answer<'r> {
    report: &'r ReportRows,
    form: Form,
    /// Known from the first row on.
    layout: Option<Layout>,
}

/// What the cells of a row mean.
struct Layout {
    names: Vec<String>,
    roles: Vec<Role>,
    interval: Option<Interval>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Dimension,
    Time,
    Figure,
    /// `meta` does not say.
    Unknown,
}

impl Answer<'_> {
    fn cells<'j>(&mut self, record: Record<'j>) -> Result<(&Layout, Vec<&'j RawValue>), BadRecord> {
        let Record::Element { head, json } = record else {
            return Err(BadRecord("it is not a row of a report".into()));
        };
        let cells: Vec<&RawValue> =
            serde_json::from_str(json).map_err(|_| BadRecord("a row of `data` is not an array".into()))?;
        let layout = match self.layout.take() {
            Some(layout) if cells.len() <= layout.roles.len() => layout,
            _ => Layout::new(head, self.form, &cells, self.report.interval)?,
        };
        self.report.rows.fetch_add(1, Ordering::Relaxed);
        Ok((self.layout.insert(layout), cells))
    }
}

impl Member for Answer<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        let (layout, cells) = self.cells(record)?;
        let (mut time, mut dimensions) = (None, Vec::new());
        for ((name, role), cell) in layout.names.iter().zip(&layout.roles).zip(&cells) {
            let is_time = *role == Role::Time;
            if is_time {
                time = read_time(cell);
            }
            // A time that is none, such as the word for a total, still tells rows apart.
            if let Some(value) = text(cell).filter(|_| *role == Role::Dimension || (is_time && time.is_none())) {
                dimensions.push((Cow::Borrowed(name.as_str()), Cell::Text(value)));
            }
        }
        let interval = layout.interval.filter(|_| time.is_some());
        let mut row = Row::Metric(MetricRow {
            metric: Cow::Borrowed(""),
            time: time.map(Cow::Owned),
            interval,
            dimensions: Object(dimensions),
            value: None,
        });
        let figures = layout.names.iter().zip(&layout.roles).enumerate();
        for (index, (name, _)) in figures.filter(|(_, (_, role))| **role == Role::Figure) {
            if let Row::Metric(figure) = &mut row {
                figure.metric = Cow::Borrowed(name);
                // Rows may end early, e.g. of retention: what has not happened yet has no figure.
                figure.value = cells.get(index).and_then(|cell| number(cell));
            }
            emit(&row)?;
        }
        Ok(())
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let (layout, cells) = self.cells(record)?;
        let cells = cells.into_iter().chain(std::iter::repeat(RawValue::NULL));
        let members = layout.names.iter().map(String::as_str).zip(cells);
        object::write(members, out).map_err(|_| BadRecord("it cannot be written as JSON".into()))
    }
}

impl Layout {
    fn new(head: &Value, form: Form, cells: &[&RawValue], asked: Option<Interval>) -> Result<Self, BadRecord> {
        let meta = head.get("meta").and_then(Value::as_array);
        let meta = meta.ok_or_else(|| BadRecord("the answer has no `meta` that tells its columns".into()))?;
        let (mut names, mut roles): (Vec<_>, Vec<_>) = meta.iter().map(column).unzip();
        let mut insert = |at: usize, name: &str, role| {
            names.insert(at, name.to_owned());
            roles.insert(at, role);
        };
        let begins_with_target = meta.first().is_some_and(|first| column(first).0 == TARGET_USER);
        let tells_time = meta.iter().any(|entry| column(entry).1 == Role::Time);
        let is_time = |at: usize| cells.get(at).is_some_and(|cell| read_time(cell).is_some());
        match (cells.len().saturating_sub(meta.len()), form) {
            (0, _) => {}
            (1, Form::First) if !tells_time => insert(0, TIME, Role::Time),
            (1, Form::Later) if begins_with_target && !tells_time => insert(1, TIME, Role::Time),
            (1, Form::Later) if !begins_with_target && !tells_time && is_time(0) => insert(0, TIME, Role::Time),
            (1, Form::Later) if !begins_with_target => insert(0, TARGET_USER, Role::Dimension),
            (2, Form::Later) if !begins_with_target && !tells_time && is_time(1) => {
                insert(0, TARGET_USER, Role::Dimension);
                insert(1, TIME, Role::Time);
            }
            _ => return Err(BadRecord("a row of `data` has more cells than `meta` has columns".into())),
        }
        for (role, cell) in roles.iter_mut().zip(cells).filter(|(role, _)| **role == Role::Unknown) {
            *role = if is_number(cell) && !is_epoch_ms(cell) { Role::Figure } else { Role::Dimension };
        }
        // One time is enough: a second one is a dimension like others.
        let times = roles.iter_mut().filter(|role| **role == Role::Time);
        times.skip(1).for_each(|role| *role = Role::Dimension);
        if !roles.contains(&Role::Time) {
            let mut dimensions = roles.iter_mut().zip(cells).filter(|(role, _)| **role == Role::Dimension);
            if let Some((role, _)) = dimensions.find(|(_, cell)| is_epoch_ms(cell)) {
                *role = Role::Time;
            }
        }
        distinct(&mut names);
        Ok(Self { names, roles, interval: interval(head).or(asked) })
    }
}

/// Name and role of a column.
fn column(entry: &Value) -> (String, Role) {
    let name = entry.get("name").and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    let is = |flag: &str| entry.get(flag).and_then(Value::as_bool).unwrap_or_default();
    let role = if is("metric") {
        Role::Figure
    } else if name == TIME {
        Role::Time
    } else if is("dimension") || name == TARGET_USER {
        Role::Dimension
    } else {
        Role::Unknown
    };
    (name, role)
}

/// What one time in the answer stands for: `range` of a retention, `interval` in milliseconds of all else.
fn interval(head: &Value) -> Option<Interval> {
    let named = |name: &str| {
        [Interval::Hour, Interval::Day, Interval::Week, Interval::Month]
            .into_iter()
            .find(|interval| interval.as_str().eq_ignore_ascii_case(name))
    };
    let of = |value: &Value| match value {
        Value::String(name) => named(name).or_else(|| from_ms(name.parse().ok()?)),
        Value::Number(ms) => from_ms(ms.as_f64()?),
        _ => None,
    };
    head.get("range").and_then(of).or_else(|| head.get("interval").and_then(of))
}

/// Milliseconds of an interval, as requests and answers have it.
pub const fn interval_ms(interval: Interval) -> u32 {
    match interval {
        Interval::Hour => 3_600_000,
        Interval::Day => 86_400_000,
        Interval::Week => 604_800_000,
        Interval::Month => 2_592_000_000,
    }
}

fn from_ms(ms: f64) -> Option<Interval> {
    let all = [Interval::Hour, Interval::Day, Interval::Week, Interval::Month];
    all.into_iter().find(|interval| (f64::from(interval_ms(*interval)) - ms).abs() < 0.5)
}

/// A time as `metric.v1` has it: of Unix milliseconds, or of a date in Beijing.
fn read_time(cell: &RawValue) -> Option<String> {
    let cell = text(cell)?;
    let cell = cell.trim();
    let time = match epoch_ms(cell) {
        Some(ms) => DateTime::from_timestamp_millis(ms)?.fixed_offset(),
        None => DateTime::parse_from_rfc3339(cell).ok().or_else(|| beijing(cell))?,
    };
    Some(time.to_utc().to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn beijing(text: &str) -> Option<DateTime<FixedOffset>> {
    let full = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"];
    let local = full.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let local = local.or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    let utc = local.checked_sub_signed(TimeDelta::seconds(BEIJING_SECS.into()))?;
    Some(DateTime::from_naive_utc_and_offset(utc, FixedOffset::east_opt(BEIJING_SECS)?))
}

/// Milliseconds, also where they are written as `1462118400000.0`.
fn epoch_ms(text: &str) -> Option<i64> {
    let ms = text.parse::<i64>().ok().or_else(|| text.strip_suffix(".0")?.parse().ok())?;
    EPOCH_MS.contains(&ms).then_some(ms)
}

fn is_epoch_ms(cell: &RawValue) -> bool {
    is_number(cell) && epoch_ms(cell.get()).is_some()
}

fn is_number(cell: &RawValue) -> bool {
    cell.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// A figure as it was written; one in quotes is one too, a dash or a word is none.
fn number(cell: &RawValue) -> Option<Cow<'_, RawValue>> {
    if is_number(cell) {
        return Some(Cow::Borrowed(cell));
    }
    let quoted = text(cell).filter(|text| text.starts_with(|first: char| first == '-' || first.is_ascii_digit()))?;
    RawValue::from_string(quoted.into_owned()).ok().map(Cow::Owned)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
