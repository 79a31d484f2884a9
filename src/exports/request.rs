//! What a caller asks for. Parsed once, valid ever after: [`SubmitExport`] is the body, [`ExportRequest`] the
//! checked form that the engine and the vendors work with.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    parameters::{Parameters, ParametersBody},
    problem::FieldError,
};

/// From acceptance to the end, unless the caller says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_hours(6);
/// The longest deadline a caller may ask for.
pub const MAX_DEADLINE: Duration = Duration::from_hours(48);
/// The oldest data a caller may be content with.
const MAX_MAX_AGE: Duration = Duration::from_hours(30 * 24);

const MAX_LABELS: usize = 32;
const MAX_LABEL_KEY: usize = 63;
const MAX_LABEL_VALUE: usize = 255;

/// What can be exported, named the same for every vendor. `GET /v1/vendors` says which vendor has which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Dataset {
    AudienceMembers,
    UserProfiles,
    RawEvents,
    Report,
    MetricSeries,
    Audiences,
    Dashboards,
    EventRules,
    Suppressions,
    Campaigns,
    Canvases,
    Events,
}

impl Dataset {
    /// The name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AudienceMembers => "audience_members",
            Self::UserProfiles => "user_profiles",
            Self::RawEvents => "raw_events",
            Self::Report => "report",
            Self::MetricSeries => "metric_series",
            Self::Audiences => "audiences",
            Self::Dashboards => "dashboards",
            Self::EventRules => "event_rules",
            Self::Suppressions => "suppressions",
            Self::Campaigns => "campaigns",
            Self::Canvases => "canvases",
            Self::Events => "events",
        }
    }
}

/// The body of `POST /v1/exports`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitExport {
    /// The name of a connection the token may use.
    #[schema(example = "growth-braze")]
    pub connection: String,
    pub dataset: Dataset,
    /// What of the dataset; the shape depends on `dataset`, see `GET /v1/vendors/{vendor}`.
    #[serde(default = "empty_object")]
    #[schema(value_type = ParametersBody)]
    pub parameters: Value,
    #[serde(default)]
    pub output: Output,
    #[serde(default)]
    pub delivery: Delivery,
    /// Free text for the caller's own filters: at most 32, keys up to 63 characters of `a-z A-Z 0-9 _ . -`, values up to 255.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// ISO 8601 duration from acceptance after which the export fails; at most `P2D`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "PT6H", default = "PT6H")]
    pub deadline: Option<String>,
    /// Who goes first where exports wait for each other.
    #[serde(default)]
    pub priority: Priority,
    #[serde(default)]
    pub coalesce: Coalesce,
    /// ISO 8601 duration. Above zero, an identical finished export whose data are no older than this may give its files:
    /// this export has then succeeded at once. At most `P30D`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "PT15M", default = "PT0S")]
    pub max_age: Option<String>,
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// How result files look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    pub format: Format,
    pub compression: Compression,
    pub schema: RecordSchema,
    #[serde(skip_serializing_if = "is_default")]
    pub csv: CsvOptions,
    /// Records in the vendor's order. Without it they come as they are done, which is faster.
    #[serde(skip_serializing_if = "is_default")]
    pub ordered: bool,
    /// One file, however large; without it a result is cut into files of about 256 MiB.
    #[serde(skip_serializing_if = "is_default")]
    pub single_file: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub on_bad_record: OnBadRecord,
}

impl Output {
    /// What cannot go together.
    fn errors(self) -> Vec<FieldError> {
        let refused = |field: &str, why: &str| FieldError::new(format!("/output/{field}"), "not_supported", why);
        let mut errors = Vec::new();
        if self.format == Format::Raw {
            let why = "`raw` keeps the vendor's files as they are";
            errors.extend((self.compression != Compression::None).then(|| refused("compression", why)));
            errors.extend(self.single_file.then(|| refused("single_file", why)));
            errors.extend((self.on_bad_record == OnBadRecord::Skip).then(|| refused("on_bad_record", why)));
        }
        if self.format == Format::Parquet && self.compression == Compression::Gzip {
            errors.push(refused("compression", "Parquet packs its columns with zstd; use `none` or `zstd`"));
        }
        errors
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Ndjson,
    /// RFC 4180, in UTF-8, with a header row; objects and arrays are JSON text, null is an empty cell.
    Csv,
    /// Typed columns, packed with zstd; objects and arrays are JSON text.
    Parquet,
    /// The vendor's bytes, untouched.
    Raw,
}

impl Format {
    /// The name in JSON, and the extension of a file's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Raw => "raw",
        }
    }
}

