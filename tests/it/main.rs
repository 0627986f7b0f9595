//! The integration tests: one binary, one file a subject.

mod attacks;
mod clients;
mod commands;
mod continued;
mod credentials;
mod demo;
mod floors;
mod gateway;
mod http2;
mod plain;
mod promises;
mod providers;
mod slots;
mod store;
mod streaming;
mod support;
mod upgrades;
mod ways;
mod websocket;
