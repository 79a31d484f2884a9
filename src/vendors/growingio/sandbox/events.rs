//! The events of raw data: [`Event::cell`] makes any cell of any event from nothing but seed, table, hour and number.
//! The data is as unkind as real data, and tables join as the documents say they do.

use serde_json::json;

use super::{catalog, columns::DataType, slices::Hour};
use crate::vendors::sandbox::{
    World,
    people::{Person, pick},
};

/// The hour in Beijing without a single event.
pub const QUIET_HOUR: i64 = 4;
/// Device clocks that are wrong: 1970, 2000 and 2100.
const WRONG_TIMES: [i64; 3] = [86_400_123, 946_684_800_456, 4_102_444_800_789];

/// Where events come from.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub seed: u64,
    people: u64,
    events_per_hour: u64,
}

impl Source {
    pub fn of(world: &World) -> Self {
        Self { seed: world.config.seed, people: world.config.people, events_per_hour: world.config.events_per_hour }
    }

    /// How many events of the type an hour has; none in some.
    pub fn count(self, data_type: &DataType, hour: Hour) -> u64 {
        let number = self.draw(data_type, hour, 0, "count");
        if self.events_per_hour == 0 || self.people == 0 || hour.in_beijing() == QUIET_HOUR || number.is_multiple_of(11)
        {
            return 0;
        }
        self.events_per_hour * data_type.percent / 100 + number % 5
    }

    pub fn event(self, data_type: &'static DataType, hour: Hour, number: u64) -> Event {
        let session = self.session(data_type.name, hour, number);
        let person = self.draw_of(0, hour, session, "person") % self.people.max(1);
        Event { source: self, data_type, hour, number, session, person: Person::new(self.seed, person) }
    }

    /// A number that is the event's own for the topic.
    pub fn draw(self, data_type: &DataType, hour: Hour, number: u64, topic: &str) -> u64 {
        self.draw_of(data_type.number() + 1, hour, number, topic)
    }

