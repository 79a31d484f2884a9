//! The unified records: one struct for each schema, borrowed from the vendor's bytes. What the columns mean is in
//! [`schema`](super::schema), how their cells are written in [`cells`](super::cells).

use std::borrow::Cow;

use serde::{
    Serialize,
    ser::{SerializeMap, Serializer},
};
use serde_json::value::RawValue;

use super::{
    cells::JsonObject, fields::Selection, moments::Time, parameters::Interval, request::Dataset, user::UserRow,
};

/// One unified record.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub enum Row<'a> {
    User(UserRow<'a>),
    Event(EventRow<'a>),
    Metric(MetricRow<'a>),
    Catalog(CatalogRow<'a>),
    Suppression(SuppressionRow<'a>),
}

/// Which struct the rows of a dataset are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    User,
    Event,
    Metric,
    Catalog,
    Suppression,
}

impl Dataset {
    /// Which struct its unified rows are.
    pub const fn row_kind(self) -> RowKind {
        match self {
            Self::AudienceMembers | Self::UserProfiles => RowKind::User,
            Self::RawEvents => RowKind::Event,
            Self::Report | Self::MetricSeries => RowKind::Metric,
            Self::Suppressions => RowKind::Suppression,
            Self::Audiences | Self::Dashboards | Self::EventRules | Self::Campaigns | Self::Canvases | Self::Events => {
                RowKind::Catalog
            }
        }
    }
}

impl Row<'_> {
    pub const fn kind(&self) -> RowKind {
        match self {
            Self::User(_) => RowKind::User,
            Self::Event(_) => RowKind::Event,
            Self::Metric(_) => RowKind::Metric,
            Self::Catalog(_) => RowKind::Catalog,
            Self::Suppression(_) => RowKind::Suppression,
        }
    }

    /// Appends the row to `out` as one JSON object without a line end: every column of the schema, of a user those that
    /// `selection` has. Answers how many dates and times could not be read ([`cells`](super::cells)).
    pub fn append_json(&self, selection: &Selection, out: &mut Vec<u8>) -> u64 {
        let mut object = JsonObject::begin(out);
        let unreadable = self.cells(selection, &mut object);
        object.end();
        unreadable
    }

    /// As [`Row::append_json`].
    ///
    /// # Errors
    /// Never.
    pub fn write_json(&self, selection: &Selection, out: &mut Vec<u8>) -> serde_json::Result<()> {
        self.append_json(selection, out);
        Ok(())
    }
}

/// A value of an object column.
#[derive(Debug, Clone)]
pub enum Cell<'a> {
    Text(Cow<'a, str>),
    /// Any JSON, as it was written.
    Json(Cow<'a, RawValue>),
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Json(json) => json.serialize(serializer),
        }
    }
}

/// An object column: its members in the vendor's order. Names must not repeat.
#[derive(Debug, Clone, Default)]
pub struct Object<'a>(pub Vec<(Cow<'a, str>, Cell<'a>)>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// An object column that is JSON text already: on one line, its names do not repeat.
#[derive(Debug, Clone)]
pub struct ObjectText<'a>(pub Cow<'a, str>);

impl Default for ObjectText<'_> {
    fn default() -> Self {
        Self(Cow::Borrowed("{}"))
    }
}

/// A record of `event.v1`.
#[derive(Debug, Clone, Default)]
pub struct EventRow<'a> {
    pub event_type: Cow<'a, str>,
    pub event_time: Option<Time<'a>>,
    pub received_at: Option<Time<'a>>,
    pub user_id: Option<Cow<'a, str>>,
    pub visitor_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    pub properties: ObjectText<'a>,
}

/// A record of `metric.v1`.
#[derive(Debug, Clone, Default)]
pub struct MetricRow<'a> {
    pub metric: Cow<'a, str>,
    pub time: Option<Cow<'a, str>>,
    pub interval: Option<Interval>,
    pub dimensions: Object<'a>,
    /// A JSON number as the vendor wrote it.
    pub value: Option<Cow<'a, RawValue>>,
}

/// A record of `audience.v1`, `dashboard.v1`, `rule.v1`, `campaign.v1`, `canvas.v1` and `event_definition.v1`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CatalogRow<'a> {
    pub id: Cow<'a, str>,
    pub kind: Cow<'a, str>,
    pub name: Option<Cow<'a, str>>,
    pub description: Option<Cow<'a, str>>,
    pub size: Option<i64>,
    pub status: Option<Cow<'a, str>>,
    pub created_at: Option<Cow<'a, str>>,
    pub updated_at: Option<Cow<'a, str>>,
    pub vendor: Object<'a>,
}

impl CatalogRow<'_> {
    /// The row with nothing borrowed.
    pub fn into_owned(self) -> CatalogRow<'static> {
        fn text(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        let cell = |cell: Cell<'_>| match cell {
            Cell::Text(value) => Cell::Text(text(value)),
            Cell::Json(value) => Cell::Json(Cow::Owned(value.into_owned())),
        };
        CatalogRow {
            id: text(self.id),
            kind: text(self.kind),
            name: self.name.map(text),
            description: self.description.map(text),
            size: self.size,
            status: self.status.map(text),
            created_at: self.created_at.map(text),
            updated_at: self.updated_at.map(text),
            vendor: Object(self.vendor.0.into_iter().map(|(name, value)| (text(name), cell(value))).collect()),
        }
    }
}

/// A record of `suppression.v1`.
#[derive(Debug, Clone, Default)]
pub struct SuppressionRow<'a> {
    pub kind: Cow<'a, str>,
    pub address: Option<Cow<'a, str>>,
    pub suppressed_at: Option<Cow<'a, str>>,
    pub reason: Option<Cow<'a, str>>,
    pub vendor: Object<'a>,
}
