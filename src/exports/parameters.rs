//! What of a dataset is wanted: one shape for each dataset, the same for every vendor. The structs are the JSON of
//! `parameters`; [`Parameters`] is their checked form.

use std::{borrow::Cow, collections::BTreeMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{Ref, RefOr, Schema, schema::AnyOfBuilder},
};

use super::{
    fields::Selection,
    problem::FieldError,
    request::{Dataset, from_json},
};

const MAX_FIELDS: usize = 1000;
const MAX_IDENTIFIERS: usize = 10_000;
const MAX_ID: usize = 255;

/// Checked parameters, by dataset.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameters {
    AudienceMembers { audience: Audience, selection: Selection, refresh: bool },
    UserProfiles { identifiers: Vec<Identifier>, selection: Selection },
    RawEvents(RawEvents),
    Report(Report),
    MetricSeries(MetricSeries),
    Audiences(Audiences),
    Dashboards(Dashboards),
    EventRules,
    Suppressions(Suppressions),
    Campaigns(Messages),
    Canvases(Messages),
    Events(Events),
}

/// Parameters of `audience_members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AudienceMembers {
    pub audience: Audience,
    /// Columns of `user.v1`, or one member of an object column as `attributes.<name>` or `activity.<name>`.
    /// Without it every column the vendor can fill comes out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["user_id", "email", "attributes.plan"]))]
    pub fields: Vec<String>,
    /// Has the vendor compute the audience anew first, where it can (CDP).
    #[serde(default, skip_serializing_if = "is_false")]
    pub refresh: bool,
}

/// A group of users at the vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Audience {
    pub kind: AudienceKind,
    /// What the vendor's API wants: Braze `segment_id`, classic segmentation id, CDP `tagKey` or `segmentKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "5a1b0c2d-0000-4000-8000-000000000001")]
    pub id: Option<String>,
}

/// What kind of group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AudienceKind {
    Segment,
    Tag,
    GlobalControlGroup,
}

impl AudienceKind {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Tag => "tag",
            Self::GlobalControlGroup => "global_control_group",
        }
    }
}

/// Parameters of `user_profiles`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserProfiles {
    /// Whom to look for: 1 to 10,000.
    pub identifiers: Vec<Identifier>,
    /// As for `audience_members`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

/// One name of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Identifier {
    #[serde(rename = "type")]
    pub kind: IdentifierKind,
    #[schema(example = "customer-17")]
    pub value: String,
    /// The label of an alias; only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What kind of name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentifierKind {
    /// The caller's own id of the user.
    UserId,
    /// The vendor's id.
    VendorUserId,
    Alias,
    Email,
    Phone,
    DeviceId,
}

/// A span of time, half-open: `from` belongs to it, `to` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// RFC 3339 with any offset.
    #[schema(example = "2026-11-01T00:00:00+08:00")]
    pub from: DateTime<Utc>,
    /// RFC 3339 with any offset; later than `from`.
    #[schema(example = "2026-11-08T00:00:00+08:00")]
    pub to: DateTime<Utc>,
}

/// Parameters of `raw_events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEvents {
    /// The vendor's types; each is asked for on its own. Without it all types come, in one call for each slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["page", "custom_event"]))]
    pub event_types: Vec<String>,
    pub window: Window,
    #[serde(default)]
    pub granularity: Granularity,
}

/// How a window is cut into slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    #[default]
    Hour,
    Day,
}

/// Parameters of `report`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub report: ReportTarget,
    /// Without it the report's own period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Without it the report's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// A report that is saved at the vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportTarget {
    pub kind: ReportKind,
    /// What the vendor's console shows in the report's address.
    #[schema(example = "YoX28w7R")]
    pub id: String,
    /// Of a funnel: how many days a user has to go through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion_window_days: Option<u32>,
    /// Of a frequency: `10`, `15`, `25`, or limits such as `[1,5,10]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Of a frequency: `max`, `min`, `avg`, `median`, `0.25` or `0.75`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistic: Option<String>,
}

/// What kind of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    Chart,
    Funnel,
    Retention,
    Frequency,
}

impl ReportKind {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chart => "chart",
            Self::Funnel => "funnel",
            Self::Retention => "retention",
            Self::Frequency => "frequency",
        }
    }
}

/// The span of time one value stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    Hour,
    Day,
    Week,
    Month,
}

