//! The tables of raw data and their columns, as `api/originaldata-export-v2/characters/` and
//! `api/originaldata-export-v1/characters/` list them.

use self::Kind::{Double, Integer, Map, Text};

/// How a column's cells are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Double,
    Map,
}

/// One table of raw data v2.
pub struct DataType {
    pub name: &'static str,
    /// By their documented names, in the documents' order.
    pub columns: &'static [(&'static str, Kind)],
    /// How many events it has, in percent of what is configured.
    pub percent: u64,
    /// The table of raw data v1 with the same events, if there is one: its name and columns, each with the name that
    /// v2 gave it.
    pub version_1: Option<(&'static str, &'static [(&'static str, &'static str)])>,
}

/// The names of the ten tables of raw data v2.
pub fn event_types() -> impl Iterator<Item = &'static str> {
    DATA_TYPES.iter().map(|data_type| data_type.name)
}

impl DataType {
    pub fn named(name: &str) -> Option<&'static Self> {
        DATA_TYPES.iter().find(|data_type| data_type.name == name)
    }

    /// The table that v1 knows under that name.
    pub fn named_in_version_1(name: &str) -> Option<&'static Self> {
        DATA_TYPES.iter().find(|data_type| data_type.version_1.is_some_and(|(old, _)| old == name))
    }

    /// Its place among the tables.
    pub fn number(&self) -> u64 {
        DATA_TYPES.iter().take_while(|data_type| data_type.name != self.name).count() as u64
    }
}

pub const DATA_TYPES: &[DataType] = &[
    DataType { name: "visit", columns: VISIT, percent: 60, version_1: Some(("visit", VISIT_1)) },
    DataType { name: "page", columns: PAGE, percent: 150, version_1: Some(("page", PAGE_1)) },
    DataType { name: "action", columns: ACTION, percent: 200, version_1: Some(("action", ACTION_1)) },
    DataType { name: "action_tag", columns: ACTION_TAG, percent: 90, version_1: Some(("action_tag", ACTION_TAG_1)) },
    DataType { name: "custom_event", columns: CUSTOM, percent: 100, version_1: Some(("custom_attr", CUSTOM_1)) },
    DataType {
        name: "ads_track_activation",
        columns: ACTIVATION,
        percent: 15,
        version_1: Some(("ads_track_activation", ACTIVATION_1)),
    },
    DataType { name: "ads_track_click", columns: CLICK, percent: 30, version_1: Some(("ads_track_click", CLICK_1)) },
    DataType { name: "pvar", columns: PVAR, percent: 40, version_1: None },
    DataType { name: "evar", columns: EVAR, percent: 25, version_1: None },
    DataType { name: "vstr", columns: VSTR, percent: 20, version_1: None },
];

type Columns = &'static [(&'static str, Kind)];
type Renamed = &'static [(&'static str, &'static str)];

const VISIT: Columns = &[
    ("visitUserId", Text),
    ("sessionId", Text),
    ("accountVersion", Text),
    ("platform", Text),
    ("domain", Text),
    ("page", Text),
    ("queryParameters", Text),
    ("referrer", Text),
    ("language", Text),
    ("screenHeight", Text),
    ("screenWidth", Text),
    ("time", Integer),
    ("sendTime", Integer),
    ("ip", Text),
    ("userAgent", Text),
    ("operatingSystem", Text),
    ("operatingSystemVersion", Text),
    ("clientVersion", Text),
    ("channel", Text),
    ("deviceBrand", Text),
    ("deviceModel", Text),
    ("deviceType", Text),
    ("deviceOrientation", Text),
    ("latitude", Double),
    ("longitude", Double),
    ("vstRequestId", Text),
    ("idfa", Text),
    ("androidId", Text),
    ("IMEI", Text),
];

