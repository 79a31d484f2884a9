//! Faults by name. A vendor's simulator lists the ones it can show ([`FaultSpec`]); whoever runs the sandbox switches
//! them on as `name` (always) or `name=3` (the next three times). What can go wrong at any endpoint
//! ([`EndpointFault`]) is listed once for each with [`FaultSpec::endpoint`].

use std::{borrow::Cow, fmt, str::FromStr, sync::Mutex};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A fault that a simulator can show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultSpec {
    /// `<vendor>.<thing>.<fault>`; of an endpoint `<vendor>.<thing>` until it is spelled out.
    pub name: Cow<'static, str>,
    /// What happens, for people.
    pub says: Cow<'static, str>,
    /// What stands after `=`.
    pub takes: Takes,
}

/// What can go wrong at any endpoint that answers JSON or text at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointFault {
    Unauthorized,
    Forbidden,
    RateLimited,
    ServerError,
    Html,
    BadJson,
    Cut,
    Slow,
}

impl EndpointFault {
    const ALL: [(Self, &'static str, &'static str); 8] = [
        (Self::Unauthorized, "unauthorized", "401"),
        (Self::Forbidden, "forbidden", "403"),
        (Self::RateLimited, "rate_limited", "429"),
        (Self::ServerError, "server_error", "a plain 5xx"),
        (Self::Html, "html", "200 with a proxy's HTML page"),
        (Self::BadJson, "bad_json", "success, but the answer breaks off and is consistent with its Content-Length"),
        (Self::Cut, "cut", "the connection closes in the middle of the answer"),
        (Self::Slow, "slow", "the answer comes at five bytes a second"),
    ];
}

/// What may stand after `=` in a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// How many times; without it, always.
    Times,
    /// An address; the fault always shows.
    Url,
    /// How many times; the name is completed by that of an [`EndpointFault`].
    Endpoint,
}

impl FaultSpec {
    pub const fn times(name: &'static str, says: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), says: Cow::Borrowed(says), takes: Takes::Times }
    }

    /// Everything that can go wrong at an endpoint, as `<name>.unauthorized` and so on. `says` is what it answers.
    pub const fn endpoint(name: &'static str, says: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), says: Cow::Borrowed(says), takes: Takes::Endpoint }
    }

    /// The faults this stands for: itself, or those of an endpoint.
    fn spelled_out(&self) -> Vec<Self> {
        if self.takes != Takes::Endpoint {
            return vec![self.clone()];
        }
        let each = |(_, suffix, what): &(EndpointFault, &str, &str)| Self {
            name: format!("{}.{suffix}", self.name).into(),
            says: format!("{}: {what}", self.says).into(),
            takes: Takes::Times,
        };
        EndpointFault::ALL.iter().map(each).collect()
    }

    pub const fn url(name: &'static str, says: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), says: Cow::Borrowed(says), takes: Takes::Url }
    }
}

/// A fault that is switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    spec: FaultSpec,
    /// How many more times it shows; `None` is always.
    left: Option<u64>,
    url: Option<String>,
}

/// The text names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFault {
    #[error("there is no fault `{0}`; the sandbox command's help lists them")]
    Unknown(String),
    #[error("`{0}` takes a number of times from 1, as in `{0}=3`, or nothing for always")]
    NotTimes(String),
    #[error("`{0}` takes an address, as in `{0}=http://127.0.0.1:9/`")]
    NotUrl(String),
}

impl Fault {
    /// Reads `name` or `name=value`.
    ///
    /// # Errors
    /// When no simulator knows the name, or the value does not fit.
    pub fn parse(text: &str) -> Result<Self, BadFault> {
        let (name, value) = match text.trim().split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim())),
            None => (text.trim(), None),
        };
        let spec =
            known().into_iter().find(|spec| spec.name == name).ok_or_else(|| BadFault::Unknown(name.to_owned()))?;
        match (spec.takes, value) {
            (Takes::Times | Takes::Endpoint, None) => Ok(Self { spec, left: None, url: None }),
            (Takes::Times | Takes::Endpoint, Some(value)) => match value.parse() {
                Ok(times) if times > 0 => Ok(Self { spec, left: Some(times), url: None }),
                _ => Err(BadFault::NotTimes(spec.name.into_owned())),
            },
            (Takes::Url, Some(value)) if url::Url::parse(value).is_ok() => {
                Ok(Self { spec, left: None, url: Some(value.to_owned()) })
            }
            (Takes::Url, _) => Err(BadFault::NotUrl(spec.name.into_owned())),
        }
    }
}

impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        Self::parse(text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec.name)?;
        match (self.left, &self.url) {
            (Some(left), _) => write!(f, "={left}"),
            (None, Some(url)) => write!(f, "={url}"),
            (None, None) => Ok(()),
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Every fault of every vendor.
pub fn known() -> Vec<FaultSpec> {
    let Ok(anywhere) = url::Url::parse("http://127.0.0.1/") else { return Vec::new() };
    super::connections_at(&anywhere)
        .iter()
        .flat_map(|connection| connection.faults)
        .flat_map(FaultSpec::spelled_out)
        .collect()
}

/// Every fault, one a line with what it does: the end of the sandbox command's help.
pub fn help() -> String {
    let known = known();
    let shown = |spec: &FaultSpec| match spec.takes {
        Takes::Times | Takes::Endpoint => format!("{}[=N]", spec.name),
        Takes::Url => format!("{}=<url>", spec.name),
    };
    let width = known.iter().map(|spec| shown(spec).len()).max().unwrap_or_default();
    let line = |spec: &FaultSpec| format!("  {:width$}  {}", shown(spec), spec.says);
    known.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The faults that are on.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(super) fn replace(&self, faults: Vec<Fault>) {
        *self.lock() = faults;
    }

    pub(super) fn list(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// Uses up one showing of the fault; false when it is not on.
    pub(super) fn shows(&self, name: &str) -> bool {
        let mut faults = self.lock();
        let Some(at) = faults.iter().position(|fault| fault.spec.name == name) else { return false };
        match &mut faults[at].left {
            Some(1) => {
                faults.remove(at);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        true
    }

    /// Uses up one showing of one of the faults of the endpoint `thing`, if one is on.
    pub(super) fn shows_endpoint(&self, thing: &str) -> Option<EndpointFault> {
        let is_on = |(_, suffix, _): &&(EndpointFault, &str, &str)| self.shows(&format!("{thing}.{suffix}"));
        EndpointFault::ALL.iter().find(is_on).map(|(fault, ..)| *fault)
    }

    /// The address the fault was switched on with.
    pub(super) fn url(&self, name: &str) -> Option<String> {
        self.lock().iter().find(|fault| fault.spec.name == name)?.url.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_back_from_its_text() {
        for text in [
            "braze.segment.not_ready=3",
            "braze.segment.unauthorized",
            "growingio_cdp.job.stuck",
            "braze.file.redirect=http://127.0.0.1:9/x?y=z",
        ] {
            assert_eq!(Fault::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_fault_that_cannot_be_meant_is_refused() {
        assert_eq!(Fault::parse("braze.segment.mood"), Err(BadFault::Unknown("braze.segment.mood".into())));
        assert_eq!(Fault::parse("braze.file.cut=0"), Err(BadFault::NotTimes("braze.file.cut".into())));
        assert_eq!(Fault::parse("braze.file.cut=often"), Err(BadFault::NotTimes("braze.file.cut".into())));
        assert_eq!(Fault::parse("braze.file.redirect"), Err(BadFault::NotUrl("braze.file.redirect".into())));
        assert_eq!(Fault::parse("braze.file.redirect=elsewhere"), Err(BadFault::NotUrl("braze.file.redirect".into())));
    }

    #[test]
    fn a_counted_fault_shows_that_many_times_and_an_uncounted_one_always() {
        let faults = Faults::default();
        faults
            .replace(vec![Fault::parse("braze.file.cut=2").unwrap(), Fault::parse("growingio_cdp.job.stuck").unwrap()]);
        assert_eq!([(); 3].map(|()| faults.shows("braze.file.cut")), [true, true, false]);
        assert_eq!([(); 3].map(|()| faults.shows("growingio_cdp.job.stuck")), [true; 3]);
        assert!(!faults.shows("braze.file.html"));
    }

    #[test]
    fn fault_names_are_unique_and_begin_with_their_vendor() {
        for connection in super::super::connections_at(&"http://127.0.0.1/".parse().unwrap()) {
            assert!(!connection.faults.is_empty());
            assert!(connection.faults.iter().all(|fault| fault.name.starts_with(&format!("{}.", connection.vendor))));
        }
        let mut names: Vec<_> = known().into_iter().map(|fault| fault.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(help().contains("braze.file.redirect=<url>"));
    }
}
