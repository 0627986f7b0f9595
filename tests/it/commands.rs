//! The command line, as its users type it.

mod admin;
mod audit;
mod connect;
mod crash;
mod everyday;
mod isolation;
mod readme;
mod reload;
mod rotation;
mod store;
