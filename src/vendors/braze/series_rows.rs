//! The points of a series as `metric.v1`: one row for each figure.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    profiles::element,
    series,
    times::{instant_or_day, seconds, window},
};
use crate::exports::{
    parameters::{Interval, MetricSeries, Window},
    records::{BadRecord, Emit, Framing, Member, Record, Records},
    rows::{Cell, MetricRow, Object, Row},
};
use crate::vendors::object::{self, Members, text};

const NO_OBJECT: BadRecord = BadRecord(Cow::Borrowed("a point of the series is not a JSON object"));
const NO_TIME: BadRecord = BadRecord(Cow::Borrowed("a point of the series has no time that can be read"));

/// Names and values of what a figure is narrowed to.
type Dimensions<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Reads the points of a request.
pub struct Points {
    request: MetricSeries,
}

impl Points {
    pub fn new(request: MetricSeries) -> Self {
        Self { request }
    }
}

impl Records for Points {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Json { records: series::of(self.request.metric).points }
    }

    /// `tag` is the part: its window says which points are its own.
    fn member<'r>(&'r self, tag: &'r str) -> Box<dyn Member + 'r> {
        Box::new(OfPart { request: &self.request, window: window(tag) })
    }
}

struct OfPart<'r> {
    request: &'r MetricSeries,
    window: Option<Window>,
}

impl OfPart<'_> {
    /// The time of a point, if it is one of this part.
    fn own(&self, point: &Members<'_>) -> Result<Option<String>, BadRecord> {
        let time = point.get("time").and_then(text).ok_or(NO_TIME)?;
        let time = instant_or_day(&time).ok_or(NO_TIME)?;
        let is_own = self.window.is_none_or(|window| window.from <= time && time < window.to);
        Ok(is_own.then(|| seconds(time)))
    }
}

impl Member for OfPart<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        let point = Members::read(element(record)?.as_bytes()).map_err(|_| NO_OBJECT)?;
        let Some(time) = self.own(&point)? else { return Ok(()) };
        let subject = self.request.subject.members().into_iter();
        let dimensions: Dimensions = subject.map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value))).collect();
        let mut figures = Figures { time: &time, interval: series::interval(self.request), emit };
        let metric = self.request.metric.as_str();
        match series::of(self.request.metric).figure {
            Some(figure) => {
                let value = point.get(figure).filter(|value| is_number(value));
                figures.row(metric, &dimensions, value)
            }
            None => figures.all(metric, &dimensions, &point),
        }
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let point = Members::read(element(record)?.as_bytes()).map_err(|_| NO_OBJECT)?;
        if self.own(&point)?.is_none() {
            return Ok(());
        }
        let start = out.len();
        object::write(point.0.iter().map(|(name, value)| (name.as_ref(), *value)), out).map_err(|_| NO_OBJECT)?;
        // Values stay as they were written, which may be over several lines.
        out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        Ok(())
    }
}

/// The figures of one point on their way into rows.
struct Figures<'f, 'e> {
    time: &'f str,
    interval: Interval,
    emit: &'f mut Emit<'e>,
}

impl Figures<'_, '_> {
    fn row(&mut self, metric: &str, dimensions: &Dimensions<'_>, value: Option<&RawValue>) -> Result<(), BadRecord> {
        let borrowed = |text: &str| -> Cow<'_, str> { Cow::Owned(text.to_owned()) };
        let cells = dimensions.iter().map(|(name, value)| (borrowed(name), Cell::Text(borrowed(value))));
        (self.emit)(&Row::Metric(MetricRow {
            metric: metric.into(),
            time: Some(self.time.into()),
            interval: Some(self.interval),
            dimensions: Object(cells.collect()),
            value: value.map(Cow::Borrowed),
        }))
    }

    /// Every number of `stats`, below the path. What is narrowed further adds a dimension: variants and steps by their
    /// ids, messages by what they say of themselves.
    fn all(&mut self, path: &str, dimensions: &Dimensions<'_>, stats: &Members<'_>) -> Result<(), BadRecord> {
        for (name, value) in &stats.0 {
            let below = format!("{path}.{name}");
            if is_number(value) {
                self.row(&below, dimensions, Some(value))?;
                continue;
            }
            let Some(members) = Members::of(value) else { continue };
            match name.as_ref() {
                "messages" => self.messages(&below, dimensions, &members)?,
                "variant_stats" => self.each(&below, "variant_id", dimensions, &members)?,
                "step_stats" => self.each(&below, "step_id", dimensions, &members)?,
                _ => self.all(&below, dimensions, &members)?,
            }
        }
        Ok(())
    }

    fn each(
        &mut self,
        path: &str,
        dimension: &'static str,
        dimensions: &Dimensions<'_>,
        stats: &Members<'_>,
    ) -> Result<(), BadRecord> {
        for (id, value) in &stats.0 {
            let Some(members) = Members::of(value) else { continue };
            let mut dimensions = dimensions.clone();
            dimensions.push((Cow::Borrowed(dimension), Cow::Borrowed(id.as_ref())));
            self.all(path, &dimensions, &members)?;
        }
        Ok(())
    }

    /// Channels, whose names are open-ended, each with a list of messages.
    fn messages(&mut self, path: &str, dimensions: &Dimensions<'_>, channels: &Members<'_>) -> Result<(), BadRecord> {
        for (channel, messages) in &channels.0 {
            let path = format!("{path}.{channel}");
            // One message is a list of one, whether it is written as a list or not.
            let list = serde_json::from_str::<Vec<&RawValue>>(messages.get()).unwrap_or_else(|_| vec![*messages]);
            for message in list.into_iter().filter_map(Members::of) {
                let mut dimensions = dimensions.clone();
                let texts = message.0.iter().filter(|(_, value)| value.get().starts_with('"'));
                dimensions.extend(texts.filter_map(|(name, value)| Some((name.clone(), text(value)?))));
                self.all(&path, &dimensions, &message)?;
            }
        }
        Ok(())
    }
}

fn is_number(value: &RawValue) -> bool {
    value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

#[cfg(test)]
#[path = "series_rows_tests.rs"]
mod tests;
