//! Where settings come from: the flags, the environment and the file, laid over each other, each value with its origin.

use std::{collections::BTreeMap, fmt::Display, fs, path::Path};

use config::{Config, ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use secrecy::SecretString;
use serde::Serialize;

use super::Error;
use crate::data_dir::trimmed;

const PREFIX: &str = "HEADGATE_";

/// One flag for each setting; the field's name is the setting's name everywhere.
#[derive(Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (each also HEADGATE_… in the environment and a key of headgate.toml)")]
pub struct Flags {
    /// Settings file [default: headgate.toml in the working directory, if there is one]
    #[arg(long, value_name = "PATH")]
    pub config: Option<String>,
    /// Address of the API [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// What callers and vendors reach [default: http:// and --listen]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Embedded database, generated keys, local files [default: $XDG_DATA_HOME/headgate; for root /var/lib/headgate]
    #[arg(long, value_name = "PATH")]
    pub data_dir: Option<String>,
    /// A Postgres 14 or newer; prefer the variable or the file, a command line is visible [default: a private one]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// File with the database URL
    #[arg(long, value_name = "PATH")]
    pub database_url_file: Option<String>,
    /// Connections to the database at once [default: 16]
    #[arg(long, value_name = "N")]
    pub database_max_connections: Option<String>,
    /// Folder with postgres and initdb, for the private Postgres [default: found on this machine, or fetched once]
    #[arg(long, value_name = "PATH")]
    pub pg_bin: Option<String>,
    /// Where results are kept: file:, s3:, gs: or az: [default: files in --data-dir]
    #[arg(long, value_name = "URL")]
    pub storage_url: Option<String>,
    /// 32 bytes in base64; several, comma-separated, the first seals; prefer the variable or the file
    #[arg(long, value_name = "KEYS")]
    pub master_key: Option<String>,
    /// File with the master keys
    #[arg(long, value_name = "PATH")]
    pub master_key_file: Option<String>,
    /// Secret that signs and checks tokens; prefer the variable or the file
    #[arg(long, value_name = "TEXT")]
    pub jwt_secret: Option<String>,
    /// File with that secret
    #[arg(long, value_name = "PATH")]
    pub jwt_secret_file: Option<String>,
    /// Key set that checks tokens, instead of a secret
    #[arg(long, value_name = "URL")]
    pub jwks_url: Option<String>,
    /// The `iss` a token must have
    #[arg(long, value_name = "TEXT")]
    pub jwt_issuer: Option<String>,
    /// The `aud` a token must have
    #[arg(long, value_name = "TEXT")]
    pub jwt_audience: Option<String>,
    /// Comma-separated [default: HS256 with a secret; RS256,ES256,EdDSA with a key set]
    #[arg(long, value_name = "NAMES")]
    pub jwt_algorithms: Option<String>,
    /// Hosts or networks that may be reached although private, comma-separated
    #[arg(long, value_name = "LIST")]
    pub egress_allow: Option<String>,
    /// Least time between polls of one export [default: 2000]
    #[arg(long, value_name = "N")]
    pub poll_min_ms: Option<String>,
    /// Most time between polls of one export [default: 60000]
    #[arg(long, value_name = "N")]
    pub poll_max_ms: Option<String>,
    /// How long a claim holds without a heartbeat [default: 30]
    #[arg(long, value_name = "N")]
    pub lease_secs: Option<String>,
    /// A transfer that brings nothing for so long is broken off and tried again [default: 60]
    #[arg(long, value_name = "N")]
    pub transfer_stall_secs: Option<String>,
    /// Steps at once in one process [default: 2 × cores]
    #[arg(long, value_name = "N")]
    pub worker_concurrency: Option<String>,
    /// Exports of one tenant that run at once; further ones wait [default: 200]
    #[arg(long, value_name = "N")]
    pub tenant_concurrency: Option<String>,
    /// Exports over one connection that run at once; further ones wait [default: 200]
    #[arg(long, value_name = "N")]
    pub connection_concurrency: Option<String>,
    /// How long results are kept, as an ISO 8601 duration [default: P7D]
    #[arg(long, value_name = "DURATION")]
    pub result_ttl: Option<String>,
    /// A result is cut into files of about this many MiB [default: 256]
    #[arg(long, value_name = "N")]
    pub result_file_mib: Option<String>,
    /// How long work in hand may take after a request to stop [default: 30]
    #[arg(long, value_name = "N")]
    pub shutdown_grace_secs: Option<String>,
    /// Log filter [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// json or text [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// OTLP collector for traces, HTTP with protobuf
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// One setting as it is in force, for an operator's eyes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// In the environment form.
    pub name: String,
    /// `[hidden]` for a secret, `[not set]` where there is neither value nor default.
    pub value: String,
    pub origin: String,
}

/// A secret that was given, and where.
pub(super) struct Given {
    pub(super) secret: SecretString,
    name: String,
    origin: String,
}

impl Given {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn error(&self, reason: &str) -> Error {
        Error(format!("{} ({}) {reason}", self.name, self.origin))
    }
}

/// The values given anywhere, and the settings read from them so far.
pub(super) struct Layers {
    /// Text and origin by key; no empty texts.
    given: BTreeMap<String, (String, String)>,
    effective: Vec<Effective>,
}

/// This process's `HEADGATE_*` variables, and the two that choose the default data directory.
pub(super) fn environment() -> Result<BTreeMap<String, String>, Error> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX) || name == "HOME" || name == "XDG_DATA_HOME")
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Error(format!("{name} is not UTF-8"))),
        })
        .collect()
}

