//! The vendors Headgate knows: one line each.

use super::{VendorSpec, braze, growingio, growingio_cdp};

/// Every vendor.
pub const VENDORS: &[&VendorSpec] = &[&braze::SPEC, &growingio::SPEC, &growingio_cdp::SPEC];

/// The vendor of that name.
pub fn vendor(name: &str) -> Option<&'static VendorSpec> {
    VENDORS.iter().copied().find(|spec| spec.name == name)
}
