//! The lists in a Braze record: what a person did, has and received.

use chrono::TimeDelta;

use super::users::{spelled, text};
use crate::vendors::sandbox::people::{Oddity, Person, pick};

const CUSTOM_EVENTS: u64 = 116;
const PURCHASES: u64 = 118;

impl Person {
    pub(super) fn custom_events(&self) -> Option<String> {
        self.tallies(CUSTOM_EVENTS, &["viewed_product", "added_to_cart", "shared, \"again\"", "签到"])
    }

    pub(super) fn purchases(&self) -> Option<String> {
        self.tallies(PURCHASES, &["sku-1", "sku-2", "会员年卡"])
    }

    /// Custom events or purchases: name, first, last, count.
    fn tallies(&self, topic: u64, names: &[&str]) -> Option<String> {
        let count = match self.oddity {
            Oddity::Bare => 0,
            Oddity::Empty => return Some("[]".to_owned()),
            Oddity::LongLists if topic != CUSTOM_EVENTS => 3,
            Oddity::LongLists if self.index % 1_024 == 1_018 => 2_000,
            Oddity::LongLists => 40,
            _ => self.draw(topic, 4),
        };
        let tally = |number: u64| {
            let name = *pick(names, number);
            let name = if number < names.len() as u64 { name.to_owned() } else { format!("{name} {number}") };
            let last = self.moment(topic + 1);
            let first = last - TimeDelta::days(number.cast_signed() + 1);
            let (first, last) = (spelled(first, number), spelled(last, number));
            format!(r#"{{"name":{},"first":"{first}","last":"{last}","count":{}}}"#, text(&name), number + 1)
        };
        (count > 0).then(|| format!("[{}]", (0..count).map(tally).collect::<Vec<_>>().join(",")))
    }

    pub(super) fn devices(&self) -> Option<String> {
        const IPHONE: &str = r#"{"model":"iPhone17,1","os":"iOS 26.1","carrier":null,"idfv":"6A0B61CF-2C4E-4C3A-8C11-6C3E2B2B4B11","ad_tracking_enabled":false}"#;
        const ANDROID: &str = r#"{"model":"Pixel 10","os":"16","carrier":"中国移动","device_id":"f3a1","google_ad_id":"cdda802e-fb9c-47ad-9866-0794d394c912","ad_tracking_enabled":true}"#;
        match self.oddity {
            Oddity::Devices => Some(format!("[{IPHONE},{ANDROID}]")),
            Oddity::None => Some(format!("[{IPHONE}]")),
            Oddity::Empty => Some("[]".to_owned()),
            _ => None,
        }
    }

    /// `sessions` is documented as a number and as text.
    pub(super) fn apps(&self) -> Option<String> {
        let sessions = self.draw(131, 500);
        let used = text(&spelled(self.moment(132), 2));
        let app = |name: &str, sessions: String| {
            format!(
                r#"{{"name":"{name}","platform":"iOS","version":"5.0.1","sessions":{sessions},"first_used":{used},"last_used":{used}}}"#
            )
        };
        match self.oddity {
            Oddity::Devices => Some(format!(
                "[{},{}]",
                app("Shop iOS", sessions.to_string()),
                app("Shop Web", format!("\"{sessions}\""))
            )),
            Oddity::Loose => Some(format!("[{}]", app("Shop iOS", format!("\"{sessions}\"")))),
            Oddity::None => Some(format!("[{}]", app("Shop iOS", sessions.to_string()))),
            _ => None,
        }
    }

    pub(super) fn push_tokens(&self) -> String {
        format!(
            r#"[{{"app":"Shop iOS","platform":"iOS","token":"{:032x}","device_id":"d-{}","notifications_enabled":true,"provisionally_opted_in":null}}]"#,
            self.draw(120, u64::MAX),
            self.index
        )
    }

    pub(super) fn campaigns_received(&self) -> String {
        format!(
            r#"[{{"name":"Welcome 👋","last_received":{},"engaged":{{"opened_email":true,"clicked_triggered_in_app_message":false}},"converted":false,"multiple_converted":{{"Primary Conversion Event - A":true}},"api_campaign_id":"{:032x}","variation_name":"Variant 1","variation_api_id":"{:032x}","in_control":false}}]"#,
            text(&spelled(self.moment(122), 1)),
            self.draw(123, u64::MAX),
            self.draw(124, u64::MAX)
        )
    }

    pub(super) fn canvases_received(&self) -> String {
        format!(
            r#"[{{"name":"Onboarding","api_canvas_id":"{:032x}","last_received_message":{received},"last_entered":{received},"last_entered_control_at":null,"variation_name":"Variant 1","in_control":false,"last_exited":null,"steps_received":[{{"name":"Step 1","api_canvas_step_id":"{:032x}","last_received":{received}}}]}}]"#,
            self.draw(126, u64::MAX),
            self.draw(127, u64::MAX),
            received = text(&spelled(self.moment(128), 0)),
        )
    }
}
