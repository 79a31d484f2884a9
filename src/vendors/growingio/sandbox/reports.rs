//! What charts, funnels, retentions and frequencies answer, and the rows of `metric.v1` that they mean.
//! Shapes: `api/statistics-api/definition/{get-charts,getfunnel,get-retention}.md`. `endTime` is the last millisecond of
//! the window: the documents' samples end in 999.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::slices::{Granularity, Slice};
use crate::vendors::sandbox::{World, people::pick};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
pub const INTERVALS: [(&str, i64); 4] =
    [("hour", HOUR_MS), ("day", DAY_MS), ("week", 7 * DAY_MS), ("month", 30 * DAY_MS)];
/// One chart returns no more rows than this.
pub const MAX_ROWS: u64 = 200_000;
const TARGETS: [&str; 2] = ["全部访问用户", "新访问用户"];
const CITIES: [&str; 5] = ["北京", "上海", "São Paulo", "a, \"b\"", "未知"];
const BROWSERS: [&str; 3] = ["Chrome", "微信", "Safari"];

/// Which generation of the API answers; v3 has the rows of v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    One,
    Two,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    Chart(Layout),
    Funnel,
    Retention,
    Frequency,
}

/// What a chart looks like; its answer does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `meta` does not list the time: rows are one cell longer.
    Line,
    /// `meta` lists the time.
    VerticalBar,
    HorizontalBar,
    Table,
    BigNumber,
    Bubble,
}

impl ReportKind {
    /// As dashboards and requests call it.
    pub fn resource_type(self) -> &'static str {
        match self {
            Self::Chart(_) => "chart",
            Self::Funnel => "funnel",
            Self::Retention => "retention",
            Self::Frequency => "frequency",
        }
    }
}

/// One saved analysis.
#[derive(Debug)]
pub struct Report {
    pub id: &'static str,
    pub name: &'static str,
    pub kind: ReportKind,
    rows: Rows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Usual,
    None,
    /// As many as one answer may have.
    Full,
}

const fn report(id: &'static str, name: &'static str, kind: ReportKind, rows: Rows) -> Report {
    Report { id, name, kind, rows }
}

pub const LINE: &str = "YoX28w7R";
pub const VERTICAL_BAR: &str = "VbAr3kQ9";
pub const HORIZONTAL_BAR: &str = "HbAr7mX2";
pub const TABLE: &str = "TaBl5nW4";
pub const BIG_NUMBER: &str = "BigN8pL6";
pub const BUBBLE: &str = "BuBb2tR1";
/// Too heavy to be answered at once; the exporter can.
pub const HEAVY: &str = "HeVy6sQ3";
/// Exactly as many rows as one answer may have.
pub const FULL: &str = "FuLl200k";
pub const EMPTY: &str = "EmPt9yC5";
pub const FUNNEL: &str = "FuNn3lA8";
pub const RETENTION: &str = "ReTn7dB2";
pub const FREQUENCY: &str = "FrEq5cD4";

pub const REPORTS: &[Report] = &[
    report(LINE, "访问趋势", ReportKind::Chart(Layout::Line), Rows::Usual),
    report(VERTICAL_BAR, "每日访问", ReportKind::Chart(Layout::VerticalBar), Rows::Usual),
    report(HORIZONTAL_BAR, "城市", ReportKind::Chart(Layout::HorizontalBar), Rows::Usual),
    report(TABLE, "城市, 浏览器", ReportKind::Chart(Layout::Table), Rows::Usual),
    report(BIG_NUMBER, "总量", ReportKind::Chart(Layout::BigNumber), Rows::Usual),
    report(BUBBLE, "气泡", ReportKind::Chart(Layout::Bubble), Rows::Usual),
    report(HEAVY, "很重", ReportKind::Chart(Layout::Line), Rows::Usual),
    report(FULL, "很长", ReportKind::Chart(Layout::HorizontalBar), Rows::Full),
    report(EMPTY, "空", ReportKind::Chart(Layout::Table), Rows::None),
    report(FUNNEL, "注册漏斗", ReportKind::Funnel, Rows::Usual),
    report(RETENTION, "新用户留存", ReportKind::Retention, Rows::Usual),
    report(FREQUENCY, "访问频次", ReportKind::Frequency, Rows::Usual),
];

/// What a request asks of a report.
#[derive(Debug, Clone)]
pub struct Asked {
    pub start_ms: i64,
    /// Included.
    pub end_ms: i64,
    pub interval_ms: i64,
    /// Members the answer repeats, e.g. `conversionWindow`.
    pub repeated: Map<String, Value>,
}

