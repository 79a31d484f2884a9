//! What can be exported from this simulator; [`rows`] says what must come out. Windows are relative to the start of the
//! sandbox, so that nothing in them is older than what the vendor keeps.

mod rows;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde_json::{Value, json};

pub use self::rows::without_fields;
use self::rows::{
    all_campaigns, all_canvases, audiences, events, of_campaign, of_canvas, of_control_group, points, simple,
    simple_row, suppressed, utc,
};
use super::{
    campaigns::{self, Campaign, send_id},
    canvases::{self, Canvas},
    profiles, segment_id,
    series::APPS,
    suppressions::List,
};
use crate::{
    exports::request::Dataset,
    vendors::sandbox::{
        DemoDataset,
        Trouble::{
            self, Busy, CutOff, ExpiredLink, Forbidden, Malformed, Partial, Prepares, RateLimited, ServerError, Slow,
            Unauthorized,
        },
        World,
        people::{Oddity, Person},
    },
};

/// The same faults show in an export of a segment and of the control group.
const EXPORT: &[(Trouble, &str)] = &[
    (Prepares, "braze.segment.not_ready"),
    (Partial, "braze.file.truncated"),
    (ExpiredLink, "braze.file.expired"),
    (Unauthorized, "braze.segment.unauthorized"),
    (Forbidden, "braze.segment.forbidden"),
    (RateLimited, "braze.segment.rate_limited"),
    (Busy, "braze.segment.busy"),
    (ServerError, "braze.segment.server_error"),
    (Malformed, "braze.segment.bad_json"),
    (CutOff, "braze.file.cut"),
    (Slow, "braze.file.drip"),
];

/// What goes wrong at the endpoints of one group.
macro_rules! troubles {
    ($group:literal) => {
        &[
            (Partial, concat!($group, ".bad_json")),
            (Unauthorized, concat!($group, ".unauthorized")),
            (Forbidden, concat!($group, ".forbidden")),
            (RateLimited, concat!($group, ".rate_limited")),
            (ServerError, concat!($group, ".server_error")),
            (Malformed, concat!($group, ".html")),
            (CutOff, concat!($group, ".cut")),
            (Slow, concat!($group, ".slow")),
        ]
    };
}

const IDS: &[(Trouble, &str)] = troubles!("braze.ids");
const LISTS: &[(Trouble, &str)] = troubles!("braze.lists");
const DETAILS: &[(Trouble, &str)] = troubles!("braze.details");
const SERIES: &[(Trouble, &str)] = troubles!("braze.series");
const SUPPRESSIONS: &[(Trouble, &str)] = troubles!("braze.suppressions");

type Parameters = fn(&World) -> Value;
type Truth = fn(&World) -> Vec<Value>;

