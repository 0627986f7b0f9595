//! Interim replies (1xx, RFC 9110 section 15.2), which an upstream may send before its reply.
//!
//! None is passed on: hyper can't send them, and what the agent gets is searched for keys as one
//! reply. They are counted from the bytes as they are read, since hyper tells of few, and an exchange
//! with too many of them is given up, since an upstream could go on with them for as long as it has
//! time to reply: over HTTP/1.1 with its connection, over HTTP/2 its stream alone.

mod block;
mod frames;
mod http1;
mod http2;
mod streams;

pub(super) use http1::{Interim, Watched};
pub(super) use http2::{Followed, GivenUp};
