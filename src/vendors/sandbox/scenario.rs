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
    pub job_files: Option<u64>,
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
            BadScenario(one_line(&match &error {
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
        serde_json::from_slice(body).map_err(|error| BadScenario(one_line(&error.to_string())))
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
            job_files: Some(config.job_files),
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
        set(&mut config.job_files, at_least_one("job_files", self.job_files)?);
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
fn one_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    match line.split_once(", expected one of ") {
        Some((wrong, known)) => format!("{wrong}; there are {}", known.replace('`', "")),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Client;
    use serde_json::{Value, json};

    use super::{
        super::tests::{faults, quick},
        *,
    };

    fn told(text: &str) -> String {
        let applied = Scenario::from_toml(text).and_then(|scenario| scenario.apply(&mut SandboxConfig::default()));
        applied.unwrap_err().to_string()
    }

    #[test]
    fn every_setting_of_a_file_is_set() {
        let text = r#"
            people = 7
            audiences = 8
            seed = 9
            processing_secs = 1.5
            link_life_secs = 60
            slow_answer_secs = 2
            records_per_file = 10
            events_per_hour = 11
            raw_part_records = 12
            job_files = 13
            faults = ["braze.segment.busy=2", "growingio_cdp.job.stuck"]

            [limits]
            max_concurrent = 3
            requests_per_hour = 4
            requests_per_second = 0.5

            [clock]
            start = "2026-03-01T00:00:00+08:00"
            speed = 60
        "#;
        let mut config = SandboxConfig::default();
        Scenario::from_toml(text).unwrap().apply(&mut config).unwrap();
        assert_eq!((config.people, config.audiences, config.seed), (7, 8, 9));
        assert_eq!(config.processing, Duration::from_millis(1_500));
        assert_eq!((config.link_life.as_secs(), config.slow_answer.as_secs()), (60, 2));
        assert_eq!((config.records_per_file, config.events_per_hour, config.raw_part_records), (10, 11, 12));
        assert_eq!(config.job_files, 13);
        assert_eq!((config.max_concurrent, config.requests_per_hour), (3, 4));
        assert_eq!((config.requests_per_second, config.clock.speed), (0.5, 60.0));
        assert_eq!(config.clock.start.unwrap().to_string(), "2026-02-28 16:00:00 UTC");
        assert_eq!(config.faults, faults(&["braze.segment.busy=2", "growingio_cdp.job.stuck"]));
    }

    #[test]
    fn what_cannot_be_meant_is_told_in_one_line() {
        for (text, says) in [
            ("peeple = 1", "unknown field `peeple`"),
            ("[limits]\nrequests = 1", "unknown field `requests`"),
            ("[clock]\nspeed = 0", "`clock.speed` is a number above 0, at most 1000000"),
            ("[clock]\nspeed = nan", "`clock.speed` is a number above 0"),
            ("[clock]\nstart = \"9999-01-01T00:00:00Z\"", "`clock.start` is a time of the years 1970 to 2200"),
            ("people = -1", "people"),
            ("people = \"many\"", "people"),
            ("records_per_file = 0", "`records_per_file` is at least 1"),
            ("processing_secs = 1e9", "`processing_secs` is a number of seconds, at most 86400"),
            ("faults = [\"braze.segment.mood\"]", "there is no fault `braze.segment.mood`"),
            ("people 7", "TOML"),
        ] {
            let told = told(text);
            assert!(told.contains(says) && !told.contains('\n'), "{text}: {told}");
        }
    }

    #[test]
    fn every_scenario_that_is_shipped_loads_sets_something_and_says_what_it_is_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            assert!(fs::read_to_string(&path).unwrap().starts_with("# Good for "), "{}", path.display());
            let scenario = Scenario::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_ne!(scenario, Scenario::default(), "{}", path.display());
            scenario.apply(&mut SandboxConfig::default()).unwrap();
            names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
        names.sort();
        assert_eq!(names, ["everyday", "fast-clock", "flaky-vendor", "slow-vendor", "strict-limits"]);
    }

    #[tokio::test]
    async fn a_running_sandbox_takes_what_a_body_names_and_nothing_else() {
        let sandbox = quick(|config| config.faults = faults(&["braze.file.cut"])).await;
        let (http, url) = (Client::new(), sandbox.base_url().join("__sandbox/scenario").unwrap());
        let set = async |body: Value| {
            let answer = http.post(url.clone()).json(&body).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let body =
            json!({"people": 4, "limits": {"max_concurrent": 2}, "clock": {"speed": 10.0}, "processing_secs": 0.25});
        assert_eq!(set(body).await.0, 204);
        let config = &sandbox.world().config;
        assert_eq!((config.people, config.max_concurrent, config.clock.speed), (4, 2, 10.0));
        assert_eq!(config.processing, Duration::from_millis(250));
        assert_eq!((config.seed, config.requests_per_hour), (1, 250_000));
        assert_eq!(sandbox.world().faults(), faults(&["braze.file.cut"]));
        assert_eq!(sandbox.world().audience(1).unwrap().size(), 4);

        // All or nothing.
        let (status, told) = set(json!({"people": 5, "limits": {"max_concurrent": 0}})).await;
        assert_eq!((status, told.as_str()), (400, r#"{"message":"`limits.max_concurrent` is at least 1"}"#));
        assert_eq!(set(json!({"people": 5, "peeple": 5})).await.0, 400);
        assert_eq!(set(json!({"people": 5, "clock": {"start": "2026-01-01T00:00:00Z"}})).await.0, 400);
        assert_eq!(sandbox.world().config.people, 4);

        let shown: Value = http.get(url.clone()).send().await.unwrap().json().await.unwrap();
        assert_eq!((&shown["people"], &shown["faults"]), (&json!(4), &json!(["braze.file.cut"])));
        assert_eq!(set(json!({"faults": []})).await.0, 204);
        assert!(sandbox.world().faults().is_empty());
        assert_eq!(set(shown).await.0, 204, "what is shown can be set again");
        assert_eq!(sandbox.world().faults(), faults(&["braze.file.cut"]));
    }
}
