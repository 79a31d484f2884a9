//! The figures of series: a function of seed, entity and time, so that windows that overlap agree.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::vendors::sandbox::World;

/// A figure below `below` of the entity that `names` spell, at a time.
pub fn figure(world: &World, names: &[&str], time: DateTime<Utc>, below: u64) -> u64 {
    // FNV-1a over seed, names and time, then the finalizer of SplitMix64: the same on every machine.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    eat(&world.config.seed.to_le_bytes());
    for name in names {
        eat(name.as_bytes());
        eat(&[0]);
    }
    eat(&time.timestamp().to_le_bytes());
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)) % below.max(1)
}

/// Something that does not change with time.
pub fn trait_of(world: &World, names: &[&str], below: u64) -> u64 {
    figure(world, names, DateTime::UNIX_EPOCH, below)
}

/// Revenue: documented as an integer, sampled as a decimal.
#[expect(clippy::cast_precision_loss, reason = "below a million cents")]
pub fn money(world: &World, names: &[&str], time: DateTime<Utc>) -> Value {
    match figure(world, names, time, 1_000_000) {
        cents if cents % 4 == 0 => json!(cents / 100),
        cents => json!(cents as f64 / 100.0),
    }
}

/// Each message channel with its statistics. The names of channels are open-ended.
pub const CHANNELS: [(&str, &[&str]); 8] = [
    (
        "email",
        &[
            "sent",
            "opens",
            "unique_opens",
            "clicks",
            "unique_clicks",
            "unsubscribes",
            "bounces",
            "delivered",
            "reported_spam",
        ],
    ),
    ("ios_push", &["sent", "direct_opens", "total_opens", "bounces", "body_clicks"]),
    ("android_push", &["sent", "direct_opens", "total_opens", "bounces", "body_clicks"]),
    ("sms", &["sent", "sent_to_carrier", "delivered", "rejected", "delivery_failed", "clicks", "opt_out", "help"]),
    ("whats_app", &["sent", "delivered", "failed", "read"]),
    (
        "content_cards",
        &[
            "sent",
            "total_clicks",
            "total_dismissals",
            "total_impressions",
            "unique_clicks",
            "unique_dismissals",
            "unique_impressions",
        ],
    ),
    ("webhook", &["sent", "errors"]),
    ("trigger_in_app_message", &["impressions", "clicks", "first_button_clicks", "second_button_clicks"]),
];

/// The statistics of one message on a channel, after `named`, which tells it from others.
pub fn message(
    world: &World,
    entity: &[&str],
    channel: &(&str, &[&str]),
    named: Option<(&str, String)>,
    time: DateTime<Utc>,
) -> Value {
    let mut message = Map::new();
    let variation = named.as_ref().map(|(_, name)| name.clone()).unwrap_or_default();
    if let Some((key, name)) = named {
        message.insert(key.to_owned(), json!(name));
    }
    for statistic in channel.1 {
        let path = [entity, &[channel.0, &variation, statistic]].concat();
        message.insert((*statistic).to_owned(), json!(figure(world, &path, time, 10_000)));
    }
    Value::Object(message)
}
