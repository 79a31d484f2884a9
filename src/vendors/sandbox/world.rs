//! What the simulators share: the people, the audiences, the faults that are on, and a record of what clients did.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    SandboxConfig,
    faults::{EndpointFault, Fault, Faults},
    people::Person,
};

/// Violations kept with their text; later ones are only counted.
const MAX_VIOLATION_TEXTS: usize = 100;
/// Names kept in [`Activity::counts`].
const MAX_COUNTS: usize = 10_000;
/// Takes the rest.
const OTHER_COUNTS: &str = "other";

/// Everything behind one running sandbox.
pub struct World {
    pub config: LiveConfig,
    faults: Faults,
    activity: Arc<Mutex<BTreeMap<&'static str, Activity>>>,
    shelves: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    http: reqwest::Client,
    started: (Instant, DateTime<Utc>),
    /// Since when the vendors' clock has run at its present speed, and what it showed then.
    paced: Mutex<(Instant, DateTime<Utc>)>,
}

/// How the sandbox behaves, also after [`World::reconfigure`]. Reading needs no guard: each version stays in memory, a
/// few hundred bytes for every change that somebody makes by hand.
pub struct LiveConfig(RwLock<&'static SandboxConfig>);

impl LiveConfig {
    fn new(config: SandboxConfig) -> Self {
        Self(RwLock::new(Box::leak(Box::new(config))))
    }

    fn replace(&self, config: SandboxConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Box::leak(Box::new(config));
    }
}

impl Deref for LiveConfig {
    type Target = SandboxConfig;

    fn deref(&self) -> &SandboxConfig {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What clients did to one vendor's simulator since it started or was reset.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Activity {
    /// Exports that were accepted.
    pub submissions: u64,
    /// Calls the vendor would refuse, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Questions after an export that is under way, including those that were answered with its file.
    pub polls: u64,
    /// Answers that carried a file or a part of one.
    pub downloads: u64,
    /// Tokens that were issued for signed requests.
    pub tokens_issued: u64,
    /// How often single things happened, by names of the simulator, e.g. of a slice that was handed out.
    pub counts: BTreeMap<String, u64>,
    /// Callbacks sent.
    pub callbacks: u64,
    /// Callbacks that could not be delivered.
    pub callbacks_failed: u64,
    /// Exports being prepared now.
    pub running: u64,
    /// The most exports that were being prepared at once.
    pub max_running: u64,
    /// The most exports of one audience that were being prepared at once.
    pub max_running_per_audience: u64,
    /// How often a client did what the vendor's documents forbid.
    pub violation_count: u64,
    /// What it did, the first hundred times.
    pub violations: Vec<String>,
    #[serde(skip)]
    running_by_audience: BTreeMap<String, u64>,
}

impl Activity {
    /// Calls that were refused, whatever the reason.
    pub fn refused(&self) -> u64 {
        self.refusals.values().sum()
    }
}

impl World {
    pub(super) fn new(config: SandboxConfig) -> reqwest::Result<Self> {
        let started = (Instant::now(), config.clock.start.unwrap_or_else(Utc::now));
        let world = Self {
            faults: Faults::default(),
            activity: Arc::default(),
            shelves: Mutex::default(),
            http: reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(10)).build()?,
            started,
            paced: Mutex::new(started),
            config: LiveConfig::new(config),
        };
        world.faults.replace(world.config.faults.clone());
        Ok(world)
    }

    /// What time it was at the vendors when the sandbox started: what windows of demonstrations are relative to.
    pub fn started_at(&self) -> DateTime<Utc> {
        self.started.1
    }

    /// What time it is at the vendors.
    pub fn now(&self) -> DateTime<Utc> {
        // Held while the speed is read: both change together.
        let paced = lock(&self.paced);
        let passed = paced.0.elapsed().mul_f64(self.config.clock.speed);
        paced.1 + TimeDelta::from_std(passed).unwrap_or_default()
    }

    /// Behaves as `config` says from now on. Exports that are being prepared end as they began. The clock goes on from
    /// what it shows, at the new speed; `clock.start` and `faults` count only at the start.
    pub fn reconfigure(&self, config: SandboxConfig) {
        let (at, now) = (Instant::now(), self.now());
        let mut paced = lock(&self.paced);
        self.config.replace(config);
        *paced = (at, now);
    }

    /// The person of that number.
    pub fn person(&self, index: u64) -> Person {
        Person::new(self.config.seed, index)
    }

    /// The audience of that number, from 1.
    pub fn audience(&self, number: u64) -> Option<Audience> {
        (1..=self.config.audiences).contains(&number).then_some(Audience { number, people: self.config.people })
    }

    /// Every audience, lowest number first.
    pub fn audiences(&self) -> impl ExactSizeIterator<Item = Audience> + use<> {
        let people = self.config.people;
        let numbers = 1..usize::try_from(self.config.audiences).unwrap_or(usize::MAX).saturating_add(1);
        numbers.map(move |number| Audience { number: number as u64, people })
    }

    /// Switches on exactly these faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.faults.replace(faults);
    }

    /// The faults that are on, with how often they will still show.
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.list()
    }

    /// Whether the fault shows now. Uses up one showing.
    pub fn fault(&self, name: &str) -> bool {
        self.faults.shows(name)
    }

    /// What goes wrong now at the endpoint that [`FaultSpec::endpoint`](super::FaultSpec::endpoint) lists as `thing`.
    /// Uses up one showing.
    pub fn endpoint_fault(&self, thing: &str) -> Option<EndpointFault> {
        self.faults.shows_endpoint(thing)
    }

    /// The address of a fault that has one, if it is on.
    pub fn fault_url(&self, name: &str) -> Option<String> {
        self.faults.url(name)
    }

    /// What clients did so far at `vendor`.
    pub fn activity(&self, vendor: &str) -> Activity {
        lock(&self.activity).get(vendor).cloned().unwrap_or_default()
    }

    /// Notes something in the record of `vendor`.
    pub fn note(&self, vendor: &'static str, change: impl FnOnce(&mut Activity)) {
        change(lock(&self.activity).entry(vendor).or_default());
    }

    /// Notes that a call was refused.
    pub fn refuse(&self, vendor: &'static str, reason: &str) {
        self.note(vendor, |activity| *activity.refusals.entry(reason.to_owned()).or_default() += 1);
    }

    /// Notes that a client did what the vendor's documents forbid. `text` holds no secret.
    pub fn violation(&self, vendor: &'static str, text: impl Into<String>) {
        let text = text.into();
        tracing::warn!(vendor.name = vendor, violation = text, "a client broke the vendor's rules");
        self.note(vendor, |activity| {
            activity.violation_count += 1;
            if activity.violations.len() < MAX_VIOLATION_TEXTS {
                activity.violations.push(text);
            }
        });
    }

    /// Counts something by its name; past ten thousand names the new ones are counted together. `name` holds no secret.
    pub fn count(&self, vendor: &'static str, name: String) {
        self.note(vendor, |activity| {
            let full = activity.counts.len() >= MAX_COUNTS && !activity.counts.contains_key(&name);
            *activity.counts.entry(if full { OTHER_COUNTS.to_owned() } else { name }).or_default() += 1;
        });
    }

    /// Notes that an export of `audience` is being prepared until the answer is dropped.
    pub fn running(&self, vendor: &'static str, audience: String) -> Running {
        self.note(vendor, |activity| {
            activity.submissions += 1;
            activity.running += 1;
            activity.max_running = activity.max_running.max(activity.running);
            let of_audience = activity.running_by_audience.entry(audience.clone()).or_default();
            *of_audience += 1;
            activity.max_running_per_audience = activity.max_running_per_audience.max(*of_audience);
        });
        Running { vendor, audience, activity: Arc::clone(&self.activity) }
    }

    /// What a vendor's simulator keeps, one value of each type; made on first use.
    pub fn shelf<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let value = Arc::clone(lock(&self.shelves).entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default())));
        value.downcast().unwrap_or_default()
    }

    /// For the simulators' own calls: callbacks.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Forgets every export, every fault and the record of what clients did.
    pub fn reset(&self) {
        self.faults.replace(Vec::new());
        lock(&self.shelves).clear();
        for activity in lock(&self.activity).values_mut() {
            let running = std::mem::take(&mut activity.running);
            let running_by_audience = std::mem::take(&mut activity.running_by_audience);
            *activity = Activity { running, max_running: running, running_by_audience, ..Activity::default() };
        }
    }

    pub(super) fn all_activity(&self) -> BTreeMap<&'static str, Activity> {
        lock(&self.activity).clone()
    }
}

