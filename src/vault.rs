//! Seals credentials at rest, by envelope encryption: each record has a data key of its own, and the data key is
//! sealed under a master key. Both seals are AES-256-GCM with a random nonce.
//!
//! A store keeps three columns: the master key's id (`text`), the sealed data key (`bytea`) and the sealed record
//! (`bytea`). To rotate, put a new master key first: it seals from then on, the others still open.
//! Start at [`Vault::seal_data_key`] and [`Vault::seal`]; [`tokens`] signs what is given away,
//! [`webhooks`] what is sent.

pub mod tokens;
pub mod webhooks;

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    digest, rand,
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a master key and of a data key.
pub const KEY_LEN: usize = 32;
/// Bytes of a nonce, which stands before what it sealed.
const NONCE_LEN: usize = 12;

/// What can go wrong; no message shows key material or what was sealed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("there is no master key")]
    NoMasterKey,
    #[error("master key {position} of {count} is not 32 bytes in base64")]
    BadMasterKey { position: usize, count: usize },
    #[error("master key {key_id}, which sealed this record, is not among the configured ones")]
    UnknownKey { key_id: String },
    #[error("a sealed record cannot be opened: it was changed, or belongs elsewhere")]
    CannotOpen,
    #[error("sealing failed")]
    CannotSeal,
}

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    /// The first seals; all open.
    keys: Arc<[MasterKey]>,
}

struct MasterKey {
    id: String,
    bytes: Zeroizing<[u8; KEY_LEN]>,
}

/// The key of one record, in clear. Overwritten when dropped.
pub struct DataKey(Zeroizing<[u8; KEY_LEN]>);

/// A data key as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedDataKey {
    /// Which master key sealed it.
    pub key_id: String,
    pub bytes: Vec<u8>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey([REDACTED])")
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

impl Vault {
    /// The first key seals, all open.
    ///
    /// # Errors
    /// [`Error::NoMasterKey`] without any.
    pub fn new(mut master_keys: Vec<[u8; KEY_LEN]>) -> Result<Self, Error> {
        let keys: Arc<[_]> =
            master_keys.iter().map(|bytes| MasterKey { id: key_id(bytes), bytes: Zeroizing::new(*bytes) }).collect();
        master_keys.zeroize();
        if keys.is_empty() { Err(Error::NoMasterKey) } else { Ok(Self { keys }) }
    }

    /// The id of the master key that seals now; a record under another one is due for rotation.
    pub fn current_key_id(&self) -> &str {
        &self.keys[0].id
    }

    /// A fresh data key, in clear for use now and sealed for keeping.
    ///
    /// # Errors
    /// [`Error::CannotSeal`] when the system gives no randomness.
    pub fn seal_data_key(&self) -> Result<(DataKey, SealedDataKey), Error> {
        let mut data_key = DataKey(Zeroizing::new([0; KEY_LEN]));
        rand::fill(data_key.0.as_mut_slice()).map_err(|_| Error::CannotSeal)?;
        let sealed = self.reseal_data_key(&data_key)?;
        Ok((data_key, sealed))
    }

    /// Seals a data key under the current master key, as rotation does with one that an older key opened.
    ///
    /// # Errors
    /// [`Error::CannotSeal`] when the system gives no randomness.
    pub fn reseal_data_key(&self, data_key: &DataKey) -> Result<SealedDataKey, Error> {
        let master = &self.keys[0];
        let bytes = seal(&master.bytes, &data_key_context(&master.id), data_key.0.as_slice())?;
        Ok(SealedDataKey { key_id: master.id.clone(), bytes })
    }

    /// # Errors
    /// [`Error::UnknownKey`] when its master key is not configured, [`Error::CannotOpen`] when it was changed.
    pub fn open_data_key(&self, sealed: &SealedDataKey) -> Result<DataKey, Error> {
        let master = self
            .keys
            .iter()
            .find(|key| key.id == sealed.key_id)
            .ok_or_else(|| Error::UnknownKey { key_id: sealed.key_id.clone() })?;
        let clear = open(&master.bytes, &data_key_context(&master.id), &sealed.bytes)?;
        let bytes: [u8; KEY_LEN] = clear.as_slice().try_into().map_err(|_| Error::CannotOpen)?;
        Ok(DataKey(Zeroizing::new(bytes)))
    }

    /// Seals `plaintext`. `context` says what it is and whose, such as `["connection credentials", tenant, id]`;
    /// it is not stored, and opens only under the same.
    ///
    /// # Errors
    /// [`Error::CannotSeal`] when the system gives no randomness.
    pub fn seal(&self, key: &DataKey, context: &[&str], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        seal(&key.0, context, plaintext)
    }

    /// # Errors
    /// [`Error::CannotOpen`] when it was changed, or sealed with another key or context.
    pub fn open(&self, key: &DataKey, context: &[&str], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        open(&key.0, context, sealed)
    }
}

/// Reads one or several master keys: 32 bytes each in base64, with or without padding, separated by commas.
///
/// # Errors
/// [`Error::BadMasterKey`] names the position, never the text.
pub fn parse_master_keys(text: &str) -> Result<Vec<[u8; KEY_LEN]>, Error> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let bad = |index| Error::BadMasterKey { position: index + 1, count: parts.len() };
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            let bytes = Zeroizing::new(LENIENT.decode(part).map_err(|_| bad(index))?);
            bytes.as_slice().try_into().map_err(|_| bad(index))
        })
        .collect()
}

/// What names a master key in a row: says nothing about it, and is the same wherever the key is configured.
fn key_id(master_key: &[u8; KEY_LEN]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"headgate master key id v1\0");
    hash.update(master_key);
    let hash = hash.finish();
    let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(first))
}