impl Interval {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

/// Parameters of `metric_series`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricSeries {
    pub metric: Metric,
    pub window: Window,
    /// `day` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The ids that narrow the metric.
    #[serde(default, skip_serializing_if = "Subject::is_empty")]
    pub subject: Subject,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Dau,
    Mau,
    NewUsers,
    Uninstalls,
    Sessions,
    CustomEvent,
    PurchaseQuantity,
    PurchaseRevenue,
    Campaign,
    Canvas,
    SegmentSize,
    Send,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 12] = [
        Self::Dau,
        Self::Mau,
        Self::NewUsers,
        Self::Uninstalls,
        Self::Sessions,
        Self::CustomEvent,
        Self::PurchaseQuantity,
        Self::PurchaseRevenue,
        Self::Campaign,
        Self::Canvas,
        Self::SegmentSize,
        Self::Send,
    ];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dau => "dau",
            Self::Mau => "mau",
            Self::NewUsers => "new_users",
            Self::Uninstalls => "uninstalls",
            Self::Sessions => "sessions",
            Self::CustomEvent => "custom_event",
            Self::PurchaseQuantity => "purchase_quantity",
            Self::PurchaseRevenue => "purchase_revenue",
            Self::Campaign => "campaign",
            Self::Canvas => "canvas",
            Self::SegmentSize => "segment_size",
            Self::Send => "send",
        }
    }

    /// The members of `subject` it cannot do without.
    pub const fn needs(self) -> &'static [&'static str] {
        match self {
            Self::CustomEvent => &["event"],
            Self::Campaign => &["campaign_id"],
            Self::Canvas => &["canvas_id"],
            Self::SegmentSize => &["segment_id"],
            Self::Send => &["campaign_id", "send_id"],
            _ => &[],
        }
    }
}

/// What a metric is about: ids at the vendor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Subject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canvas_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
}

impl Subject {
    /// The members that are set, by name.
    pub fn members(&self) -> BTreeMap<&'static str, &str> {
        [
            ("campaign_id", &self.campaign_id),
            ("canvas_id", &self.canvas_id),
            ("send_id", &self.send_id),
            ("segment_id", &self.segment_id),
            ("event", &self.event),
            ("product", &self.product),
            ("app_id", &self.app_id),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect()
    }

    fn is_empty(&self) -> bool {
        self.members().is_empty()
    }
}

/// Parameters of `audiences`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audiences {
    /// Only of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<AudienceKind>,
    /// Also what the vendor tells only one by one: a call for each.
    #[serde(skip_serializing_if = "is_false")]
    pub details: bool,
}

/// Parameters of `dashboards`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dashboards {
    /// The charts of this dashboard instead of the list of dashboards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Parameters of `event_rules`: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventRules {}

/// Parameters of `suppressions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Suppressions {
    pub kind: SuppressionKind,
    pub window: Window,
}

/// Why an address gets no messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionKind {
    Unsubscribed,
    HardBounced,
    InvalidPhone,
}

impl SuppressionKind {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsubscribed => "unsubscribed",
            Self::HardBounced => "hard_bounced",
            Self::InvalidPhone => "invalid_phone",
        }
    }
}

/// Parameters of `campaigns` and `canvases`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Messages {
    /// Also what the vendor tells only one by one: a call for each.
    #[serde(skip_serializing_if = "is_false")]
    pub details: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub include_archived: bool,
}

/// Parameters of `events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// Also description and status.
    #[serde(skip_serializing_if = "is_false")]
    pub details: bool,
}

/// A list that a vendor gives at once, for choosing ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatalogKind {
    Audiences,
    Dashboards,
    Campaigns,
    Canvases,
    Events,
}

/// `parameters` in JSON; `dataset` says which. Only its schema is used: the shapes overlap, so it is any of them.
#[derive(Debug)]
pub struct ParametersBody;

macro_rules! any_of {
    ($($shape:ident)*) => {
        impl utoipa::PartialSchema for ParametersBody {
            fn schema() -> RefOr<Schema> {
                let any_of = AnyOfBuilder::new().description(Some("The shape depends on `dataset`."));
                $(let any_of = any_of.item(Ref::from_schema_name(stringify!($shape)));)*
                any_of.into()
            }
        }

        impl ToSchema for ParametersBody {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed("Parameters")
            }

            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $(
                    schemas.push(($shape::name().into_owned(), <$shape as utoipa::PartialSchema>::schema()));
                    $shape::schemas(schemas);
                )*
            }
        }
    };
}

