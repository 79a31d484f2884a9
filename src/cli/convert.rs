//! `headgate convert`: what the gateway does with a vendor's files, done with files on this machine.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{Failure, run_on_all_cores};
use crate::{
    egress::EgressPolicy,
    exports::{
        mapping::{self, ConnectionMapping, ValueMaps},
        problem::FieldError,
        request::{CsvOptions, Dataset, ExportRequest, OnBadRecord, Output, from_json},
    },
    results::{
        Limits, Meter,
        convert::{self, Conversion, Heading, Piece},
        receive::{self, Received},
    },
    vendors::{Account, Vendor, VendorSpec, http::Http, registry, shared::Alone},
};

/// Pieces that wait for the disk.
const PIECES_WAITING: usize = 8;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The vendor whose files these are: a name of `GET /v1/vendors`
    #[arg(long)]
    vendor: String,
    /// The dataset they were exported for
    #[arg(long, default_value = "audience_members")]
    dataset: String,
    /// `parameters` of the export, in JSON. What only chooses records at the vendor may be missing
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
    parameters: Map<String, Value>,
    /// Columns to keep, separated by commas; short for `parameters.fields`
    #[arg(long, value_delimiter = ',')]
    fields: Vec<String>,
    /// `settings` of the connection, in JSON
    #[arg(long, value_name = "JSON", value_parser = object)]
    settings: Option<Map<String, Value>>,
    /// `mapping` of the connection, in JSON
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
    mapping: Map<String, Value>,
    /// What is in a file where the vendor has several kinds, for example the type of raw events
    #[arg(long, default_value = "")]
    tag: String,
    /// ndjson, csv, parquet or raw
    #[arg(long, default_value = "ndjson")]
    format: String,
    /// none, gzip or zstd
    #[arg(long, default_value = "none")]
    compression: String,
    /// unified or vendor
    #[arg(long, default_value = "unified")]
    schema: String,
    /// Keep the order of the records
    #[arg(long)]
    ordered: bool,
    /// Write one file, however large
    #[arg(long)]
    single_file: bool,
    /// What to do about a record that cannot be read
    #[arg(long, default_value = "fail")]
    on_bad_record: BadRecords,
    /// Leave cells of CSV that a spreadsheet would run as they are
    #[arg(long)]
    unguarded_csv: bool,
    /// Where the results go: a folder; with --single-file a file, or `-` for standard output
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// The vendor's files: ZIP, gzip, zstd or plain; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    inputs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BadRecords {
    Fail,
    Skip,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let conversion = conversion(arguments)?;
    let place = Place::new(arguments)?;
    let files = arguments.inputs.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    run_on_all_cores(convert(conversion, files, arguments.tag.clone(), place))
}

fn usage(errors: &[FieldError]) -> Failure {
    let told: Vec<_> = errors.iter().map(|error| format!("{} {}", error.pointer, error.detail)).collect();
    Failure::Usage(told.join("; "))
}

fn parsed<T: DeserializeOwned>(value: Value, base: &str) -> Result<T, Failure> {
    from_json(value, base).map_err(|error| usage(&[error]))
}

fn conversion(arguments: &Arguments) -> Result<Conversion, Failure> {
    let Some(spec) = registry::vendor(&arguments.vendor) else {
        let names: Vec<_> = registry::VENDORS.iter().map(|spec| spec.name).collect();
        return Err(Failure::Usage(format!("there is no vendor `{}`; use {}", arguments.vendor, names.join(", "))));
    };
    let dataset: Dataset = parsed(json!(arguments.dataset), "--dataset")?;
    let output = Output {
        format: parsed(json!(arguments.format), "--format")?,
        compression: parsed(json!(arguments.compression), "--compression")?,
        schema: parsed(json!(arguments.schema), "--schema")?,
        csv: CsvOptions { guard_formulas: !arguments.unguarded_csv },
        ordered: arguments.ordered,
        single_file: arguments.single_file,
        on_bad_record: match arguments.on_bad_record {
            BadRecords::Fail => OnBadRecord::Fail,
            BadRecords::Skip => OnBadRecord::Skip,
        },
    };
    let request = ExportRequest::parse(dataset, &parameters(arguments, spec, dataset), output)
        .map_err(|errors| usage(&errors))?;
    Ok(Conversion {
        prefix: String::new(),
        dataset,
        output,
        selection: request.parameters.selection(),
        records: account(arguments, spec)?.records(&request),
        limits: Limits::default(),
        spool_dir: std::env::temp_dir(),
    })
}

/// The caller's parameters, with something for those that only tell the vendor which records to export.
fn parameters(arguments: &Arguments, spec: &VendorSpec, dataset: Dataset) -> Value {
    let mut parameters = match dataset {
        Dataset::AudienceMembers => {
            let spec = spec.datasets.iter().find(|spec| spec.dataset == dataset);
            let kind = spec.and_then(|spec| spec.audience_kinds.first());
            json!({"audience": {"kind": kind, "id": "local"}})
        }
        Dataset::UserProfiles => json!({"identifiers": [{"type": "user_id", "value": "local"}]}),
        Dataset::RawEvents => json!({"window": {"from": "2000-01-01T00:00:00Z", "to": "2000-01-01T01:00:00Z"}}),
        _ => json!({}),
    };
    if let Value::Object(members) = &mut parameters {
        members.extend(arguments.parameters.clone());
        if !arguments.fields.is_empty() {
            members.insert("fields".into(), json!(arguments.fields));
        }
    }
    parameters
}

