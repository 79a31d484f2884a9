//! Vendor accounts: created and changed by admins, named by callers, credentials shown to nobody.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::Value;

use super::{Caller, Error, Gateway};
use crate::exports::record::ConnectionRecord;

/// What an admin puts. Without credentials an existing connection keeps its own.
#[derive(Debug)]
pub struct PutConnection {
    pub vendor: String,
    pub display_name: Option<String>,
    pub settings: Value,
    pub credentials: Option<BTreeMap<String, SecretString>>,
    pub mapping: BTreeMap<String, String>,
}

/// Creates or changes a connection; the flag says that it was created. The vendor of a connection never changes (409-like refusal).
pub async fn put_connection(
    gateway: &Gateway,
    name: &str,
    put: PutConnection,
) -> Result<(ConnectionRecord, bool), Error> {
    todo!()
}

/// Seals a new version of the credentials and uses it from now on.
pub async fn rotate_credentials(
    gateway: &Gateway,
    name: &str,
    credentials: BTreeMap<String, SecretString>,
) -> Result<ConnectionRecord, Error> {
    todo!()
}

/// Asks the vendor whether address and credentials work; keeps the answer as the connection's health.
pub async fn check_connection(gateway: &Gateway, name: &str) -> Result<ConnectionRecord, Error> {
    todo!()
}

/// Those the caller may use (an admin: all), by name.
pub async fn list_connections(gateway: &Gateway, caller: &Caller) -> Result<Vec<ConnectionRecord>, Error> {
    todo!()
}

/// One the caller may use (an admin: any).
pub async fn get_connection(gateway: &Gateway, caller: &Caller, name: &str) -> Result<ConnectionRecord, Error> {
    todo!()
}

/// Deletes a connection and its credentials. Refused with `connection_in_use` while exports run over it.
pub async fn delete_connection(gateway: &Gateway, name: &str) -> Result<(), Error> {
    todo!()
}
