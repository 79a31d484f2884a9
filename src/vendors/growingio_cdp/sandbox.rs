//! The CDP's REST API, simulated as `developer-manual/open-api/` documents it: export jobs of tags and segments, their
//! lists and paged users, computations, results of analyses, the query for one user. Start at [`routes`]; how it answers
//! and refuses is in [`answer`].

mod analysis;
mod answer;
mod catalog;
mod computations;
mod contents;
mod demo;
mod jobs;
mod order;
mod query;
mod users;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use url::Url;

pub use self::users::{GioId, MAPPING};
use crate::vendors::sandbox::{Audience, DEMO_FIELDS, DemoConnection, FaultSpec, World, vendor_base};

const NAME: &str = "growingio_cdp";
/// The token that works.
pub const TOKEN: &str = "4aaa22c7-679f-49be-b97d-5a2db0c0ffee";
/// The project and the workspace that the token may use.
pub const PROJECT: &str = "WlGk4Daj";
pub const SPACE: &str = "VKwkPmqX";

/// The faults this simulator can show.
pub const FAULTS: &[FaultSpec] = &[
    FaultSpec::times("growingio_cdp.export.unauthorized", "401"),
    FaultSpec::times("growingio_cdp.export.forbidden", "403"),
    FaultSpec::times("growingio_cdp.export.rate_limited", "429"),
    FaultSpec::times("growingio_cdp.export.server_error", "500 in plain text, as for an unknown key"),
    FaultSpec::times("growingio_cdp.export.html", "502 with a proxy's HTML page"),
    FaultSpec::times("growingio_cdp.export.bad_json", "the answer breaks off; no job begins"),
    FaultSpec::times("growingio_cdp.export.slow", "the job begins, but the answer comes at five bytes a second"),
    FaultSpec::times("growingio_cdp.export.lost_answer", "the job begins, but the connection closes without an answer"),
    FaultSpec::times("growingio_cdp.job.only_project_path", "404 unless the job is asked for below its project"),
    FaultSpec::times("growingio_cdp.job.only_bare_path", "404 if the job is asked for below its project"),
    FaultSpec::times("growingio_cdp.job.unknown_stage", "a stage that nobody has documented"),
    FaultSpec::times("growingio_cdp.job.error_stage", "the job has failed"),
    FaultSpec::times("growingio_cdp.job.no_uris", "finished, but without addresses of files"),
    FaultSpec::times("growingio_cdp.job.raw_uris", "finished, with addresses that are not encoded"),
    FaultSpec::times("growingio_cdp.job.gone", "404 on either path"),
    FaultSpec::times("growingio_cdp.job.unauthorized", "401"),
    FaultSpec::times("growingio_cdp.job.forbidden", "403"),
    FaultSpec::times("growingio_cdp.job.bad_json", "the answer breaks off; Content-Length agrees"),
    FaultSpec::times("growingio_cdp.job.cut", "the connection closes in the middle of the answer"),
    FaultSpec::times("growingio_cdp.job.slow", "the answer comes at five bytes a second"),
    FaultSpec::times("growingio_cdp.job.rate_limited", "429"),
    FaultSpec::times("growingio_cdp.job.server_error", "500 in plain text"),
    FaultSpec::times("growingio_cdp.job.html", "502 with a proxy's HTML page"),
    FaultSpec::times("growingio_cdp.job.stuck", "the job keeps running although it is done"),
    FaultSpec::times("growingio_cdp.file.cut", "the connection closes in the middle of the file"),
    FaultSpec::times("growingio_cdp.file.truncated", "the file lacks its last part; Content-Length agrees"),
    FaultSpec::times("growingio_cdp.file.drip", "the file comes at five bytes a second"),
    FaultSpec::url("growingio_cdp.file.redirect", "302 to that address"),
    FaultSpec::times("growingio_cdp.file.not_found", "404"),
    FaultSpec::times("growingio_cdp.file.server_error", "500 in plain text"),
    FaultSpec::times("growingio_cdp.file.html", "200 with an HTML page"),
    FaultSpec::times("growingio_cdp.file.bad_record", "the next file's second line breaks off"),
    FaultSpec::times("growingio_cdp.file.gio_id_as_text", "the next file has gio_id as text"),
    FaultSpec::times("growingio_cdp.file.empty", "the next file has no bytes"),
    FaultSpec::times("growingio_cdp.file.two_parts", "the next job has two files"),
    FaultSpec::times("growingio_cdp.file.bom", "the next job's files begin with a byte order mark"),
    FaultSpec::times(
        "growingio_cdp.file.utf16",
        "the next job's files are UTF-16, little endian, with a byte order mark",
    ),
    FaultSpec::times("growingio_cdp.file.csv_bare_gio_id", "the next csv file has gio_id without quotes"),
    FaultSpec::times("growingio_cdp.file.csv_backslash", "the next csv file escapes quotes with backslashes"),
    FaultSpec::times("growingio_cdp.file.csv_repeated_names", "the next csv file's display names repeat"),
    FaultSpec::endpoint("growingio_cdp.lists", "the lists of tags and segments"),
    FaultSpec::times("growingio_cdp.lists.shifted_page", "every page but the first begins with the row before it"),
    FaultSpec::times("growingio_cdp.lists.stale", "every detector says FINISH, as of the computation before"),
    FaultSpec::endpoint("growingio_cdp.users", "the pages of a tag's or segment's users"),
    FaultSpec::times("growingio_cdp.users.shifted_page", "every page but the first begins with the row before it"),
    FaultSpec::endpoint("growingio_cdp.user", "the query for one user"),
    FaultSpec::endpoint("growingio_cdp.computes", "the call that has a tag or segment computed"),
    FaultSpec::times("growingio_cdp.computes.refused", "refused, as while it is being computed"),
    FaultSpec::times("growingio_cdp.computes.fails", "the computation ends as ERROR; the data stay as they are"),
    FaultSpec::times("growingio_cdp.computes.never_ends", "the computation keeps running"),
    FaultSpec::endpoint("growingio_cdp.analysis", "the results of analyses"),
    FaultSpec::times("growingio_cdp.analysis.shifted_page", "every page but the first begins with the row before it"),
    FaultSpec::endpoint("growingio_cdp.projects", "the lists of projects and spaces"),
];

