//! The integration tests: one binary, one file a subject.

mod attacks;
mod demo;
mod promises;
mod store;
mod support;
