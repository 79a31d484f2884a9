//! Dashboards with their charts, and the rules that elements are tagged by.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};

use super::{
    access::{Call, Refusal, either, write_lines},
    reports::{REPORTS, ReportKind},
};
use crate::vendors::sandbox::World;

/// How many rules there are; events refer to them.
pub const RULES: u64 = 14;
const RULE_NAMES: [&str; 5] = ["元素_注册按钮", "页面_首页", "Buy \"now\"", "元素_搜索框", "a;b|c"];
const RULE_TYPES: [&str; 4] = ["clck", "page", "imp", "chng"];

pub const DASHBOARD: &str = "DbMain01";
pub const EMPTY_DASHBOARD: &str = "DbEmpty2";

/// Id, name, `type`, `createdAt`, `updatedAt`, `scope`; the newest update first.
const DASHBOARDS: [[&str; 6]; 4] = [
    ["DbReal03", "实时 \"看板\"", "realtimeV2", "2019-03-04", "2026-10-11", "global"],
    [DASHBOARD, "流量, 概览", "normal", "2019-01-01", "2026-02-03", "project"],
    [EMPTY_DASHBOARD, "Empty", "normal", "2020-02-29", "2020-02-29", "user"],
    ["DbOld004", "旧", "normal", "2017-12-31", "2018-01-01", "user"],
];

/// `GET /projects/{project}/dashboards.json`.
pub async fn dashboards(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(all_dashboards(&world, &request).await)
}

async fn all_dashboards(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.dashboards")?;
    call.query(&[]);
    let item = |[id, name, kind, created, updated, scope]: [&str; 6]| {
        json!({
            "id": id, "name": name, "type": kind, "createdAt": created, "updatedAt": updated, "scope": scope,
            "updater": "王芳", "creator": "sandbox@example.test",
        })
    };
    Ok(call.json(DASHBOARDS.map(item).to_vec().into()).await)
}

/// The rows of `dashboard.v1` that the list means.
pub fn dashboards_v1() -> Vec<Value> {
    let row = |[id, name, kind, created, updated, scope]: [&str; 6]| {
        let vendor = json!({"type": kind, "scope": scope, "updater": "王芳", "creator": "sandbox@example.test"});
        dashboard_v1(&[id, "dashboard", name], &json!(created), &json!(updated), &vendor)
    };
    DASHBOARDS.map(row).to_vec()
}

fn dashboard_v1([id, kind, name]: &[&str; 3], created: &Value, updated: &Value, vendor: &Value) -> Value {
    json!({
        "id": id, "kind": kind, "name": name, "description": null, "size": null, "status": null,
        "created_at": beginning(created), "updated_at": beginning(updated), "vendor": vendor,
    })
}

/// When a day of Beijing begins; null stays null.
pub fn beginning(day: &Value) -> Value {
    let Some(day) = day.as_str() else { return Value::Null };
    let midnight = DateTime::parse_from_rfc3339(&format!("{day}T00:00:00+08:00"));
    midnight.map_or(Value::Null, |time| time.to_utc().to_rfc3339_opts(SecondsFormat::Secs, true).into())
}

/// `GET /projects/{project}/dashboards/{id}.json`.
pub async fn dashboard(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(one_dashboard(&world, &request).await)
}

async fn one_dashboard(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.dashboard")?;
    call.query(&[]);
    let id = call.path("id");
    let [id, name, ..] = DASHBOARDS.into_iter().find(|known| known[0] == id).ok_or_else(|| call.unknown_id())?;
    let charts: Vec<_> = charts(id).map(|chart| Value::Object(chart.wire())).collect();
    Ok(call.json(json!({"id": id, "name": name, "charts": charts})).await)
}

/// The rows of `dashboard.v1` that one dashboard means: one for each chart.
pub fn charts_v1(dashboard: &str) -> Vec<Value> {
    let Some([_, dashboard_name, ..]) = DASHBOARDS.into_iter().find(|known| known[0] == dashboard) else {
        return Vec::new();
    };
    let row = |chart: Chart| {
        let vendor = json!({
            "creator": chart.creator, "dashboard_id": dashboard, "dashboard_name": dashboard_name,
        });
        let kind = chart.kind.unwrap_or("chart");
        dashboard_v1(&[chart.id, kind, chart.name], &json!("2019-10-22"), &Value::Null, &vendor)
    };
    charts(dashboard).map(row).collect()
}

/// One chart of a dashboard.
struct Chart {
    id: &'static str,
    name: &'static str,
    creator: &'static str,
    /// Only older pages show it.
    kind: Option<&'static str>,
    /// The documents spell the member `createor`.
    creator_member: &'static str,
}

impl Chart {
    fn wire(&self) -> Map<String, Value> {
        let mut members = Map::new();
        members.insert("id".into(), json!(self.id));
        members.insert("name".into(), json!(self.name));
        members.insert(self.creator_member.into(), json!(self.creator));
        members.insert("createdAt".into(), json!("2019-10-22"));
        if let Some(kind) = self.kind {
            members.insert("resource_type".into(), json!(kind));
        }
        members
    }
}

/// The charts of a dashboard: every report for the main one.
fn charts(dashboard: &str) -> impl Iterator<Item = Chart> {
    let shown = if dashboard == EMPTY_DASHBOARD { 0 } else { REPORTS.len() };
    REPORTS[..shown].iter().enumerate().filter(|(_, report)| report.kind != ReportKind::Frequency).map(
        |(at, report)| Chart {
            id: report.id,
            name: report.name,
            creator: "王芳",
            kind: (at > 1).then(|| report.kind.resource_type()),
            creator_member: if at == 2 { "creator" } else { "createor" },
        },
    )
}

/// `GET /projects/{project}/rules.csv`: the page says tabs, its sample has commas.
pub async fn rules(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(all_rules(&world, &request).await)
}

async fn all_rules(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.rules")?;
    call.query(&[]);
    let separator = if world.fault("growingio.rules.tab") { "\t" } else { "," };
    let header = ["ruleId", "eventName", "eventType"].join(separator);
    let line = move |number| [&rule_id(number), rule_name(number), rule_type(number)].join(separator);
    let break_off = call.breaks_off().then_some(1 + RULES * 3 / 5);
    let lines = move || std::iter::once(header).chain((0..RULES).map(line));
    Ok(call.text("text/csv;charset=UTF-8", move |file| write_lines(file, lines(), break_off)).await)
}

/// The rows of `rule.v1`.
pub fn rules_v1() -> Vec<Value> {
    let row = |number| {
        json!({
            "id": rule_id(number), "kind": rule_type(number), "name": rule_name(number), "description": null,
            "size": null, "status": null, "created_at": null, "updated_at": null, "vendor": {},
        })
    };
    (0..RULES).map(row).collect()
}

/// The id of the rule of that number.
pub fn rule_id(number: u64) -> String {
    format!("f25037{number:02x}")
}

/// Names are not unique; name and type together are.
fn rule_name(number: u64) -> &'static str {
    RULE_NAMES[usize::try_from(number).unwrap_or_default() % RULE_NAMES.len()]
}

fn rule_type(number: u64) -> &'static str {
    RULE_TYPES[usize::try_from(number).unwrap_or_default() % RULE_TYPES.len()]
}