/// An export that is being prepared, for as long as this lives.
pub struct Running {
    vendor: &'static str,
    audience: String,
    activity: Arc<Mutex<BTreeMap<&'static str, Activity>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(activity) = lock(&self.activity).get_mut(self.vendor) {
            activity.running = activity.running.saturating_sub(1);
            if let Some(of_audience) = activity.running_by_audience.get_mut(&self.audience) {
                *of_audience = of_audience.saturating_sub(1);
                if *of_audience == 0 {
                    activity.running_by_audience.remove(&self.audience);
                }
            }
        }
    }
}

/// A group of people, the same at every vendor: 1 is everybody, 2 nobody, 3 the first three people, and any higher
/// number every so-manyth person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience {
    pub number: u64,
    people: u64,
}

impl Audience {
    /// The numbers of its people.
    pub fn members(self) -> impl Iterator<Item = u64> + Clone + Send + 'static {
        let (end, step) = match self.number {
            0 | 2 => (0, 1),
            1 => (self.people, 1),
            3 => (self.people.min(3), 1),
            number => (self.people, usize::try_from(number).unwrap_or(usize::MAX)),
        };
        (0..end).step_by(step)
    }

    /// How many people it has.
    pub fn size(self) -> u64 {
        match self.number {
            0 | 2 => 0,
            1 => self.people,
            3 => self.people.min(3),
            number => self.people.div_ceil(number),
        }
    }

    /// What people call it.
    pub fn title(self) -> String {
        match self.number {
            1 => "Everybody".to_owned(),
            2 => "Nobody".to_owned(),
            3 => "The first three".to_owned(),
            number => format!("One person in {number}"),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::new(SandboxConfig { people: 25, ..SandboxConfig::default() }).unwrap()
    }

    #[test]
    fn an_audience_has_as_many_members_as_its_size_says() {
        let world = world();
        for number in 1..40 {
            let audience = world.audience(number).unwrap();
            assert_eq!(audience.members().count() as u64, audience.size(), "{number}");
        }
        assert_eq!(world.audience(1).unwrap().size(), 25);
        assert_eq!(world.audience(7).unwrap().members().collect::<Vec<_>>(), [0, 7, 14, 21]);
        assert!(world.audience(0).is_none() && world.audience(world.config.audiences + 1).is_none());
    }

    #[test]
    fn a_change_of_speed_does_not_move_the_clock() {
        let start = "2026-03-01T00:00:00Z".parse().unwrap();
        let mut config = SandboxConfig::default();
        (config.clock.start, config.clock.speed) = (Some(start), 1_000_000.0);
        let world = World::new(config.clone()).unwrap();
        while world.now() < start + TimeDelta::hours(1) {
            std::hint::spin_loop();
        }
        let before = world.now();
        config.clock.speed = 0.001;
        world.reconfigure(config);
        let after = world.now();
        assert!(after >= before && after < before + TimeDelta::days(30), "{before} {after}");
        assert!(world.now() - after < TimeDelta::minutes(1));
        assert_eq!(world.started_at(), start);
    }

    #[test]
    fn who_reads_the_settings_during_a_change_reads_one_version_of_them() {
        let world = world();
        let before: &SandboxConfig = &world.config;
        world.reconfigure(SandboxConfig { people: 3, ..before.clone() });
        assert_eq!((before.people, world.config.people, world.audience(1).unwrap().size()), (25, 3, 3));
    }

    #[test]
    fn the_record_of_counts_is_bounded() {
        let world = world();
        for number in 0..MAX_COUNTS + 5 {
            world.count("braze", format!("slice {number}"));
        }
        world.count("braze", "slice 3".into());
        let counts = world.activity("braze").counts;
        assert_eq!((counts.len(), counts[OTHER_COUNTS], counts["slice 3"]), (MAX_COUNTS + 1, 5, 2));
    }

    #[test]
    fn the_record_knows_how_many_exports_ran_at_once() {
        let world = world();
        let one = world.running("braze", "a".into());
        let two = world.running("braze", "a".into());
        drop(one);
        let three = world.running("braze", "b".into());
        let activity = world.activity("braze");
        assert_eq!((activity.submissions, activity.running), (3, 2));
        assert_eq!((activity.max_running, activity.max_running_per_audience), (2, 2));
        drop((two, three));
        assert_eq!(world.activity("braze").running, 0);
    }
}
