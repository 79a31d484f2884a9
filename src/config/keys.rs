//! The keys in force. With the embedded database they are made on first start and kept in the data directory, so
//! that a trial needs no settings; with a database of the operator's own they must be given.

use std::{io, path::Path};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Error, Settings, TokenKey};
use crate::{data_dir, vault};

/// In the data directory, mode 0600.
const MASTER_KEY_FILE: &str = "master.key";
const JWT_SECRET_FILE: &str = "jwt.secret";

impl Settings {
    /// That all keys are given which the gateway will not make by itself.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn require_keys(&self) -> Result<(), Error> {
        if self.database_url.is_none() {
            return Ok(());
        }
        let missing = if self.master_key.is_none() {
            "HEADGATE_MASTER_KEY or HEADGATE_MASTER_KEY_FILE (32 bytes in base64: `openssl rand -base64 32`)"
        } else if self.token_key.is_none() {
            "HEADGATE_JWKS_URL, HEADGATE_JWT_SECRET or HEADGATE_JWT_SECRET_FILE"
        } else {
            return Ok(());
        };
        Err(Error(format!("HEADGATE_DATABASE_URL needs {missing}: keys are made only for the embedded database")))
    }

    /// The master keys for [`vault::Vault::new`]; made on first use with the embedded database.
    ///
    /// # Errors
    /// When a key is missing or its file cannot be made, read or understood.
    pub fn master_keys(&self) -> Result<Vec<[u8; vault::KEY_LEN]>, Error> {
        self.require_keys()?;
        let text = match &self.master_key {
            Some(configured) => configured.clone(),
            None => kept(&self.data_dir, MASTER_KEY_FILE)?,
        };
        vault::parse_master_keys(text.expose_secret())
            .map_err(|error| Error(format!("{}: {error}", self.data_dir.join(MASTER_KEY_FILE).display())))
    }

    /// What tokens are checked with; a secret made on first use with the embedded database.
    ///
    /// # Errors
    /// When it is missing or its file cannot be made or read.
    pub fn token_key(&self) -> Result<TokenKey, Error> {
        if let Some(configured) = &self.token_key {
            return Ok(configured.clone());
        }
        if self.database_url.is_some() {
            return Err(Error(
                "HEADGATE_JWT_SECRET, HEADGATE_JWT_SECRET_FILE or HEADGATE_JWKS_URL must be set: \
                 a secret is made only for the embedded database"
                    .into(),
            ));
        }
        kept(&self.data_dir, JWT_SECRET_FILE).map(TokenKey::Secret)
    }
}

/// The secret in `dir/name`, 32 random bytes in base64 unless it is there already.
fn kept(dir: &Path, name: &str) -> Result<SecretString, Error> {
    let random = || {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no randomness"))?;
        Ok(STANDARD.encode(bytes))
    };
    let text = data_dir::create(dir)
        .and_then(|dir| data_dir::keep(&dir, name, random))
        .map_err(|error| Error(format!("{}: {error}", dir.join(name).display())))?;
    if text.is_empty() {
        return Err(Error(format!("{} is empty; restore it", dir.join(name).display())));
    }
    Ok(text.into())
}
