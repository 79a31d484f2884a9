//! All SQL: one function per statement, rows to types. Decides nothing.

pub mod hub;
