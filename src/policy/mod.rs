//! Policies: YAML as written, compiled, and the decision that only they can make.
//!
//! A [`Permit`] proves that a rule allows one use of one key. Nothing else makes one, and the vault
//! opens nothing without one.

mod compile;
mod decide;
mod document;
mod library;
pub mod path;
mod ruling;

pub use compile::{PolicySet, Problem, Unsearched, parse_request};
pub use decide::{Decision, Denial, Explanation, Facts, Permit, Reason, ScrubPermit, WithoutToken};
pub use library::{Library, shipped};
pub use ruling::Ruling;
