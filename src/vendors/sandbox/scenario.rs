//! Scenarios: how the sandbox behaves, as a TOML file to start it with or a JSON body to change it while it runs. What
//! a scenario does not name stays as it is. Each setting is a field of [`Scenario`] and two lines below it.

use std::{fs, path::Path, time::Duration};

use chrono::{DateTime, Datelike, Utc};
use config::{Config, ConfigError, File, FileFormat};
use serde::{Deserialize, Serialize};

use super::{Fault, SandboxConfig, World};

/// Longest times and highest speed: beyond any use, and far from any overflow.
const MAX_PROCESSING_SECS: f64 = 86_400.0;
const MAX_LIFE_SECS: f64 = 31_536_000.0;
const MAX_SPEED: f64 = 1_000_000.0;
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2200;

/// What a scenario sets; see [`SandboxConfig`] for what each setting means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    pub people: Option<u64>,
    pub audiences: Option<u64>,
    pub seed: Option<u64>,
    pub processing_secs: Option<f64>,
    pub link_life_secs: Option<f64>,
    pub slow_answer_secs: Option<f64>,
    pub records_per_file: Option<u64>,
    pub events_per_hour: Option<u64>,
    pub raw_part_records: Option<u64>,
    pub limits: Limits,
    /// Exactly these are on; `[]` for none.
    pub faults: Option<Vec<Fault>>,
    pub clock: Pace,
}

/// Limits of the vendors that have them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub max_concurrent: Option<u64>,
    pub requests_per_hour: Option<u64>,
    pub requests_per_second: Option<f64>,
}

/// The vendors' clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Only when the sandbox starts.
    pub start: Option<DateTime<Utc>>,
    pub speed: Option<f64>,
}

/// Why a scenario cannot be meant; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadScenario(String);

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, or has a key or value that no scenario has.
    pub fn read(path: &Path) -> Result<Self, BadScenario> {
        Self::from_toml(&fs::read_to_string(path).map_err(|error| BadScenario(error.to_string()))?)
    }

    /// As [`Scenario::read`].
    pub fn from_toml(text: &str) -> Result<Self, BadScenario> {
        let source = File::from_str(text, FileFormat::Toml);
        let read = Config::builder().add_source(source).build().and_then(Config::try_deserialize);
        read.map_err(|error| {
            BadScenario(one_line(match &error {
                ConfigError::FileParse { cause, .. } => cause.to_string(),
                other => other.to_string(),
            }))
        })
    }

    /// Reads a body of `POST /__sandbox/scenario`.
    ///
    /// # Errors
    /// As [`Scenario::read`].
    pub fn from_json(body: &[u8]) -> Result<Self, BadScenario> {
        serde_json::from_slice(body).map_err(|error| BadScenario(one_line(error.to_string())))
    }

    /// Everything that is set in a sandbox now.
    pub fn of(world: &World) -> Self {
        let config = &*world.config;
        Self {
            people: Some(config.people),
            audiences: Some(config.audiences),
            seed: Some(config.seed),
            processing_secs: Some(config.processing.as_secs_f64()),
            link_life_secs: Some(config.link_life.as_secs_f64()),
            slow_answer_secs: Some(config.slow_answer.as_secs_f64()),
            records_per_file: Some(config.records_per_file),
            events_per_hour: Some(config.events_per_hour),
            raw_part_records: Some(config.raw_part_records),
            limits: Limits {
                max_concurrent: Some(config.max_concurrent),
                requests_per_hour: Some(config.requests_per_hour),
                requests_per_second: Some(config.requests_per_second),
            },
            faults: Some(world.faults()),
            clock: Pace { start: config.clock.start, speed: Some(config.clock.speed) },
        }
    }

    /// Sets what this scenario names.
    ///
    /// # Errors
    /// When a value is out of its range; `config` may be changed in part then.
    pub fn apply(self, config: &mut SandboxConfig) -> Result<(), BadScenario> {
        set(&mut config.people, self.people);
        set(&mut config.audiences, at_least_one("audiences", self.audiences)?);
        set(&mut config.seed, self.seed);
        set(&mut config.processing, seconds("processing_secs", self.processing_secs, MAX_PROCESSING_SECS)?);
        set(&mut config.link_life, seconds("link_life_secs", self.link_life_secs, MAX_LIFE_SECS)?);
        set(&mut config.slow_answer, seconds("slow_answer_secs", self.slow_answer_secs, MAX_PROCESSING_SECS)?);
        set(&mut config.records_per_file, at_least_one("records_per_file", self.records_per_file)?);
        set(&mut config.events_per_hour, self.events_per_hour);
        set(&mut config.raw_part_records, at_least_one("raw_part_records", self.raw_part_records)?);
        let limits = self.limits;
        set(&mut config.max_concurrent, at_least_one("limits.max_concurrent", limits.max_concurrent)?);
        set(&mut config.requests_per_hour, at_least_one("limits.requests_per_hour", limits.requests_per_hour)?);
        set(&mut config.requests_per_second, rate("limits.requests_per_second", limits.requests_per_second)?);
        set(&mut config.faults, self.faults);
        set(&mut config.clock.speed, rate("clock.speed", self.clock.speed)?);
        match self.clock.start {
            Some(start) if !YEARS.contains(&start.year()) => {
                Err(BadScenario(format!("`clock.start` is a time of the years {} to {}", YEARS.start(), YEARS.end())))
            }
            Some(start) => {
                config.clock.start = Some(start);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Sets in a running sandbox what this scenario names: all of it, or nothing when something is wrong. People and
    /// seed may change too: exports under way keep those they began with, pages that were read do not.
    ///
    /// # Errors
    /// As [`Scenario::apply`], and when it would set the clock back or forward.
    pub fn set(self, world: &World) -> Result<(), BadScenario> {
        if self.clock.start.is_some_and(|start| Some(start) != world.config.clock.start) {
            return Err(BadScenario(
                "`clock.start` counts only when the sandbox starts; `clock.speed` can change".into(),
            ));
        }
        let (faults, mut config) = (self.faults.clone(), world.config.clone());
        self.apply(&mut config)?;
        world.reconfigure(config);
        if let Some(faults) = faults {
            world.set_faults(faults);
        }
        Ok(())
    }
}

fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}

fn at_least_one(name: &str, value: Option<u64>) -> Result<Option<u64>, BadScenario> {
    match value {
        Some(0) => Err(BadScenario(format!("`{name}` is at least 1"))),
        other => Ok(other),
    }
}

fn seconds(name: &str, value: Option<f64>, max: f64) -> Result<Option<Duration>, BadScenario> {
    match value {
        Some(value) if !(0.0..=max).contains(&value) => {
            Err(BadScenario(format!("`{name}` is a number of seconds, at most {max}")))
        }
        other => Ok(other.map(Duration::from_secs_f64)),
    }
}

fn rate(name: &str, value: Option<f64>) -> Result<Option<f64>, BadScenario> {
    match value {
        Some(value) if !(value > 0.0 && value <= MAX_SPEED) => {
            Err(BadScenario(format!("`{name}` is a number above 0, at most {MAX_SPEED}")))
        }
        other => Ok(other),
    }
}

/// The first line of a message, with what may stand instead of an unknown key as a plain list.
fn one_line(message: String) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.replace(", expected one of ", "; there are ").replace("`, `", ", ")
}