const PAGE: Columns = &[
    ("visitUserId", Text),
    ("sessionId", Text),
    ("platform", Text),
    ("domain", Text),
    ("page", Text),
    ("queryParameters", Text),
    ("referrer", Text),
    ("referrerPage", Text),
    ("title", Text),
    ("time", Integer),
    ("sendTime", Integer),
    ("deviceOrientation", Text),
    ("loginUserId", Text),
    ("pageGroup", Text),
    ("appVariable", Map),
    ("customerAttributes2", Text),
    ("customerAttributes3", Text),
    ("customerAttributes4", Text),
    ("customerAttributes5", Text),
    ("customerAttributes6", Text),
    ("customerAttributes7", Text),
    ("customerAttributes8", Text),
    ("customerAttributes9", Text),
    ("customerAttributes10", Text),
    ("pageAttributes1", Text),
    ("pageAttributes2", Text),
    ("pageAttributes3", Text),
    ("pageAttributes4", Text),
    ("pageAttributes5", Text),
    ("pageAttributes6", Text),
    ("pageAttributes7", Text),
    ("pageAttributes8", Text),
    ("pageAttributes9", Text),
    ("pageAttributes10", Text),
    ("pageRequestId", Text),
    ("vstRequestId", Text),
];

const ACTION: Columns = &[
    ("visitUserId", Text),
    ("sessionId", Text),
    ("requestType", Text),
    ("domain", Text),
    ("page", Text),
    ("sendTime", Integer),
    ("time", Integer),
    ("href", Text),
    ("requestValue", Text),
    ("index", Integer),
    ("info", Text),
    ("pageRequestId", Text),
    ("actionRequestId", Text),
];

const ACTION_TAG: Columns = &[("sendTime", Integer), ("actionRequestId", Text), ("ruleId", Text)];

const CUSTOM: Columns = &[
    ("visitUserId", Text),
    ("sessionId", Text),
    ("time", Integer),
    ("sendTime", Integer),
    ("pageTime", Integer),
    ("domain", Text),
    ("page", Text),
    ("queryParameters", Text),
    ("eventName", Text),
    ("eventNumber", Double),
    ("eventVariable", Map),
    ("loginUserId", Text),
    ("pageRequestId", Text),
];

const PVAR: Columns = &[
    ("visitUserId", Text),
    ("sessionId", Text),
    ("time", Integer),
    ("sendTime", Integer),
    ("pageTime", Integer),
    ("domain", Text),
    ("page", Text),
    ("pageVariable", Map),
    ("pageRequestId", Text),
];

const EVAR: Columns = &[
    ("visitUserId", Text),
    ("sessionId", Text),
    ("time", Integer),
    ("sendTime", Integer),
    ("domain", Text),
    ("conversionVariable", Map),
];

const VSTR: Columns =
    &[("visitUserId", Text), ("sessionId", Text), ("time", Integer), ("sendTime", Integer), ("visitorVariable", Map)];

const ACTIVATION: Columns = &[
    ("visitUserId", Text),
    ("idfa", Text),
    ("imei", Text),
    ("uuid", Text),
    ("androidId", Text),
    ("ip", Text),
    ("userAgent", Text),
    ("platform", Text),
    ("operatingSystemVersion", Text),
    ("sendTime", Integer),
    ("linkId", Text),
    ("campaignId", Text),
    ("channelID", Text),
    ("linkName", Text),
    ("campaignName", Text),
    ("channelName", Text),
    ("adsVariable", Map),
    ("OAID", Text),
];

const CLICK: Columns = &[
    ("idfa", Text),
    ("IMEI", Text),
    ("uuid", Text),
    ("androidId", Text),
    ("ip", Text),
    ("userAgent", Text),
    ("platform", Text),
    ("operatingSystemVersion", Text),
    ("eventTime", Integer),
    ("linkId", Text),
    ("campaignId", Text),
    ("channelId", Text),
    ("linkName", Text),
    ("campaignName", Text),
    ("channelName", Text),
    ("adsVariable", Map),
    ("OAID", Text),
    ("clickUrl", Text),
];

const VISIT_1: Renamed = &[
    ("userId", "visitUserId"),
    ("sessionId", "sessionId"),
    ("sendTime", "sendTime"),
    ("eventTime", "time"),
    ("eventType", "eventType"),
    ("ip", "ip"),
    ("countryName", "countryName"),
    ("region", "region"),
    ("city", "city"),
    ("domain", "domain"),
    ("path", "page"),
    ("refer", "referrer"),
    ("userAgent", "userAgent"),
    ("appVersion", "clientVersion"),
    ("model", "deviceModel"),
    ("manufacturer", "deviceBrand"),
    ("channel", "channel"),
    ("language", "language"),
    ("osVersion", "operatingSystemVersion"),
    ("resolution", "resolution"),
    ("platform", "platform"),
    ("id", "vstRequestId"),
    ("query", "queryParameters"),
    ("lat", "latitude"),
    ("lng", "longitude"),
];

