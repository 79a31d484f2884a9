//! The files of a job: newline-delimited JSON, or csv with every value quoted.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
};

use super::{
    computations::Computation,
    order::Format,
    users::{CsvStyle, GioId, Member, display_name, output_name},
};
use crate::vendors::sandbox::{Audience, World, files::SpooledFile, people::Person};

/// What the files of a job hold.
#[derive(Clone)]
pub struct Contents {
    pub audience: Audience,
    pub seed: u64,
    pub computation: Computation,
    pub properties: Vec<String>,
    pub format: Format,
    pub oddities: Oddities,
}

/// How the next files differ from what they usually are. Nothing here contradicts the documents but `bad_record`.
#[derive(Clone)]
pub struct Oddities {
    pub parts: u64,
    gio_id: GioId,
    bad_record: bool,
    empty: bool,
    encoding: Encoding,
    csv: CsvStyle,
    /// Every user attribute has the same display name.
    repeated_names: bool,
}

impl Oddities {
    /// Uses up the faults of the next job's files.
    pub fn drawn(world: &World) -> Self {
        let on = |name: &str| world.fault(&format!("growingio_cdp.file.{name}"));
        Self {
            parts: if on("two_parts") { 2 } else { world.config.job_files.max(1) },
            gio_id: if on("gio_id_as_text") { GioId::Text } else { GioId::Number },
            bad_record: on("bad_record"),
            empty: on("empty"),
            encoding: match (on("utf16"), on("bom")) {
                (true, _) => Encoding::Utf16,
                (_, true) => Encoding::Utf8WithMark,
                _ => Encoding::Utf8,
            },
            csv: CsvStyle { bare_gio_id: on("csv_bare_gio_id"), backslash: on("csv_backslash") },
            repeated_names: on("csv_repeated_names"),
        }
    }
}

/// The encoding of files is not documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf8WithMark,
    /// Little endian, with a mark.
    Utf16,
}

impl Encoding {
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Utf8 => &[],
            Self::Utf8WithMark => b"\xef\xbb\xbf",
            Self::Utf16 => b"\xff\xfe",
        }
    }

    fn write(self, line: &str, file: &mut BufWriter<File>) -> io::Result<()> {
        match self {
            Self::Utf8 | Self::Utf8WithMark => writeln!(file, "{line}"),
            Self::Utf16 => {
                line.encode_utf16().chain([u16::from(b'\n')]).try_for_each(|unit| file.write_all(&unit.to_le_bytes()))
            }
        }
    }
}

impl Contents {
    /// Writes every file of the job.
    pub async fn write(self) -> io::Result<Vec<SpooledFile>> {
        let mut files = Vec::new();
        for part in 0..self.oddities.parts {
            let contents = self.clone();
            files.push(SpooledFile::write(move |file| contents.write_part(part, file)).await?);
        }
        Ok(files)
    }

    fn write_part(&self, part: u64, file: &mut BufWriter<File>) -> io::Result<()> {
        let oddities = &self.oddities;
        if oddities.empty {
            return Ok(());
        }
        file.write_all(oddities.encoding.mark())?;
        if let Format::Csv { display_names } = self.format {
            oddities.encoding.write(&self.csv_header(display_names), file)?;
        }
        let members = self.audience.members().enumerate();
        for (line, (_, index)) in members.filter(|(at, _)| *at as u64 % oddities.parts == part).enumerate() {
            let member = Member { person: &Person::new(self.seed, index), computation: &self.computation };
            let mut record = match self.format {
                Format::Json => member.json(&self.properties, oddities.gio_id),
                Format::Csv { .. } => member.csv(&self.properties, oddities.csv),
            };
            if oddities.bad_record && line == 1 {
                record.truncate(record.char_indices().nth(record.chars().count() / 2).map_or(1, |(at, _)| at));
            }
            oddities.encoding.write(&record, file)?;
        }
        Ok(())
    }

    fn csv_header(&self, display_names: bool) -> String {
        let name = |name: &String| match display_names {
            true if self.oddities.repeated_names && name.starts_with("usr_") => "用户属性".to_owned(),
            true => display_name(name),
            false => output_name(name),
        };
        let columns = std::iter::once("gio_id".to_owned()).chain(self.properties.iter().map(name));
        columns.map(|column| self.oddities.csv.quoted(&column)).collect::<Vec<_>>().join(",")
    }
}