impl Layers {
    pub(super) fn read(flags: &Flags, env: &BTreeMap<String, String>, default_file: &Path) -> Result<Self, Error> {
        let known = setting_names();
        let variables = known_variables(env, &known)?;

        let mut builder = Config::builder();
        let named = flags.config.clone().or_else(|| variables.get("HEADGATE_CONFIG").cloned());
        let named = named.filter(|path| !path.is_empty());
        let file = named.as_deref().map(Path::new).or(default_file.exists().then_some(default_file));
        if let Some(path) = file {
            let layer = File::from(path).format(FileFormat::Toml);
            let values = layer.collect().map_err(|error| file_error(path, &error))?;
            for key in values.keys() {
                if key == "config" || !known.contains(key) {
                    return Err(Error(format!("{}: unknown setting `{key}`{}", path.display(), hint(key, &known))));
                }
            }
            builder = builder.add_source(layer);
        }
        // No guessing of types: a secret `12345` stays text.
        let variables = Environment::with_prefix("HEADGATE").ignore_empty(true).source(Some(variables));
        let merged = builder
            .add_source(variables)
            .add_source(FlagSource(flag_values(flags)))
            .build()
            .map_err(|error| Error(first_line(&error)))?;

        let values = merged.collect().map_err(|error| Error(first_line(&error)))?;
        let mut given = BTreeMap::new();
        for (key, value) in values {
            let origin = match value.origin() {
                Some("the environment") => "from the environment".to_owned(),
                Some(origin) => format!("from {origin}"),
                None => "given".to_owned(),
            };
            let Some(text) = text(value) else {
                return Err(Error(format!("{} ({origin}) must be text, a number or a list of texts", variable(&key))));
            };
            if !text.is_empty() {
                given.insert(key, (text, origin));
            }
        }
        Ok(Self { given, effective: Vec::new() })
    }

    /// The setting parsed, or its default parsed.
    pub(super) fn parse<T>(
        &mut self,
        key: &str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        let (text, origin) = match self.given.get(key) {
            Some((text, origin)) => (text.as_str(), origin.as_str()),
            None => (default, "default"),
        };
        let value = parse(text).map_err(|reason| Error(format!("{} ({origin}) {reason}", variable(key))));
        self.effective.push(match text {
            "" => not_set(variable(key)),
            text => Effective { name: variable(key), value: text.into(), origin: origin.into() },
        });
        value
    }

