//! The workspace's own cloud storage: a folder in which an export's objects appear one by one, beside what else lies in
//! such a bucket. `_docs/_partners/data_and_infrastructure_agility/cloud_storage/amazon_s3.md`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use chrono::TimeDelta;
use uuid::Uuid;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::archive::{Contents, Damage};
use crate::vendors::sandbox::World;

/// The segment whose exports lie in the bucket, too.
const ANOTHER_SEGMENT: &str = "5a1b0c2d-0000-4000-8000-999999999999";

/// An export on its way to the bucket.
pub struct Delivery {
    pub contents: Contents,
    pub damage: Damage,
    /// The segment's API identifier; the control group has one of its own.
    pub folder: String,
    /// `object_prefix` of the answer.
    pub prefix: String,
}

/// Writes the objects, one for so many users each, spread over the processing time. Stops when nobody wants them.
pub async fn deliver(world: &World, delivery: Delivery, wanted: impl Fn() -> bool) -> io::Result<()> {
    let Some(bucket) = world.config.braze_bucket.clone() else {
        return Err(io::Error::other("the workspace has no bucket"));
    };
    let Delivery { contents, damage, folder, prefix } = delivery;
    let processing = world.config.processing;
    let days = if world.fault("braze.bucket.later_date") { 2 } else { 0 };
    // The day on which the export is completed, not the day of the submission.
    let done = world.now() + TimeDelta::from_std(processing).unwrap_or_default() + TimeDelta::days(days);
    let day = bucket.join("segment-export").join(&folder).join(done.date_naive().to_string());
    let root = bucket.clone();
    blocking(move || decoys(&root, &folder, &done.date_naive().to_string())).await?;

    let per_object = contents.users_per_member.max(1);
    let objects = contents.audience.size().div_ceil(per_object);
    let objects = if objects == 0 && !world.fault("braze.bucket.nothing") { 1 } else { objects };
    let late = world.fault("braze.bucket.late_object");
    let pause = processing / u32::try_from(objects.max(1)).unwrap_or(u32::MAX);
    if objects == 0 {
        tokio::time::sleep(pause).await;
    }
    for number in 0..objects {
        tokio::time::sleep(pause).await;
        if late && number + 1 == objects {
            tokio::time::sleep(processing).await;
        }
        if !wanted() {
            return Ok(());
        }
        let part = Contents { part: Some(number * per_object..(number + 1) * per_object), ..contents.clone() };
        let damage = if number == 0 { damage } else { Damage::None };
        let extension = if part.gzip { "gz" } else { "zip" };
        let object = day.join(&prefix).join(format!("{}.{extension}", Uuid::new_v4().simple()));
        let root = bucket.clone();
        blocking(move || put(&root, &object, |file| part.write(damage, file))).await?;
    }
    Ok(())
}

/// What else lies below the segment's prefix, or looks as if it did.
fn decoys(bucket: &Path, folder: &str, day: &str) -> io::Result<()> {
    let export = bucket.join("segment-export");
    let stale = "{\"braze_id\":\"ffffffffffffffffffffffff\",\"external_id\":\"of another export\"}\n";
    // The dashboard's CSV exports share the prefix.
    let of_dashboard = format!("users-{}.zip", Uuid::new_v4().simple());
    put(bucket, &export.join(folder).join(day).join(of_dashboard), |file| zipped(file, "users.csv", "user_id\nx\n"))?;
    for (segment, day, began) in [(folder, "2026-01-02", 1_767_312_000), (ANOTHER_SEGMENT, day, 1_767_398_400)] {
        let earlier = format!("{}-{began}", Uuid::new_v4());
        let object = format!("{}.zip", Uuid::new_v4().simple());
        put(bucket, &export.join(segment).join(day).join(earlier).join(object), |file| {
            zipped(file, "stale.json", stale)
        })?;
    }
    Ok(())
}

fn zipped(file: &mut BufWriter<File>, member: &str, text: &str) -> io::Result<()> {
    let mut zip = ZipWriter::new_stream(file);
    zip.start_file(member, SimpleFileOptions::default())?;
    zip.write_all(text.as_bytes())?;
    zip.finish()?;
    Ok(())
}

/// Writes an object that is there as a whole or not at all, as objects are.
fn put(bucket: &Path, object: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let incoming: PathBuf = bucket.join(".incoming");
    fs::create_dir_all(&incoming)?;
    if let Some(folder) = object.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = incoming.join(Uuid::new_v4().simple().to_string());
    let opened = File::options().read(true).write(true).create_new(true).open(&unfinished)?;
    let mut writer = BufWriter::with_capacity(256 * 1024, opened);
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    fs::rename(unfinished, object)
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