impl Asked {
    /// The seven days before today in Beijing, by day.
    pub fn usual(now: DateTime<Utc>) -> Self {
        let today = Slice::at(Granularity::Day, now).start();
        let start = today - TimeDelta::days(7);
        let end_ms = today.timestamp_millis() - 1;
        Self { start_ms: start.timestamp_millis(), end_ms, interval_ms: DAY_MS, repeated: Map::new() }
    }

    fn interval(&self) -> Option<&'static str> {
        INTERVALS.iter().find(|(_, ms)| *ms == self.interval_ms).map(|(name, _)| *name)
    }
}

/// What a cell of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Target,
    Time,
    City,
    Browser,
    Other,
    Figure,
}

struct Column {
    name: &'static str,
    cell: Cell,
    /// Some charts do not say that there is a time.
    in_meta: bool,
}

impl Report {
    pub fn named(kind: &str, id: &str) -> Option<&'static Self> {
        REPORTS.iter().find(|report| report.id == id && report.kind.resource_type() == kind)
    }

    fn columns(&self, form: Form) -> Vec<Column> {
        let shown = |name, cell| Column { name, cell, in_meta: true };
        let (target, city, browser) =
            (shown("目标用户", Cell::Target), shown("城市", Cell::City), shown("浏览器", Cell::Browser));
        let time = shown("时间", Cell::Time);
        let hidden_time = Column { name: "", cell: Cell::Time, in_meta: false };
        let figure = |name| shown(name, Cell::Figure);
        let mut columns = match self.kind {
            // A chart may show one metric twice.
            ReportKind::Chart(Layout::Line) => {
                vec![target, hidden_time, figure("页面浏览量"), figure("访问量"), figure("页面浏览量")]
            }
            ReportKind::Chart(Layout::VerticalBar) => vec![target, time, figure("访问量")],
            ReportKind::Chart(Layout::HorizontalBar) => vec![target, city, figure("访问量")],
            ReportKind::Chart(Layout::Table) => vec![target, city, browser, figure("Metric 1"), figure("Metric 2")],
            ReportKind::Chart(Layout::BigNumber) => vec![target, hidden_time, figure("访问量")],
            ReportKind::Chart(Layout::Bubble) => {
                vec![target, city, browser, figure("访问量"), figure("跳出率")]
            }
            ReportKind::Funnel => vec![
                target,
                time,
                figure("总转化率"),
                figure("第一步人数"),
                figure("第一步转化率"),
                figure("最后一步人数"),
                figure("最后一步转化率"),
            ],
            ReportKind::Retention => vec![
                target,
                shown("对比值", Cell::Other),
                shown("用户行为", Cell::Other),
                time,
                figure("留存人数"),
                figure("当日"),
                figure("当日留存率"),
                figure("次日"),
                figure("次日留存率"),
                figure("2日后"),
                figure("2日后留存率"),
            ],
            ReportKind::Frequency => vec![target, time, shown("频次", Cell::Other), figure("人数")],
        };
        if form == Form::One {
            let no_time = self.kind == ReportKind::Chart(Layout::BigNumber);
            columns.retain(|column| column.cell != Cell::Target && !(no_time && column.cell == Cell::Time));
        }
        columns
    }

    /// The rows as the API gives them.
    fn rows(&'static self, form: Form, asked: &Asked, seed: u64) -> impl Iterator<Item = Vec<Value>> + use<> {
        let columns = self.columns(form);
        let has = |cell| columns.iter().any(|column| column.cell == cell);
        let times = if has(Cell::Time) && self.kind != ReportKind::Chart(Layout::BigNumber) {
            u64::try_from((asked.end_ms - asked.start_ms) / asked.interval_ms + 1).unwrap_or_default()
        } else {
            1
        };
        let groups = if has(Cell::Browser) {
            15
        } else if has(Cell::City) {
            5
        } else if has(Cell::Other) {
            2
        } else {
            1
        };
        let targets = if form == Form::Two && self.kind != ReportKind::Chart(Layout::BigNumber) { 2 } else { 1 };
        let count = match self.rows {
            Rows::Usual => (times * groups * targets).min(MAX_ROWS),
            Rows::None => 0,
            Rows::Full => MAX_ROWS,
        };
        let (start, interval) = (asked.start_ms, asked.interval_ms);
        (0..count).map(move |row| {
            let (target, group, time) = (row % targets, row / targets % groups, row / targets / groups);
            let cell = |(at, column): (usize, &Column)| match column.cell {
                Cell::Target => json!(pick(&TARGETS, target)),
                Cell::Time => json!(start + time.cast_signed() * interval),
                Cell::City if self.rows == Rows::Full => json!(format!("城市 {row}")),
                Cell::City => json!(pick(&CITIES, group)),
                Cell::Browser => json!(pick(&BROWSERS, group / 5)),
                // A dimension's value may be a number.
                Cell::Other if group == 1 => json!(11),
                Cell::Other => json!("1-10"),
                Cell::Figure => figure(seed, row, at as u64),
            };
            columns.iter().enumerate().map(cell).collect()
        })
    }

    /// Writes the answer.
    pub fn write(&'static self, form: Form, asked: &Asked, seed: u64, out: &mut impl Write) -> io::Result<()> {
        let mut head = Map::new();
        head.insert("id".into(), json!(self.id));
        head.insert("name".into(), json!(self.name));
        head.extend(asked.repeated.clone());
        head.insert("startTime".into(), json!(asked.start_ms));
        head.insert("endTime".into(), json!(asked.end_ms));
        head.insert("interval".into(), json!(asked.interval_ms));
        let columns = self.columns(form);
        let meta = columns.iter().filter(|column| column.in_meta).map(|column| {
            let role = if column.cell == Cell::Figure { "metric" } else { "dimension" };
            json!({"name": column.name, role: true})
        });
        head.insert("meta".into(), meta.collect());
        if form == Form::Two && self.kind == ReportKind::Chart(Layout::BigNumber) {
            head.insert("aggregator".into(), json!({"values": [figure(seed, 0, 2), figure(seed, 1, 2)]}));
        }
        out.write_all(b"{")?;
        for (name, value) in head {
            write!(out, "{}:{value},", json!(name))?;
        }
        out.write_all(b"\"data\":[")?;
        for (at, row) in self.rows(form, asked, seed).enumerate() {
            if at > 0 {
                out.write_all(b",")?;
            }
            serde_json::to_writer(&mut *out, &row)?;
        }
        out.write_all(b"]}")
    }

    /// The rows of `metric.v1` that the answer means. The interval belongs to rows with a time.
    pub fn metric_v1(&'static self, form: Form, asked: &Asked, seed: u64) -> Vec<Value> {
        let columns = self.columns(form);
        let mut rows = Vec::new();
        for row in self.rows(form, asked, seed) {
            let (mut dimensions, mut time) = (Map::new(), Value::Null);
            for (column, cell) in columns.iter().zip(&row) {
                match column.cell {
                    Cell::Figure => {}
                    Cell::Time => {
                        let at = cell.as_i64().and_then(DateTime::from_timestamp_millis);
                        time = json!(at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)));
                    }
                    _ => {
                        let text = cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
                        dimensions.insert(column.name.to_owned(), json!(text));
                    }
                }
            }
            let interval = if time.is_null() { None } else { asked.interval() };
            for (at, column) in columns.iter().enumerate().filter(|(_, column)| column.cell == Cell::Figure) {
                let before = columns[..at].iter().filter(|other| other.name == column.name).count();
                let metric =
                    if before == 0 { column.name.to_owned() } else { format!("{} ({})", column.name, before + 1) };
                let value = if row[at].is_number() { row[at].clone() } else { Value::Null };
                rows.push(json!({
                    "metric": metric, "time": time, "interval": interval, "dimensions": dimensions, "value": value,
                }));
            }
        }
        rows
    }
}

/// A figure; now and then there is none, as null or as text.
fn figure(seed: u64, row: u64, column: u64) -> Value {
    let mut z = seed.wrapping_mul(31).wrapping_add(row).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (column << 7);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    match z % 13 {
        0 => Value::Null,
        1 => json!("-"),
        2..=5 => json!(f64::from(u32::try_from(z % 4_000).unwrap_or_default()) / 4.0 + 0.125),
        _ => json!(z % 100_000),
    }
}

/// What the demo asks of a report: the three days before the sandbox started, by day or hour.
pub fn demo_asked(world: &World, interval: &str) -> Asked {
    let (start, end) = demo_window(world);
    let interval_ms = INTERVALS.iter().find(|(name, _)| *name == interval).map_or(DAY_MS, |(_, ms)| *ms);
    Asked { start_ms: start.timestamp_millis(), end_ms: end.timestamp_millis() - 1, interval_ms, repeated: Map::new() }
}

/// Three whole days in Beijing, before the sandbox started.
pub fn demo_window(world: &World) -> (DateTime<Utc>, DateTime<Utc>) {
    let today = Slice::at(Granularity::Day, world.started_at()).start();
    (today - TimeDelta::days(4), today - TimeDelta::days(1))
}
