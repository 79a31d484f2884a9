//! Stub.
pub struct World;
pub struct DemoConnection;
