//! The adapter against the simulator, which was written from the documents alone: every dataset must come out as the
//! simulator says, without a refusal and without a broken rule.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    time::Duration,
};

use async_trait::async_trait;
use flate2::read::MultiGzDecoder;
use futures_util::TryStreamExt;
use secrecy::SecretString;
use serde_json::{Value, json, value::RawValue};
use zip::ZipArchive;

use super::*;
use crate::exports::{
    records::{Framing, Member, Record},
    request::{Dataset, Output, RecordSchema},
};
use crate::vendors::{
    sandbox::{
        Sandbox,
        tests::{faults, quick, until},
    },
    scripted::{http, job, part},
    shared::{Issue, Pace, Permit, Seen, Shared, Token},
};

/// Keeps small budgets as the gateway does, and counts what was learned of the large ones.
struct Paced;

#[async_trait]
impl Shared for Paced {
    async fn take(&self, budget: &Budget) -> Result<Permit, VendorError> {
        if budget.pace == Pace::Spaced {
            tokio::time::sleep(budget.window / budget.limit + Duration::from_millis(1)).await;
        }
        Ok(Permit::free())
    }

    async fn learn(&self, budget: &Budget, seen: Seen) {
        assert!(seen.remaining <= seen.limit, "{budget:?}");
    }

    async fn token<'a>(&self, _: &str, _: Option<i64>, _: Issue<'a>) -> Result<Token, VendorError> {
        unreachable!("Braze has keys, not tokens")
    }
}

fn at(sandbox: &Sandbox, bucket: Option<Value>) -> Arc<dyn Vendor> {
    let connection = (SPEC.sandbox_connection)(sandbox.base_url());
    let mut settings = connection.body["settings"].clone();
    if let Some(bucket) = bucket {
        settings["bucket"] = bucket;
    }
    let key = connection.body["credentials"]["api_key"].as_str().unwrap();
    let account = Account {
        settings,
        credentials: BTreeMap::from([("api_key".to_owned(), SecretString::from(key))]),
        mapping: crate::vendors::Mapping::new(),
        values: ValueMaps::default(),
        http: http(),
        shared: Arc::new(Paced),
    };
    connect(account).unwrap()
}

fn request(dataset: Dataset, parameters: &Value, output: Output) -> ExportRequest {
    ExportRequest::parse(dataset, parameters, output).unwrap()
}

/// A part's or a file's bytes with their tag.
type Got = (String, Vec<u8>);