/// What to do about a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRecord {
    /// The export fails, and says where the record is.
    #[default]
    Fail,
    /// The record is left out. Where it was and why is in one more file, `rejected.ndjson`.
    Skip,
}

/// Only for `csv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CsvOptions {
    /// Puts a `'` before a cell that a spreadsheet would run as a formula.
    pub guard_formulas: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { guard_formulas: true }
    }
}

/// How result files are packed. Parquet packs its columns itself, always with zstd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Which columns a record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordSchema {
    /// The same columns for every vendor, e.g. `user.v1` for users.
    #[default]
    Unified,
    /// The vendor's own record, re-encoded.
    Vendor,
}

/// Where result files go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Delivery {
    /// Kept by Headgate and downloaded from it.
    #[default]
    Gateway,
    /// Also copied to a destination, completely or not at all: a reader waits for `_manifest.json`, which comes last.
    Destination {
        /// Its name; `GET /v1/destinations` lists them.
        #[schema(example = "lake")]
        destination: String,
        /// The folder below it, where `{dataset}`, `{connection}`, `{vendor}`, `{date}` and `{hour}` (of acceptance, in
        /// UTC), `{id}`, `{tenant}` and `{label.<key>}` are filled in. An older delivery to the same folder is replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(
            nullable = false,
            max_length = 512,
            default = "{dataset}/{date}/{id}/",
            example = "braze/plan/{dataset}/{date}/{id}/"
        )]
        prefix: Option<String>,
    },
}

/// Whether identical live exports may share one vendor export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coalesce {
    /// They may: the vendor is asked once, and each export gets the files. The data may have been taken since the first
    /// of them began; `result.data_as_of` says when.
    #[default]
    InFlight,
    /// This one always asks the vendor again, and nobody shares with it.
    None,
}

/// Where exports wait for a worker or for room at the vendor, tenants take turns, and within a tenant the older go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// It may wait: about eight interactive exports go for each of these, so that they wait but never for ever.
    Batch,
}

impl Priority {
    /// How far one export moves its tenant back in the line.
    pub const fn weight(self) -> i64 {
        match self {
            Self::Interactive => 1,
            Self::Batch => 8,
        }
    }
}

/// A checked request, as the engine keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRequest {
    pub dataset: Dataset,
    pub parameters: Parameters,
    pub output: Output,
}

impl ExportRequest {
    /// Checks what can be checked without knowing the vendor.
    ///
    /// # Errors
    /// Every field that is wrong, with its pointer.
    pub fn parse(dataset: Dataset, parameters: &Value, output: Output) -> Result<Self, Vec<FieldError>> {
        let errors = output.errors();
        match Parameters::parse(dataset, parameters) {
            Ok(parameters) if errors.is_empty() => Ok(Self { dataset, parameters, output }),
            Ok(_) => Err(errors),
            Err(more) => Err([errors, more].concat()),
        }
    }
}

impl SubmitExport {
    /// The deadline in force.
    ///
    /// # Errors
    /// Everything about the body that needs no knowledge of the vendor: deadline, reuse, labels.
    pub fn deadline(&self) -> Result<Duration, Vec<FieldError>> {
        let mut errors = Self::label_errors(&self.labels);
        let deadline = match self.deadline.as_deref().map(parse_duration) {
            None => DEFAULT_DEADLINE,
            Some(Some(deadline)) if !deadline.is_zero() && deadline <= MAX_DEADLINE => deadline,
            Some(_) => {
                errors.push(FieldError::new(
                    "/deadline",
                    "invalid",
                    "an ISO 8601 duration such as PT6H, longer than zero and at most P2D",
                ));
                DEFAULT_DEADLINE
            }
        };
        if self.parsed_max_age().is_none() {
            let why = "an ISO 8601 duration such as PT15M, at most P30D";
            errors.push(FieldError::new("/max_age", "invalid", why));
        }
        if self.coalesce == Coalesce::None && !self.max_age().is_zero() {
            let why = "contradicts `coalesce`: with `none` the vendor is always asked again";
            errors.push(FieldError::new("/max_age", "invalid", why));
        }
        if errors.is_empty() { Ok(deadline) } else { Err(errors) }
    }

    /// How old the data of a finished export may be to be given again; zero for none. Read after [`Self::deadline`] has
    /// found no error.
    pub fn max_age(&self) -> Duration {
        self.parsed_max_age().unwrap_or_default()
    }