any_of! {
    AudienceMembers UserProfiles RawEvents Report MetricSeries Suppressions Audiences Dashboards Messages Events EventRules
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Parameters {
    /// Checks what can be checked without knowing the vendor.
    ///
    /// # Errors
    /// Every field that is wrong, with its pointer below `/parameters`.
    pub fn parse(dataset: Dataset, parameters: &Value) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let parsed = match dataset {
            Dataset::AudienceMembers => {
                let AudienceMembers { audience, fields, refresh } = read(parameters)?;
                check_audience(&audience, &mut errors);
                let selection = selection(&fields, &mut errors);
                Self::AudienceMembers { audience, selection, refresh }
            }
            Dataset::UserProfiles => {
                let UserProfiles { identifiers, fields } = read(parameters)?;
                check_identifiers(&identifiers, &mut errors);
                let selection = selection(&fields, &mut errors);
                Self::UserProfiles { identifiers, selection }
            }
            Dataset::RawEvents => {
                let raw: RawEvents = read(parameters)?;
                check_window(raw.window, &mut errors);
                let mut seen = std::collections::BTreeSet::new();
                for (index, event_type) in raw.event_types.iter().enumerate() {
                    if !seen.insert(event_type) {
                        let pointer = format!("/parameters/event_types/{index}");
                        errors.push(FieldError::new(pointer, "invalid", "this type is named twice"));
                    }
                }
                Self::RawEvents(raw)
            }
            Dataset::Report => {
                let report: Report = read(parameters)?;
                check_id("/parameters/report/id", &report.report.id, &mut errors);
                report.window.into_iter().for_each(|window| check_window(window, &mut errors));
                Self::Report(report)
            }
            Dataset::MetricSeries => {
                let series: MetricSeries = read(parameters)?;
                check_window(series.window, &mut errors);
                check_subject(&series, &mut errors);
                Self::MetricSeries(series)
            }
            Dataset::Audiences => Self::Audiences(read(parameters)?),
            Dataset::Dashboards => {
                let dashboards: Dashboards = read(parameters)?;
                dashboards.id.iter().for_each(|id| check_id("/parameters/id", id, &mut errors));
                Self::Dashboards(dashboards)
            }
            Dataset::EventRules => {
                let EventRules {} = read(parameters)?;
                Self::EventRules
            }
            Dataset::Suppressions => {
                let suppressions: Suppressions = read(parameters)?;
                check_window(suppressions.window, &mut errors);
                Self::Suppressions(suppressions)
            }
            Dataset::Campaigns => Self::Campaigns(read(parameters)?),
            Dataset::Canvases => Self::Canvases(read(parameters)?),
            Dataset::Events => Self::Events(read(parameters)?),
        };
        if errors.is_empty() { Ok(parsed) } else { Err(errors) }
    }

    /// The caller's choice among the columns of `user.v1`; everything for other datasets.
    pub fn selection(&self) -> Selection {
        match self {
            Self::AudienceMembers { selection, .. } | Self::UserProfiles { selection, .. } => selection.clone(),
            _ => Selection::everything(),
        }
    }
}

fn read<T: DeserializeOwned>(parameters: &Value) -> Result<T, Vec<FieldError>> {
    if !parameters.is_object() {
        return Err(vec![FieldError::new("/parameters", "invalid", "an object")]);
    }
    from_json(parameters.clone(), "/parameters").map_err(|error| vec![error])
}

fn selection(fields: &[String], errors: &mut Vec<FieldError>) -> Selection {
    if fields.len() > MAX_FIELDS {
        errors.push(FieldError::new("/parameters/fields", "too_many", format!("at most {MAX_FIELDS} fields")));
    }
    Selection::parse(fields).unwrap_or_else(|more| {
        errors.extend(more);
        Selection::everything()
    })
}

fn check_audience(audience: &Audience, errors: &mut Vec<FieldError>) {
    let pointer = "/parameters/audience/id";
    match (audience.kind, audience.id.as_deref()) {
        (AudienceKind::GlobalControlGroup, Some(_)) => {
            errors.push(FieldError::new(pointer, "not_allowed", "a global control group has no id"));
        }
        (AudienceKind::Segment | AudienceKind::Tag, None) => {
            errors.push(FieldError::new(pointer, "required", "an audience of this kind needs its id"));
        }
        (_, Some(id)) => check_id(pointer, id, errors),
        (_, None) => {}
    }
}

fn check_id(pointer: &str, id: &str, errors: &mut Vec<FieldError>) {
    if id.trim().is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
        errors.push(FieldError::new(pointer, "invalid", format!("an id is 1 to {MAX_ID} printable characters")));
    }
}

fn check_identifiers(identifiers: &[Identifier], errors: &mut Vec<FieldError>) {
    if identifiers.is_empty() || identifiers.len() > MAX_IDENTIFIERS {
        let detail = format!("1 to {MAX_IDENTIFIERS} identifiers");
        errors.push(FieldError::new("/parameters/identifiers", "invalid", detail));
    }
    for (index, identifier) in identifiers.iter().enumerate() {
        check_id(&format!("/parameters/identifiers/{index}/value"), &identifier.value, errors);
        let pointer = format!("/parameters/identifiers/{index}/label");
        match (identifier.kind, identifier.label.as_deref()) {
            (IdentifierKind::Alias, None) => errors.push(FieldError::new(pointer, "required", "an alias has a label")),
            (IdentifierKind::Alias, Some(label)) => check_id(&pointer, label, errors),
            (_, Some(_)) => errors.push(FieldError::new(pointer, "not_allowed", "only an alias has a label")),
            (_, None) => {}
        }
    }
}