pub const DATASETS: &[DemoDataset] = &[
    DemoDataset {
        dataset: Dataset::AudienceMembers,
        name: "",
        parameters: |_| json!({"audience": {"kind": "segment", "id": segment_id(1)}}),
        empty: Some(|_| json!({"audience": {"kind": "segment", "id": segment_id(2)}})),
        truth: |world| (0..world.config.people).map(|index| without_fields(&world.person(index))).collect(),
        troubles: EXPORT,
    },
    DemoDataset {
        dataset: Dataset::AudienceMembers,
        name: "global_control_group",
        parameters: |_| json!({"audience": {"kind": "global_control_group"}}),
        empty: None,
        truth: of_control_group,
        troubles: EXPORT,
    },
    DemoDataset {
        dataset: Dataset::UserProfiles,
        name: "",
        parameters: |world| json!({"identifiers": identifiers(world)}),
        empty: Some(|_| json!({"identifiers": [{"type": "user_id", "value": "nobody"}]})),
        truth: |world| asked_by_id(world).map(|index| without_fields(&world.person(index))).collect(),
        troubles: IDS,
    },
    // More than 100 days take several calls.
    series("dau", |world| over(world, "dau", 250, 5, "day", json!({})), |world| simple(world, "dau", 250, 5, &[])),
    series(
        "mau",
        |world| over(world, "mau", 121, 1, "day", json!({"app_id": APPS[0]})),
        |world| simple(world, "mau", 121, 1, &[("app_id", APPS[0])]),
    ),
    series(
        "new_users",
        |world| over(world, "new_users", 101, 0, "day", json!({})),
        |world| simple(world, "new_users", 101, 0, &[]),
    ),
    series(
        "uninstalls",
        |world| over(world, "uninstalls", 110, 9, "day", json!({})),
        |world| simple(world, "uninstalls", 110, 9, &[]),
    ),
    series(
        "sessions",
        |world| over(world, "sessions", 9, 3, "hour", json!({"segment_id": segment_id(1)})),
        |world| {
            let id = segment_id(1);
            let subject = [("segment_id", id.as_str())];
            let points = points(world, 9, 3, true);
            points.map(|point| simple_row(world, "sessions", &subject, point)).collect()
        },
    ),
    series(
        "custom_event",
        |world| over(world, "custom_event", 40, 2, "day", json!({"event": "50% & more + extra"})),
        |world| simple(world, "custom_event", 40, 2, &[("event", "50% & more + extra")]),
    ),
    series(
        "purchase_quantity",
        |world| over(world, "purchase_quantity", 40, 2, "day", json!({"product": "会员年卡"})),
        |world| simple(world, "purchase_quantity", 40, 2, &[("product", "会员年卡")]),
    ),
    series(
        "purchase_revenue",
        |world| over(world, "purchase_revenue", 130, 2, "day", json!({})),
        |world| simple(world, "purchase_revenue", 130, 2, &[]),
    ),
    DemoDataset {
        empty: Some(|world| over(world, "segment_size", 20, 1, "day", json!({"segment_id": segment_id(2)}))),
        ..series(
            "segment_size",
            |world| over(world, "segment_size", 140, 1, "day", json!({"segment_id": segment_id(3)})),
            |world| simple(world, "segment_size", 140, 1, &[("segment_id", &segment_id(3))]),
        )
    },
    series(
        "campaign",
        |world| over(world, "campaign", 105, 1, "day", json!({"campaign_id": multichannel().id()})),
        |world| of_campaign(world, multichannel(), None, 105, 1),
    ),
    series(
        "campaign, multivariate",
        |world| over(world, "campaign", 12, 1, "day", json!({"campaign_id": multivariate().id()})),
        |world| of_campaign(world, multivariate(), None, 12, 1),
    ),
    DemoDataset {
        empty: Some(|world| {
            let subject = json!({"campaign_id": triggered().id(), "send_id": send_id(20)});
            over(world, "send", 8, 1, "day", subject)
        }),
        ..series(
            "send",
            |world| {
                let subject = json!({"campaign_id": triggered().id(), "send_id": send_id(9)});
                over(world, "send", 8, 1, "day", subject)
            },
            |world| of_campaign(world, triggered(), Some(&send_id(9)), 8, 1),
        )
    },
    // More than 14 days take several calls.
    series(
        "canvas",
        |world| over(world, "canvas", 33, 2, "day", json!({"canvas_id": journey().id()})),
        |world| points(world, 33, 2, false).flat_map(|point| of_canvas(world, journey(), point)).collect(),
    ),
    catalog(Dataset::Audiences, "", |_| json!({"kind": "segment"}), |world| audiences(world, false), LISTS),
    catalog(
        Dataset::Audiences,
        "details",
        |_| json!({"kind": "segment", "details": true}),
        |world| audiences(world, true),
        DETAILS,
    ),
    catalog(Dataset::Campaigns, "", |_| json!({}), |world| all_campaigns(world, false, false), LISTS),
    catalog(
        Dataset::Campaigns,
        "details",
        |_| json!({"details": true, "include_archived": true}),
        |world| all_campaigns(world, true, true),
        DETAILS,
    ),
    catalog(Dataset::Canvases, "", |_| json!({}), |_| all_canvases(false, false), LISTS),
    catalog(
        Dataset::Canvases,
        "details",
        |_| json!({"details": true, "include_archived": true}),
        |_| all_canvases(true, true),
        DETAILS,
    ),
    catalog(Dataset::Events, "", |_| json!({}), |_| events(false), LISTS),
    catalog(Dataset::Events, "details", |_| json!({"details": true}), |_| events(true), LISTS),
    suppressions(
        "unsubscribed",
        // Twice the largest page, exactly.
        |world| suppressed_in(world, "unsubscribed", 20),
        |_| never("unsubscribed"),
        |world| suppressed(world, List::Unsubscribed, "unsubscribed", 20),
    ),
    suppressions(
        "hard_bounced",
        |world| suppressed_in(world, "hard_bounced", 30),
        |_| never("hard_bounced"),
        |world| suppressed(world, List::HardBounced, "hard_bounced", 30),
    ),
    suppressions(
        "invalid_phone",
        |world| suppressed_in(world, "invalid_phone", 15),
        |_| never("invalid_phone"),
        |world| suppressed(world, List::InvalidPhone, "invalid_phone", 15),
    ),
];