/// Adds the simulator's routes: those of the newer releases (below a project, or a space of it) and of the older ones
/// (of the whole data centre, or below a project, which meant a workspace then). Segments are a workspace's, never the
/// data centre's.
pub fn routes(routes: &mut web::ServiceConfig, world: Arc<World>) {
    routes.app_data(web::Data::from(world));
    let (project, space) = ("/v1/api/projects/{project}", "/v1/api/projects/{project}/spaces/{space}");
    let both = "{kind:user_tags|segment_profiles}";
    let tags = "{kind:user_tags}";
    let segments = "{kind:segment_profiles}";
    for (scope, kind) in [(space, both), (project, both), ("/v1/api", tags)] {
        routes
            .route(&format!("{scope}/{kind}"), web::get().to(catalog::list))
            .route(&format!("{scope}/{kind}/{{key}}/users"), web::get().to(query::users))
            .route(&format!("{scope}/{kind}/{{key}}/export_jobs"), web::post().to(jobs::submit))
            .route(&format!("{scope}/users/{{identity}}/{{value}}"), web::get().to(query::user));
    }
    for (scope, kind) in [(project, both), (space, segments)] {
        routes.route(&format!("{scope}/{kind}/{{key}}/computes"), web::post().to(computations::compute));
    }
    routes
        .route(
            "/v1/api/projects/{owner}/analysis/{kind:olap_event|funnel|retention|frequency}/{id}/chartdata",
            web::get().to(analysis::chart_data),
        )
        .route("/v1/api/projects", web::get().to(catalog::projects))
        .route("/v2/api/enterprise/{enterprise}/projects", web::get().to(catalog::projects_of_enterprise))
        .route("/v2/api/enterprise/{enterprise}/projects/{project}/spaces", web::get().to(catalog::spaces))
        .route("/v1/api/projects/{project}/job/result/{id}", web::get().to(jobs::job))
        .route("/v1/api/job/result/{id}", web::get().to(jobs::job))
        .route("/download", web::get().to(jobs::download))
        .default_service(web::route().to(nowhere));
}

/// The connection a newcomer needs; the token is [`TOKEN`].
pub fn demo_connection(base: &Url) -> DemoConnection {
    let mapping: serde_json::Map<_, _> =
        MAPPING.iter().map(|(column, property)| ((*column).to_owned(), json!(property))).collect();
    DemoConnection {
        name: "demo-cdp",
        vendor: NAME,
        body: json!({
            "vendor": NAME,
            "display_name": "GrowingIO CDP (sandbox)",
            "settings": {"base_url": vendor_base(base, NAME), "project_id": PROJECT, "space_id": SPACE},
            "credentials": {"token": TOKEN},
            "mapping": mapping,
        }),
        audience: json!({"kind": "tag", "id": tag_key(1)}),
        fields: DEMO_FIELDS,
        truth: |person| {
            let mapping = MAPPING.iter().map(|(column, property)| ((*column).into(), (*property).into())).collect();
            person.cdp_user_v1(&mapping, &[])
        },
        faults: FAULTS,
        datasets: demo::DATASETS,
    }
}

async fn nowhere(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    world.violation(NAME, format!("{} {} is not documented", request.method(), request.path()));
    answer::not_found()
}

/// The key of the tag of that number; `tag_rfm` is everybody.
pub fn tag_key(number: u64) -> String {
    audience_key("tag", number)
}

/// The key of the segment of that number; `seg_rfm` is everybody.
pub fn segment_key(number: u64) -> String {
    audience_key("seg", number)
}

fn audience_key(prefix: &str, number: u64) -> String {
    if number == 1 { format!("{prefix}_rfm") } else { format!("{prefix}_{number}") }
}

fn audience_number(key: &str, prefix: &str) -> Option<u64> {
    let rest = key.strip_prefix(prefix)?.strip_prefix('_')?;
    let number = if rest == "rfm" { 1 } else { rest.parse().ok()? };
    (audience_key(prefix, number) == key).then_some(number)
}

fn display_title(audience: Audience, prefix: &str) -> String {
    let kind = if prefix == "tag" { "标签" } else { "分群" };
    format!("{kind}_{}", audience.title())
}

#[cfg(test)]
mod tests;