    /// The setting parsed, if it was given.
    pub(super) fn parse_optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        if self.given.contains_key(key) {
            return self.parse(key, "", parse).map(Some);
        }
        self.effective.push(not_set(variable(key)));
        Ok(None)
    }

    pub(super) fn optional(&mut self, key: &str) -> Result<Option<String>, Error> {
        self.parse_optional(key, |text| Ok(text.to_owned()))
    }

    /// A secret, given as itself or in the file that `<key>_file` names; never both.
    pub(super) fn secret(&mut self, key: &str) -> Result<Option<Given>, Error> {
        let (plain, path) = (variable(key), variable(&format!("{key}_file")));
        let shown = |name: &str, value: &str, origin: &str| Effective {
            name: name.into(),
            value: value.into(),
            origin: origin.into(),
        };
        let file_key = format!("{key}_file");
        match (self.given.get(key), self.given.get(&file_key)) {
            (Some((_, one)), Some((_, other))) => {
                Err(Error(format!("{plain} ({one}) and {path} ({other}) exclude each other")))
            }
            (Some((text, origin)), None) => {
                self.effective.push(shown(&plain, "[hidden]", origin));
                self.effective.push(not_set(path));
                Ok(Some(Given { secret: text.clone().into(), name: plain, origin: origin.clone() }))
            }
            (None, Some((file, origin))) => {
                let text = fs::read_to_string(file)
                    .map(|text| trimmed(&text).to_owned())
                    .map_err(|error| Error(format!("{path} ({origin}) cannot be read: {file}: {error}")))?;
                if text.is_empty() {
                    return Err(Error(format!("{path} ({origin}) names an empty file: {file}")));
                }
                self.effective.push(not_set(plain));
                self.effective.push(shown(&path, file, origin));
                Ok(Some(Given { secret: text.into(), name: path, origin: origin.clone() }))
            }
            (None, None) => {
                self.effective.push(not_set(plain));
                self.effective.push(not_set(path));
                Ok(None)
            }
        }
    }

    /// Shows a default that was worked out, where nothing was given.
    pub(super) fn note_default(&mut self, key: &str, value: impl Display) {
        let name = variable(key);
        if let Some(shown) = self.effective.iter_mut().find(|shown| shown.name == name && shown.origin.is_empty()) {
            shown.value = value.to_string();
            shown.origin = "default".into();
        }
    }

    pub(super) fn into_effective(self) -> Vec<Effective> {
        self.effective
    }
}

fn not_set(name: String) -> Effective {
    Effective { name, value: "[not set]".into(), origin: String::new() }
}

/// The flags as one more layer.
#[derive(Clone)]
struct FlagSource(Map<String, Value>);

impl std::fmt::Debug for FlagSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Source for FlagSource {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

fn flag_values(flags: &Flags) -> Map<String, Value> {
    let mut values = Map::new();
    for (key, value) in fields(flags) {
        if key != "config"
            && let serde_json::Value::String(text) = value
            && !text.is_empty()
        {
            let origin = format!("--{}", key.replace('_', "-"));
            values.insert(key, Value::new(Some(&origin), text));
        }
    }
    values
}

fn setting_names() -> Vec<String> {
    fields(&Flags::default()).into_iter().map(|(key, _)| key).collect()
}

fn fields(flags: &Flags) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(flags) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}

/// The variables that are settings; one that only looks like a setting is refused.
fn known_variables(env: &BTreeMap<String, String>, known: &[String]) -> Result<Map<String, String>, Error> {
    let mut variables = Map::new();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let key = rest.to_lowercase();
        if known.contains(&key) && rest == key.to_uppercase() {
            variables.insert(name.clone(), value.clone());
        } else if !is_service_link(rest) {
            return Err(Error(format!("unknown variable {name}{}", hint(&key, known))));
        }
    }
    Ok(variables)
}

/// Whether a variable is one that Kubernetes sets in every pod beside a service called `headgate`, or `headgate-…`:
/// `HEADGATE_SERVICE_HOST`, `HEADGATE_PORT`, `HEADGATE_PORT_8080_TCP_ADDR`, `HEADGATE_API_SERVICE_PORT_HTTP`, …
fn is_service_link(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let after = |word: &str| parts.iter().position(|part| *part == word).map(|at| &parts[at + 1..]);
    if let Some(["HOST"] | ["PORT", ..]) = after("SERVICE") {
        return true;
    }
    match after("PORT") {
        Some([]) => true,
        Some([number, "TCP" | "UDP" | "SCTP", ..]) => number.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

/// The known name that a misspelt one is closest to, if it is close.
fn hint(key: &str, known: &[String]) -> String {
    let near = known.iter().map(|name| (edits(key, name), name)).min().filter(|(edits, _)| *edits <= 3);
    near.map(|(_, name)| format!("; did you mean {} (`{name}`)?", variable(name))).unwrap_or_default()
}

/// How many letters to insert, drop or change to get from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// A scalar as text, a list of scalars as comma-separated text.
fn text(value: Value) -> Option<String> {
    match value.kind {
        ValueKind::Nil => Some(String::new()),
        ValueKind::Table(_) => None,
        ValueKind::Array(parts) => parts.into_iter().map(text).collect::<Option<Vec<_>>>().map(|parts| parts.join(",")),
        _ => value.into_string().ok(),
    }
}

fn file_error(path: &Path, error: &ConfigError) -> Error {
    Error(match fs::metadata(path) {
        Err(error) => format!("{}: {error}", path.display()),
        Ok(_) => format!("{}: {}", path.display(), first_line(error)),
    })
}

/// A parser's message goes on with the offending line, which may hold a secret: only its place is told.
fn first_line(error: &ConfigError) -> String {
    let text = match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}
