//! Keys and the envelope they are sealed in.

pub mod key;
