//! `GET …/analysis/{kind}/{id}/chartdata`: the results of saved analyses, all cells text, columns by display names that
//! may repeat. Source: `developer-manual/open-api/analysis-api/query-{event,funnel,retention,frequency}-analysis.md`.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Days, NaiveDate, Utc};
use serde_json::{Value, json};

use super::{
    PROJECT, SPACE,
    answer::{Query, answered},
};
use crate::vendors::sandbox::{
    World,
    people::{draw, pick},
};

const MAX_LIMIT: u64 = 50_000;
/// The topics of the figures' draws begin here.
const TOPIC: u64 = 7_000;
const DAYS: u64 = 14;
/// How many days a row of the retention has, counted from its own.
const RETENTION_DAYS: u64 = 7;
/// More than one call may ask for.
const MANY_ROWS: u64 = 50_123;

/// One saved analysis.
pub struct Analysis {
    /// As the API's path spells it.
    pub kind: &'static str,
    pub id: &'static str,
    name: &'static str,
    /// Members of `analysisInfo` that this kind has.
    info: &'static [(&'static str, Info)],
    pub header: &'static [&'static str],
    pub rows: u64,
    row: fn(seed: u64, row: u64) -> Vec<String>,
}

#[derive(Clone, Copy)]
enum Info {
    Text(&'static str),
    Number(f64),
}

const BY_DAY: &[(&str, Info)] = &[("granularity", Info::Text("DAY"))];

/// Everything that is saved.
pub const ANALYSES: &[Analysis] = &[
    Analysis {
        kind: "olap_event",
        id: "KzpN2opk",
        name: "事件分析API示例",
        info: BY_DAY,
        header: &["目标用户", "时间", "任意事件的总人数", "任意事件的总人数", "跳出率"],
        rows: 2 * DAYS,
        row: |seed, row| {
            let rate = match row % 9 {
                // Nobody came, so there is no rate.
                8 => "-".to_owned(),
                _ => ratio(figure(seed, row, 2, 100), 100),
            };
            vec![
                (*pick(&["全部用户", "新用户"], row / DAYS)).to_owned(),
                day(row % DAYS),
                figure(seed, row, 0, 10_000).to_string(),
                figure(seed, row, 1, 10_000).to_string(),
                rate,
            ]
        },
    },
    Analysis {
        kind: "olap_event",
        id: "zqQR5MDo",
        name: "各城市的浏览",
        info: &[("granularity", Info::Text(""))],
        header: &["目标用户", "城市", "页面浏览的总次数"],
        rows: 12,
        row: |seed, row| {
            let cities = ["上海", "北京", "Köln", "São Paulo", "未知", "القاهرة"];
            let target = *pick(&["全部用户", "新用户"], row / 6);
            vec![target.to_owned(), (*pick(&cities, row)).to_owned(), figure(seed, row, 3, 90_000).to_string()]
        },
    },
    Analysis {
        kind: "olap_event",
        id: "mRpK9XvD",
        name: "每件商品的加购",
        info: BY_DAY,
        header: &["目标用户", "时间", "商品名称", "加入购物车的总次数"],
        rows: MANY_ROWS,
        row: |seed, row| {
            let figure = figure(seed, row, 4, 1_000).to_string();
            vec!["全部用户".to_owned(), day(row % DAYS), format!("商品-{row:05}"), figure]
        },
    },
    Analysis {
        kind: "olap_event",
        id: "yQ8b1LoW",
        name: "没有数据",
        info: BY_DAY,
        header: &["目标用户", "时间", "支付成功的总次数"],
        rows: 0,
        row: |_, _| Vec::new(),
    },
    Analysis {
        kind: "funnel",
        id: "J1GlMVDj",
        name: "漏斗分析API示例",
        info: &[("conversionWindow", Info::Number(1.0)), ("windowGranularity", Info::Text("day"))],
        header: &["时间", "总转化率", "访问", "第 1 步转化率", "访问"],
        rows: 1 + DAYS,
        row: |seed, row| {
            let came = 100 + figure(seed, row, 5, 900);
            let stayed = figure(seed, row, 6, 100);
            let (time, count): (_, fn(u64) -> String) = match row {
                0 => (TOTAL.to_owned(), |count| format!("{count}.0")),
                _ => (day(row - 1), |count| count.to_string()),
            };
            vec![time, ratio(stayed, came), count(came), ratio(stayed, came), count(stayed)]
        },
    },
    Analysis {
        kind: "retention",
        id: "wWDrYwGM",
        name: "留存分析API示例",
        info: &[("granularity", Info::Text("day"))],
        header: &[
            "时间",
            "留存人数",
            "当日",
            "当日留存率",
            "次日",
            "次日留存率",
            "2日后",
            "2日后留存率",
            "3日后",
            "3日后留存率",
            "4日后",
            "4日后留存率",
            "5日后",
            "5日后留存率",
            "6日后",
            "6日后留存率",
        ],
        rows: 1 + RETENTION_DAYS,
        row: |seed, row| {
            let came = 100 + figure(seed, row, 7, 900);
            let time = if row == 0 { TOTAL.to_owned() } else { day(row - 1) };
            let mut cells = vec![time, came.to_string()];
            // The later the day, the fewer days have passed since.
            for later in 0..=(RETENTION_DAYS - row.max(1)) {
                let stayed = figure(seed, row, 10 + later, 100);
                cells.extend([stayed.to_string(), ratio(stayed, came)]);
            }
            cells
        },
    },
    Analysis {
        kind: "frequency",
        id: "xRpYk8Qe",
        name: "分布分析API示例",
        info: &[("granularity", Info::Text(""))],
        header: &["活跃天数 区间范围", "用户量", "用户量占比"],
        rows: 4,
        row: |seed, row| {
            let range = *pick(&["[0.0,0.0]", "(0.0,3.0]", "(3.0,7.0]", "(7.0,14.0]"], row);
            let users = figure(seed, row, 8, 1_000);
            vec![range.to_owned(), users.to_string(), ratio(users, 1_000)]
        },
    },
];

/// What the row of totals has as its time.
pub const TOTAL: &str = "全部";
/// The zone is not stated; presumably Beijing.
const FIRST_DAY: NaiveDate = match NaiveDate::from_ymd_opt(2026, 2, 1) {
    Some(day) => day,
    None => NaiveDate::MIN,
};

fn day(number: u64) -> String {
    FIRST_DAY.checked_add_days(Days::new(number)).unwrap_or(FIRST_DAY).to_string()
}

fn figure(seed: u64, row: u64, topic: u64, below: u64) -> u64 {
    draw(seed, row, TOPIC + topic, below)
}

/// With four digits, `0.0` for nothing.
#[expect(clippy::cast_precision_loss, reason = "figures below a million")]
fn ratio(part: u64, whole: u64) -> String {
    format!("{:?}", (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0)
}

impl Analysis {
    pub fn find(kind: &str, id: &str) -> Option<&'static Self> {
        ANALYSES.iter().find(|analysis| analysis.kind == kind && analysis.id == id)
    }

    /// The cells of some rows. Rows may be shorter than the header.
    pub fn cells(&self, seed: u64, rows: Range<u64>) -> impl Iterator<Item = Vec<String>> + use<> {
        let row = self.row;
        rows.map(move |number| row(seed, number))
    }

    /// `day` where the result says so.
    pub fn interval(&self) -> Option<String> {
        self.info.iter().find_map(|(name, value)| match value {
            Info::Text(text) if *name == "granularity" && !text.is_empty() => Some(text.to_lowercase()),
            _ => None,
        })
    }

    fn info(&self, fetched: DateTime<Utc>) -> Value {
        let mut info = json!({
            "name": self.name,
            "startTime": format!("{FIRST_DAY} 00:00:00"),
            "endTime": format!("{} 00:00:00", day(DAYS)),
        });
        for (name, value) in self.info {
            info[*name] = match value {
                Info::Text(text) => json!(text),
                Info::Number(number) => json!(number),
            };
        }
        info["fetchedTime"] = json!(fetched.timestamp_millis().to_string());
        info
    }
}

/// When each result was computed that is in the cache; by the analysis' id.
#[derive(Default)]
struct Cache(Mutex<HashMap<&'static str, DateTime<Utc>>>);

impl Cache {
    /// When the result was computed, which is now if it is not cached or the cache is to be passed by.
    fn fetched(&self, id: &'static str, force_refresh: bool, now: DateTime<Utc>) -> DateTime<Utc> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if force_refresh {
            cache.remove(id);
        }
        *cache.entry(id).or_insert(now)
    }
}

/// Answers the result; only that of an event analysis has pages.
pub async fn chart_data(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    answered(&world, &request, "growingio_cdp.analysis", || {
        let place = request.match_info();
        let (kind, id) = (place.query("kind"), place.query("id"));
        // The retention's page says that the id in its path is that of a space.
        let owner = place.query("owner");
        if owner != PROJECT && !(kind == "retention" && owner == SPACE) {
            return Err("not_granted");
        }
        let paged = kind == "olap_event";
        let documented: &[_] = if paged { &["forceRefresh", "limit", "offset"] } else { &["forceRefresh"] };
        let query = Query::read(&world, &request, documented);
        let force_refresh = query.flag("forceRefresh")?;
        let page = if paged { Some(query.page(MAX_LIMIT)?) } else { None };
        let analysis = Analysis::find(kind, id).ok_or("unknown_id")?;

        let fetched = world.shelf::<Cache>().fetched(analysis.id, force_refresh, world.now());
        let mut answer = json!({});
        let mut rows = 0..analysis.rows;
        if let Some(page) = page {
            rows = page.rows(&world, analysis.rows, "growingio_cdp.analysis.shifted_page");
            answer["paginationInfo"] = page.envelope(&rows, analysis.rows, analysis.rows);
        }
        answer["analysisInfo"] = analysis.info(fetched);
        answer["resultHeader"] = json!(analysis.header);
        answer["resultRows"] = analysis.cells(world.config.seed, rows).map(|cells| json!(cells)).collect();
        Ok(answer)
    })
}
