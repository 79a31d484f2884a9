//! Reading back what the parts of an export were kept as: NDJSON of the schema that was asked for.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::exports::{
    fields::UserColumn,
    moments::Time,
    parameters::Interval,
    records::{BadRecord, LineRecords},
    request::{Compression, Dataset, Format, Output, RecordSchema},
    rows::{CatalogRow, Cell, EventRow, MetricRow, Object, ObjectText, Row, SuppressionRow},
    schema,
    user::UserRow,
};

/// How the parts of an export with `output` are kept: cheap to write, to store and to read again. In the order of the
/// vendor's records, so that the same files give the same result, whoever fetched them and however often.
pub fn kept(output: Output) -> Output {
    if output.format == Format::Raw {
        return output;
    }
    Output { format: Format::Ndjson, compression: Compression::Zstd, single_file: true, ordered: true, ..output }
}

/// How the kept lines are to be read to become `output`. Lines that stay lines are not looked into.
pub fn read_back(output: Output) -> Output {
    let schema = if output.format == Format::Ndjson { RecordSchema::Vendor } else { output.schema };
    Output { schema, ordered: true, ..output }
}

/// The records of kept lines.
pub struct Kept(pub Dataset);

const NOT_OURS: BadRecord = BadRecord(Cow::Borrowed("it is not what was kept"));

impl LineRecords for Kept {
    fn unified<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        let schema = self.0.schema();
        if *schema == schema::USER {
            read(line).map(|user: User<'a>| Row::User(user.0))
        } else if *schema == schema::EVENT {
            read(line).map(|event: Event<'a>| Row::Event(event.into()))
        } else if *schema == schema::METRIC {
            read(line).map(|metric: Metric<'a>| Row::Metric(metric.into()))
        } else if *schema == schema::SUPPRESSION {
            read(line).map(|suppression: Suppression<'a>| Row::Suppression(suppression.into()))
        } else {
            read(line).map(|item: Item<'a>| Row::Catalog(item.into()))
        }
    }

    fn vendor(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord> {
        out.extend_from_slice(line);
        Ok(())
    }
}

fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, BadRecord> {
    serde_json::from_slice(line).map_err(|_| NOT_OURS)
}

/// A string, borrowed where it holds no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

type Maybe<'a> = Option<Text<'a>>;

fn cow(text: Maybe<'_>) -> Option<Cow<'_, str>> {
    text.map(|Text(text)| text)
}

/// The members of an object, in their order.
struct Pairs<'a, V>(Vec<(Cow<'a, str>, V)>);

impl<V> Default for Pairs<'_, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Pairs<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Members<V> {
            type Value = Vec<(Cow<'de, str>, V)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

type Free<'a> = Pairs<'a, &'a RawValue>;

fn raw(pairs: Free<'_>) -> Vec<(Cow<'_, str>, Cow<'_, RawValue>)> {
    pairs.0.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))).collect()
}

fn object(pairs: Free<'_>) -> Object<'_> {
    Object(raw(pairs).into_iter().map(|(name, value)| (name, Cell::Json(value))).collect())
}

/// A line of `user.v1`, with the columns that were selected.
struct User<'a>(UserRow<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for User<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;

        impl<'de> Visitor<'de> for Columns {
            type Value = UserRow<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut row = UserRow::default();
                while let Some(Text(name)) = map.next_key()? {
                    match UserColumn::named(&name) {
                        Some(UserColumn::Identities) => {
                            let identities: Pairs<'de, Vec<Text<'de>>> = map.next_value()?;
                            let texts = |texts: Vec<Text<'de>>| texts.into_iter().map(|Text(text)| text).collect();
                            row.identities =
                                identities.0.into_iter().map(|(name, values)| (name, texts(values))).collect();
                        }
                        Some(UserColumn::Attributes) => row.attributes = raw(map.next_value()?),
                        Some(UserColumn::Activity) => row.activity = raw(map.next_value()?),
                        Some(column) => row.set(column, cow(map.next_value()?)),
                        None => return Err(serde::de::Error::custom("no column of a user")),
                    }
                }
                Ok(row)
            }
        }

        deserializer.deserialize_map(Columns).map(Self)
    }
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "they are the columns' names")]
struct Event<'a> {
    #[serde(borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    event_time: Maybe<'a>,
    #[serde(borrow)]
    received_at: Maybe<'a>,
    #[serde(borrow)]
    user_id: Maybe<'a>,
    #[serde(borrow)]
    visitor_id: Maybe<'a>,
    #[serde(borrow)]
    session_id: Maybe<'a>,
    #[serde(borrow)]
    properties: &'a RawValue,
}

