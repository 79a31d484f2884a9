//! Links that let somebody without a token download one file for a while. Nothing is kept of them: a link says itself
//! which file it is for, until when, and, unreadable to others, who made it.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Caller, Error, Gateway, files, not_found};
use crate::{
    exports::{
        problem::{Code, FieldError, Problem},
        record::FileRecord,
    },
    ids::{ExportId, FileId},
    vault::tokens::Said,
};

/// How long a link works unless the caller says otherwise, in seconds.
pub const DEFAULT_LIFE_SECS: i64 = 300;
/// The longest life of a link, in seconds.
pub const MAX_LIFE_SECS: i64 = 86_400;

/// What tells these tokens from others that the vault may sign.
const PURPOSE: &str = "download links";
/// Export, file, seconds since 1970.
const PUBLIC_LEN: usize = 16 + 16 + 8;

/// A link as it is given away.
#[derive(Debug)]
pub struct Link {
    /// Grants access: never log it.
    pub token: String,
    pub expires_at: DateTime<Utc>,
}

/// What a good link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    export: ExportId,
    file: FileId,
    expires_at: i64,
    /// Who made it.
    pub tenant: String,
    /// Who made it.
    pub subject: String,
}

/// Makes a link to a file that the caller may download. Refused as [`files::get_file`], and when the life is out of
/// bounds.
pub async fn make_link(
    gateway: &Gateway,
    caller: &Caller,
    id: ExportId,
    file: FileId,
    life_secs: i64,
) -> Result<Link, Error> {
    files::get_file(gateway, caller, id, file).await?;
    if !(1..=MAX_LIFE_SECS).contains(&life_secs) {
        let detail = format!("a link lives 1 to {MAX_LIFE_SECS} seconds");
        return Err(Problem::invalid(vec![FieldError::new("/expires_in_secs", "out_of_range", detail)]).into());
    }
    let expires_at = Utc::now() + TimeDelta::seconds(life_secs);
    let claims = Claims {
        export: id,
        file,
        expires_at: expires_at.timestamp(),
        tenant: caller.tenant.clone(),
        subject: caller.subject.clone(),
    };
    let token = gateway.vault.sign(PURPOSE, &claims.said())?;
    tracing::info!(export = %id, file = %file, expires_at = %expires_at, "a download link was made");
    // The link knows whole seconds only.
    Ok(Link { token, expires_at: DateTime::from_timestamp(claims.expires_at, 0).unwrap_or(expires_at) })
}

/// What a link says, whether or not it still works. Whatever was not made here is not found.
pub fn read_link(gateway: &Gateway, token: &str) -> Result<Claims, Error> {
    gateway.vault.verify(PURPOSE, token).and_then(|said| Claims::of(&said)).ok_or_else(|| not_found("link"))
}

/// The file of a link. Refused with `link_expired` when its time is over, else as [`files::get_file`].
pub async fn follow_link(gateway: &Gateway, claims: &Claims) -> Result<FileRecord, Error> {
    if claims.expires_at <= Utc::now().timestamp() {
        return Err(Problem::new(Code::LinkExpired, "the link's time is over; ask for a new one").into());
    }
    tracing::info!(export = %claims.export, file = %claims.file, "a download link was followed");
    let maker = Caller {
        subject: claims.subject.clone(),
        tenant: claims.tenant.clone(),
        scopes: Vec::new(),
        connections: Vec::new(),
    };
    files::get_file(gateway, &maker, claims.export, claims.file).await
}

impl Claims {
    fn said(&self) -> Said {
        let public =
            [&self.export.0.as_bytes()[..], &self.file.0.as_bytes()[..], &self.expires_at.to_be_bytes()[..]].concat();
        // A NUL stands in neither: the database would not have kept the export.
        Said { public, private: format!("{}\0{}", self.tenant, self.subject).into_bytes() }
    }

    fn of(said: &Said) -> Option<Self> {
        let public: &[u8; PUBLIC_LEN] = said.public.as_slice().try_into().ok()?;
        let id = |at: usize| Uuid::from_slice(&public[at..at + 16]).ok();
        let (tenant, subject) = std::str::from_utf8(&said.private).ok()?.split_once('\0')?;
        Some(Self {
            export: ExportId(id(0)?),
            file: FileId(id(16)?),
            expires_at: i64::from_be_bytes(public[32..].try_into().ok()?),
            tenant: tenant.to_owned(),
            subject: subject.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_what_it_was_made_for() {
        let claims = Claims {
            export: ExportId::new(),
            file: FileId::new(),
            expires_at: 1_772_438_400,
            tenant: "growth".into(),
            subject: "crm-sync".into(),
        };
        assert_eq!(Claims::of(&claims.said()), Some(claims.clone()));
        let mut said = claims.said();
        said.public.pop();
        assert_eq!(Claims::of(&said), None);
    }
}
