//! Stub.
use super::VendorSpec;
pub const SPEC: VendorSpec = VendorSpec {
    name: "stub",
    display_name: "",
    datasets: &[],
    settings_schema: || todo!(),
    credentials: &[],
    connect: |_| todo!(),
    sandbox: |_, _| todo!(),
    sandbox_connection: |_| todo!(),
};
