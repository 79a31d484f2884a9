//! Examples of the document, made of the same types that the API answers with, so that they cannot lie about the shape.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    catalog::{CatalogItem, CatalogList, QuotaList, QuotaView},
    connections::{ConnectionList, view as connection_view},
    deliveries::{Replayed, WebhookDeliveryList, view as delivery_view},
    destinations::{DestinationList, view as destination_view},
    export_view::{AttemptList, AttemptView, EventList, EventView, ExportList, ExportView, FileView, Manifest},
    exports::{PlanView, PlannedCallView},
    health,
    links::LinkView,
    schedules::{RunView, ScheduleList, ScheduleRunList, view as schedule_view},
    webhooks::{EndpointView, WebhookEndpointList, view as endpoint_view},
};
use crate::{
    exports::{
        mapping::Feed,
        parameters::Window,
        record::{AttemptRecord, ConnectionRecord, DestinationRecord, ExportRecord, FileRecord, Health},
        request::{Dataset, Delivery, Output, Priority},
        schedule::{CatchUp, RunOutcome, RunRecord, ScheduleRecord},
        state::{Phase, State},
        webhook::{DeliveryRecord, DeliveryState, EndpointRecord, EventType, WebhookAttemptRecord},
    },
    ids::{ConnectionId, DeliveryId, DestinationId, EventId, ExportId, FileId, ScheduleId, WebhookEndpointId},
    operations::{
        deliveries::DeliveryWithAttempts,
        exports::ExportWithFiles,
        schedules::{Schedule, Upcoming},
        webhooks::Endpoint,
    },
};

const EXPORT: ExportId = ExportId(Uuid::from_u128(0x019a_5b6c_7d8e_7f00_a1b2_c3d4_e5f6_0718));
const RETRIED: ExportId = ExportId(Uuid::from_u128(0x019a_5b6c_7d8e_7f00_a1b2_c3d4_e5f6_071a));
const FILE: FileId = FileId(Uuid::from_u128(0x019a_5b6c_7d8e_7f00_a1b2_c3d4_e5f6_0719));
const CONNECTION: ConnectionId = ConnectionId(Uuid::from_u128(0x019a_5b6c_0000_7000_8000_0000_0000_0001));
const SCHEDULE: ScheduleId = ScheduleId(Uuid::from_u128(0x019a_5b6c_7d8e_7f00_a1b2_c3d4_e5f6_071b));
const ENDPOINT: WebhookEndpointId = WebhookEndpointId(Uuid::from_u128(0x019a_5b6c_7d8e_7f00_a1b2_c3d4_e5f6_071c));
const DELIVERY: DeliveryId = DeliveryId(Uuid::from_u128(0x019a_5b6c_7d8e_7f00_a1b2_c3d4_e5f6_071d));
const EVENT: EventId = EventId(Uuid::from_u128(0x019a_5b6c_7d8e_7f00_a1b2_c3d4_e5f6_071e));
const DESTINATION: DestinationId = DestinationId(Uuid::from_u128(0x019a_5b6c_0000_7000_8000_0000_0000_0002));
/// Of `test`.
const SHA256: &[u8] = &[
    0x9f, 0x86, 0xd0, 0x81, 0x88, 0x4c, 0x7d, 0x65, 0x9a, 0x2f, 0xea, 0xa0, 0xc5, 0x5a, 0xd0, 0x15, 0xa3, 0xbf, 0x4f,
    0x1b, 0x2b, 0x0b, 0x82, 0x2c, 0xd1, 0x5d, 0x6c, 0x15, 0xb0, 0xf0, 0x0a, 0x08,
];

