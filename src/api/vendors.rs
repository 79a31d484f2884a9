//! What can be exported from where. Says what the vendors' own specs say.

use std::time::Duration;

use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    caller::{AnyScope, Authorized},
    problem::{Answer, ApiError},
    responses::{Absent, Unauthenticated},
};
use crate::{
    exports::{
        fields::{ColumnType, UserColumn},
        parameters::{
            AudienceKind, Audiences, CatalogKind, Dashboards, EventRules, Events, Messages, MetricSeries, RawEvents,
            Report, Suppressions, UserProfiles,
        },
        request::Dataset,
        schema::{Column, Schema},
    },
    operations::vendors as operation,
};

/// A kind of backend.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Vendor)]
pub struct VendorView {
    #[schema(example = "braze")]
    pub name: &'static str,
    #[schema(example = "Braze")]
    pub display_name: &'static str,
    pub datasets: Vec<DatasetView>,
    /// JSON Schema of a connection's `settings`.
    #[schema(value_type = Object)]
    pub settings_schema: Value,
    /// What a connection's `credentials` may hold; every value is a string.
    pub credentials: Vec<CredentialView>,
    /// What `GET /v1/connections/{name}/catalog/{kind}` lists.
    pub catalogs: &'static [CatalogKind],
}

/// A value a connection must bring to use the vendor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CredentialName)]
pub struct CredentialView {
    #[schema(example = "api_key")]
    pub name: &'static str,
    pub description: &'static str,
    /// False where the vendor takes one of several.
    pub required: bool,
}

/// One dataset of a vendor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VendorDataset)]
pub struct DatasetView {
    pub dataset: Dataset,
    /// The unified schema of its records.
    #[schema(example = "user.v1")]
    pub schema: &'static str,
    /// JSON Schema of the request's `parameters`.
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// The columns of the unified schema.
    pub columns: Vec<ColumnView>,
    /// Limits of the vendor, in words.
    pub limits: &'static [&'static str],
    /// How long it usually takes, in words.
    #[schema(example = "minutes")]
    pub typical_latency: &'static str,
    /// ISO 8601 duration: with no sign of progress for this long the export fails.
    #[schema(example = "PT1H")]
    pub stall_window: String,
    /// What runs of a schedule wait for unless it says otherwise.
    pub ready_after: ReadyAfterView,
}

/// How long after the end of a window its data is there, as far as the vendor says. ISO 8601 durations.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReadyAfter)]
pub struct ReadyAfterView {
    /// Of data by the hour.
    #[schema(example = "PT1H")]
    pub hours: String,
    /// Of data by the day, or longer.
    #[schema(example = "PT6H")]
    pub days: String,
}

/// One column of a unified schema.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Column)]
pub struct ColumnView {
    #[schema(example = "email")]
    pub name: &'static str,
    #[serde(rename = "type")]
    pub kind: ColumnType,
    pub description: &'static str,
    /// Whether the vendor fills it without a mapping of the connection.
    pub filled: bool,
}

/// Every vendor.
#[derive(Debug, Serialize, ToSchema)]
pub struct VendorList {
    pub data: Vec<VendorView>,
    /// Always empty: all of them come at once.
    pub next_page_token: String,
}

/// List vendors
///
/// What can be exported from where: datasets, their parameters, columns and limits.
#[utoipa::path(
    tag = "vendors",
    security(("bearer" = [])),
    responses((status = 200, description = "Every vendor.", body = VendorList), Unauthenticated),
)]
#[get("/v1/vendors")]
pub async fn list_vendors(_caller: Authorized<AnyScope>) -> HttpResponse {
    HttpResponse::Ok().json(VendorList {
        data: operation::list_vendors().iter().filter_map(|vendor| view(vendor.name)).collect(),
        next_page_token: String::new(),
    })
}

/// Read a vendor
#[utoipa::path(
    tag = "vendors",
    security(("bearer" = [])),
    params(("vendor" = String, Path, description = "The vendor's name, e.g. `braze`.")),
    responses((status = 200, description = "The vendor.", body = VendorView), Unauthenticated, Absent),
)]
#[get("/v1/vendors/{vendor}")]
pub async fn get_vendor(_caller: Authorized<AnyScope>, name: web::Path<String>) -> Answer {
    view(&name).map(|vendor| HttpResponse::Ok().json(vendor)).ok_or_else(|| ApiError::not_found("vendor"))
}

/// The names of a vendor's datasets.
pub fn dataset_names(vendor: &str) -> Vec<Dataset> {
    operation::get_vendor(vendor).map_or_else(Vec::new, |spec| spec.datasets.iter().map(|spec| spec.dataset).collect())
}

fn view(name: &str) -> Option<VendorView> {
    let spec = operation::get_vendor(name)?;
    let datasets = spec.datasets.iter().map(|dataset| DatasetView {
        dataset: dataset.dataset,
        schema: dataset.dataset.schema().name,
        parameters: parameters_schema(dataset.dataset, dataset.audience_kinds),
        columns: columns(dataset.dataset.schema(), dataset.filled),
        limits: dataset.limits,
        typical_latency: dataset.typical_latency,
        stall_window: duration(dataset.stall_window),
        ready_after: ReadyAfterView {
            hours: duration(dataset.ready_after.hours),
            days: duration(dataset.ready_after.days),
        },
    });
    let credentials = spec.credentials.iter().map(|value| CredentialView {
        name: value.name,
        description: value.description,
        required: value.required,
    });
    Some(VendorView {
        name: spec.name,
        display_name: spec.display_name,
        datasets: datasets.collect(),
        settings_schema: (spec.settings_schema)(),
        catalogs: spec.catalogs,
        credentials: credentials.collect(),
    })
}

