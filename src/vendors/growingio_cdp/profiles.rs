//! `user_profiles`: the query for one user, one call each, a few users to a part of the export.
//! Source: `developer-manual/open-api/cdp/{space/space-search-user,project/project-search-user}.md`: the identity's key
//! has no prefix in the path (`$basic_userId`, `$anonymous_user` for devices); who is not there is a user with the id 0.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use super::{
    pages::Api,
    place::Place,
    properties::{USER_ID, identity_name, is_identity},
    records::CdpUsers,
    wire::{self, About, is_path_part},
};
use crate::exports::{
    parameters::{Identifier, IdentifierKind},
    problem::FieldError,
    records::{BadRecord, Emit, Framing, LineRecords, Member, Record, Records, line},
};
use crate::vendors::{Download, Exchanges, Mapping, VendorError, http::below};

/// Users asked for in one part, one after the other: few enough that a part done again costs little.
const PER_PART: usize = 20;
/// The largest answer about one user, in bytes.
const MAX_USER: usize = 1024 * 1024;
/// The identity of a device. Source: same page, example 2.
const DEVICE_ID: &str = "$anonymous_user";
const ABOUT: About =
    About { not_found: "CDP has no query for one user here; check project, space and `path_family`", by_key: false };

/// The paths of the queries, in the order of the identifiers.
///
/// # Errors
/// Identifiers that CDP cannot look for.
pub fn paths(identifiers: &[Identifier], mapping: &Mapping, place: &Place) -> Result<Vec<String>, Vec<FieldError>> {
    let (mut paths, mut errors) = (Vec::with_capacity(identifiers.len()), Vec::new());
    for (index, identifier) in identifiers.iter().enumerate() {
        let Some(identity) = identity(identifier.kind, mapping) else {
            let detail = "CDP finds users by `user_id` and `device_id`, and by `email` or `phone` where the \
                          connection's mapping names an identity (`id_…`) for it";
            let pointer = format!("/parameters/identifiers/{index}/type");
            errors.push(FieldError::new(pointer, "not_supported", detail));
            continue;
        };
        if !is_path_part(&identifier.value) || !is_path_part(identity) {
            let pointer = format!("/parameters/identifiers/{index}/value");
            errors.push(FieldError::new(pointer, "invalid", "it cannot stand in an address"));
            continue;
        }
        paths.push(place.user(identity, &identifier.value));
    }
    if errors.is_empty() { Ok(paths) } else { Err(errors) }
}

/// The identity that an identifier means, as the path spells it.
fn identity(kind: IdentifierKind, mapping: &Mapping) -> Option<&str> {
    let mapped = |column: &str| mapping.get(column).map(String::as_str);
    let property = match kind {
        IdentifierKind::UserId => mapped("user_id").unwrap_or(USER_ID),
        IdentifierKind::DeviceId => return Some(DEVICE_ID),
        IdentifierKind::Email => mapped("email")?,
        IdentifierKind::Phone => mapped("phone")?,
        IdentifierKind::VendorUserId | IdentifierKind::Alias => return None,
    };
    is_identity(property).then(|| identity_name(property))
}

/// The parts of an export of that many users, each as the range of its identifiers.
pub fn parts(users: usize) -> Vec<String> {
    (0..users).step_by(PER_PART).map(|from| format!("{from}..{}", users.min(from + PER_PART))).collect()
}

/// The paths that belong to a part.
pub fn paths_of<'p>(paths: &'p [String], part: &str) -> Option<&'p [String]> {
    let (from, to) = part.split_once("..")?;
    paths.get(from.parse().ok()?..to.parse().ok()?).filter(|paths| !paths.is_empty())
}

/// Asks for the first user; the stream asks for the others. One body to a line, untouched if `raw`.
///
/// # Errors
/// What the first call fails with.
pub async fn read(
    api: Api,
    base: &Url,
    paths: &[String],
    raw: bool,
    exchanges: &Exchanges,
) -> Result<Download, VendorError> {
    let mut urls = paths.iter().map(|path| below(base, path)).collect::<Vec<_>>().into_iter();
    let first = match urls.next() {
        Some(url) => Some(one(&api, url, raw, exchanges).await?),
        None => None,
    };
    let exchanges = exchanges.clone();
    let others = stream::try_unfold((api, urls), move |(api, mut urls)| {
        let exchanges = exchanges.clone();
        async move {
            let Some(url) = urls.next() else { return Ok(None) };
            Ok(Some((one(&api, url, raw, &exchanges).await?, (api, urls))))
        }
    });
    Ok(Download { length: None, body: stream::iter(first.map(Ok)).chain(others).boxed() })
}

#[derive(Deserialize)]
struct Answered {
    #[serde(rename = "gioId", alias = "gio_id")]
    _gio_id: IgnoredAny,
}

async fn one(api: &Api, url: Url, raw: bool, exchanges: &Exchanges) -> Result<Bytes, VendorError> {
    let answer = api.get("poll", url, MAX_USER, exchanges).await?;
    if !answer.status.is_success() || serde_json::from_slice::<Answered>(&answer.body).is_err() {
        let error = wire::refused(&answer, &api.token, ABOUT);
        exchanges.decide(error.message.clone());
        return Err(error);
    }
    exchanges.decide("read");
    let mut line = answer.body.to_vec();
    if !raw {
        // Within a string JSON has no line ends, so those between its tokens can go.
        line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
    line.push(b'\n');
    Ok(line.into())
}

/// Reads the answers of queries for one user.
pub struct Profiles {
    users: CdpUsers,
    unknown: AtomicU64,
}

impl Profiles {
    pub const fn new(users: CdpUsers) -> Self {
        Self { users, unknown: AtomicU64::new(0) }
    }

    /// The line, unless it says that there is no such user.
    fn user<'a>(&self, record: Record<'a>) -> Result<Option<&'a [u8]>, BadRecord> {
        let line = line(record)?;
        if CdpUsers::is_nobody(line)? {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        Ok(Some(line))
    }
}

impl Records for Profiles {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Lines
    }

    fn member<'r>(&'r self, _tag: &'r str) -> Box<dyn Member + 'r> {
        Box::new(Answers(self))
    }

    fn warnings(&self) -> Vec<String> {
        match self.unknown.load(Ordering::Relaxed) {
            0 => Vec::new(),
            unknown => vec![format!(
                "CDP knows no user, or grants none to the token, for {unknown} of the identifiers (counted among each \
                 {PER_PART} that are asked for together)"
            )],
        }
    }
}

struct Answers<'r>(&'r Profiles);

impl Member for Answers<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        match self.0.user(record)? {
            Some(line) => emit(&self.0.users.unified(line)?),
            None => Ok(()),
        }
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        match self.0.user(record)? {
            Some(line) => self.0.users.vendor(line, out),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_hold_every_identifier_once() {
        assert_eq!(parts(41), ["0..20", "20..40", "40..41"]);
        let paths: Vec<_> = (0..41).map(|number| number.to_string()).collect();
        let held: Vec<_> = parts(41).iter().flat_map(|part| paths_of(&paths, part).unwrap().to_vec()).collect();
        assert_eq!(held, paths);
        for odd in ["", "x", "0..99", "3..1", "5..5"] {
            assert_eq!(paths_of(&paths, odd), None, "{odd}");
        }
    }
}
