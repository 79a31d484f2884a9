//! A whole gateway over HTTP, on a real Postgres and the vendors' sandbox: one module a subject, one link.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod braze;
mod bucket;
mod budgets;
mod callbacks;
mod conformance;
mod connections;
mod crash;
mod data;
mod destinations;
mod duckdb;
mod egress;
mod events;
mod exports;
mod faults;
mod files;
mod formats;
mod idempotency;
mod lifecycle;
mod links;
mod openapi;
mod problems;
mod process;
mod queue;
mod raw_events;
mod receiver;
mod recorder;
mod schedules;
mod secrets;
mod support;
mod tenancy;
mod tokens;
mod webhooks;
