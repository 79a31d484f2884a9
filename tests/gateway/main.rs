//! A whole gateway over HTTP, on a real Postgres and the vendors' sandbox: one module a subject, one link.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod callbacks;
mod conformance;
mod crash;
mod egress;
mod faults;
mod process;
mod queue;
mod support;