fn columns(schema: &Schema, filled: &[&str]) -> Vec<ColumnView> {
    let view = |column: &Column| ColumnView {
        name: column.name,
        kind: column.kind,
        description: column.description,
        filled: filled.contains(&column.name),
    };
    schema.columns.iter().map(view).collect()
}

/// What [`ExportRequest::parse`](crate::exports::request::ExportRequest::parse) accepts, for the vendor's kinds of audience.
fn parameters_schema(dataset: Dataset, kinds: &[AudienceKind]) -> Value {
    match dataset {
        Dataset::AudienceMembers => audience_members_schema(kinds),
        Dataset::UserProfiles => self_contained::<UserProfiles>(),
        Dataset::RawEvents => self_contained::<RawEvents>(),
        Dataset::Report => self_contained::<Report>(),
        Dataset::MetricSeries => self_contained::<MetricSeries>(),
        Dataset::Audiences => self_contained::<Audiences>(),
        Dataset::Dashboards => self_contained::<Dashboards>(),
        Dataset::EventRules => self_contained::<EventRules>(),
        Dataset::Suppressions => self_contained::<Suppressions>(),
        Dataset::Campaigns | Dataset::Canvases => self_contained::<Messages>(),
        Dataset::Events => self_contained::<Events>(),
    }
}

/// The schema of a type with everything it refers to below `$defs`.
fn self_contained<T: ToSchema>() -> Value {
    let mut referred = Vec::new();
    T::schemas(&mut referred);
    let defs: Map<String, Value> =
        referred.into_iter().filter_map(|(name, schema)| Some((name, serde_json::to_value(schema).ok()?))).collect();
    let mut schema = serde_json::to_value(T::schema()).unwrap_or_default();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    if !defs.is_empty() {
        schema["$defs"] = Value::Object(defs);
    }
    point_into_defs(&mut schema);
    schema
}

fn point_into_defs(schema: &mut Value) {
    match schema {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix("#/components/schemas/") {
                *text = format!("#/$defs/{name}");
            }
        }
        Value::Array(values) => values.iter_mut().for_each(point_into_defs),
        Value::Object(members) => members.values_mut().for_each(point_into_defs),
        _ => {}
    }
}

fn audience_members_schema(kinds: &[AudienceKind]) -> Value {
    let audiences: Vec<_> = kinds.iter().copied().map(audience_schema).collect();
    let names: Vec<_> = UserColumn::ALL.iter().map(|column| column.name()).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["audience"],
        "additionalProperties": false,
        "properties": {
            "audience": {"oneOf": audiences},
            "fields": {
                "description": "Columns, or members of an object column; without it every column comes out.",
                "type": "array",
                "maxItems": 1000,
                "items": {"anyOf": [{"enum": names}, {"type": "string", "pattern": "^(attributes|activity)\\..+$"}]},
            },
            "refresh": {
                "description": "Has the vendor compute the audience anew first, where it can.",
                "type": "boolean",
                "default": false,
            },
        },
    })
}

fn audience_schema(kind: AudienceKind) -> Value {
    let mut schema = json!({
        "type": "object",
        "required": ["kind"],
        "additionalProperties": false,
        "properties": {"kind": {"const": kind.as_str()}},
    });
    if kind != AudienceKind::GlobalControlGroup {
        schema["required"] = json!(["kind", "id"]);
        schema["properties"]["id"] =
            json!({"type": "string", "minLength": 1, "maxLength": 255, "description": "What the vendor's API wants."});
    }
    schema
}

/// An ISO 8601 duration; milliseconds where it has any.
pub fn duration(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => iso_8601(duration.as_secs()),
        millis => format!("PT{}.{millis:03}S", duration.as_secs()),
    }
}

/// Whole hours or minutes where possible, else seconds.
fn iso_8601(secs: u64) -> String {
    match secs {
        0 => "PT0S".into(),
        secs if secs.is_multiple_of(3600) => format!("PT{}H", secs / 3600),
        secs if secs.is_multiple_of(60) => format!("PT{}M", secs / 60),
        secs => format!("PT{secs}S"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::schema;

    #[test]
    fn only_a_control_group_has_no_id() {
        let schema =
            parameters_schema(Dataset::AudienceMembers, &[AudienceKind::Segment, AudienceKind::GlobalControlGroup]);
        let required = |index: usize| schema["properties"]["audience"]["oneOf"][index]["required"].clone();
        assert_eq!((required(0), required(1)), (json!(["kind", "id"]), json!(["kind"])));
    }

    #[test]
    fn every_column_is_published_with_its_type() {
        let columns = serde_json::to_value(columns(&schema::USER, &["email"])).unwrap();
        assert_eq!(columns.as_array().unwrap().len(), UserColumn::ALL.len());
        assert_eq!(columns[3]["name"], "email");
        assert_eq!((&columns[3]["type"], &columns[3]["filled"]), (&json!("text"), &json!(true)));
        assert_eq!((&columns[2]["type"], &columns[2]["filled"]), (&json!("text_lists"), &json!(false)));
    }

    #[test]
    fn durations_are_iso_8601() {
        assert_eq!([0, 90, 1800, 7200].map(iso_8601), ["PT0S", "PT90S", "PT30M", "PT2H"]);
        assert_eq!(duration(Duration::from_millis(1050)), "PT1.050S");
    }
}
