//! What Braze offers, for people and for the API.

use std::time::Duration;

use serde_json::{Value, json};

use super::{bucket, connect, sandbox};
use crate::exports::{fields::UserColumn, parameters::AudienceKind, request::Dataset};
use crate::vendors::{CatalogKind, CredentialSpec, DatasetSpec, ReadyAfter, VendorSpec};

const SECONDS: &str = "Seconds; a call takes less than one";
const SHARED_POOL: &str = "250,000 requests an hour, shared with most of Braze's other endpoints";
const CATALOG_COLUMNS: &[&str] = &["id", "kind", "name", "description", "status", "created_at", "updated_at", "vendor"];

const fn at_once(dataset: Dataset, filled: &'static [&'static str], limits: &'static [&'static str]) -> DatasetSpec {
    DatasetSpec {
        dataset,
        audience_kinds: &[],
        filled,
        typical_latency: SECONDS,
        stall_window: Duration::from_hours(1),
        ready_after: ReadyAfter::AT_ONCE,
        poll_factor: 1,
        limits,
    }
}

pub const SPEC: VendorSpec = VendorSpec {
    name: "braze",
    display_name: "Braze",
    datasets: &[
        DatasetSpec {
            dataset: Dataset::AudienceMembers,
            audience_kinds: &[AudienceKind::Segment, AudienceKind::GlobalControlGroup],
            filled: UserColumn::NAMES,
            typical_latency: "Minutes; an app with 20 million users can take an hour or more",
            // Braze reports a failed build only by e-mail to people. Its slowest documented export takes "an hour or
            // more".
            stall_window: Duration::from_hours(3),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[
                "One running export per segment; another one waits",
                "100 running exports per company, shared with every other tool; a connection takes at most 50",
                SHARED_POOL,
                "At most 500 single custom attributes of a segment; ask for `attributes` to get all. Of the global \
                 control group all are read and the others dropped",
                "The global control group has neither received campaigns and canvases, clicked cards, subscription \
                 states nor push tokens",
                "Custom events, purchases, campaigns and canvases that happened in the last 90 days",
                "Without storage of its own, Braze builds one archive, whose size is limited; fewer fields are faster \
                 and fail less often. A larger segment has to be split in Braze, for example by random bucket number",
                "Braze's download link works for about 4 hours once the archive is done",
                "A workspace with its own cloud storage exports to it: set `settings.bucket`",
                "Cancelling stops every running export of the segment, also those of other tools",
            ],
        },
        DatasetSpec {
            typical_latency: "Seconds for each 50 users",
            ..at_once(
                Dataset::UserProfiles,
                UserColumn::NAMES,
                &[
                    "50 external ids and aliases in one call; every other kind of id takes a call of its own",
                    "250 calls a minute; 40 a second without received campaigns and canvases. Older accounts have more",
                    "A user who is named by two different ids may appear twice",
                    "Single custom attributes cannot be named: all are read and the others dropped",
                ],
            )
        },
        at_once(
            Dataset::MetricSeries,
            &["metric", "time", "interval", "dimensions", "value"],
            &[
                "By day; sessions, custom events and purchases by hour, too",
                "100 points in one call, 14 of a canvas or a send; a wider window takes more calls",
                "Figures of a send are kept for 14 days after it",
                "Purchases: 1,000 calls an hour, shared with lists of events; campaigns: 50,000 a minute",
                SHARED_POOL,
                "The latest day still changes; a point counts if it begins in the window",
            ],
        ),
        at_once(Dataset::Audiences, CATALOG_COLUMNS, &[SHARED_POOL, "Archived segments are never listed"]),
        at_once(Dataset::Campaigns, CATALOG_COLUMNS, &[SHARED_POOL, "Details take a call for each campaign"]),
        at_once(Dataset::Canvases, CATALOG_COLUMNS, &[SHARED_POOL, "Details take a call for each canvas"]),
        at_once(
            Dataset::Events,
            &["id", "kind", "name", "description", "status", "vendor"],
            &["1,000 calls an hour, shared with purchases"],
        ),
        at_once(
            Dataset::Suppressions,
            &["kind", "address", "suppressed_at", "reason", "vendor"],
            &[SHARED_POOL, "500 addresses in one call"],
        ),
    ],
    settings_schema,
    credentials: &[
        CredentialSpec {
            name: "api_key",
            description: "REST API key with the permission of each dataset to be exported, such as users.export.segment",
            required: true,
        },
        CredentialSpec {
            name: bucket::ACCESS_KEY_ID,
            description: "Of the bucket: access key id (S3), HMAC access id (Google), storage account (Azure)",
            required: false,
        },
        CredentialSpec {
            name: bucket::SECRET_ACCESS_KEY,
            description: "Of the bucket: secret access key (S3), HMAC secret (Google), access key (Azure)",
            required: false,
        },
    ],
    catalogs: &[CatalogKind::Audiences, CatalogKind::Campaigns, CatalogKind::Canvases, CatalogKind::Events],
    connect,
    sandbox: sandbox::routes,
    sandbox_connection: sandbox::demo_connection,
};

fn settings_schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["base_url"],
        "properties": {
            "base_url": {
                "type": "string",
                "format": "uri",
                "title": "REST endpoint",
                "description": "The REST endpoint of the instance the key belongs to, not its dashboard or SDK endpoint",
                "examples": ["https://rest.iad-01.braze.com", "https://rest.fra-01.braze.eu"]
            },
            "bucket": {
                "type": "object",
                "title": "Own cloud storage",
                "description": "Where the workspace's own exports go, if it has cloud storage credentials in Braze",
                "additionalProperties": false,
                "required": ["url"],
                "properties": {
                    "url": {
                        "type": "string",
                        "format": "uri",
                        "description": "The bucket and what comes before `segment-export` in it",
                        "examples": ["s3://exports-of-braze", "gs://exports/braze", "az://container", "file:///mnt/exports"]
                    },
                    "endpoint": {
                        "type": "string",
                        "format": "uri",
                        "description": "Of a store that is compatible with S3, or of an Azure account"
                    },
                    "region": { "type": "string", "description": "Of an S3 bucket", "examples": ["eu-central-1"] },
                    "quiet_secs": {
                        "type": "integer",
                        "minimum": 0,
                        "default": 60,
                        "description": "How long no object may have been added before an export counts as complete"
                    }
                }
            }
        }
    })
}
