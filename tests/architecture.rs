//! The arrows between rooms, held against the `use crate::…` lines of every source file: the picture in
//! `docs/ARCHITECTURE.md` is true because this passes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

/// Each room and the rooms it may use. Whatever is not named here may use nothing.
const ROOMS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("data_dir", &[]),
    ("exports", &["ids"]),
    ("egress", &[]),
    ("buckets", &["egress"]),
    ("vault", &[]),
    ("config", &["egress", "exports", "vault", "data_dir"]),
    ("fuzzing", &["results", "vendors"]),
    ("telemetry", &["config"]),
    ("embedded", &["data_dir"]),
    ("results", &["ids", "exports"]),
    ("vendors", &["ids", "exports", "egress", "buckets"]),
    ("store", &["ids", "exports"]),
    ("operations", &["ids", "exports", "store", "vault", "vendors", "results", "buckets"]),
    ("worker", &["ids", "exports", "store", "vault", "vendors", "results", "operations"]),
    ("api", &["ids", "exports", "operations"]),
    (
        "startup",
        &["config", "embedded", "exports", "vault", "vendors", "results", "store", "operations", "worker", "api"],
    ),
    (
        "cli",
        &[
            "config",
            "data_dir",
            "embedded",
            "telemetry",
            "exports",
            "vault",
            "vendors",
            "results",
            "egress",
            "store",
            "api",
            "startup",
            "ids",
        ],
    ),
];

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    visit(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut |path, room, text| {
        if matches!(room, "lib" | "main") {
            return;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: room `{room}` is not in the picture", path.display()));
            return;
        };
        seen.insert(room.to_owned());
        for used in used_rooms(text) {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: `{room}` must not use `{used}`", path.display()));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone: Vec<_> = ROOMS.iter().filter(|(name, _)| !seen.contains(*name)).map(|(name, _)| name).collect();
    assert!(gone.is_empty(), "the picture names rooms that are gone: {gone:?}");
}

#[test]
fn a_vendors_name_stays_in_its_folder() {
    let mut wrong = Vec::new();
    visit(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut |path, room, text| {
        // The examples of the API's document show values, as a reader would meet them.
        if room == "vendors" || path.ends_with("api/examples.rs") {
            return;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !is_prose(line)) {
            let names =
                ["braze::", "growingio::", "growingio_cdp::", "\"braze\"", "\"growingio\"", "\"growingio_cdp\""];
            for vendor in names {
                if line.contains(vendor) && !line.contains("example") {
                    wrong.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn is_prose(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("//") || line.starts_with("#[schema") || line.starts_with("#[doc")
}

/// Calls `each` with every source file, its room and its text.
fn visit(folder: &Path, each: &mut dyn FnMut(&Path, &str, &str)) {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).unwrap();
            let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            each(&path, first.trim_end_matches(".rs"), &text);
        }
    }
}

/// The rooms a file names: `crate::room`, and every first segment inside `use crate::{…}`.
fn used_rooms(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let line = &text[text[..at].rfind('\n').map_or(0, |newline| newline + 1)..at];
        if is_prose(line) || line.trim_end().ends_with('[') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => rooms.extend(ident(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (index, c) in group.char_indices() {
                    if start && c.is_alphabetic() {
                        rooms.extend(ident(&group[index..]));
                        start = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ => {}
                    }
                }
            }
        }
    }
    rooms
}

fn ident(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // A capital letter is a type that the crate root names, not a room.
    (!name.is_empty() && !name.starts_with(char::is_uppercase)).then_some(name)
}

#[test]
fn the_reader_of_use_lines_sees_groups_and_paths() {
    let text = "use crate::{\n    exports::{problem::Problem, state},\n    store::{self, Held},\n};\nlet x = crate::vault::Error;\n/// [`crate::api`]\n";
    let rooms: Vec<_> = used_rooms(text).into_iter().collect();
    assert_eq!(rooms, ["exports", "store", "vault"]);
}
