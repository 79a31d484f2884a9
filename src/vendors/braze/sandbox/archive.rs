//! The archive of one export: ZIP members of so many users each, written as a stream with data descriptors, or one
//! gzip stream. Also the broken archives that a client must survive.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    ops::Range,
};

use flate2::{Compress, Compression, Crc, FlushCompress, write::GzEncoder};
use uuid::Uuid;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::users::Asked;
use crate::vendors::sandbox::{Audience, people::Person};

/// What the bomb would unpack to.
pub const BOMB_BYTES: u64 = 3 << 30;

/// Whom an archive holds.
#[derive(Clone)]
pub struct Contents {
    pub audience: Audience,
    pub seed: u64,
    pub asked: Asked,
    pub users_per_member: u64,
    /// The places in the audience that are meant; everybody if none.
    pub part: Option<Range<u64>>,
    /// One gzip stream instead of a ZIP.
    pub gzip: bool,
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    None,
    /// The first member's bytes are not what its checksum says.
    CorruptCrc,
    /// A member of 3 MiB that unpacks to 3 GiB.
    Bomb,
    /// Members whose names lead out of the folder they are unpacked to.
    PathTraversal,
    /// An archive in the archive.
    Nested,
    /// The first member's second line ends early.
    BadRecord,
    /// No bytes at all.
    Empty,
}

impl Contents {
    /// Writes the archive to `file`.
    pub fn write(self, damage: Damage, file: &mut BufWriter<File>) -> io::Result<()> {
        match damage {
            Damage::Empty => Ok(()),
            Damage::None if self.gzip => self.gzipped(file),
            Damage::Bomb => bomb(file),
            Damage::CorruptCrc => {
                let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
                let inner = self.members(ZipWriter::new(&mut *file), stored, damage)?;
                inner.flush()?;
                spoil_first_member(inner.get_mut())
            }
            Damage::None | Damage::BadRecord | Damage::PathTraversal => {
                self.members(ZipWriter::new_stream(file), deflated(), damage).map(drop)
            }
            Damage::Nested => {
                let mut outer = ZipWriter::new_stream(file);
                outer.start_file(format!("{}.zip", Uuid::new_v4().simple()), deflated())?;
                self.members(ZipWriter::new_stream(&mut outer), deflated(), Damage::None)?;
                outer.finish()?;
                Ok(())
            }
        }
    }

    fn users(&self) -> impl Iterator<Item = u64> + use<> {
        let whole = 0..u64::MAX;
        let Range { start, end } = self.part.clone().unwrap_or(whole);
        let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        self.audience.members().skip(place(start)).take(place(end.saturating_sub(start)))
    }

    fn gzipped(&self, file: &mut BufWriter<File>) -> io::Result<()> {
        let mut gzip = GzEncoder::new(file, Compression::fast());
        for index in self.users() {
            writeln!(gzip, "{}", Person::new(self.seed, index).braze(&self.asked))?;
        }
        gzip.finish()?.flush()
    }

    fn members<W: Write + Seek>(
        &self,
        mut zip: ZipWriter<W>,
        options: SimpleFileOptions,
        damage: Damage,
    ) -> io::Result<W> {
        let mut users = self.users().peekable();
        let mut member = 0;
        while users.peek().is_some() {
            zip.start_file(member_name(member, damage), options)?;
            for line in 0..self.users_per_member.max(1) {
                let Some(index) = users.next() else { break };
                let mut record = Person::new(self.seed, index).braze(&self.asked);
                if damage == Damage::BadRecord && member == 0 && line == 1 {
                    record.truncate(record.char_indices().nth(record.chars().count() / 2).map_or(1, |(at, _)| at));
                }
                // The very last line has no line end.
                if users.peek().is_some() {
                    record.push('\n');
                }
                zip.write_all(record.as_bytes())?;
            }
            member += 1;
        }
        Ok(zip.finish()?)
    }
}

/// Names and endings of members are not documented; both endings have been seen.
fn member_name(member: u64, damage: Damage) -> String {
    let random = Uuid::new_v4().simple();
    match (damage, member % 2) {
        (Damage::PathTraversal, 0) => format!("../../../../tmp/{random}.json"),
        (Damage::PathTraversal, _) => format!("/etc/{random}.json"),
        (_, 0) => format!("{random}.json"),
        (_, _) => format!("{random}.txt"),
    }
}

fn deflated() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).compression_level(Some(1))
}

/// Changes one byte of the first member's stored text.
fn spoil_first_member(file: &mut File) -> io::Result<()> {
    let mut header = [0; 30];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    let name = u64::from(u16::from_le_bytes([header[26], header[27]]));
    let extra = u64::from(u16::from_le_bytes([header[28], header[29]]));
    // The first letter of the first member's name, after `{"`: still JSON, only not what was written.
    file.seek(SeekFrom::Start(header.len() as u64 + name + extra + 2))?;
    file.write_all(b"X")
}

/// One member of lines without content, made of the same compressed MiB again and again.
fn bomb(file: &mut impl Write) -> io::Result<()> {
    const NAME: &[u8] = b"0123456789abcdef0123456789abcdef.json";
    let piece = vec![b' '; 1 << 20];
    let mut compressed = Vec::with_capacity(16 * 1024);
    let mut deflate = Compress::new(Compression::best(), false);
    deflate.compress_vec(&piece, &mut compressed, FlushCompress::Full).map_err(io::Error::other)?;
    let mut of_piece = Crc::new();
    of_piece.update(&piece);

    let pieces = BOMB_BYTES >> 20;
    let mut crc = Crc::new();
    (0..pieces).for_each(|_| crc.combine(&of_piece));
    // An empty final block ends the stream.
    let packed = compressed.len() as u64 * pieces + 2;
    let size = |bytes: u64| u32::try_from(bytes).map(u32::to_le_bytes).map_err(io::Error::other);

    // Version 2.0, no flags, deflate, no date; then checksum, sizes, name length, no extra field.
    let mut common = vec![20, 0, 0, 0, 8, 0, 0, 0, 0x21, 0];
    common.extend(crc.sum().to_le_bytes());
    common.extend(size(packed)?);
    common.extend(size(BOMB_BYTES)?);
    common.extend(u32::try_from(NAME.len()).map_err(io::Error::other)?.to_le_bytes());

    file.write_all(&[b"PK\x03\x04", &common[..], NAME].concat())?;
    for _ in 0..pieces {
        file.write_all(&compressed)?;
    }
    file.write_all(&[3, 0])?;
    let directory_at = 30 + NAME.len() as u64 + packed;
    let directory = [b"PK\x01\x02\x14\x00", &common[..], &[0; 14], NAME].concat();
    file.write_all(&directory)?;
    file.write_all(b"PK\x05\x06\0\0\0\0\x01\0\x01\0")?;
    file.write_all(&size(directory.len() as u64)?)?;
    file.write_all(&size(directory_at)?)?;
    file.write_all(&[0, 0])
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use zip::ZipArchive;

    use super::*;

    #[test]
    fn the_bomb_is_a_sound_archive_that_grows_a_thousandfold() {
        let mut bytes = Vec::new();
        bomb(&mut bytes).unwrap();
        assert!(bytes.len() < 4 << 20, "{}", bytes.len());
        let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut member = archive.by_index(0).unwrap();
        assert_eq!(member.size(), BOMB_BYTES);
        let mut start = vec![0; 3 << 20];
        member.read_exact(&mut start).unwrap();
        assert!(start.iter().all(|byte| *byte == b' '));
    }
}