/// What a request body may look like, by operation.
pub fn request(operation_id: &str) -> Option<Value> {
    Some(match operation_id {
        "submit_export" => json!({
            "connection": "growth-braze",
            "dataset": "audience_members",
            "parameters": {
                "audience": {"kind": "segment", "id": "5a1b0c2d-0000-4000-8000-000000000001"},
                "fields": ["user_id", "email", "attributes.plan"],
            },
            "output": {"format": "ndjson", "compression": "gzip", "schema": "unified"},
            "labels": {"team": "growth"},
            "deadline": "PT6H",
        }),
        "put_connection" => json!({
            "vendor": "braze",
            "display_name": "Braze, growth workspace",
            "settings": {"base_url": "https://rest.fra-01.braze.eu"},
            "credentials": {"api_key": "the key of a Braze workspace"},
            "mapping": {
                "attributes.plan": "Plan Name",
                "gender": {"from": "gender", "values": {"F": "female", "M": "male"}},
            },
        }),
        "put_destination" => json!({
            "display_name": "Data lake, marketing",
            "url": "s3://our-lake/marketing",
            "settings": {"region": "eu-central-1"},
            "credentials": {
                "access_key_id": "the id of a key",
                "secret_access_key": "its secret",
            },
        }),
        "rotate_destination_credentials" => json!({
            "credentials": {"access_key_id": "the id of the next key", "secret_access_key": "its secret"},
        }),
        "make_link" => json!({"expires_in_secs": 300}),
        "create_schedule" => json!({
            "name": "Events of yesterday",
            "cron": "30 6 * * *",
            "time_zone": "Asia/Shanghai",
            "export": daily_export(),
            "catch_up": "all",
        }),
        "change_schedule" => json!({"cron": "0 7 * * MON-FRI", "catch_up": "last"}),
        "create_webhook_endpoint" => json!({
            "url": "https://crm.example/hooks/headgate",
            "description": "CRM, imports audiences",
            "event_types": ["export.succeeded", "export.failed"],
            "labels": {"team": "growth"},
        }),
        "change_webhook_endpoint" => json!({"enabled": true}),
        "rotate_webhook_secret" => json!({"grace": "P1D"}),
        "replay_deliveries" => json!({"since": "2026-03-02T00:00:00Z", "until": "2026-03-03T00:00:00Z"}),
        "rotate_credentials" => json!({"credentials": {"api_key": "the next key of a Braze workspace"}}),
        _ => return None,
    })
}

