//! The unified schemas: which columns each has and what they mean. Published under `/v1/vendors` and in `docs/schemas`.

use super::{
    fields::{ColumnType, UserColumn},
    request::Dataset,
};

/// A unified schema; its name ends with its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    pub name: &'static str,
    /// What one record is, for people.
    pub says: &'static str,
    pub columns: &'static [Column],
}

/// One column of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: ColumnType,
    /// What it means, for people.
    pub description: &'static str,
}

const fn column(name: &'static str, kind: ColumnType, description: &'static str) -> Column {
    Column { name, kind, description }
}

const fn user_columns() -> [Column; UserColumn::ALL.len()] {
    let mut columns = [column("", ColumnType::Text, ""); UserColumn::ALL.len()];
    let mut index = 0;
    while index < columns.len() {
        let user = UserColumn::ALL[index];
        columns[index] = column(user.name(), user.kind(), user.description());
        index += 1;
    }
    columns
}

pub const USER: Schema = Schema { name: "user.v1", says: "One user.", columns: &user_columns() };

pub const EVENT: Schema = Schema {
    name: "event.v1",
    says: "One event as it was tracked.",
    columns: &[
        column("event_type", ColumnType::Text, "The vendor's type of event"),
        column("event_time", ColumnType::Timestamp, "When it happened, by the device's clock"),
        column("received_at", ColumnType::Timestamp, "When the vendor received it"),
        column("user_id", ColumnType::Text, "The caller's own id of the user; null if anonymous"),
        column("visitor_id", ColumnType::Text, "The vendor's id of the visitor"),
        column("session_id", ColumnType::Text, "The vendor's id of the session"),
        column("properties", ColumnType::Object, "Everything else the vendor tells, by the vendor's own names"),
    ],
};

pub const METRIC: Schema = Schema {
    name: "metric.v1",
    says: "One figure.",
    columns: &[
        column("metric", ColumnType::Text, "What is counted; a dotted path where a series has many figures"),
        column("time", ColumnType::Timestamp, "The beginning of the time it stands for; null for a total"),
        column("interval", ColumnType::Text, "How long that time is: hour, day, week or month"),
        column("dimensions", ColumnType::Object, "What the figure is narrowed to, name to text"),
        column("value", ColumnType::Number, "The figure; null where the vendor gave no number"),
    ],
};

const CATALOG_COLUMNS: &[Column] = &[
    column("id", ColumnType::Text, "What an export's parameters want"),
    column("kind", ColumnType::Text, "What kind of thing it is"),
    column("name", ColumnType::Text, "What people call it"),
    column("description", ColumnType::Text, "What people say of it"),
    column("size", ColumnType::Integer, "How many users it has, where the vendor tells"),
    column("status", ColumnType::Text, "Its state in the vendor's words"),
    column("created_at", ColumnType::Timestamp, "When it was made"),
    column("updated_at", ColumnType::Timestamp, "When it was last changed"),
    column("vendor", ColumnType::Object, "Everything else the vendor tells, by the vendor's own names"),
];

pub const AUDIENCE: Schema =
    Schema { name: "audience.v1", says: "One group of users that can be exported.", columns: CATALOG_COLUMNS };
pub const DASHBOARD: Schema =
    Schema { name: "dashboard.v1", says: "One dashboard, or one chart of a dashboard.", columns: CATALOG_COLUMNS };
pub const RULE: Schema =
    Schema { name: "rule.v1", says: "One rule that makes events of raw data.", columns: CATALOG_COLUMNS };
pub const CAMPAIGN: Schema = Schema { name: "campaign.v1", says: "One campaign.", columns: CATALOG_COLUMNS };
pub const CANVAS: Schema = Schema { name: "canvas.v1", says: "One canvas.", columns: CATALOG_COLUMNS };
pub const EVENT_DEFINITION: Schema =
    Schema { name: "event_definition.v1", says: "One kind of custom event.", columns: CATALOG_COLUMNS };

pub const SUPPRESSION: Schema = Schema {
    name: "suppression.v1",
    says: "One address that gets no messages.",
    columns: &[
        column("kind", ColumnType::Text, "unsubscribed, hard_bounced or invalid_phone"),
        column("address", ColumnType::Text, "The e-mail address or phone number"),
        column("suppressed_at", ColumnType::Timestamp, "Since when"),
        column("reason", ColumnType::Text, "Why, in the vendor's words"),
        column("vendor", ColumnType::Object, "Everything else the vendor tells, by the vendor's own names"),
    ],
};

/// Every schema.
pub const ALL: [&Schema; 10] =
    [&USER, &EVENT, &METRIC, &AUDIENCE, &DASHBOARD, &RULE, &CAMPAIGN, &CANVAS, &EVENT_DEFINITION, &SUPPRESSION];

impl Dataset {
    /// The unified schema of its records.
    pub const fn schema(self) -> &'static Schema {
        match self {
            Self::AudienceMembers | Self::UserProfiles => &USER,
            Self::RawEvents => &EVENT,
            Self::Report | Self::MetricSeries => &METRIC,
            Self::Audiences => &AUDIENCE,
            Self::Dashboards => &DASHBOARD,
            Self::EventRules => &RULE,
            Self::Suppressions => &SUPPRESSION,
            Self::Campaigns => &CAMPAIGN,
            Self::Canvases => &CANVAS,
            Self::Events => &EVENT_DEFINITION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_schema_lists_exactly_its_columns() {
        for schema in ALL {
            let path = format!("{}/docs/schemas/{}.md", env!("CARGO_MANIFEST_DIR"), schema.name);
            let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let row = |column: &Column| {
                let kind = serde_json::to_value(column.kind).unwrap();
                let kind = kind.as_str().unwrap().replace('_', " ");
                format!("| `{}` | {kind} | {} |", column.name, column.description)
            };
            let listed: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
            assert_eq!(listed, schema.columns.iter().map(row).collect::<Vec<_>>(), "{path}");
        }
    }
}
