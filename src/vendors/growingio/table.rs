//! Tables: delimited text whose first row names its columns, and column names that people gave, which are localised,
//! may repeat, and become names of members.

use std::collections::BTreeSet;

use crate::exports::records::{BadRecord, Record};

/// The cells of a row.
///
/// # Errors
/// When it is not a row of text.
pub fn cells(record: Record<'_>) -> Result<Vec<&str>, BadRecord> {
    let Record::Cells(row) = record else { return Err(BadRecord("it is not a row of a table".into())) };
    row.texts().collect::<Result<_, _>>().map_err(|_| BadRecord("it is not UTF-8".into()))
}

/// Takes off what follows the last name of a header: lines of the documents' samples end in white space.
pub fn fit_header(cells: &mut Vec<&str>) {
    fit_to(cells, 0);
}

/// Takes off blanks after the last of `columns` cells.
///
/// # Errors
/// When there are not as many as columns: which cell belongs where is then anybody's guess.
pub fn fit(cells: &mut Vec<&str>, columns: usize) -> Result<(), BadRecord> {
    fit_to(cells, columns);
    if cells.len() == columns {
        return Ok(());
    }
    Err(BadRecord(format!("it has {} cells where the first row has {columns}", cells.len()).into()))
}

fn fit_to(cells: &mut Vec<&str>, columns: usize) {
    while cells.len() > columns && cells.last().is_some_and(|cell| cell.trim().is_empty()) {
        cells.pop();
    }
}

/// Gives names that repeat a number: `rate`, `rate (2)`; a column without a name is called by its place.
pub fn distinct(names: &mut [String]) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter_mut().enumerate() {
        if name.is_empty() {
            *name = format!("column {}", index + 1);
        }
        let (base, mut number) = (name.clone(), 1);
        while !seen.insert(name.clone()) {
            number += 1;
            *name = format!("{base} ({number})");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quirk 26.
    #[test]
    fn no_two_columns_have_one_name() {
        let mut names = ["访问", "访问", "访问 (2)", "", "访问"].map(str::to_owned);
        distinct(&mut names);
        assert_eq!(names, ["访问", "访问 (2)", "访问 (2) (2)", "column 4", "访问 (3)"]);
    }
}
