//! The files of a job: newline-delimited JSON, or csv with every value quoted.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
};

use super::{
    order::Format,
    users::{GioId, display_name, output_name, quoted},
};
use crate::vendors::sandbox::{Audience, files::SpooledFile, people::Person};

/// What the files of a job hold.
#[derive(Clone)]
pub struct Contents {
    pub audience: Audience,
    pub seed: u64,
    pub properties: Vec<String>,
    pub format: Format,
    pub parts: u64,
    pub gio_id: GioId,
    pub bad_record: bool,
    pub empty: bool,
}

impl Contents {
    /// Writes every file of the job.
    pub async fn write(self) -> io::Result<Vec<SpooledFile>> {
        let mut files = Vec::new();
        for part in 0..self.parts {
            let contents = self.clone();
            files.push(SpooledFile::write(move |file| contents.write_part(part, file)).await?);
        }
        Ok(files)
    }

    fn write_part(&self, part: u64, file: &mut BufWriter<File>) -> io::Result<()> {
        if self.empty {
            return Ok(());
        }
        if let Format::Csv { display_names } = self.format {
            let header = |name: &String| quoted(&if display_names { display_name(name) } else { output_name(name) });
            let columns = std::iter::once(quoted("gio_id")).chain(self.properties.iter().map(header));
            writeln!(file, "{}", columns.collect::<Vec<_>>().join(","))?;
        }
        let members = self.audience.members().enumerate();
        for (line, (_, index)) in members.filter(|(at, _)| *at as u64 % self.parts == part).enumerate() {
            let person = Person::new(self.seed, index);
            let mut record = match self.format {
                Format::Json => person.cdp(&self.properties, self.gio_id),
                Format::Csv { .. } => person.cdp_csv(&self.properties),
            };
            if self.bad_record && line == 1 {
                record.truncate(record.char_indices().nth(record.chars().count() / 2).map_or(1, |(at, _)| at));
            }
            writeln!(file, "{record}")?;
        }
        Ok(())
    }
}
