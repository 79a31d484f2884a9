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
mod parts;
mod problems;
mod process;
mod queue;
mod raw_events;
mod recorder;
mod secrets;
mod sharing;
mod stopping;
mod submissions;
mod support;
mod tenancy;
mod tokens;
mod turns;
mod upgrade;
