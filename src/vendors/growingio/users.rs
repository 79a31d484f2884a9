//! Not written yet.

use std::sync::Arc;

use super::{api::Api, no_plan, not_supported};
use crate::{
    exports::{
        problem::FieldError,
        records::{BadRecord, LineRecords, Records},
        request::ExportRequest,
        rows::Row,
    },
    vendors::{Exchanges, Inquiry, Plan, Progress, VendorError},
};

/// What would be asked for: the parts, and the calls they stand for.
///
/// # Errors
/// Fields that cannot be served, with pointers into the request body.
pub fn parts(_api: &Api, _request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
    Err(not_supported())
}

/// Asks for one part.
pub async fn poll(
    _api: &Api,
    _request: &ExportRequest,
    _part: &str,
    _inquiry: &Inquiry<'_>,
    _exchanges: &Exchanges,
) -> Result<Progress, VendorError> {
    Err(no_plan())
}

/// Whether the ids in the request exist.
pub async fn verify(_api: &Api, _request: &ExportRequest, _exchanges: &Exchanges) -> Result<(), VendorError> {
    Ok(())
}

/// How the records of the request are read.
pub fn records(_api: &Api, _request: &ExportRequest) -> Arc<dyn Records> {
    Arc::new(Nothing)
}

struct Nothing;

impl LineRecords for Nothing {
    fn unified<'a>(&self, _line: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        Err(BadRecord("it is of no known dataset".into()))
    }

    fn vendor(&self, _line: &[u8], _out: &mut Vec<u8>) -> Result<(), BadRecord> {
        Err(BadRecord("it is of no known dataset".into()))
    }
}