impl<'a> From<Event<'a>> for EventRow<'a> {
    fn from(event: Event<'a>) -> Self {
        Self {
            event_type: event.event_type.0,
            event_time: cow(event.event_time).map(Time::Text),
            received_at: cow(event.received_at).map(Time::Text),
            user_id: cow(event.user_id),
            visitor_id: cow(event.visitor_id),
            session_id: cow(event.session_id),
            properties: ObjectText(event.properties.get().into()),
        }
    }
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "they are the columns' names")]
struct Metric<'a> {
    #[serde(borrow)]
    metric: Text<'a>,
    #[serde(borrow)]
    time: Maybe<'a>,
    interval: Option<Interval>,
    #[serde(borrow)]
    dimensions: Free<'a>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

impl<'a> From<Metric<'a>> for MetricRow<'a> {
    fn from(metric: Metric<'a>) -> Self {
        Self {
            metric: metric.metric.0,
            time: cow(metric.time),
            interval: metric.interval,
            dimensions: object(metric.dimensions),
            value: metric.value.map(Cow::Borrowed),
        }
    }
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    name: Maybe<'a>,
    #[serde(borrow)]
    description: Maybe<'a>,
    size: Option<i64>,
    #[serde(borrow)]
    status: Maybe<'a>,
    #[serde(borrow)]
    created_at: Maybe<'a>,
    #[serde(borrow)]
    updated_at: Maybe<'a>,
    #[serde(borrow)]
    vendor: Free<'a>,
}

impl<'a> From<Item<'a>> for CatalogRow<'a> {
    fn from(item: Item<'a>) -> Self {
        Self {
            id: item.id.0,
            kind: item.kind.0,
            name: cow(item.name),
            description: cow(item.description),
            size: item.size,
            status: cow(item.status),
            created_at: cow(item.created_at),
            updated_at: cow(item.updated_at),
            vendor: object(item.vendor),
        }
    }
}

#[derive(Deserialize)]
struct Suppression<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    address: Maybe<'a>,
    #[serde(borrow)]
    suppressed_at: Maybe<'a>,
    #[serde(borrow)]
    reason: Maybe<'a>,
    #[serde(borrow)]
    vendor: Free<'a>,
}

impl<'a> From<Suppression<'a>> for SuppressionRow<'a> {
    fn from(suppression: Suppression<'a>) -> Self {
        Self {
            kind: suppression.kind.0,
            address: cow(suppression.address),
            suppressed_at: cow(suppression.suppressed_at),
            reason: cow(suppression.reason),
            vendor: object(suppression.vendor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::fields::Selection;

    /// Reads a line back as it was written.
    fn written_again(dataset: Dataset, line: &str, selection: &Selection) -> String {
        let mut out = Vec::new();
        Kept(dataset).unified(line.as_bytes()).unwrap().write_json(selection, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_of_row_reads_back_as_it_was_written() {
        let item = r#"{"id":"1","kind":"segment","name":"n","description":null,"size":12,"status":null,"created_at":"2026-01-02T03:04:05Z","updated_at":null,"vendor":{"x":[1e400]}}"#;
        for (dataset, line) in [
            (
                Dataset::RawEvents,
                r#"{"event_type":"visit","event_time":"2026-01-02T03:04:05.678Z","received_at":null,"user_id":"a\"b","visitor_id":null,"session_id":"","properties":{"n":12345678901234567890123,"t":"é"}}"#,
            ),
            (
                Dataset::MetricSeries,
                r#"{"metric":"dau","time":"2026-01-02T00:00:00Z","interval":"day","dimensions":{"app":"x"},"value":1.50}"#,
            ),
            (Dataset::Report, r#"{"metric":"m","time":null,"interval":null,"dimensions":{},"value":null}"#),
            (Dataset::Audiences, item),
            (Dataset::Events, item),
            (
                Dataset::Suppressions,
                r#"{"kind":"unsubscribed","address":"a@example.test","suppressed_at":null,"reason":null,"vendor":{}}"#,
            ),
        ] {
            assert_eq!(written_again(dataset, line, &Selection::everything()), line);
        }
        let selection = Selection::parse(&["user_id".into(), "identities".into(), "attributes.a".into()]).unwrap();
        let line = r#"{"user_id":null,"identities":{"alias:x":["1","2"]},"attributes":{"a":{"b" : 1}}}"#;
        assert_eq!(written_again(Dataset::UserProfiles, line, &selection), line);
    }

    #[test]
    fn anything_else_is_refused() {
        for line in ["{}", "[]", "{\"event_type\":1}", "x"] {
            assert!(Kept(Dataset::RawEvents).unified(line.as_bytes()).is_err(), "{line}");
        }
        assert!(Kept(Dataset::UserProfiles).unified(b"{\"shoe_size\":1}").is_err());
    }
}
