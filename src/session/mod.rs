//! Sessions and what is registered around them: projects, tools, access requests, grants, tokens.
//!
//! [`records`] has the durable things as they are stored and listed; [`registry`] has the live view
//! of them that the data path reads: a token's hash leads to its session, grant and key without a
//! database and without a lock held over an await.

pub mod hosts;
pub mod live;
pub mod records;
pub mod registry;
