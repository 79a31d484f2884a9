//! Column names that people gave: they are localised, may repeat, and name members of objects here.

use std::collections::BTreeSet;

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
