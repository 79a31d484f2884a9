//! Stub.
#[derive(Clone)]
pub struct Storage;
impl Storage {
    pub async fn sweep(&self, _: &str, _: &std::collections::HashSet<String>) -> Result<(), object_store::Error> {
        todo!()
    }
}
