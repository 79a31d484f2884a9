//! What the vendors offer, as the registry says.

use crate::vendors::{VendorSpec, registry};

/// Every vendor.
pub fn list_vendors() -> &'static [&'static VendorSpec] {
    registry::VENDORS
}

/// The vendor of that name.
pub fn get_vendor(name: &str) -> Option<&'static VendorSpec> {
    registry::vendor(name)
}
