//! Plain exchanges, which we speak HTTP/1.1 in ourselves on both sides: what is sent is what was decided
//! on, nothing of a key comes back, and a connection in doubt is used by nobody else.

mod again;
mod beside;
mod ends;
mod keyless;
mod replies;
mod requests;
mod uploads;

use std::sync::Arc;

use tokio::sync::Notify;

/// Two moments that a script and its test tell each other of.
type Moments = (Arc<Notify>, Arc<Notify>);
