//! What `fuzz/` calls, one function for each of its targets: each takes any bytes, and panics when something does not
//! hold that must. Not in ordinary builds.

pub use crate::{
    results::fuzzing::{MOST, archive, csv_backslash, csv_either, raw_lines},
    vendors::fuzzing::ndjson_select,
};

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// What a target does with its bytes.
    type Target = fn(&[u8]);

    const TARGETS: &[(&str, Target)] = &[
        ("archive", archive),
        ("csv_backslash", csv_backslash),
        ("csv_either", csv_either),
        ("ndjson_select", ndjson_select),
        ("raw_lines", raw_lines),
    ];

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn every_seed_holds() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            assert!(!seeds.is_empty(), "{name}");
            for seed in &seeds {
                target(seed);
            }
        }
    }

    #[test]
    fn bytes_that_are_nothing_hold() {
        for (_, target) in TARGETS {
            for bytes in [&b""[..], b"\0", b"\xff\xfe", b"\n\n", b"\"", b"PK\x03\x04", b"\x1f\x8b\x08"] {
                target(bytes);
            }
        }
    }

    #[test]
    fn every_target_of_the_fuzzer_is_here() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort();
        assert_eq!(files, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
