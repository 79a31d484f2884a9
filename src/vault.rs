//! Stub.
#[derive(Clone)]
pub struct Vault;
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct Error;
pub struct DataKey;
pub struct SealedDataKey {
    pub key_id: String,
    pub bytes: Vec<u8>,
}
impl Vault {
    pub fn seal_data_key(&self) -> Result<(DataKey, SealedDataKey), Error> {
        todo!()
    }
    pub fn open_data_key(&self, _: &SealedDataKey) -> Result<DataKey, Error> {
        todo!()
    }
    pub fn seal(&self, _: &DataKey, _: &str, _: &[u8]) -> Result<Vec<u8>, Error> {
        todo!()
    }
    pub fn open(&self, _: &DataKey, _: &str, _: &[u8]) -> Result<Vec<u8>, Error> {
        todo!()
    }
}