/// An account that is never called.
fn account(arguments: &Arguments, spec: &VendorSpec) -> Result<Arc<dyn Vendor>, Failure> {
    let nowhere = "https://vendor.invalid".parse().map_err(anyhow::Error::from)?;
    let usual = (spec.sandbox_connection)(&nowhere).body["settings"].clone();
    let mapping: ConnectionMapping = parsed(Value::Object(arguments.mapping.clone()), "--mapping")?;
    let errors = mapping::check(&mapping);
    if !errors.is_empty() {
        return Err(usage(&errors));
    }
    let (mapping, values) = ValueMaps::split(mapping);
    (spec.connect)(Account {
        settings: arguments.settings.clone().map_or(usual, Value::Object),
        credentials: BTreeMap::new(),
        mapping,
        values,
        http: Http::new(EgressPolicy::parse("").map_err(anyhow::Error::from)?).map_err(anyhow::Error::from)?,
        shared: Arc::new(Alone),
    })
    .map_err(|errors| usage(&errors))
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    Ok(Box::new(file))
}

async fn convert(
    conversion: Conversion,
    files: Vec<Box<dyn Read + Send>>,
    tag: String,
    place: Place,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let (feeder, inputs) = receive::connect();
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    let meter = Meter::default();
    let counts = meter.clone();
    let produced = tokio::task::spawn_blocking(move || convert::produce(inputs, &conversion, &counts, &sender));
    let written = tokio::task::spawn_blocking(move || place.write(pieces));
    for bytes in files {
        let received = Received { bytes, extension: "bin".into(), tag: tag.clone().into() };
        // Whoever stopped reading says why.
        if feeder.file(received).await.is_err() {
            break;
        }
    }
    drop(feeder);
    let (written, produced) = (written.await?, produced.await?);
    // When the place failed, the conversion was stopped by that and has nothing to add.
    let names = written?;
    produced?;
    eprintln!(
        "{} records from {} files in {:.1} s: {}",
        meter.records(),
        meter.files_done(),
        began.elapsed().as_secs_f64(),
        names.join(", ")
    );
    Ok(())
}

/// Where results are written.
enum Place {
    Folder(PathBuf),
    File(PathBuf),
    StandardOutput,
}

impl Place {
    fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let path = arguments.output.clone();
        match (arguments.single_file, path.as_os_str() == "-") {
            (true, true) => Ok(Self::StandardOutput),
            (true, false) => Ok(Self::File(path)),
            (false, true) => Err(Failure::Usage("standard output takes one file: add --single-file".into())),
            (false, false) => {
                fs::create_dir_all(&path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
                Ok(Self::Folder(path))
            }
        }
    }

    /// Writes every file; it has its name only when it is whole.
    fn write(&self, mut pieces: mpsc::Receiver<Piece>) -> anyhow::Result<Vec<String>> {
        let mut open: HashMap<u32, (Heading, Box<dyn Write>)> = HashMap::new();
        let mut whole = Vec::new();
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Begin(number, heading) => {
                    let file = self.begin(&heading.name)?;
                    open.insert(number, (heading, file));
                }
                Piece::Bytes(number, bytes) => {
                    let Some((heading, file)) = open.get_mut(&number) else { continue };
                    file.write_all(&bytes).with_context(|| format!("{} could not be written", heading.name))?;
                }
                Piece::End(number, _) => {
                    let Some((heading, mut file)) = open.remove(&number) else { continue };
                    file.flush().with_context(|| format!("{} could not be written", heading.name))?;
                    whole.push((number, heading.name));
                }
            }
        }
        if !open.is_empty() {
            for (heading, _) in open.into_values() {
                drop(self.path(&heading.name).map(|path| fs::remove_file(partial(&path))));
            }
            return Ok(Vec::new());
        }
        whole.sort();
        self.name(whole.into_iter().map(|(_, name)| name).collect())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Folder(folder) => Some(folder.join(name)),
            // Only results can be the one file; what was left out is told beside it.
            Self::File(path) if convert::is_rejected(name) => Some(path.with_file_name(name)),
            Self::File(path) => Some(path.clone()),
            Self::StandardOutput => None,
        }
    }

    fn begin(&self, name: &str) -> anyhow::Result<Box<dyn Write>> {
        match self.path(name) {
            Some(path) => {
                let path = partial(&path);
                let file = File::create(&path).with_context(|| format!("{} could not be made", path.display()))?;
                Ok(Box::new(file))
            }
            None if convert::is_rejected(name) => Ok(Box::new(io::stderr())),
            None => Ok(Box::new(io::stdout())),
        }
    }

    /// Gives whole files their names.
    fn name(&self, names: Vec<String>) -> anyhow::Result<Vec<String>> {
        let results = names.iter().filter(|name| !convert::is_rejected(name)).count();
        let mut told = Vec::new();
        for name in names {
            let Some(begun) = self.path(&name) else {
                told.push("standard output".into());
                continue;
            };
            let path = match self {
                Self::Folder(folder) => folder.join(convert::final_name(&name, results)),
                Self::File(_) | Self::StandardOutput => begun.clone(),
            };
            if let Err(error) = fs::rename(partial(&begun), &path) {
                bail!("{} could not be named: {error}", path.display());
            }
            told.push(path.display().to_string());
        }
        Ok(told)
    }
}

/// The name of a file that is not whole yet.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}