    fn draw_of(self, table: u64, hour: Hour, number: u64, topic: &str) -> u64 {
        let topic = topic
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        [table, hour.0.cast_unsigned(), number, topic].into_iter().fold(self.seed, |hash, value| {
            let mut z = (hash ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    /// Which visit an event belongs to.
    fn session(self, table: &str, hour: Hour, number: u64) -> u64 {
        let within = |table: &str| DataType::named(table).map_or(1, |table| self.count(table, hour).max(1));
        match table {
            "page" | "evar" | "vstr" | "ads_track_activation" => number % within("visit"),
            "action" | "custom_event" | "pvar" => number % within("page") % within("visit"),
            "action_tag" => number % within("action") % within("page") % within("visit"),
            _ => number,
        }
    }
}

/// One event.
pub struct Event {
    source: Source,
    data_type: &'static DataType,
    hour: Hour,
    number: u64,
    session: u64,
    person: Person,
}

impl Event {
    /// When the server received it, in Unix milliseconds; later events have later times.
    pub fn send_time(&self) -> i64 {
        let count = self.source.count(self.data_type, self.hour).max(1);
        let step = 3_600_000 / count;
        let jitter = if step == 0 { 0 } else { self.draw("sendTime") % step };
        self.hour.0 * 3_600_000 + (self.number * 3_600_000 / count + jitter).min(3_599_999).cast_signed()
    }

    /// What stands in the column, by its documented name; `None` where the event has nothing to say.
    pub fn cell(&self, column: &str) -> Option<String> {
        let draw = self.draw(column);
        let some = |value: &str| Some(value.to_owned());
        let one_of = |options: &[&str]| Some((*pick(options, draw >> 8)).to_owned());
        let maybe_of = |options: &[&str]| one_of(options).filter(|_| !draw.is_multiple_of(4));
        let maybe = |value: String| (!draw.is_multiple_of(4)).then_some(value);
        match column {
            "visitUserId" => Some(self.person.visitor_id()),
            "sessionId" => Some(format!("{:016x}", self.source.draw_of(0, self.hour, self.session, "session"))),
            "loginUserId" => self.person.user_id.clone(),
            "sendTime" | "eventTime" => Some(self.send_time().to_string()),
            "time" => Some(self.time().to_string()),
            "pageTime" => Some((self.send_time() - 60_000).to_string()),
            "accountVersion" | "clientVersion" => Some(format!("{}.{}.0", draw % 3, draw % 11)),
            "platform" => one_of(&["Web", "iOS", "Android", "MinP"]),
            "domain" => one_of(&["www.example.test", "商城.example.test", "com.example.app"]),
            "page" | "referrerPage" => {
                one_of(&["/", "/商品/列表", "/search", "/a,b/\"c\"", "/path\\with\\backslashes\\"])
            }
            "queryParameters" => maybe_of(&["q=鞋&page=2", "a=1,2&b=\"x\"", "utm_source=", "u=%2Fa%3Fb"]),
            "referrer" | "href" => maybe(format!("https://www.example.test/from?n={}", draw % 1_000)),
            "title" => one_of(&[
                "首页",
                "Say \"hello\", world",
                "two\nlines, one title",
                "C:\\temp\\",
                "ends with \\\"",
                "=1+1",
                "naïve e\u{301} 🏳️‍🌈",
                " spaces around ",
                "a;b|c\td",
            ]),
            "language" => one_of(&["zh-cn", "en", "de"]),
            "screenHeight" | "screenWidth" => Some((320 + draw % 2_000).to_string()),
            "ip" => Some(format!("192.0.2.{}", draw % 256)),
            "userAgent" => {
                some("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)")
            }
            "operatingSystem" => one_of(&["iOS", "Android", "Windows"]),
            "operatingSystemVersion" => one_of(&["17.0", "14", "10"]),
            "channel" | "channelName" => maybe_of(&["应用宝", "App Store", "a, b"]),
            "deviceBrand" | "deviceModel" => maybe_of(&["Apple", "HUAWEI", "小米"]),
            "deviceType" => Some((draw % 2).to_string()),
            "deviceOrientation" => one_of(&["PORTRAIT", "LANDSCAPE"]),
            // Never a whole number, so that it reads back the same from any JSON.
            "latitude" if draw.is_multiple_of(13) => some("N/A"),
            "latitude" => maybe(format!("{}.{:03}1", draw % 90, draw % 1_000)),
            "longitude" => maybe(format!("-{}.{:03}7", draw % 180, draw % 1_000)),
            "eventNumber" => maybe(format!("{}.5", draw % 100)),
            "index" => maybe((draw % 30).to_string()),
            "requestType" => one_of(&["clck", "chng", "sbmt"]),
            "requestValue" | "info" => maybe_of(&["加入购物车", "OK", "\"quoted\"", "line\nbreak"]),
            "eventName" => one_of(&["buy", "注册成功", "search"]),
            "pageGroup" | "pageAttributes1" | "customerAttributes2" => maybe(format!("组-{}", draw % 9)),
            "vstRequestId" => Some(self.request_id("v", self.session)),
            "pageRequestId" => Some(self.request_id("p", self.page())),
            "actionRequestId" => Some(self.request_id("wa", self.action())),
            "ruleId" => Some(catalog::rule_id(draw % catalog::RULES)),
            "idfa" | "uuid" => maybe(format!("{draw:016X}-{:04X}", draw % 65_536)),
            "androidId" | "OAID" => maybe(format!("{draw:016x}")),
            "IMEI" | "imei" => maybe(format!("{:015}", draw % 1_000_000_000_000_000)),
            "linkId" | "campaignId" | "channelId" | "channelID" => Some(format!("{:06}", draw % 1_000_000)),
            "linkName" | "campaignName" => one_of(&["双十一", "Spring \"sale\", 2026", "x"]),
            "clickUrl" => maybe(format!("https://ads.example.test/c?a={}&b=,", draw % 100)),
            // The documents show these two, which are no JSON.
            "adsVariable" if draw.is_multiple_of(3) => some("{\"city\"->\"beijing\"}"),
            "conversionVariable" if draw.is_multiple_of(3) => some("{\"keyword\",\"retention\"}"),
            "appVariable" | "eventVariable" | "pageVariable" | "visitorVariable" | "adsVariable"
            | "conversionVariable" => json_map(draw >> 8),
            // Columns of v1 alone.
            "eventType" => some(self.data_type.name),
            "countryName" => some("中国"),
            "city" => some("beijing"),
            "attribute" => Some(self.attribute()),
            _ => None,
        }
    }

    fn draw(&self, topic: &str) -> u64 {
        self.source.draw(self.data_type, self.hour, self.number, topic)
    }

    /// By the device's clock, which may be wrong.
    fn time(&self) -> i64 {
        let draw = self.draw("time");
        if draw.is_multiple_of(9) {
            *pick(&WRONG_TIMES, draw / 9)
        } else {
            self.send_time() - (draw % 5_000).cast_signed()
        }
    }

    /// `custom_attr.attribute` of v1.
    fn attribute(&self) -> String {
        json!({
            "_userId": self.person.visitor_id(),
            "_eventTime": self.time(),
            "_cs1": self.person.user_id,
            "price": "50.0",
        })
        .to_string()
    }

    fn page(&self) -> u64 {
        let pages = DataType::named("page").map_or(1, |page| self.source.count(page, self.hour).max(1));
        if self.data_type.name == "page" { self.number } else { self.number % pages }
    }

    fn action(&self) -> u64 {
        let actions = DataType::named("action").map_or(1, |action| self.source.count(action, self.hour).max(1));
        if self.data_type.name == "action" { self.number } else { self.number % actions }
    }

    fn request_id(&self, prefix: &str, number: u64) -> String {
        format!("{prefix}{:x}{number:05x}", self.hour.0)
    }
}

/// What most map columns hold.
fn json_map(draw: u64) -> Option<String> {
    match draw % 6 {
        0 => None,
        1 => Some("{}".to_owned()),
        2 => Some(json!({"name": "say \"hi\"\nthen go, \\ and back", "path": "C:\\"}).to_string()),
        3 => Some(json!({"城市": "北京", "vip": "null"}).to_string()),
        _ => Some(json!({"price": format!("{}.0", draw % 100), "item": (draw % 1_000).to_string()}).to_string()),
    }
}