async fn bytes(download: Download) -> Result<Vec<u8>, VendorError> {
    download
        .body
        .try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

/// Carries a request out as the engine does.
async fn carry_out(braze: &dyn Vendor, request: &ExportRequest) -> Result<Vec<Got>, VendorError> {
    let exchanges = Exchanges::default();
    let plan = braze.plan(request).unwrap();
    braze.verify(request, &exchanges).await?;
    let mut got = Vec::new();
    let Work::Parts(parts) = plan.work else {
        let submitted = braze.submit(request, None, false, &exchanges).await?;
        let files = until(|| async {
            match braze.poll(request, &job(&submitted.ticket, false), &exchanges).await.unwrap() {
                Progress::Ready(files) => Some(files),
                _ => None,
            }
        })
        .await;
        for file in files {
            got.push((file.tag.to_string(), bytes(braze.open(&file, &exchanges).await?).await?));
        }
        return Ok(got);
    };
    for name in parts {
        let Progress::Data(data) = braze.poll(request, &part(&name), &exchanges).await? else {
            panic!("{name} is not there at once")
        };
        got.push((data.tag.to_string(), bytes(data.download).await?));
    }
    Ok(got)
}

/// The contents of archives, and everything else as it is.
fn unpacked(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let read = |mut from: Box<dyn Read + '_>| {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    };
    if bytes.starts_with(b"\x1f\x8b") {
        return vec![read(Box::new(MultiGzDecoder::new(&bytes[..])))];
    }
    if !bytes.starts_with(b"PK") {
        return vec![bytes];
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
    (0..archive.len()).map(|index| read(Box::new(archive.by_index(index).unwrap()))).collect()
}

fn each_record(framing: Framing, bytes: &[u8], records: &dyn Records, each: &mut dyn FnMut(Record<'_>)) {
    let Framing::Json { records: path } = framing else {
        assert_eq!(framing, Framing::Lines);
        bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).for_each(|line| each(Record::Line(line)));
        return;
    };
    for document in serde_json::Deserializer::from_slice(bytes).into_iter::<Box<RawValue>>() {
        let document = document.unwrap();
        let head: Value = serde_json::from_str(document.get()).unwrap();
        records.document(&head);
        let mut list = document.to_string();
        for name in path {
            let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&list).unwrap();
            list = members.remove(*name).unwrap().to_string();
        }
        let elements: Vec<Box<RawValue>> = serde_json::from_str(&list).unwrap();
        for element in &elements {
            each(Record::Element { head: &head, json: element.get() });
        }
    }
}

/// The unified rows of what was got, or the vendor's records, and the warnings.
fn rows(braze: &dyn Vendor, request: &ExportRequest, got: Vec<Got>) -> (Vec<Value>, Vec<String>) {
    let (mut rows, mut warnings) = (Vec::new(), Vec::new());
    let selection = request.parameters.selection();
    for (tag, bytes) in got {
        let records = braze.records(request);
        for bytes in unpacked(bytes) {
            let mut member: Box<dyn Member + '_> = records.member(&tag);
            each_record(records.framing(&tag), &bytes, &*records, &mut |record| {
                if request.output.schema == RecordSchema::Vendor {
                    let mut out = Vec::new();
                    member.vendor(record, &mut out).unwrap();
                    assert!(!out.contains(&b'\n'));
                    rows.extend((!out.is_empty()).then(|| serde_json::from_slice::<Value>(&out).unwrap()));
                    return;
                }
                let emitted = member.unified(record, &mut |row| {
                    let mut json = Vec::new();
                    row.write_json(&selection, &mut json).unwrap();
                    rows.push(serde_json::from_slice(&json).unwrap());
                    Ok(())
                });
                emitted.unwrap();
            });
        }
        warnings.extend(records.warnings());
    }
    (rows, warnings)
}

/// In an order that does not depend on that of members.
fn sorted(mut rows: Vec<Value>) -> Vec<String> {
    rows.iter_mut().for_each(Value::sort_all_objects);
    let mut rows: Vec<_> = rows.iter().map(ToString::to_string).collect();
    rows.sort_unstable();
    rows
}

fn same(name: &str, rows: Vec<Value>, truth: Vec<Value>) {
    let (rows, truth) = (sorted(rows), sorted(truth));
    let differs = rows.iter().zip(&truth).find(|(row, truth)| row != truth);
    assert_eq!(differs, None, "{name}");
    assert_eq!(rows.len(), truth.len(), "{name}");
}

fn kept_to_the_rules(sandbox: &Sandbox, name: &str) {
    let activity = sandbox.world().activity("braze");
    assert_eq!((activity.refused(), activity.violations), (0, Vec::new()), "{name}: {:?}", activity.refusals);
}

#[tokio::test]
async fn every_dataset_comes_out_as_the_simulator_says() {
    let sandbox = quick(|_| {}).await;
    let braze = at(&sandbox, None);
    for demo in (SPEC.sandbox_connection)(sandbox.base_url()).datasets {
        let name = format!("{} {}", demo.dataset.as_str(), demo.name);
        let parameters = (demo.parameters)(sandbox.world());
        let request = request(demo.dataset, &parameters, Output::default());
        let got = carry_out(&*braze, &request).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        same(&name, rows(&*braze, &request, got).0, (demo.truth)(sandbox.world()));
        if let Some(empty) = demo.empty {
            let request = self::request(demo.dataset, &empty(sandbox.world()), Output::default());
            let got = carry_out(&*braze, &request).await.unwrap_or_else(|error| panic!("{name}, empty: {error}"));
            assert_eq!(rows(&*braze, &request, got).0, Vec::<Value>::new(), "{name}");
        }
        kept_to_the_rules(&sandbox, &name);
    }
}

/// Quirks 25 to 27: neighbouring calls overlap, and it is not said whether the unit of `ending_at` counts.
#[tokio::test]
async fn a_series_has_no_gap_and_no_point_twice_whichever_end_counts() {
    for fault in [&[][..], &["braze.series.inclusive_end"]] {
        let sandbox = quick(|config| config.faults = faults(fault)).await;
        let braze = at(&sandbox, None);
        let demos = (SPEC.sandbox_connection)(sandbox.base_url()).datasets.iter();
        for demo in demos.filter(|demo| demo.dataset == Dataset::MetricSeries) {
            let request = request(demo.dataset, &(demo.parameters)(sandbox.world()), Output::default());
            let got = carry_out(&*braze, &request).await.unwrap();
            same(demo.name, rows(&*braze, &request, got).0, (demo.truth)(sandbox.world()));
        }
    }
}

/// Quirk 29: lists have no cursor, and rows slip from one page to the next.
#[tokio::test]
async fn rows_that_slip_to_the_next_page_come_once() {
    let sandbox = quick(|config| {
        config.faults = faults(&["braze.lists.row_moves=9", "braze.suppressions.row_moves=9"]);
    })
    .await;
    let braze = at(&sandbox, None);
    let lists = [Dataset::Audiences, Dataset::Campaigns, Dataset::Canvases, Dataset::Events, Dataset::Suppressions];
    for demo in (SPEC.sandbox_connection)(sandbox.base_url()).datasets {
        if lists.contains(&demo.dataset) {
            let request = request(demo.dataset, &(demo.parameters)(sandbox.world()), Output::default());
            let got = carry_out(&*braze, &request).await.unwrap();
            same(demo.name, rows(&*braze, &request, got).0, (demo.truth)(sandbox.world()));
        }
    }
}

/// Quirk 30: the key never follows a `Link` to another address.
#[tokio::test]
async fn a_link_to_elsewhere_gives_a_cursor_and_no_address() {
    let sandbox =
        quick(|config| config.faults = faults(&["braze.lists.next_elsewhere=http://127.0.0.1:1/events"])).await;
    let braze = at(&sandbox, None);
    let request = request(Dataset::Events, &json!({"details": true}), Output::default());
    let (rows, _) = rows(&*braze, &request, carry_out(&*braze, &request).await.unwrap());
    assert!(rows.len() > 50, "{}", rows.len());
    kept_to_the_rules(&sandbox, "events");
}

#[tokio::test]
async fn identifiers_that_braze_does_not_know_are_counted_and_not_named() {
    let sandbox = quick(|_| {}).await;
    let braze = at(&sandbox, None);
    let parameters = json!({"identifiers": [
        {"type": "user_id", "value": "nobody"}, {"type": "user_id", "value": "nobody"},
        {"type": "user_id", "value": "nobody else"},
    ]});
    let request = request(Dataset::UserProfiles, &parameters, Output::default());
    let (rows, warnings) = rows(&*braze, &request, carry_out(&*braze, &request).await.unwrap());
    assert_eq!(rows, Vec::<Value>::new());
    assert_eq!(warnings, ["Braze does not know 2 of the identifiers of one call"]);
}

/// Quirks 2 and 3, and the layout of keys: the mode shows in the answer alone, and whatever else lies in the bucket is
/// passed over.
#[tokio::test]
async fn a_workspace_with_a_bucket_is_read_there_in_either_mode() {
    let sets: [&[&str]; 5] = [
        &[],
        &["braze.bucket.null_url"],
        &["braze.bucket.empty_url"],
        &["braze.bucket.off"],
        &["braze.bucket.later_date"],
    ];
    for set in sets {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = quick(|config| {
            config.faults = faults(set);
            config.records_per_file = 10;
            config.braze_bucket = Some(folder.path().to_owned());
        })
        .await;
        let url = Url::from_directory_path(folder.path()).unwrap();
        let braze = at(&sandbox, Some(json!({"url": url, "quiet_secs": 1})));
        braze.check(&Exchanges::default()).await.unwrap();
        for demo in (SPEC.sandbox_connection)(sandbox.base_url()).datasets {
            if demo.dataset == Dataset::AudienceMembers {
                let request = request(demo.dataset, &(demo.parameters)(sandbox.world()), Output::default());
                let got = carry_out(&*braze, &request).await.unwrap();
                same(demo.name, rows(&*braze, &request, got).0, (demo.truth)(sandbox.world()));
            }
        }
        kept_to_the_rules(&sandbox, &format!("{set:?}"));
    }
}

#[tokio::test]
async fn a_lists_raw_bytes_are_brazes_own() {
    let sandbox = quick(|_| {}).await;
    let braze = at(&sandbox, None);
    let output = Output { format: Format::Raw, ..Output::default() };
    let request = request(Dataset::Campaigns, &json!({}), output);
    let got = carry_out(&*braze, &request).await.unwrap();
    let pages: Vec<Value> =
        serde_json::Deserializer::from_slice(&got[0].1).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(pages.len(), 3);
    assert!(pages.iter().all(|page| page["message"] == "success" && page["campaigns"].is_array()));
}

#[tokio::test]
async fn the_vendors_schema_has_each_record_once() {
    let sandbox = quick(|_| {}).await;
    let braze = at(&sandbox, None);
    let output = Output { schema: RecordSchema::Vendor, ..Output::default() };
    for demo in (SPEC.sandbox_connection)(sandbox.base_url()).datasets {
        if matches!(demo.dataset, Dataset::AudienceMembers | Dataset::UserProfiles) {
            continue;
        }
        let parameters = (demo.parameters)(sandbox.world());
        let unified = request(demo.dataset, &parameters, Output::default());
        let vendor = request(demo.dataset, &parameters, output);
        let (rows_unified, _) = rows(&*braze, &unified, carry_out(&*braze, &unified).await.unwrap());
        let (rows_vendor, _) = rows(&*braze, &vendor, carry_out(&*braze, &vendor).await.unwrap());
        if demo.dataset == Dataset::MetricSeries {
            let mut times: Vec<_> = rows_unified.iter().map(|row| row["time"].to_string()).collect();
            times.dedup();
            assert_eq!(rows_vendor.len(), times.len(), "{}", demo.name);
        } else {
            assert_eq!(rows_vendor.len(), rows_unified.len(), "{}", demo.name);
        }
    }
}

#[tokio::test]
async fn catalogs_are_read_page_by_page() {
    let sandbox = quick(|_| {}).await;
    let braze = at(&sandbox, None);
    for (kind, dataset) in [
        (crate::vendors::CatalogKind::Audiences, Dataset::Audiences),
        (crate::vendors::CatalogKind::Campaigns, Dataset::Campaigns),
        (crate::vendors::CatalogKind::Canvases, Dataset::Canvases),
        (crate::vendors::CatalogKind::Events, Dataset::Events),
    ] {
        let demos = (SPEC.sandbox_connection)(sandbox.base_url()).datasets.iter();
        let demo = demos.into_iter().find(|demo| demo.dataset == dataset && demo.name.is_empty()).unwrap();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let query = CatalogQuery { kind, id: None, after };
            let page = braze.catalog(&query, &Exchanges::default()).await.unwrap();
            found.extend(page.rows.iter().map(|row| serde_json::to_value(row).unwrap()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        same(dataset.as_str(), found, (demo.truth)(sandbox.world()));
    }
    let odd = CatalogQuery { kind: crate::vendors::CatalogKind::Events, id: None, after: Some("x&y=1".into()) };
    assert_eq!(braze.catalog(&odd, &Exchanges::default()).await.unwrap_err().code, Code::InvalidRequest);
    kept_to_the_rules(&sandbox, "catalogs");
}