    fn parsed_max_age(&self) -> Option<Duration> {
        let Some(text) = self.max_age.as_deref() else { return Some(Duration::ZERO) };
        parse_duration(text).filter(|max_age| *max_age <= MAX_MAX_AGE)
    }

    /// What is wrong with labels.
    pub fn label_errors(labels: &BTreeMap<String, String>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if labels.len() > MAX_LABELS {
            errors.push(FieldError::new("/labels", "too_many", format!("at most {MAX_LABELS} labels")));
        }
        for (key, value) in labels {
            let pointer = format!("/labels/{}", escape_pointer(key));
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            if key.is_empty() || key.len() > MAX_LABEL_KEY || !key.chars().all(plain) {
                errors.push(FieldError::new(
                    pointer,
                    "invalid",
                    format!("a key is 1 to {MAX_LABEL_KEY} characters of a-z A-Z 0-9 _ . -"),
                ));
            } else if value.chars().count() > MAX_LABEL_VALUE || value.contains('\0') {
                errors.push(FieldError::new(
                    pointer,
                    "invalid",
                    format!("a value is at most {MAX_LABEL_VALUE} characters, without NUL"),
                ));
            }
        }
        errors
    }
}

/// Parses an ISO 8601 duration of days or less; years and months have no fixed length and are refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    text.parse::<iso8601_duration::Duration>().ok()?.to_std()
}

/// Reads `value` as `T`; an error points at the field to blame, below `base`.
///
/// # Errors
/// The first field that does not fit.
pub fn from_json<T: DeserializeOwned>(value: Value, base: &str) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| field_error(&error, base))
}

/// The field a deserialization failed at, as a pointer below `base`.
pub fn field_error(error: &serde_path_to_error::Error<serde_json::Error>, base: &str) -> FieldError {
    use serde_path_to_error::Segment;
    let tokens = error.path().iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", escape_pointer(key))),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    let mut pointer = base.to_owned() + &tokens.collect::<String>();
    let text = error.inner().to_string();
    let detail = text.split(" at line ").next().unwrap_or(&text).to_owned();
    let code = if detail.starts_with("unknown field") {
        "unknown_field"
    } else if detail.starts_with("missing field") {
        "required"
    } else {
        "invalid"
    };
    if code != "invalid" {
        let name = detail.split('`').nth(1).unwrap_or_default();
        let suffix = format!("/{}", escape_pointer(name));
        if !pointer.ends_with(&suffix) {
            pointer += &suffix;
        }
    }
    FieldError { pointer, code: code.into(), detail }
}

/// Escapes one reference token of a JSON Pointer (RFC 6901).
pub fn escape_pointer(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(value: Value) -> Result<SubmitExport, FieldError> {
        from_json(value, "")
    }

    #[test]
    fn unknown_and_missing_fields_are_pointed_at() {
        let pointer = |value| body(value).unwrap_err().pointer;
        assert_eq!(pointer(json!({"connection": "c", "dataset": "audience_members", "colour": 1})), "/colour");
        assert_eq!(
            pointer(json!({"connection": "c", "dataset": "audience_members", "output": {"fmt": 1}})),
            "/output/fmt"
        );
        assert_eq!(pointer(json!({"connection": "c"})), "/dataset");
        assert_eq!(
            pointer(json!({"connection": "c", "dataset": "audience_members", "output": {"format": "xlsx"}})),
            "/output/format"
        );
    }

    #[test]
    fn deadlines_are_iso_8601_and_at_most_two_days() {
        let deadline = |text: &str| {
            body(json!({"connection": "c", "dataset": "audience_members", "deadline": text})).unwrap().deadline()
        };
        assert_eq!(deadline("PT90S").unwrap().as_secs(), 90);
        assert_eq!(deadline("P2D").unwrap(), MAX_DEADLINE);
        for bad in ["P2DT1S", "PT0S", "6h", "P1M", "-PT1H", ""] {
            assert_eq!(deadline(bad).unwrap_err()[0].pointer, "/deadline", "{bad}");
        }
    }

    #[test]
    fn raw_output_is_never_compressed_again() {
        let output = Output { format: Format::Raw, compression: Compression::Gzip, ..Output::default() };
        let parameters = json!({"audience": {"kind": "segment", "id": "x"}});
        let errors = ExportRequest::parse(Dataset::AudienceMembers, &parameters, output).unwrap_err();
        assert_eq!(errors[0].pointer, "/output/compression");
    }
}