/// What an answer may look like, by operation and status.
pub fn response(operation_id: &str, status: &str) -> Option<Value> {
    let now = time(120);
    let example = match (operation_id, status) {
        ("submit_export", "200") => serde_json::to_value(PlanView {
            valid: true,
            calls: vec![PlannedCallView {
                method: "POST",
                path: "/users/export/segment".into(),
                body: Some(json!({"segment_id": "5a1b0c2d-0000-4000-8000-000000000001"})),
            }],
            windows: Vec::new(),
            warnings: Vec::new(),
        }),
        ("submit_export", "202") => serde_json::to_value(ExportView::new(in_state(State::Queued), time(0))),
        ("cancel_export", "202") => serde_json::to_value(ExportView::new(in_state(State::Cancelling), now)),
        ("cancel_export", "200") => serde_json::to_value(ExportView::new(in_state(State::Cancelled), now)),
        ("retry_export", "202") => {
            let mut retry = in_state(State::Queued);
            retry.export.export_id = RETRIED;
            retry.export.retry_of = Some(EXPORT);
            serde_json::to_value(ExportView::new(retry, now))
        }
        ("get_export", "200") => serde_json::to_value(ExportView::new(finished_export(), now)),
        ("list_exports", "200") => serde_json::to_value(ExportList {
            data: vec![ExportView::new(in_state(State::Running), time(30))],
            next_page_token: String::new(),
        }),
        ("list_events", "200") => {
            serde_json::to_value(EventList { data: vec![event()], next_page_token: String::new() })
        }
        ("list_attempts", "200") => {
            serde_json::to_value(AttemptList { data: vec![attempt()], next_page_token: String::new() })
        }
        ("list_files", "200") => {
            serde_json::to_value(Manifest { files: finished_export().files.into_iter().map(FileView::from).collect() })
        }
        ("make_link", "200") => serde_json::to_value(LinkView {
            url: "https://headgate.example/links/ASgBmlts…".into(),
            expires_at: time(420),
        }),
        ("list_connections", "200") => serde_json::to_value(ConnectionList {
            data: vec![connection_view(connection(), false)],
            next_page_token: String::new(),
        }),
        ("get_connection", "200") => serde_json::to_value(connection_view(connection(), false)),
        ("put_connection", "200" | "201") | ("rotate_credentials" | "check_connection", "200") => {
            serde_json::to_value(connection_view(connection(), true))
        }
        ("list_destinations", "200") => serde_json::to_value(DestinationList {
            data: vec![destination_view(destination(), false)],
            next_page_token: String::new(),
        }),
        ("get_destination", "200") => serde_json::to_value(destination_view(destination(), false)),
        ("put_destination", "200" | "201") | ("rotate_destination_credentials" | "check_destination", "200") => {
            serde_json::to_value(destination_view(destination(), true))
        }
        ("list_catalog", "200") => serde_json::to_value(CatalogList {
            data: vec![CatalogItem {
                id: "5a1b0c2d-0000-4000-8000-000000000001".into(),
                kind: "segment".into(),
                name: Some("Bought in May".into()),
                description: None,
                size: None,
                status: None,
                created_at: None,
                updated_at: None,
                vendor: json!({"analytics_tracking_enabled": true, "tags": ["shop"]}),
            }],
            next_page_token: String::new(),
        }),
        ("list_dashboard", "200") => serde_json::to_value(CatalogList {
            data: vec![CatalogItem {
                id: "YoX28w7R".into(),
                kind: "chart".into(),
                name: Some("Visits by city".into()),
                description: None,
                size: None,
                status: None,
                created_at: Some("2019-01-01".into()),
                updated_at: None,
                vendor: json!({"creator": "someone"}),
            }],
            next_page_token: String::new(),
        }),
        ("get_quota", "200") => serde_json::to_value(QuotaList {
            data: vec![QuotaView {
                name: "requests",
                description: "Most calls",
                limit: 250_000,
                window: Some("PT1H".into()),
                used: 1_200,
                remaining: 248_800,
                resets_at: Some(time(3600)),
            }],
            next_page_token: String::new(),
        }),
        ("list_schedules", "200") => {
            serde_json::to_value(ScheduleList { data: vec![schedule_view(schedule())], next_page_token: String::new() })
        }
        ("create_schedule", "201")
        | ("get_schedule" | "change_schedule" | "pause_schedule" | "resume_schedule", "200") => {
            serde_json::to_value(schedule_view(schedule()))
        }
        ("list_runs", "200") => serde_json::to_value(ScheduleRunList {
            data: schedule().last_run.into_iter().map(RunView::from).collect(),
            next_page_token: String::new(),
        }),
        ("list_webhook_endpoints", "200") => serde_json::to_value(WebhookEndpointList {
            data: vec![endpoint_view(endpoint())],
            next_page_token: String::new(),
        }),
        ("create_webhook_endpoint", "201") | ("rotate_webhook_secret", "200") => serde_json::to_value(EndpointView {
            secret: Some("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs=".into()),
            ..endpoint_view(endpoint())
        }),
        ("get_webhook_endpoint" | "change_webhook_endpoint", "200") => serde_json::to_value(endpoint_view(endpoint())),
        ("list_deliveries", "200") => serde_json::to_value(WebhookDeliveryList {
            data: vec![delivery_view(delivery())],
            next_page_token: String::new(),
        }),
        ("replay_delivery", "202") => serde_json::to_value(delivery_view(delivery())),
        ("replay_deliveries", "202") => serde_json::to_value(Replayed { deliveries: 42 }),
        ("healthz" | "readyz", "200") => serde_json::to_value(health::Liveness { status: "ok" }),
        _ => return None,
    };
    example.ok()
}

/// A moment of the story the examples tell, in seconds after the export was accepted.
pub fn time(secs: i64) -> DateTime<Utc> {
    // 2026-03-02T08:00:00Z
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_772_438_400 + secs)
}

/// The export of the story, succeeded, with its one file.
pub fn finished_export() -> ExportWithFiles {
    let mut export = in_state(State::Succeeded);
    export.export.finished_at = Some(time(90));
    export.export.last_progress_at = time(90);
    export.export.result_expires_at = Some(time(90 + 7 * 86_400));
    export.export.data_as_of = Some(time(60));
    export.files = vec![FileRecord {
        file_id: FILE,
        export_id: EXPORT,
        name: "part-00001.ndjson".into(),
        object_key: String::new(),
        media_type: "application/x-ndjson".into(),
        compression: "none".into(),
        bytes: 4,
        records: Some(1),
        sha256: SHA256.to_vec(),
        location: None,
    }];
    export
}