const fn series(name: &'static str, parameters: Parameters, truth: Truth) -> DemoDataset {
    DemoDataset { dataset: Dataset::MetricSeries, name, parameters, empty: None, truth, troubles: SERIES }
}

const fn catalog(
    dataset: Dataset,
    name: &'static str,
    parameters: Parameters,
    truth: Truth,
    troubles: &'static [(Trouble, &'static str)],
) -> DemoDataset {
    DemoDataset { dataset, name, parameters, empty: None, truth, troubles }
}

const fn suppressions(name: &'static str, parameters: Parameters, empty: Parameters, truth: Truth) -> DemoDataset {
    DemoDataset { dataset: Dataset::Suppressions, name, parameters, empty: Some(empty), truth, troubles: SUPPRESSIONS }
}

fn asked_by_id(world: &World) -> std::ops::Range<u64> {
    0..world.config.people.min(120)
}

/// Each person by one of the ids, and more unknown ones than fit into a call.
fn identifiers(world: &World) -> Vec<Value> {
    let of = |person: Person| match (&person.user_id, person.aliases.first()) {
        _ if person.oddity == Oddity::Devices => json!({"type": "device_id", "value": profiles::device_id(&person)}),
        _ if person.email.is_some() && person.index % 5 == 2 => json!({"type": "email", "value": person.email}),
        _ if person.phone.is_some() && person.index % 7 == 4 => json!({"type": "phone", "value": person.phone}),
        (Some(id), _) => json!({"type": "user_id", "value": id}),
        (None, Some((label, name))) => json!({"type": "alias", "value": name, "label": label}),
        (None, None) => json!({"type": "vendor_user_id", "value": person.braze_id()}),
    };
    let known = asked_by_id(world).map(|index| of(world.person(index)));
    let unknown = (0..=profiles::MAX_IDS).map(|number| json!({"type": "user_id", "value": format!("nobody-{number}")}));
    known.chain(unknown).collect()
}

/// Midnight of so many days before the sandbox started.
pub(super) fn days_ago(world: &World, days: i64) -> DateTime<Utc> {
    let started = world.started_at();
    started.duration_trunc(TimeDelta::days(1)).unwrap_or(started) - TimeDelta::days(days)
}

/// Parameters of a series.
fn over(world: &World, metric: &str, from: i64, to: i64, interval: &str, subject: Value) -> Value {
    let mut parameters = json!({
        "metric": metric,
        "window": {"from": utc(days_ago(world, from)), "to": utc(days_ago(world, to))},
        "interval": interval,
    });
    if subject.as_object().is_some_and(|subject| !subject.is_empty()) {
        parameters["subject"] = subject;
    }
    parameters
}

fn suppressed_in(world: &World, kind: &str, days: i64) -> Value {
    json!({"kind": kind, "window": {"from": utc(days_ago(world, days)), "to": utc(days_ago(world, 0))}})
}

/// Before anybody was suppressed.
fn never(kind: &str) -> Value {
    json!({"kind": kind, "window": {"from": "2019-01-01T00:00:00Z", "to": "2019-02-01T00:00:00Z"}})
}

/// The first campaign that is neither multivariate nor archived.
fn multichannel() -> Campaign {
    campaign(|campaign| !campaign.is_multivariate())
}

fn multivariate() -> Campaign {
    campaign(Campaign::is_multivariate)
}

fn triggered() -> Campaign {
    campaign(|campaign| campaign.is_api() && !campaign.is_multivariate())
}

fn campaign(is: fn(Campaign) -> bool) -> Campaign {
    let listed = campaigns::listed(false);
    listed.iter().copied().find(|campaign| is(*campaign)).unwrap_or(listed[0])
}

fn journey() -> Canvas {
    canvases::listed(false)[4]
}