const PAGE_1: Renamed = &[
    ("userId", "visitUserId"),
    ("sessionId", "sessionId"),
    ("sendTime", "sendTime"),
    ("eventTime", "time"),
    ("eventType", "eventType"),
    ("domain", "domain"),
    ("path", "page"),
    ("query", "queryParameters"),
    ("refer", "referrer"),
    ("title", "title"),
    ("platform", "platform"),
    ("cs1", "loginUserId"),
    ("cs2", "customerAttributes2"),
    ("cs3", "customerAttributes3"),
    ("cs4", "customerAttributes4"),
    ("cs5", "customerAttributes5"),
    ("cs6", "customerAttributes6"),
    ("cs7", "customerAttributes7"),
    ("cs8", "customerAttributes8"),
    ("cs9", "customerAttributes9"),
    ("cs10", "customerAttributes10"),
    ("id", "pageRequestId"),
    ("visit_id", "vstRequestId"),
    ("pagegroup", "pageGroup"),
    ("ps1", "pageAttributes1"),
    ("ps2", "pageAttributes2"),
    ("ps3", "pageAttributes3"),
    ("ps4", "pageAttributes4"),
    ("ps5", "pageAttributes5"),
    ("ps6", "pageAttributes6"),
    ("ps7", "pageAttributes7"),
    ("ps8", "pageAttributes8"),
    ("ps9", "pageAttributes9"),
    ("ps10", "pageAttributes10"),
];

const ACTION_1: Renamed = &[
    ("userId", "visitUserId"),
    ("sessionId", "sessionId"),
    ("sendTime", "sendTime"),
    ("eventTime", "time"),
    ("eventType", "requestType"),
    ("eventValue", "requestValue"),
    ("domain", "domain"),
    ("path", "page"),
    ("href", "href"),
    ("page_id", "pageRequestId"),
    ("action_id", "actionRequestId"),
    ("index", "index"),
    ("info", "info"),
];

const ACTION_TAG_1: Renamed = &[("sendTime", "sendTime"), ("action_id", "actionRequestId"), ("rule_id", "ruleId")];

const CUSTOM_1: Renamed = &[("sendTime", "sendTime"), ("eventname", "eventName"), ("attribute", "attribute")];

const ACTIVATION_1: Renamed = &[
    ("userId", "visitUserId"),
    ("idfa", "idfa"),
    ("imei", "imei"),
    ("uuid", "uuid"),
    ("androidid", "androidId"),
    ("ip", "ip"),
    ("useragent", "userAgent"),
    ("platform", "platform"),
    ("osversion", "operatingSystemVersion"),
    ("sendTime", "sendTime"),
    ("link_id", "linkId"),
    ("campaign_id", "campaignId"),
    ("channel_id", "channelID"),
    ("link_name", "linkName"),
    ("campaign_name", "campaignName"),
    ("channel_name", "channelName"),
];

const CLICK_1: Renamed = &[
    ("idfa", "idfa"),
    ("imei", "IMEI"),
    ("uuid", "uuid"),
    ("androidid", "androidId"),
    ("ip", "ip"),
    ("useragent", "userAgent"),
    ("platform", "platform"),
    ("eventTime", "eventTime"),
    ("link_id", "linkId"),
    ("campaign_id", "campaignId"),
    ("channel_id", "channelId"),
    ("link_name", "linkName"),
    ("campaign_name", "campaignName"),
    ("channel_name", "channelName"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_as_many_columns_as_documented() {
        let sizes: Vec<_> = DATA_TYPES.iter().map(|data_type| data_type.columns.len()).collect();
        assert_eq!(sizes, [29, 36, 13, 3, 13, 18, 18, 9, 6, 5]);
        let old: Vec<_> = DATA_TYPES.iter().filter_map(|data_type| Some(data_type.version_1?.1.len())).collect();
        assert_eq!(old, [25, 34, 13, 3, 3, 16, 14]);
    }
}
