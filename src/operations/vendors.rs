//! What the vendors offer, as the registry says.

use crate::{
    exports::request::Dataset,
    vendors::{VendorSpec, registry},
};

/// Every vendor.
pub fn list_vendors() -> &'static [&'static VendorSpec] {
    registry::VENDORS
}

/// The vendor of that name.
pub fn get_vendor(name: &str) -> Option<&'static VendorSpec> {
    registry::vendor(name)
}

/// The unified schema of a dataset's records at a vendor.
pub fn schema_of(vendor: &str, dataset: Dataset) -> Option<&'static str> {
    registry::vendor(vendor)?.datasets.iter().find(|spec| spec.dataset == dataset).map(|spec| spec.schema)
}