fn check_window(window: Window, errors: &mut Vec<FieldError>) {
    if window.to <= window.from {
        errors.push(FieldError::new("/parameters/window/to", "invalid", "later than `from`"));
    }
}

fn check_subject(series: &MetricSeries, errors: &mut Vec<FieldError>) {
    let members = series.subject.members();
    for needed in series.metric.needs() {
        if !members.contains_key(needed) {
            let detail = format!("`{}` is about one `{needed}`", series.metric.as_str());
            errors.push(FieldError::new(format!("/parameters/subject/{needed}"), "required", detail));
        }
    }
    for (name, value) in members {
        check_id(&format!("/parameters/subject/{name}"), value, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(dataset: Dataset, parameters: &Value) -> Vec<String> {
        Parameters::parse(dataset, parameters).unwrap_err().into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn an_audience_has_an_id_unless_it_is_the_control_group() {
        let audience = |audience: Value| json!({"audience": audience});
        let members = Dataset::AudienceMembers;
        assert_eq!(pointers(members, &audience(json!({"kind": "segment"}))), ["/parameters/audience/id"]);
        assert!(Parameters::parse(members, &audience(json!({"kind": "global_control_group"}))).is_ok());
        assert!(Parameters::parse(members, &audience(json!({"kind": "tag", "id": " "}))).is_err());
        assert_eq!(
            pointers(members, &audience(json!({"kind": "segment", "id": "x", "a/b": 1}))),
            ["/parameters/audience/a~1b"]
        );
    }

    #[test]
    fn a_window_is_half_open_and_may_have_any_offset() {
        let window = |from: &str, to: &str| json!({"window": {"from": from, "to": to}});
        let parsed =
            Parameters::parse(Dataset::RawEvents, &window("2026-11-01T00:00:00+08:00", "2026-11-01T01:00:00+08:00"));
        let Parameters::RawEvents(raw) = parsed.unwrap() else { panic!("not raw events") };
        assert_eq!(raw.window.from.to_rfc3339(), "2026-10-31T16:00:00+00:00");
        assert_eq!((raw.granularity, raw.event_types), (Granularity::Hour, Vec::new()));
        let empty = window("2026-11-01T00:00:00Z", "2026-11-01T08:00:00+08:00");
        assert_eq!(pointers(Dataset::RawEvents, &empty), ["/parameters/window/to"]);
        let local = window("2026-11-01T00:00:00", "2026-11-02T00:00:00Z");
        assert_eq!(pointers(Dataset::RawEvents, &local), ["/parameters/window/from"]);
    }

    #[test]
    fn a_metric_names_what_it_is_about() {
        let window = json!({"from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z"});
        let send = json!({"metric": "send", "window": window, "subject": {"campaign_id": "c"}});
        assert_eq!(pointers(Dataset::MetricSeries, &send), ["/parameters/subject/send_id"]);
        let odd = json!({"metric": "dau", "window": window, "subject": {"colour": "red"}});
        assert_eq!(pointers(Dataset::MetricSeries, &odd), ["/parameters/subject/colour"]);
        assert!(Parameters::parse(Dataset::MetricSeries, &json!({"metric": "dau", "window": window})).is_ok());
    }

    #[test]
    fn only_an_alias_has_a_label() {
        let identifiers = json!({"identifiers": [
            {"type": "alias", "value": "a"},
            {"type": "email", "value": "a@example.test", "label": "x"},
            {"type": "alias", "value": "a", "label": "x"},
            {"type": "user_id", "value": ""},
        ]});
        assert_eq!(
            pointers(Dataset::UserProfiles, &identifiers),
            ["/parameters/identifiers/0/label", "/parameters/identifiers/1/label", "/parameters/identifiers/3/value"]
        );
        assert_eq!(pointers(Dataset::UserProfiles, &json!({"identifiers": []})), ["/parameters/identifiers"]);
    }

    #[test]
    fn parameters_are_an_object_and_every_member_is_known() {
        assert_eq!(pointers(Dataset::EventRules, &json!([])), ["/parameters"]);
        assert_eq!(pointers(Dataset::EventRules, &json!({"x": 1})), ["/parameters/x"]);
        assert!(Parameters::parse(Dataset::EventRules, &json!({})).is_ok());
        let twice = json!({"event_types": ["page", "page"], "window": {"from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z"}});
        assert_eq!(pointers(Dataset::RawEvents, &twice), ["/parameters/event_types/1"]);
    }
}
