//! The tables of raw data and their columns.
//! Source: `api/originaldata-export-v2/characters/`, `api/originaldata-export-v1/characters/`.

/// One table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// The type of its events, as paths have it.
    pub name: &'static str,
    /// Whether raw data v1 has it too.
    pub in_v1: bool,
    /// Documented names in the documents' order, with spaces between.
    columns: &'static str,
}

/// How cells of a column are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Double,
    /// Text that is a JSON object as a rule.
    Map,
}

impl Kind {
    /// Of a column by its documented name: it is the same in every table.
    pub fn of(name: &str) -> Self {
        match name {
            "time" | "sendTime" | "pageTime" | "eventTime" | "index" => Self::Integer,
            "latitude" | "longitude" | "eventNumber" => Self::Double,
            "appVariable" | "eventVariable" | "pageVariable" | "conversionVariable" | "visitorVariable"
            | "adsVariable" => Self::Map,
            _ => Self::Text,
        }
    }
}

impl Table {
    /// The table of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    pub fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.columns.split_ascii_whitespace()
    }

    /// The documented spelling of a column.
    pub fn column(&self, name: &str) -> Option<&'static str> {
        self.columns().find(|column| column.eq_ignore_ascii_case(name))
    }
}

/// Where a table stands among the others; after all of them if nobody knows it.
pub fn position(name: &str) -> usize {
    TABLES.iter().position(|table| table.name == name).unwrap_or(TABLES.len())
}

/// The table of a file, by the names in its header: each has some that no other has. `has` is asked for names in lower
/// case without underscores, so that those of v1 and v2 are often the same.
pub fn recognise(has: impl Fn(&str) -> bool) -> Option<&'static Table> {
    let any = |names: &[&str]| names.iter().any(|name| has(name));
    let name = if has("ruleid") {
        "action_tag"
    } else if has("linkid") {
        if any(&["userid", "visituserid"]) { "ads_track_activation" } else { "ads_track_click" }
    } else if any(&["eventname", "eventvariable"]) {
        "custom_event"
    } else if any(&["actionid", "actionrequestid", "eventvalue", "requestvalue"]) {
        "action"
    } else if has("conversionvariable") {
        "evar"
    } else if has("visitorvariable") {
        "vstr"
    } else if has("pagevariable") {
        "pvar"
    } else if any(&["title", "pagegroup", "cs1", "appvariable"]) {
        "page"
    } else if any(&["useragent", "resolution", "language"]) {
        "visit"
    } else {
        return None;
    };
    Table::named(name)
}

/// What a column of v1 is called in v2, where the documents say so.
/// Source: OLD `api/raw-data-api/yuan-shi-shu-ju-dao-chu-api-de-sheng-ji-qian-yi.md`.
pub fn renamed(table: &Table, v1: &str) -> Option<String> {
    let lower = v1.to_ascii_lowercase();
    let numbered = |prefix: &str| {
        let digits = lower.strip_prefix(prefix)?;
        (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.to_owned())
    };
    let name = match (lower.as_str(), table.name) {
        ("userid", _) => "visitUserId",
        ("path", _) => "page",
        ("query", _) => "queryParameters",
        ("refer", _) => "referrer",
        ("eventtime", "ads_track_click") => "eventTime",
        ("eventtime", _) => "time",
        ("eventtype", "action") => "requestType",
        ("eventvalue", _) => "requestValue",
        ("cs1", _) => "loginUserId",
        ("id", "visit") | ("visit_id", _) => "vstRequestId",
        ("id", "page") | ("page_id", _) => "pageRequestId",
        ("action_id", _) => "actionRequestId",
        ("rule_id", _) => "ruleId",
        _ => {
            let customer = numbered("cs").map(|number| format!("customerAttributes{number}"));
            return customer.or_else(|| numbered("ps").map(|number| format!("pageAttributes{number}")));
        }
    };
    Some(name.to_owned())
}

/// Every table, in the documents' order.
pub const TABLES: &[Table] = &[
    Table {
        name: "visit",
        in_v1: true,
        columns: "visitUserId sessionId accountVersion platform domain page queryParameters referrer language \
            screenHeight screenWidth time sendTime ip userAgent operatingSystem operatingSystemVersion clientVersion \
            channel deviceBrand deviceModel deviceType deviceOrientation latitude longitude vstRequestId idfa androidId \
            IMEI",
    },
    Table {
        name: "page",
        in_v1: true,
        columns: "visitUserId sessionId platform domain page queryParameters referrer referrerPage title time sendTime \
            deviceOrientation loginUserId pageGroup appVariable customerAttributes2 customerAttributes3 \
            customerAttributes4 customerAttributes5 customerAttributes6 customerAttributes7 customerAttributes8 \
            customerAttributes9 customerAttributes10 pageAttributes1 pageAttributes2 pageAttributes3 pageAttributes4 \
            pageAttributes5 pageAttributes6 pageAttributes7 pageAttributes8 pageAttributes9 pageAttributes10 \
            pageRequestId vstRequestId",
    },
    Table {
        name: "action",
        in_v1: true,
        columns: "visitUserId sessionId requestType domain page sendTime time href requestValue index info \
            pageRequestId actionRequestId",
    },
    Table { name: "action_tag", in_v1: true, columns: "sendTime actionRequestId ruleId" },
    Table {
        name: "custom_event",
        in_v1: true,
        columns: "visitUserId sessionId time sendTime pageTime domain page queryParameters eventName eventNumber \
            eventVariable loginUserId pageRequestId",
    },
    Table {
        name: "ads_track_activation",
        in_v1: true,
        columns: "visitUserId idfa imei uuid androidId ip userAgent platform operatingSystemVersion sendTime linkId \
            campaignId channelID linkName campaignName channelName adsVariable OAID",
    },
    Table {
        name: "ads_track_click",
        in_v1: true,
        columns: "idfa IMEI uuid androidId ip userAgent platform operatingSystemVersion eventTime linkId campaignId \
            channelId linkName campaignName channelName adsVariable OAID clickUrl",
    },
    Table {
        name: "pvar",
        in_v1: false,
        columns: "visitUserId sessionId time sendTime pageTime domain page pageVariable pageRequestId",
    },
    Table { name: "evar", in_v1: false, columns: "visitUserId sessionId time sendTime domain conversionVariable" },
    Table { name: "vstr", in_v1: false, columns: "visitUserId sessionId time sendTime visitorVariable" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_wide_as_documented() {
        let widths: Vec<_> = TABLES.iter().map(|table| (table.name, table.columns().count())).collect();
        let expected = [29, 36, 13, 3, 13, 18, 18, 9, 6, 5];
        assert_eq!(widths.iter().map(|(_, width)| *width).collect::<Vec<_>>(), expected, "{widths:?}");
    }

    #[test]
    fn every_table_is_recognised_by_its_own_header() {
        for table in TABLES {
            let names: Vec<_> = table.columns().map(str::to_ascii_lowercase).collect();
            assert_eq!(recognise(|name| names.iter().any(|own| own == name)), Some(table));
        }
        assert_eq!(recognise(|name| name == "sendtime"), None);
    }
}
