//! When a tag or segment was last computed, and `POST …/computes`, which has it computed anew.
//! Source: `developer-manual/open-api/cdp/project/project-compute-user-tag.md`, `cdp/space/space-compute-segment-profile.md`.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    NAME,
    answer::{answered, audience_of},
    audience_key,
};
use crate::vendors::sandbox::World;

/// When the nightly computation of every audience ended: 2026-03-01 02:00:00.417 UTC.
const NIGHTLY_MILLIS: i64 = 1_772_330_400_417;

/// The computation that an audience's data come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computation {
    pub detected_at: DateTime<Utc>,
    /// Whether a call asked for it; else it ran by schedule.
    pub requested: bool,
}

impl Computation {
    /// The one that runs by itself.
    pub fn nightly() -> Self {
        Self { detected_at: DateTime::from_timestamp_millis(NIGHTLY_MILLIS).unwrap_or_default(), requested: false }
    }

    /// The value of a property that tells which computation a record comes from; `None` for other names.
    pub fn property(&self, name: &str) -> Option<String> {
        match name {
            "usr_computed_at" => Some(timestamp(self.detected_at)),
            "usr_computation" => Some(if self.requested { "requested" } else { "scheduled" }.to_owned()),
            _ => None,
        }
    }
}

/// What an audience's `detector` says, and which computation its data come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detector {
    pub stage: &'static str,
    pub detected_at: DateTime<Utc>,
    pub data: Computation,
}

impl Detector {
    pub fn json(&self) -> Value {
        json!({"stage": self.stage, "detectedAt": timestamp(self.detected_at)})
    }
}

fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The computations that calls have asked for, by the key of the audience; the newest of each.
#[derive(Default)]
struct Requests(Mutex<HashMap<String, Requested>>);

impl Requests {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Requested>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Requested {
    since: Instant,
    /// How long it takes; `None` when it never ends.
    takes: Option<Duration>,
    /// What `detectedAt` says once it has ended.
    detected_at: DateTime<Utc>,
    fails: bool,
    before: Detector,
}

impl Requested {
    fn detector(&self) -> Detector {
        let passed = self.since.elapsed();
        let before = |stage| Detector { stage, ..self.before };
        match self.takes {
            Some(takes) if passed >= takes && self.fails => {
                Detector { stage: "ERROR", detected_at: self.detected_at, data: self.before.data }
            }
            Some(takes) if passed >= takes => {
                let data = Computation { detected_at: self.detected_at, requested: true };
                Detector { stage: "FINISH", detected_at: self.detected_at, data }
            }
            Some(takes) if passed < takes / 4 => before("NONE"),
            _ => before("RUNNING"),
        }
    }
}

/// How far the computation of an audience is.
pub fn detector(world: &World, prefix: &str, number: u64) -> Detector {
    let requests = world.shelf::<Requests>();
    let requests = requests.lock();
    requests.get(&audience_key(prefix, number)).map_or_else(|| untouched(number), Requested::detector)
}

/// As long as nobody asked for a computation. Some audiences were never computed and some failed; those are refused, or
/// computed, as any other.
fn untouched(number: u64) -> Detector {
    let stage = match number % 16 {
        9 => "NONE",
        13 => "ERROR",
        _ => "FINISH",
    };
    let data = Computation::nightly();
    Detector { stage, detected_at: data.detected_at, data }
}

/// `POST …/user_tags/{key}/computes` and `…/segment_profiles/{key}/computes`. What a refusal looks like is not
/// documented; the answer's `value` suggests this.
pub async fn compute(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    answered(&world, &request, "growingio_cdp.computes", || {
        if !body.is_empty() {
            world.violation(NAME, "`computes` takes no body");
        }
        let (audience, prefix) = audience_of(&world, &request)?;
        let now = detector(&world, prefix, audience.number);
        if !matches!(now.stage, "FINISH" | "ERROR") || world.fault("growingio_cdp.computes.refused") {
            world.refuse(NAME, "being_computed");
            return Ok(json!({"value": false, "message": "触发计算失败"}));
        }
        let takes = world.config.processing;
        let ends = world.now() + TimeDelta::from_std(takes.mul_f64(world.config.clock.speed)).unwrap_or_default();
        let requested = Requested {
            since: Instant::now(),
            takes: (!world.fault("growingio_cdp.computes.never_ends")).then_some(takes),
            detected_at: ends.max(now.detected_at + TimeDelta::milliseconds(1)),
            fails: world.fault("growingio_cdp.computes.fails"),
            before: now,
        };
        world.shelf::<Requests>().lock().insert(audience_key(prefix, audience.number), requested);
        Ok(json!({"value": true, "message": "触发计算成功"}))
    })
}