fn in_state(state: State) -> ExportWithFiles {
    let begun = !matches!(state, State::Queued);
    let done = matches!(state, State::Succeeded);
    let counts = if done { (1, 180, 4) } else { (0, 0, 0) };
    let export = ExportRecord {
        export_id: EXPORT,
        tenant: "growth".into(),
        created_by: "crm-sync".into(),
        connection_id: CONNECTION,
        connection: "growth-braze".into(),
        vendor: "braze".into(),
        dataset: Dataset::AudienceMembers,
        parameters: json!({
            "audience": {"kind": "segment", "id": "5a1b0c2d-0000-4000-8000-000000000001"},
            "fields": ["user_id", "email", "attributes.plan"],
        }),
        output: Json(Output::default()),
        delivery: Json(Delivery::default()),
        delivery_path: None,
        labels: Json([("team".to_owned(), "growth".to_owned())].into()),
        priority: Priority::default(),
        coalesced_with: None,
        follows: None,
        run_id: None,
        state,
        phase: (state == State::Running).then_some(Phase::VendorProcessing),
        waiting_reason: None,
        attempt: 1,
        retry_at: None,
        retry_of: None,
        records: counts.0,
        bytes_read: counts.1,
        bytes_written: counts.2,
        files_done: i32::from(done),
        files_total: done.then_some(1),
        created_at: time(0),
        started_at: begun.then(|| time(1)),
        last_progress_at: time(i64::from(begun)),
        finished_at: state.is_final().then(|| time(20)),
        deadline_at: time(6 * 3600),
        error: None,
        warnings: Json(Vec::new()),
        vendor_status: begun.then(|| "403 not ready".into()),
        vendor_reference: begun.then(|| "bb8e2a91-0000-4000-8000-000000000001".into()),
        result_expires_at: None,
        data_as_of: None,
        result_deleted_at: None,
        version: 7,
        schedule_id: None,
        scheduled_for: None,
    };
    ExportWithFiles { export, files: Vec::new(), queue_position: None }
}

/// A transition.
pub fn event() -> EventView {
    EventView { id: 2, at: time(1), state: State::Running, phase: Some(Phase::Submitting), detail: None }
}

fn attempt() -> AttemptView {
    AttemptView::from(AttemptRecord {
        at: time(2),
        action: "submit".into(),
        method: "POST".into(),
        target: "rest.fra-01.braze.eu/users/export/segment".into(),
        http_status: Some(201),
        duration_ms: 182,
        decision: "accepted".into(),
    })
}

/// A mapping of a column that translates its values.
fn gender_in_words() -> Feed {
    let values = [("F", "female"), ("M", "male")].map(|(theirs, ours)| (theirs.to_owned(), ours.to_owned()));
    Feed { values: values.into(), ..Feed::from("gender") }
}

/// A connection.
pub fn connection() -> ConnectionRecord {
    ConnectionRecord {
        connection_id: CONNECTION,
        name: "growth-braze".into(),
        vendor: "braze".into(),
        display_name: "Braze, growth workspace".into(),
        settings: json!({"base_url": "https://rest.fra-01.braze.eu"}),
        mapping: Json([("gender".to_owned(), gender_in_words())].into()),
        health: Health::Healthy,
        health_detail: None,
        health_checked_at: Some(time(-60)),
        credential_version: 1,
        created_at: time(-3600),
        updated_at: time(-60),
    }
}

/// A destination.
pub fn destination() -> DestinationRecord {
    DestinationRecord {
        destination_id: DESTINATION,
        name: "lake".into(),
        display_name: "Data lake, marketing".into(),
        url: "s3://our-lake/marketing".into(),
        settings: json!({"region": "eu-central-1"}),
        health: Health::Healthy,
        health_detail: None,
        health_checked_at: Some(time(-60)),
        credential_version: 1,
        created_at: time(-3600),
        updated_at: time(-60),
    }
}

/// What a schedule of the story asks for.
fn daily_export() -> Value {
    json!({
        "connection": "shop-growingio",
        "dataset": "raw_events",
        "parameters": {"window": "yesterday", "granularity": "day"},
        "output": {"format": "parquet"},
    })
}

