//! Every part is done: what was kept of them becomes the result, in the order of the parts, whoever brought them when.

use std::{path::Path, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::warn;

use super::Parts;
use crate::{
    exports::{
        problem::{Code, Problem},
        request::{Dataset, Format},
        state::Phase,
    },
    results::{
        self,
        convert::{self, Conversion, StoredFile},
        kept::{self, Kept},
        storage,
    },
    store::{self, engine::Moved, parts::PartFile},
    worker::{
        settle::{self, Stop},
        transfer,
    },
};

/// Kept files that are opened before it is their turn: a store in the network takes its time to begin.
const OPEN_AHEAD: usize = 4;

/// Makes the result and completes the export.
pub async fn finish(parts: &Parts<'_>) -> Result<(), Stop> {
    let (db, id) = (&parts.step.worker.gateway.db, parts.step.claimed.export.export_id);
    let claim = parts.step.claimed.claim;
    settle::held(store::engine::enter_phase(db, id, claim, Phase::Transforming).await?)?;
    let files = store::parts::files(db, id).await?;
    let kept = files.iter().map(stored).collect::<Option<Vec<_>>>().ok_or_else(|| {
        warn!("the kept files of the parts cannot be read");
        Stop::Fail(Box::new(Problem::new(Code::Internal, "the kept files of the parts cannot be read")))
    })?;
    let result = if parts.request.output.format == Format::Raw {
        numbered(parts.request.dataset, kept)
    } else {
        join(parts, kept).await?
    };
    let export = &parts.step.claimed.export;
    let moved = Moved {
        records: export.records,
        bytes_read: export.bytes_read,
        bytes_written: result.iter().map(|file| i64::try_from(file.bytes).unwrap_or(i64::MAX)).sum(),
        files_done: export.files_done,
        files_total: export.files_total,
    };
    transfer::complete(parts.step, result, moved).await
}

async fn join(parts: &Parts<'_>, kept: Vec<StoredFile>) -> Result<Vec<StoredFile>, Stop> {
    let step = parts.step;
    let (mut rejected, lines): (Vec<_>, Vec<_>) = kept.into_iter().partition(|file| convert::is_rejected(&file.name));
    let prefix = storage::claim_prefix(step.claimed.export.run(), step.claimed.claim.simple());
    let conversion = transfer::conversion(step.worker, parts.account, parts.request, prefix);
    let conversion = Conversion {
        output: kept::read_back(parts.request.output),
        records: Arc::new(Kept(parts.request.dataset)),
        ..conversion
    };
    let storage = &step.worker.gateway.storage;
    let (feeder, inputs) = results::receive::connect();
    let bring = async {
        let open = |file: StoredFile| {
            let storage = storage.clone();
            async move { storage.read(&file.object_key, None).await.map_err(not_read_back) }
        };
        let with_records = lines.into_iter().filter(|file| file.records != Some(0));
        let mut bodies = stream::iter(with_records).map(open).buffered(OPEN_AHEAD);
        while let Some(body) = bodies.try_next().await? {
            let mut body = body.map_err(not_read_back);
            let chunks = feeder.begin("ndjson".into(), "kept".into()).await?;
            while let Some(chunk) = body.try_next().await? {
                chunks.send(chunk).await?;
            }
            chunks.end().await?;
        }
        drop(feeder);
        Ok::<_, results::Error>(())
    };
    // It was counted when it came from the vendor.
    let meter = &step.hold.transfer().apart;
    let converted = convert::convert(inputs, conversion, storage, meter);
    let (converted, brought) = step.hold.race_moving(futures_util::future::join(converted, bring)).await?;
    if let Err(error) = brought
        && !error.is_stopped()
    {
        return Err(Stop::Results(error));
    }
    let mut result = converted?;
    step.warn(&transfer::rejections(&rejected)).await?;
    // Each part has told its own.
    if rejected.len() > 1 {
        for (index, file) in rejected.iter_mut().enumerate() {
            file.name = format!("rejected-{:05}.ndjson", index + 1);
        }
    }
    result.append(&mut rejected);
    Ok(result)
}

fn not_read_back(error: object_store::Error) -> results::Error {
    results::Error::storing("what was kept of the parts could not be read", error)
}

/// The vendor's files as they are, with names that number them all.
fn numbered(dataset: Dataset, files: Vec<StoredFile>) -> Vec<StoredFile> {
    let renamed = |(index, file): (usize, StoredFile)| {
        let extension = Path::new(&file.name).extension().and_then(|end| end.to_str()).unwrap_or("bin");
        StoredFile { name: convert::numbered_name(dataset, index + 1, extension), ..file }
    };
    files.into_iter().enumerate().map(renamed).collect()
}

fn stored(file: &PartFile) -> Option<StoredFile> {
    Some(StoredFile {
        file_id: file.file_id,
        name: file.name.clone(),
        object_key: file.object_key.clone(),
        media_type: file.media_type.clone().into(),
        compression: file.compression.clone().into(),
        bytes: file.bytes,
        records: file.records,
        sha256: BASE64_STANDARD.decode(&file.sha256).ok()?.try_into().ok()?,
    })
}