fn data_key_context(key_id: &str) -> [&str; 2] {
    ["headgate data key v1", key_id]
}

/// Each part behind its length, so that no two lists read the same.
fn additional_data(context: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in context {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// Nonce, ciphertext, tag.
fn seal(key: &[u8; KEY_LEN], context: &[&str], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| Error::CannotSeal)?;
    let mut text = Zeroizing::new(plaintext.to_vec());
    let (nonce, tag) = key
        .seal_in_place_separate_tag(Aad::from(additional_data(context)), &mut text)
        .map_err(|_| Error::CannotSeal)?;
    Ok([nonce.as_ref().as_slice(), &text, tag.as_ref()].concat())
}

fn open(key: &[u8; KEY_LEN], context: &[&str], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| Error::CannotOpen)?;
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Error::CannotOpen)?;
    let mut text = Zeroizing::new(text.to_vec());
    let clear_len = key
        .open_in_place(Nonce::from(nonce), Aad::from(additional_data(context)), &mut text)
        .map_err(|_| Error::CannotOpen)?
        .len();
    text.truncate(clear_len);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: [&str; 3] = ["connection credentials", "growth", "con_1"];
    const SECRET: &[u8] = b"{\"api_key\":\"k\"}";

    fn vault(keys: &[u8]) -> Vault {
        Vault::new(keys.iter().map(|byte| [*byte; KEY_LEN]).collect()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let vault = vault(&[1]);
        let (key, sealed_key) = vault.seal_data_key().unwrap();
        let sealed = vault.seal(&key, &CONTEXT, SECRET).unwrap();
        let key = vault.open_data_key(&sealed_key).unwrap();
        assert_eq!(vault.open(&key, &CONTEXT, &sealed).unwrap().as_slice(), SECRET);
        assert!(!sealed.windows(7).any(|window| window == b"api_key"));
    }

    #[test]
    fn sealing_twice_gives_different_bytes() {
        let vault = vault(&[1]);
        let (key, _) = vault.seal_data_key().unwrap();
        assert_ne!(vault.seal(&key, &CONTEXT, SECRET).unwrap(), vault.seal(&key, &CONTEXT, SECRET).unwrap());
    }

    #[test]
    fn another_context_does_not_open_even_with_the_same_letters() {
        let vault = vault(&[1]);
        let (key, _) = vault.seal_data_key().unwrap();
        let sealed = vault.seal(&key, &CONTEXT, SECRET).unwrap();
        for other in [
            &["connection credentials", "growth", "con_2"][..],
            &["connection credentials", "growthcon", "_1"],
            &["connection credentialsgrowth", "con_1"],
            &[],
        ] {
            assert_eq!(vault.open(&key, other, &sealed).unwrap_err(), Error::CannotOpen, "{other:?}");
        }
    }

    #[test]
    fn one_changed_bit_anywhere_is_noticed() {
        let vault = vault(&[1]);
        let (key, sealed_key) = vault.seal_data_key().unwrap();
        let sealed = vault.seal(&key, &CONTEXT, SECRET).unwrap();
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(vault.open(&key, &CONTEXT, &changed).unwrap_err(), Error::CannotOpen);
        }
        for length in 0..sealed.len() {
            assert_eq!(vault.open(&key, &CONTEXT, &sealed[..length]).unwrap_err(), Error::CannotOpen);
        }
        let mut changed = sealed_key;
        changed.bytes[20] ^= 1;
        assert_eq!(vault.open_data_key(&changed).unwrap_err(), Error::CannotOpen);
    }

    #[test]
    fn after_rotation_the_new_key_seals_and_the_old_one_still_opens() {
        let before = vault(&[1]);
        let (key, old) = before.seal_data_key().unwrap();
        let sealed = before.seal(&key, &CONTEXT, SECRET).unwrap();

        let during = vault(&[2, 1]);
        let key = during.open_data_key(&old).unwrap();
        assert_eq!(during.open(&key, &CONTEXT, &sealed).unwrap().as_slice(), SECRET);
        let new = during.reseal_data_key(&key).unwrap();
        assert_eq!(new.key_id, during.current_key_id());
        assert_ne!(new.key_id, old.key_id);

        let after = vault(&[2]);
        let key = after.open_data_key(&new).unwrap();
        assert_eq!(after.open(&key, &CONTEXT, &sealed).unwrap().as_slice(), SECRET);
        assert_eq!(after.open_data_key(&old).unwrap_err(), Error::UnknownKey { key_id: old.key_id });
    }

    #[test]
    fn several_keys_are_read_with_and_without_padding() {
        let padded = format!("{}=", "A".repeat(43));
        let keys = parse_master_keys(&format!(" {padded} , {}", "A".repeat(43))).unwrap();
        assert_eq!(keys, [[0; KEY_LEN]; 2]);
    }

    #[test]
    fn a_bad_key_is_named_by_position_and_not_shown() {
        let good = "A".repeat(43);
        for bad in ["c2hvcnQ=", "not base64!", ""] {
            let error = parse_master_keys(&format!("{good},{bad}")).unwrap_err();
            assert_eq!(error, Error::BadMasterKey { position: 2, count: 2 });
            assert_eq!(error.to_string(), "master key 2 of 2 is not 32 bytes in base64");
        }
        assert_eq!(Vault::new(Vec::new()).unwrap_err(), Error::NoMasterKey);
    }

    #[test]
    fn debug_shows_no_key() {
        let vault = vault(&[7]);
        let (key, _) = vault.seal_data_key().unwrap();
        assert_eq!(format!("{key:?}"), "DataKey([REDACTED])");
        assert_eq!(format!("{vault:?}"), format!("[{:?}]", vault.current_key_id()));
    }
}