/// A schedule that has run once.
fn schedule() -> Schedule {
    // 06:30 in Shanghai.
    let day = |days: i64| time(-9 * 3600 - 30 * 60 + days * 86_400);
    let record = ScheduleRecord {
        schedule_id: SCHEDULE,
        tenant: "growth".into(),
        name: "Events of yesterday".into(),
        created_by: "crm-sync".into(),
        runs_as: "crm-sync".into(),
        connections: vec!["shop-*".into()],
        cron: "30 6 * * *".into(),
        time_zone: "Asia/Shanghai".into(),
        export: daily_export(),
        not_before: None,
        catch_up: CatchUp::All,
        paused_at: None,
        next_run_at: Some(day(1)),
        due_at: Some(day(1)),
        last_error: None,
        failures: 0,
        created_at: day(-1),
        updated_at: day(-1),
    };
    let upcoming = Upcoming {
        run_at: day(1),
        begins_at: day(1),
        window: Some(Window { from: time(-16 * 3600), to: time(8 * 3600) }),
    };
    let last_run = RunRecord {
        schedule_id: SCHEDULE,
        run_at: day(0),
        through: day(0),
        outcome: RunOutcome::Started,
        at: day(0),
        export_id: Some(EXPORT),
        state: Some(State::Succeeded),
        reason: None,
        error: None,
    };
    let not_before = std::time::Duration::from_hours(6);
    Schedule { record, not_before, upcoming: vec![upcoming], last_run: Some(last_run) }
}

/// A webhook endpoint.
fn endpoint() -> Endpoint {
    #[expect(clippy::expect_used, reason = "a constant")]
    let url = url::Url::parse("https://crm.example/hooks/headgate").expect("a URL");
    let record = EndpointRecord {
        webhook_endpoint_id: ENDPOINT,
        tenant: "growth".into(),
        created_by: "crm-sync".into(),
        description: "CRM, imports audiences".into(),
        event_types: vec![EventType::ExportSucceeded, EventType::ExportFailed],
        labels: Json([("team".to_owned(), "growth".to_owned())].into()),
        host: "crm.example".into(),
        secret_version: 1,
        previous_secret_until: None,
        disabled_at: None,
        disabled_reason: None,
        failing_since: None,
        created_at: time(-3600),
        updated_at: time(-3600),
    };
    Endpoint { record, url }
}

/// What the endpoint was told.
fn delivery() -> DeliveryWithAttempts {
    let delivery = DeliveryRecord {
        webhook_delivery_id: DELIVERY,
        webhook_endpoint_id: ENDPOINT,
        event_id: EVENT,
        event_type: EventType::ExportSucceeded,
        occurred_at: time(90),
        object_id: EXPORT.to_string(),
        object_state: "succeeded".into(),
        object_href: format!("/v1/exports/{EXPORT}"),
        state: DeliveryState::Delivered,
        due_at: time(90),
        tries: 2,
        finished_at: Some(time(95)),
    };
    let attempt = |number, secs, http_status, error: Option<&str>| WebhookAttemptRecord {
        webhook_delivery_id: DELIVERY,
        number,
        at: time(secs),
        http_status: Some(http_status),
        duration_ms: 87,
        error: error.map(str::to_owned),
    };
    let attempts = vec![attempt(1, 90, 503, Some("the endpoint refused")), attempt(2, 95, 204, None)];
    DeliveryWithAttempts { delivery, attempts }
}

/// What the endpoint gets.
pub fn message(event: EventType) -> Value {
    let (id, href) = match event {
        EventType::ConnectionUnhealthy => ("growth-braze".to_owned(), "/v1/connections/growth-braze".to_owned()),
        _ => (EXPORT.to_string(), format!("/v1/exports/{EXPORT}")),
    };
    let state = event.as_str().split('.').nth(1).unwrap_or_default().to_owned();
    let told = DeliveryRecord {
        event_type: event,
        object_id: id,
        object_state: state,
        object_href: href,
        ..delivery().delivery
    };
    let public_url = url::Url::parse("https://headgate.example").ok();
    serde_json::to_value(told.message(public_url.as_ref())).unwrap_or_default()
}
