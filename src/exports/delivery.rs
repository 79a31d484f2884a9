//! Where in a destination a result goes: the template of a prefix, and what becomes of it for one export.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use chrono::{DateTime, Utc};

use super::request::Dataset;
use crate::ids::ExportId;

/// What a delivery without a prefix gets: a folder of its own.
pub const DEFAULT_PREFIX: &str = "{dataset}/{date}/{id}/";

/// Of the template, in characters.
const MAX_TEMPLATE: usize = 512;
/// Of the result, in bytes. A key of S3 has at most 1024, the destination's own prefix and the file's name included.
const MAX_PATH: usize = 700;
/// Of one folder's name, in bytes: file systems take no more.
const MAX_FOLDER: usize = 255;
const KNOWN: &str = "{dataset}, {connection}, {vendor}, {date}, {hour}, {id}, {tenant} and {label.<key>} are known";

/// What a prefix can be made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub id: ExportId,
    pub dataset: Dataset,
    pub connection: &'a str,
    pub vendor: &'a str,
    pub tenant: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub accepted_at: DateTime<Utc>,
}

/// The folder that `template` stands for, ending with `/` unless it is empty.
///
/// What comes from a caller (labels, the tenant) is one folder name or a part of one, whatever it holds: characters
/// besides letters, digits and `-_.` are written as `%` and their bytes, so different values give different folders.
///
/// # Errors
/// What is wrong with the template, or with what became of it, in words.
pub fn render(template: &str, facts: &Facts<'_>) -> Result<String, String> {
    if template.chars().count() > MAX_TEMPLATE {
        return Err(format!("at most {MAX_TEMPLATE} characters"));
    }
    if template.starts_with('/') {
        return Err("a prefix is below the destination, so it does not begin with `/`".into());
    }
    let mut path = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        path += &rest[..at];
        let placeholder = rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let Some((name, after)) = placeholder.filter(|(name, _)| !name.contains('{')) else {
            return Err("a `{` or a `}` without the other".into());
        };
        path += &value(name, facts)?;
        rest = after;
    }
    path += rest;
    let folders = path.strip_suffix('/').unwrap_or(&path);
    if folders.is_empty() {
        return if path.is_empty() { Ok(path) } else { Err("a folder has a name".into()) };
    }
    for folder in folders.split('/') {
        check(folder)?;
    }
    if folders.len() > MAX_PATH {
        return Err(format!("it becomes more than {MAX_PATH} bytes"));
    }
    Ok(format!("{folders}/"))
}

fn value<'a>(name: &str, facts: &Facts<'a>) -> Result<Cow<'a, str>, String> {
    Ok(match name {
        "dataset" => facts.dataset.as_str().into(),
        "connection" => plain(facts.connection).into(),
        "vendor" => plain(facts.vendor).into(),
        "date" => facts.accepted_at.format("%Y-%m-%d").to_string().into(),
        "hour" => facts.accepted_at.format("%H").to_string().into(),
        "id" => facts.id.to_string().into(),
        "tenant" => plain(facts.tenant).into(),
        _ => {
            let Some(key) = name.strip_prefix("label.") else {
                return Err(format!("there is no `{{{}}}`; {KNOWN}", name.escape_debug()));
            };
            let value = facts.labels.get(key);
            plain(value.ok_or_else(|| format!("the request has no label `{}`", key.escape_debug()))?).into()
        }
    })
}

/// The value as a part of a folder's name, in a way that no two values share.
fn plain(value: &str) -> String {
    let only_dots = value.chars().all(|c| c == '.');
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_alphanumeric() || "-_".contains(c) || (c == '.' && !only_dots) {
            text.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a String cannot fail.
            write!(text, "%{byte:02X}").unwrap_or_default();
        }
    }
    text
}

fn check(folder: &str) -> Result<(), String> {
    if folder.is_empty() {
        return Err("a folder has a name".into());
    }
    if matches!(folder, "." | "..") {
        return Err("`.` and `..` are no folders".into());
    }
    if folder.chars().any(|c| c.is_control() || c == '\\') {
        return Err("control characters and `\\` cannot be in it".into());
    }
    if folder.len() > MAX_FOLDER {
        return Err(format!("a folder's name becomes more than {MAX_FOLDER} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn rendered(template: &str, labels: &BTreeMap<String, String>) -> Result<String, String> {
        let facts = Facts {
            id: ExportId(Uuid::from_u128(1)),
            dataset: Dataset::AudienceMembers,
            connection: "growth-braze",
            vendor: "braze",
            tenant: "growth/eu",
            labels,
            accepted_at: Utc.with_ymd_and_hms(2026, 3, 2, 7, 59, 59).unwrap(),
        };
        render(template, &facts)
    }

    #[test]
    fn every_placeholder_is_filled_in() {
        let labels = labels(&[("team", "growth"), ("path", "a/../b"), ("name", "用户")]);
        for (template, expected) in [
            (DEFAULT_PREFIX, "audience_members/2026-03-02/exp_00000000000000000000000000000001/"),
            ("{vendor}/{connection}/hour={hour}", "braze/growth-braze/hour=07/"),
            ("{tenant}/{label.team}-x/", "growth%2Feu/growth-x/"),
            ("{label.path}/{label.name}", "a%2F..%2Fb/用户/"),
            ("", ""),
            ("a", "a/"),
        ] {
            assert_eq!(rendered(template, &labels).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_no_folder_below_the_destination_is_refused() {
        let labels = labels(&[("dots", ".."), ("empty", ""), ("long", &"用".repeat(100)), ("wide", &"w".repeat(200))]);
        for bad in [
            "/a",
            "/",
            "a//b",
            "a//",
            "../a",
            "a/../b",
            "a/.",
            "./a",
            "a\nb",
            "a\0",
            "a\\b",
            "{",
            "}",
            "{id",
            "id}",
            "{{id}}",
            "{nothing}",
            "{}",
            "{label.}",
            "{label.team}",
            "{ID}",
            "{id }",
            "{label.empty}/x",
            ".{label.empty}",
            "{label.long}",
            &"x".repeat(513),
            &"{label.wide}/".repeat(4),
        ] {
            assert!(rendered(bad, &labels).is_err(), "{bad:?}");
        }
        assert_eq!(rendered("{label.dots}", &labels).as_deref(), Ok("%2E%2E/"));
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_folder_and_no_two_share_one(one in ".{0,20}", other in ".{0,20}") {
            let of = |value: &str| rendered("x{label.a}/{id}", &labels(&[("a", value)])).unwrap();
            let (first, second) = (of(&one), of(&other));
            prop_assert_eq!(first.matches('/').count(), 2);
            prop_assert_eq!(one == other, first == second);
        }

        #[test]
        fn whatever_the_template_a_path_is_clean(template in "[a-z./{}\\\\ ]{0,12}") {
            if let Ok(path) = rendered(&template, &labels(&[])) {
                prop_assert!(!path.starts_with('/') && (path.is_empty() || path.ends_with('/')));
                prop_assert!(path.split_terminator('/').all(|folder| !matches!(folder, "" | "." | "..")));
            }
        }
    }
}
